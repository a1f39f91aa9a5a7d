package rego

import (
	"context"
	"errors"
	"strings"
	"testing"
)

const module = `package http.authz

default allow := false

allow if {
	input.method == "GET"
	"staff" in input.groups
}

undefined if input.never

broken if not to_number(input.method) == 1

endless if {
	some a in input.list
	some b in input.list
	some c in input.list
	some d in input.list
	a + b + c + d < 0
}
`

func TestAnswer(t *testing.T) {
	for _, c := range []struct{ rule, question, want, fault string }{
		{"allow", `{"input": {"method": "GET", "groups": ["staff"]}}`, `{"result":true}`, ""},
		{"allow", `{"input": {"method": "PUT", "groups": ["staff"]}}`, `{"result":false}`, ""},
		{"allow", `{}`, `{"result":false}`, ""},
		{"undefined", `{"input": {}}`, `{}`, ""},
		{"broken", `{"input": {"method": "GET"}}`, "", "failed"},
		{"allow", `{"input": `, "", "no JSON"},
	} {
		p, err := Compile("a.rego", module, "data.http.authz."+c.rule)
		if err != nil {
			t.Fatal(err)
		}
		got, err := p.Answer(context.Background(), []byte(c.question))
		if string(got) != c.want || (err != nil) != (c.fault != "") || err != nil && !strings.Contains(err.Error(), c.fault) {
			t.Errorf("%s of %s: %s, %v", c.rule, c.question, got, err)
		}
	}
}

// TestEnds: a rule that would run for hours ends with the context.
func TestEnds(t *testing.T) {
	p, err := Compile("a.rego", module, "data.http.authz.endless")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	late := errors.New("late")
	ended := make(chan error, 1)
	go func() {
		_, err := p.Answer(ctx, []byte(`{"input": {"list": [`+strings.Repeat("1,", 5000)+`1]}}`))
		ended <- err
	}()
	cancel(late)
	if err := <-ended; !errors.Is(err, late) {
		t.Errorf("it ended with %v", err)
	}
}

func TestFaults(t *testing.T) {
	head := "package a\n\n"
	for text, want := range map[string]string{
		"":                           "empty",
		head + "allow if {":          "a.rego:3:",
		head + "allow if nothing(1)": "a.rego:3:10: undefined function nothing",
		head + "allow if http.send({\"method\": \"get\", \"url\": \"http://127.0.0.1\"}).status_code == 200": "a.rego:3:10: undefined function http.send",
		head + "allow if net.lookup_ip_addr(\"a\")":                                                          "undefined function net.lookup_ip_addr",
		head + "allow if opa.runtime().env":                                                                  "undefined function opa.runtime",
		head + "allow if numbers.range(1, input.n)":                                                          "undefined function numbers.range",
		head + "allow if graph.reachable_paths(input.g, {1}) != set()":                                       "undefined function graph.reachable_paths",
		head + "allow if strings.render_template(input.t, {}) != \"\"":                                       "undefined function strings.render_template",
		head + "allow if x":   "a.rego:3:10: var x is unsafe",
		head + "deny if true": "names no rule of the module",
		"package a\n" + strings.Repeat("#", MostBytes) + "": "larger than",
	} {
		if _, err := Compile("a.rego", text, "data.a.allow"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.60q: %v, want %q", text, err, want)
		}
	}
	for _, query := range []string{"", "true", "input.x", "data.a.allow; true", "data.a[x]", "http.send({})"} {
		if _, err := Compile("a.rego", head+"allow if true", query); err == nil || !strings.Contains(err.Error(), "names no rule") {
			t.Errorf("query %q: %v", query, err)
		}
	}
}

func FuzzCompile(f *testing.F) {
	f.Add("package a\nallow if true")
	f.Add("package a\nallow := http.send({})")
	f.Fuzz(func(t *testing.T, text string) {
		if p, err := Compile("a.rego", text, "data.a.allow"); err == nil {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			if _, err := p.Answer(ctx, []byte(`{"input": {}}`)); err == nil {
				t.Error("it does not end with its context")
			}
		}
	})
}
