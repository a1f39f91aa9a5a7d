package config_test

import (
	"reflect"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/config"
)

func TestDigest(t *testing.T) {
	t.Setenv("WHO", "me")
	t.Setenv("PORT", "8080")
	a := parse(t, "listeners: [{ address: \":8080\" }]\nroutes: [{ match: /a, respond: { body: ok } }]\n")
	same := []string{
		"# a comment\nroutes:\n  - respond:\n      status: 200\n      body: \"ok\"\n    match: { path: /a }\n",
		"routes: [{ name: /a, match: /a, respond: { body: ok } }]\nlisteners: [{ address: \":${PORT}\", engine: native, limits: { headers: 100, body: 10240KiB } }]\nadmin: { address: \"127.0.0.1:9901\" }",
	}
	for _, text := range same {
		if b := parse(t, text); b.Digest() != a.Digest() {
			t.Errorf("%s has another digest:\n%s", text, b.Marshal())
		}
	}
	for _, text := range []string{
		"routes: [{ match: /a, respond: { body: ok } }]\nadmin: off",
		"routes: [{ match: /a, respond: { body: \"ok \" } }]",
		"routes: [{ match: /a, respond: { body: ok } }]\npolicies: [request_id: {}]",
	} {
		if b := parse(t, text); b.Digest() == a.Digest() {
			t.Errorf("%s has the same digest", text)
		}
	}
	if len(a.Digest()) != 12 {
		t.Errorf("digest %q", a.Digest())
	}
}

func TestMarshalIsReadAgain(t *testing.T) {
	t.Setenv("WHO", "me $${WHO} \x7f")
	text := strings.ReplaceAll(everything, "key: shared", "key: { env: WHO }")
	cat := catalog()
	a, faults := config.Parse("f.yaml", []byte(text), cat)
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	out := a.Marshal()
	b, faults := config.Parse("canonical.json", out, cat)
	if len(faults) > 0 {
		t.Fatalf("%v\n%s", faults, out)
	}
	if a.Digest() != b.Digest() {
		t.Errorf("digests differ; canonical form:\n%s\nagain:\n%s", out, b.Marshal())
	}
	if !reflect.DeepEqual(a.Routes, b.Routes) || !reflect.DeepEqual(a.Listeners, b.Listeners) || !reflect.DeepEqual(a.Upstreams, b.Upstreams) || !reflect.DeepEqual(a.Observe, b.Observe) {
		t.Errorf("what was read again differs:\n%s", out)
	}
}

func TestFaultPositions(t *testing.T) {
	cfg := parse(t, `routes:
  - name: a
    match: { path: /a, headers: { X-A: b, "x.y": { regex: c } } }
    policies:
      - rate_limit: { limit: 1/s }
    respond:
      body: x
  - match: /b
    respond: {}
`)
	for _, c := range []struct {
		path      string
		line, col int
	}{
		{"routes", 1, 1},
		{"routes[0]", 2, 5},
		{"routes[0].name", 2, 11},
		{"routes[0].match.headers.X-A", 3, 40},
		{"routes[0].match.headers[\"x.y\"].regex", 3, 59},
		{"routes[0].policies[0].rate_limit.limit", 5, 30},
		{"routes[0].policies[0].rate_limit.burst", 5, 9},
		{"routes[0].respond", 6, 5},
		{"routes[0].respond.status", 6, 5},
		{"routes[1].match.path", 8, 12},
		{"routes[1].", 8, 5},
		{"routes[7].match", 1, 1},
		{"observe.log", 1, 1},
		{"", 1, 1},
		{"]]not a path[", 1, 1},
	} {
		f := cfg.Fault(c.path, "x", "")
		if f.File != "f.yaml" || f.Line != c.line || f.Col != c.col {
			t.Errorf("%s is at %s:%d:%d, want %d:%d", c.path, f.File, f.Line, f.Col, c.line, c.col)
		}
	}
	if f := new(config.Config).Fault("routes[0]", "x", ""); f.Error() != "routes[0]: x" {
		t.Errorf("fault of a config without a file: %v", f)
	}
}
