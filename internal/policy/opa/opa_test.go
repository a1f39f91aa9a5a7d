package opa

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

// agent answers as the path of the request in its input says.
func agent(t *testing.T) (string, *atomic.Int64) {
	var asked atomic.Int64
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		asked.Add(1)
		var body struct{ Input input }
		if err := json.NewDecoder(q.Body).Decode(&body); err != nil || q.Method != "POST" || q.URL.Path != "/v1/data/http/authz" || q.Header.Get("Authorization") != "Bearer t" {
			t.Errorf("%s %s: %v", q.Method, q.URL, err)
		}
		in := body.Input
		switch in.Path[0] {
		case "", "true", "cached":
			fmt.Fprint(w, `{"result": true}`)
		case "object":
			fmt.Fprint(w, `{"result": {"allow": true, "headers": {"X-User": "ada", "X-Other": "b", "x-user": "a\r\nb"}}}`)
		case "teapot":
			fmt.Fprint(w, `{"result": {"allow": false, "http_status": 418}}`)
		case "undefined":
			fmt.Fprint(w, `{}`)
		case "text":
			fmt.Fprint(w, `{"result": "true"}`)
		case "number":
			fmt.Fprint(w, `{"result": 1}`)
		case "capital":
			fmt.Fprint(w, `{"result": {"Allow": true}}`)
		case "capital-result":
			fmt.Fprint(w, `{"Result": true}`)
		case "away":
			http.Error(w, "no", http.StatusServiceUnavailable)
		case "odd":
			fmt.Fprint(w, `{"result": {"allow": "true"}}`)
		case "broken":
			fmt.Fprint(w, `{"result": tr`)
		case "large":
			fmt.Fprint(w, `{"result": true, "x": "`+strings.Repeat("x", largestAnswer)+`"}`)
		case "error":
			http.Error(w, "no", http.StatusInternalServerError)
		case "redirect":
			http.Redirect(w, q, "/v1/data/other", http.StatusTemporaryRedirect)
		case "slow", "slow-open":
			<-q.Context().Done()
		case "body":
			fmt.Fprintf(w, `{"result": %v}`, string(in.Body) == `{"amount":5}` && in.ParsedBody)
		case "unread":
			fmt.Fprintf(w, `{"result": %v}`, in.Body == nil && !in.ParsedBody)
		case "input":
			ok := in.Method == "GET" && strings.Join(in.Path, " ") == "input x%2Fy" && in.Query["a"][1] == "c" && in.Client == "192.0.2.1" &&
				in.Headers["x-many"] == "1, 2" && in.Params["id"] == "x%2Fy" && in.Host == "gateway.test" && in.ParsedQuery
			fmt.Fprintf(w, `{"result": %v}`, ok)
		}
	}))
	t.Cleanup(s.Close)
	return s.URL + "/v1/data/http/authz", &asked
}

func catalog() *policy.Catalog { return policy.NewCatalog(Kind()) }

func TestDecisions(t *testing.T) {
	url, asked := agent(t)
	settings := "url: '" + url + "', token: t, timeout: 5s, sets: [X-User]"
	text := `
routes:
  - { match: /body, upstream: http://up, policies: [ opa: { ` + settings + `, body: 100 } ] }
  - { match: /unread, upstream: http://up, policies: [ opa: { ` + settings + `, body: 100 } ] }
  - { match: /cached, upstream: http://up, policies: [ opa: { ` + settings + `, headers: X-Token, cache_ttl: 1m } ] }
  - { match: /slow, upstream: http://up, policies: [ opa: { url: '` + url + `', token: t, timeout: 50ms } ] }
  - { match: /slow-open, upstream: http://up, policies: [ opa: { url: '` + url + `', token: t, timeout: 50ms, fail_open: true } ] }
  - { match: /dead, upstream: http://up, policies: [ opa: { url: 'http://127.0.0.1:1/v1/data/x' } ] }
  - { match: /metadata, upstream: http://up, policies: [ opa: { url: 'http://169.254.169.254/v1/data/x' } ] }
  - { match: /dry/*, upstream: http://up, policies: [ opa: { ` + settings + `, dry_run: true } ] }
  - { match: "/input/{id}", upstream: http://up, policies: [ opa: { ` + settings + ` } ] }
  - { match: /*, upstream: http://up, policies: [ opa: { ` + settings + ` } ] }
`
	r := policytest.NewRig(t, catalog(), text, nil)
	defer r.Close()
	for target, want := range map[string]int{
		"/": 200, "/true": 200, "/object": 200, "/teapot": 418, "/undefined": 403, "/text": 503, "/number": 503, "/odd": 503, "/broken": 503,
		"/capital": 403, "/capital-result": 403, "/away": 503,
		"/large": 503, "/error": 503, "/redirect": 503, "/slow": 503, "/slow-open": 200, "/dead": 503, "/metadata": 503,
		"/input/x%2Fy?a=b&a=c": 200, "/input/z": 403,
	} {
		r.Received()
		a := r.Do(policytest.Request{Target: target, Header: []exchange.Field{{Name: "X-User", Value: "eve"}, {Name: "X-Many", Value: "1"}, {Name: "X-Many", Value: "2"}}})
		if a.Status != want {
			t.Errorf("%s: %v, want %d", target, a, want)
		}
		for _, got := range r.Received() {
			if user := got.Header.Get("X-User"); target == "/object" && user != "ada" || target != "/object" && target != "/slow-open" && user != "" || got.Header.Get("X-Other") != "" {
				t.Errorf("%s: the service received %v", target, got)
			}
		}
	}
	for body, want := range map[string]int{`{"amount":5}`: 200, `{"amount":6}`: 403, `no json`: 403} {
		if a := r.Do(policytest.Request{Method: "POST", Target: "/body", Body: body}); a.Status != want {
			t.Errorf("%s: %v", body, a)
		}
	}
	// A body that two could read differently is not shown as if there were one reading.
	for body, want := range map[string]int{
		"": 403, `{"amount":5}`: 403, `no json`: 200, `{"amount":5,"amount":6}`: 200, `{"a":[{"b":1,"\u0062":2}]}`: 200, "{\"a\":\"\xff\"}": 200, `{"a":1}{}`: 200,
		`{"a":{"b":"b","c":"b"},"b":["b","b"]}`: 403, `"text"`: 403, `[{"a":1},{"a":1}]`: 403,
	} {
		if a := r.Do(policytest.Request{Method: "POST", Target: "/unread", Body: body}); a.Status != want {
			t.Errorf("%q: %v, want %d", body, a, want)
		}
	}
	before := asked.Load()
	for i := range 10 {
		r.Do(policytest.Request{Target: "/cached", Header: []exchange.Field{{Name: "X-Token", Value: fmt.Sprint(i % 2)}}})
	}
	if n := asked.Load() - before; n != 2 {
		t.Errorf("two callers were decided %d times", n)
	}
}

// What a client can bring about is no reason to let a request pass, also with
// fail_open: that is for a server that is not there.
func TestFailOpen(t *testing.T) {
	url, _ := agent(t)
	r := policytest.NewRig(t, catalog(), "routes: [ { match: /*, upstream: http://up, policies: [ opa: { url: '"+url+"', token: t, timeout: 5s, fail_open: true } ] } ]", nil)
	defer r.Close()
	for target, want := range map[string]int{
		"/text": 503, "/odd": 503, "/broken": 503, "/large": 503, "/error": 503, "/redirect": 503, "/undefined": 403, "/away": 200, "/true": 200,
	} {
		if a := r.Do(policytest.Request{Target: target}); a.Status != want {
			t.Errorf("%s: %v, want %d", target, a, want)
		}
	}
}

func FuzzUnambiguous(f *testing.F) {
	for _, s := range []string{`{"a":1}`, `{"a":1,"a":2}`, `[{"a":{}},"a"]`, `{"a":{"a":"a"}}`, `1 2`, `{"a"`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if !unambiguous(text) {
			return
		}
		var v any
		if err := json.Unmarshal(text, &v); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		// No value was lost: written again, it has as many names.
		again, err := json.Marshal(v)
		if err != nil || names(again) != names(text) {
			t.Errorf("%q became %q: %v", text, again, err)
		}
	})
}

// names counts the names of all objects.
func names(text []byte) (n int) {
	d := json.NewDecoder(bytes.NewReader(text))
	var count func()
	count = func() {
		switch t, _ := d.Token(); t {
		case json.Delim('{'):
			for d.More() {
				_, _ = d.Token()
				n++
				count()
			}
			_, _ = d.Token()
		case json.Delim('['):
			for d.More() {
				count()
			}
			_, _ = d.Token()
		}
	}
	count()
	return n
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"result": {"allow": true}}`))
	f.Add([]byte(`{"result": true}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		if v, err := read(text); err == nil && v.Allow && !strings.Contains(string(text), "true") {
			t.Errorf("%q allows", text)
		}
	})
}
