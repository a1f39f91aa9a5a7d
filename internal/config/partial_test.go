package config_test

import (
	"testing"

	"gatehouse.dev/gatehouse/internal/config"
)

func TestPartial(t *testing.T) {
	const text = `
observe: { log: { level: loud } }
policies: [{ request_id: {} }, { nonsense: {} }]
listeners:
  - address: ":1"
    policies: [{ nonsense: {} }]
upstreams:
  good: { endpoints: ["http://127.0.0.1:1"] }
  bad: { endpoints: [] }
routes:
  - { name: match, match: /a, match: /b, upstream: good }
  - { name: end, match: /c, upstream: nobody }
  - { name: policy, match: /d, upstream: good, policies: [{ nonsense: {} }, { request_id: {} }] }
  - { name: good, match: /e, upstream: good }
`
	cfg, faults := config.Parse("f.yaml", []byte(text), catalog())
	if !faults.Fatal() || cfg == nil || !cfg.Partial() {
		t.Fatalf("config %v, faults:\n%v", cfg, faults)
	}
	if cfg.Observe.Log.Level != "info" {
		t.Errorf("log: %+v", cfg.Observe.Log)
	}
	if len(cfg.Policies) != 2 || cfg.Policies[0] == nil || cfg.Policies[1] != nil {
		t.Errorf("policies: %v", cfg.Policies)
	}
	if l := cfg.Listeners[0]; l == nil || len(l.Policies) != 1 || l.Policies[0] != nil {
		t.Errorf("listener: %+v", l)
	}
	if cfg.Upstream("good") == nil || cfg.Upstream("bad") != nil {
		t.Errorf("upstreams: %v", cfg.Upstreams)
	}
	r := cfg.Routes
	if len(r) != 4 || r[0] != nil || r[3] == nil || r[3].Upstream != "good" {
		t.Fatalf("routes: %v", r)
	}
	if r[1] == nil || r[1].Match.Path != "/c" || r[1].Upstream != "" {
		t.Errorf("route with a faulty end: %+v", r[1])
	}
	if r[2] == nil || r[2].Upstream != "good" || r[2].Policies[0] != nil || r[2].Policies[1] == nil {
		t.Errorf("route with a faulty policy: %+v", r[2])
	}
	for _, text := range []string{"routes: [", "- a", "", "routes: []\n---\n"} {
		if cfg, _ := config.Parse("f.yaml", []byte(text), catalog()); cfg != nil && !cfg.Partial() {
			t.Errorf("%q: %+v", text, cfg)
		}
	}
	if parse(t, "routes: []").Partial() {
		t.Error("a configuration without a fault is partial")
	}
}
