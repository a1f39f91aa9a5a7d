package opa

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
	"gatehouse.dev/gatehouse/internal/rego"
)

const module = `package http.authz

default allow := {"allow": false, "http_status": 404}

allow := {"allow": true, "headers": {"X-User": "ada"}} if {
	input.method == "GET"
	input.path == ["orders", "1"]
	input.headers.authorization == "Bearer good"
}

undefined if input.never

text := "true"

failing if not to_number(input.method) == 1
`

// TestRego: a rule decides alike in the gateway, from a file or written out,
// and behind OPA's data API.
func TestRego(t *testing.T) {
	file := filepath.Join(t.TempDir(), "authz.rego")
	if err := os.WriteFile(file, []byte(module), 0o600); err != nil {
		t.Fatal(err)
	}
	// The library of OPA answers here as its server does.
	rules := make(map[string]*rego.Program)
	for _, name := range []string{"allow", "undefined", "text", "failing"} {
		p, err := rego.Compile("authz.rego", module, "data.http.authz."+name)
		if err != nil {
			t.Fatal(err)
		}
		rules["/v1/data/http/authz/"+name] = p
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		question, err := io.ReadAll(q.Body)
		if err != nil || q.Method != http.MethodPost || rules[q.URL.Path] == nil {
			t.Errorf("%s %s: %v", q.Method, q.URL, err)
			return
		}
		text, err := rules[q.URL.Path].Answer(q.Context(), question)
		if err != nil {
			http.Error(w, `{"code": "internal_error"}`, http.StatusInternalServerError)
			return
		}
		_, _ = w.Write(text) // whoever asked sees that it is missing
	}))
	defer server.Close()
	for name, settings := range map[string]string{
		"file":   fmt.Sprintf("rego: { file: %q, query: data.http.authz.%%s }", file),
		"module": fmt.Sprintf("rego: { module: %q, query: data.http.authz.%%s }", module),
		"server": "url: '" + server.URL + "/v1/data/http/authz/%s'",
	} {
		text := "routes:\n"
		for _, rule := range []string{"undefined", "text", "failing", "allow"} {
			path := "/" + rule
			if rule == "allow" {
				path = "/*"
			}
			text += fmt.Sprintf("  - { match: %s, upstream: http://up, policies: [ opa: { %s, sets: X-User, timeout: 10s } ] }\n", path, fmt.Sprintf(settings, rule))
		}
		r := policytest.NewRig(t, catalog(), text, nil)
		for _, c := range []struct {
			method, target, token string
			want                  int
		}{
			{"GET", "/orders/1", "good", 200},
			{"GET", "/orders/1", "bad", 404},
			{"PUT", "/orders/1", "good", 404},
			{"GET", "/orders/2", "good", 404},
			{"GET", "/undefined", "good", 403},
			{"GET", "/text", "good", 503},
			{"GET", "/failing", "good", 503},
		} {
			r.Received()
			a := r.Do(policytest.Request{Method: c.method, Target: c.target, Header: []exchange.Field{{Name: "Authorization", Value: "Bearer " + c.token}, {Name: "X-User", Value: "eve"}}})
			if a.Status != c.want {
				t.Errorf("%s: %s %s: %v, want %d", name, c.method, c.target, a, c.want)
			}
			for _, got := range r.Received() {
				if got.Header.Get("X-User") != "ada" {
					t.Errorf("%s: the service received %v", name, got)
				}
			}
		}
		r.Close()
	}
}
