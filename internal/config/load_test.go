package config_test

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/policy"
)

// parse reads a configuration that must have no fault.
func parse(t testing.TB, text string) *config.Config {
	t.Helper()
	cfg, faults := config.Parse("f.yaml", []byte(text), catalog())
	if len(faults) > 0 {
		t.Fatalf("faults:\n%v", faults)
	}
	return cfg
}

func TestShortestFile(t *testing.T) {
	cfg := parse(t, "routes:\n  - match: /api/*\n    upstream: http://127.0.0.1:9001\n")
	if len(cfg.Listeners) != 1 || cfg.Listeners[0].Address != ":8080" || cfg.Listeners[0].Name != ":8080" {
		t.Errorf("listeners: %+v", cfg.Listeners)
	}
	if cfg.Admin.Address != "127.0.0.1:9901" || cfg.Admin.Off {
		t.Errorf("admin: %+v", cfg.Admin)
	}
	r := cfg.Routes[0]
	if r.Name != "/api/*" || r.Match.Path != "/api/*" || r.Match.Host != nil {
		t.Errorf("route: %+v", r)
	}
	u := cfg.Upstream(r.Upstream)
	if u == nil || len(u.Endpoints) != 1 || u.Endpoints[0].URL != r.Upstream || u.Endpoints[0].Weight != 1 || u.Balance.Algorithm != "round_robin" {
		t.Errorf("upstream: %+v", u)
	}
	if cfg.Upstream("nobody") != nil {
		t.Error("an upstream that is not defined was found")
	}
}

const everything = `
listeners:
  - name: public
    address: "[::1]:8443"
    engine: std
    trusted_proxies: [10.0.0.0/8, 192.0.2.1, "fd00::/8"]
    limits: { header_bytes: 64KiB, headers: 50, streams: 7, body: 1GiB, header_timeout: 1m30s, idle_timeout: 24h, body_min_rate: 1KiB/s, requests_per_connection: 1000, connections: 5, half_close_timeout: 0 }
    policies:
      - request_id:
  - address: unix:/run/gatehouse.sock
upstreams:
  products:
    endpoints:
      - http://10.0.0.11:8080
      - { url: "http://unix:/run/x.sock", weight: 2 }
    connections: { max: 1000, max_per_endpoint: 200, idle: 10, idle_timeout: 90s, connect_timeout: 500ms }
    timeout: { first_byte: 10s, request: 30s, idle: 60s }
    host: endpoint
policies:
  - rate_limit: { limit: 6000/m, burst: 20, share: 12.5%, wait: 10ms, body: 64KiB, dry: true }
  - sign: { key: shared, fields: date, extra: { a: 1, b: "${WHO} $${x}" }, rules: [{ name: r, keys: { k: 1 } }], scale: 1.5 }
routes:
  - name: products
    match:
      host: [shop.example.com, "*.example.com"]
      path: /products/{id}
      methods: [GET, POST]
      headers: { X-Beta: "true", X-Gone: { present: false } }
      query: { page: { regex: "[0-9]+" } }
      cookies: { beta: "1" }
    upstream: products
    rewrite: { strip_prefix: /products, path: "/v2/{id}", host: products.internal:80 }
  - match: GET,HEAD shop.example.com/old/*
    redirect: { to: "/new/{rest}", status: 301 }
  - match: GET,HEAD shop.example.com/old/*
    respond: { status: "${STATUS:-503}", body: "", headers: { Content-Type: text/plain } }
  - match: /checkout/*
    split:
      - { upstream: products, weight: 95 }
      - { upstream: "http://10.0.0.12:8080", weight: 5 }
admin: off
observe:
  access_log: { format: combined, output: /var/log/access.log, sample: 10% }
  metrics: { max_routes: 5 }
  log: { level: debug, format: json }
shutdown: { drain: 1m, delay: 5s }
`

func TestEverything(t *testing.T) {
	t.Setenv("WHO", "me ${WHO}")
	cfg := parse(t, everything)
	l := cfg.Listeners[0]
	wantLimits := config.Limits{
		HeaderBytes: 64 << 10, Headers: 50, Streams: 7, Body: 1 << 30,
		HeaderTimeout: config.Duration(90 * time.Second), IdleTimeout: config.Duration(24 * time.Hour),
		BodyMinRate: config.Rate{Count: 1024, Per: time.Second}, RequestsPerConnection: 1000, Connections: 5,
	}
	if l.Limits != wantLimits {
		t.Errorf("limits: %+v", l.Limits)
	}
	if want := []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.1/32"), netip.MustParsePrefix("fd00::/8")}; !slices.Equal(l.TrustedProxies, want) {
		t.Errorf("trusted proxies: %v", l.TrustedProxies)
	}
	if p := l.Policies[0]; p.Kind.Name != "request_id" || p.Config.(*stamp).Header != "X-Request-Id" {
		t.Errorf("policy: %+v", p)
	}
	if e := cfg.Upstreams["products"].Endpoints; e[0].Weight != 1 || e[1].Weight != 2 || e[1].URL != "http://unix:/run/x.sock" {
		t.Errorf("endpoints: %+v %+v", e[0], e[1])
	}
	want := &limiter{Limit: policy.Rate{Count: 6000, Per: time.Minute}, Burst: 20, By: "client", Share: 0.125, Wait: policy.Duration(10 * time.Millisecond), Body: 64 << 10, Dry: true}
	if p := cfg.Policies[0]; p.Rank != 1 || !reflect.DeepEqual(p.Config, want) {
		t.Errorf("policy: %+v", p.Config)
	}
	s := cfg.Policies[1].Config.(*signer)
	if s.Key.Reveal() != "shared" || s.Fields[0] != "date" || s.Extra["a"] != "1" || s.Extra["b"] != "me ${WHO} ${x}" || s.Rules[0].Keys["k"] != 1 || s.Scale != 1.5 {
		t.Errorf("policy: %+v", s)
	}
	m := cfg.Routes[0].Match
	if *m.Headers["X-Beta"].Exact != "true" || *m.Headers["X-Gone"].Present || m.Query["page"].Regex != "[0-9]+" || *m.Cookies["beta"].Exact != "1" {
		t.Errorf("match: %+v", m)
	}
	var names []string
	for _, r := range cfg.Routes {
		names = append(names, r.Name)
	}
	if want := []string{"products", "GET,HEAD shop.example.com/old/*", "GET,HEAD shop.example.com/old/* #2", "/checkout/*"}; !slices.Equal(names, want) {
		t.Errorf("names: %q", names)
	}
	if cfg.Routes[1].Redirect.Status != 301 || cfg.Routes[2].Respond.Status != 503 || cfg.Routes[3].Split[1].Weight != 5 {
		t.Error("an end of a route was not read")
	}
	if !cfg.Admin.Off || cfg.Observe.AccessLog.Sample != 0.1 || cfg.Shutdown.Delay.D() != 5*time.Second {
		t.Errorf("admin %+v, observe %+v, shutdown %+v", cfg.Admin, cfg.Observe, cfg.Shutdown)
	}
}

func TestJSON(t *testing.T) {
	cfg := parse(t, `{"listeners": [{"address": ":80"}], "routes": [{"match": "/", "respond": {"status": 200, "body": "\u00e4\n"}}], "admin": "off"}`)
	if cfg.Routes[0].Respond.Body != "ä\n" || !cfg.Admin.Off {
		t.Errorf("%+v", cfg.Routes[0].Respond)
	}
}

func TestAliases(t *testing.T) {
	cfg := parse(t, "policies: &p\n  - request_id: {}\nroutes:\n  - { match: /a, policies: *p, respond: &r { body: x } }\n  - { match: /b, policies: *p, respond: *r }\n")
	if cfg.Routes[1].Respond.Body != "x" || len(cfg.Routes[1].Policies) != 1 {
		t.Errorf("%+v", cfg.Routes[1])
	}
	// Ten times ten times ten ... values.
	var b strings.Builder
	b.WriteString("policies:\n  - sign: { key: k, fields: &a0 [" + strings.TrimSuffix(strings.Repeat("date,", 10), ",") + "] }\n")
	for i := range 8 {
		fmt.Fprintf(&b, "  - sign: { key: k, fields: &a%d [%s] }\n", i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i), 10), ","))
	}
	b.WriteString("routes: []\n")
	if _, faults := config.Parse("f.yaml", []byte(b.String()), catalog()); !faults.Fatal() {
		t.Error("a bomb of aliases was accepted")
	}
	routes := "routes:\n  - &r { match: /, respond: { headers: { a: b, c: d, e: f } } }\n" + strings.Repeat("  - *r\n", 30_000)
	_, faults := config.Parse("f.yaml", []byte(routes), catalog())
	if !strings.Contains(faults.Error(), "aliases stand for more than") {
		t.Errorf("faults: %.200s", faults.Error())
	}
}

func TestBounds(t *testing.T) {
	_, faults := config.Parse("f.yaml", append([]byte("routes: []\n#"), make([]byte, 17<<20)...), catalog())
	if len(faults) != 1 || !strings.Contains(faults[0].Text, "larger than 16MiB") {
		t.Errorf("faults: %v", faults)
	}
	_, faults = config.Parse("f.yaml", []byte("routes: []\n"+"x: 1\n"+strings.Repeat("? [a]\n: 1\n", 5000)), catalog())
	if len(faults) > 250 || !strings.Contains(faults[len(faults)-1].Text, "too many faults") {
		t.Errorf("%d faults, the last is %v", len(faults), faults[len(faults)-1])
	}
}

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFolder(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"10-listeners.yaml": "listeners: [{ address: \":81\" }]\nobserve: { log: { level: warn } }\n",
		"20-shop.yml":       "upstreams: { shop: { endpoints: [\"http://h:1\"] } }\nroutes: [{ match: /shop, upstream: shop }]\n",
		"30-pay.yaml":       "upstreams: { pay: { endpoints: [\"http://h:2\"] } }\nroutes: [{ match: /pay, upstream: pay }, { match: /both, upstream: shop }]\nobserve: { metrics: { max_routes: 7 } }\nlisteners: [{ address: \":82\" }]\n",
		".hidden.yaml":      "not: [valid",
		"notes.txt":         "not: [valid",
		"sub/more.yaml":     "not: [valid",
	})
	cfg, faults := config.Load(dir, catalog())
	if len(faults) > 0 {
		t.Fatalf("faults:\n%v", faults)
	}
	if len(cfg.Routes) != 3 || cfg.Routes[2].Name != "/both" || len(cfg.Listeners) != 2 || len(cfg.Upstreams) != 2 {
		t.Errorf("%d routes, %d listeners, %d upstreams", len(cfg.Routes), len(cfg.Listeners), len(cfg.Upstreams))
	}
	if cfg.Observe.Log.Level != "warn" || cfg.Observe.Metrics.MaxRoutes != 7 {
		t.Errorf("observe: %+v", cfg.Observe)
	}
	f := cfg.Fault("routes[2].match.path", "x", "")
	if filepath.Base(f.File) != "30-pay.yaml" || f.Line != 2 || f.Col != 51 {
		t.Errorf("fault in the second file: %+v", f)
	}
	f = cfg.Fault("upstreams.pay.connections.max", "x", "")
	if filepath.Base(f.File) != "30-pay.yaml" || f.Line != 1 {
		t.Errorf("fault in the second file: %+v", f)
	}
}

func TestFolderFaults(t *testing.T) {
	for _, c := range []struct {
		name  string
		files map[string]string
		want  []string
	}{
		{"nothing", map[string]string{"a.txt": "x"}, []string{"D: holds no *.yaml file (hidden files and folders within it are not read)"}},
		{"a broken file", map[string]string{"a.yaml": "routes: []", "b.yaml": "routes: [\n", "c.yaml": "upstream: x"}, []string{
			"D/b.yaml:2:1: not YAML: the brackets that are open at the end of the file are not closed",
			`D/c.yaml:1:1: upstream: unknown key "upstream" (did you mean "upstreams"?)`,
		}},
		{"an empty file", map[string]string{"a.yaml": "routes: []", "b.yaml": ""}, []string{
			"D/b.yaml:1:1: holds no configuration (the shortest one has routes: with a match and an upstream)",
		}},
		{"the same upstream", map[string]string{
			"a.yaml": "upstreams:\n  a: { endpoints: [\"http://h\"] }\nroutes: []",
			"b.yaml": "upstreams:\n  a: { endpoints: [\"http://h\"] }",
		}, []string{`D/b.yaml:2:3: upstreams.a: "a" stands twice, first at D/a.yaml:2:3`}},
		{"the same setting", map[string]string{
			"a.yaml": "observe: { log: { level: warn } }\nadmin: off\nroutes: []",
			"b.yaml": "observe: { log: { format: json } }\nadmin: { address: \":1\" }",
		}, []string{
			`D/b.yaml:1:12: observe.log: "log" stands twice, first at D/a.yaml:1:12`,
			`D/b.yaml:2:1: admin: "admin" stands twice, first at D/a.yaml:2:1`,
		}},
		{"the same route", map[string]string{
			"a.yaml": "routes: [{ name: a, match: /a, respond: {} }]",
			"b.yaml": "routes: [{ name: b, match: /b, respond: {} }, { name: a, match: /c, respond: {} }]",
		}, []string{`D/b.yaml:1:55: routes[2].name: name "a" stands twice, first at D/a.yaml:1:18`}},
		{"faults in a later list", map[string]string{
			"a.yaml": "routes: [{ match: /a, respond: {} }]",
			"b.yaml": "routes:\n  - match: /b\n    respond: { status: 1 }\n  - match: c",
		}, []string{
			"D/b.yaml:3:24: routes[1].respond.status: 1 is out of range: 200 to 599",
			`D/b.yaml:4:12: routes[2].match: "c" has no path (write "/path", "host/path" or "GET host/path")`,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, c.files)
			cfg, faults := config.Load(dir, catalog())
			if cfg != nil && !cfg.Partial() {
				t.Error("a config that can be served came with the faults")
			}
			if got, want := strings.ReplaceAll(faults.Error(), dir, "D"), strings.Join(c.want, "\n"); got != want {
				t.Errorf("faults:\n%s\nwant:\n%s", got, want)
			}
		})
	}
	if _, faults := config.Load(filepath.Join(t.TempDir(), "none.yaml"), catalog()); !faults.Fatal() || !strings.Contains(faults.Error(), "no such file") {
		t.Errorf("faults: %v", faults)
	}
	dir := t.TempDir()
	if err := os.Symlink("nowhere", filepath.Join(dir, "a.yaml")); err != nil {
		t.Fatal(err)
	}
	if _, faults := config.Load(dir, catalog()); !faults.Fatal() || !strings.Contains(faults.Error(), "a.yaml: cannot be read") {
		t.Errorf("faults: %v", faults)
	}
}

// Kubernetes mounts a ConfigMap as links to files of a hidden folder, which is
// a link itself.
func TestMountedFolder(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"..2026_01/gatehouse.yaml": "routes: [{ match: /one, respond: {} }]",
		"..2026_02/gatehouse.yaml": "routes: [{ match: /two, respond: {} }]",
	})
	for _, l := range [][2]string{{"..2026_01", "..data"}, {"..data/gatehouse.yaml", "gatehouse.yaml"}} {
		if err := os.Symlink(l[0], filepath.Join(dir, l[1])); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{"/one", "/two"} {
		for _, path := range []string{dir, filepath.Join(dir, "gatehouse.yaml")} {
			cfg, faults := config.Load(path, catalog())
			if len(faults) > 0 || len(cfg.Routes) != 1 || cfg.Routes[0].Match.Path != want {
				t.Fatalf("%s: %v", path, faults)
			}
		}
		if err := os.Symlink("..2026_02", filepath.Join(dir, "..next")); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(dir, "..next"), filepath.Join(dir, "..data")); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSecretsAreReadAndHidden(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("SIGN_KEY", "from-the-environment")
	write(t, dir, map[string]string{
		"key":    "from-a-file\n",
		"c.yaml": "policies:\n  - sign: { key: { env: SIGN_KEY } }\n  - sign: { key: { file: key } }\n  - sign: { key: written-out }\n  - sign: { key: \"${SIGN_KEY}\" }\nroutes: []\n",
	})
	cfg, faults := config.Load(filepath.Join(dir, "c.yaml"), catalog())
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	for i, want := range []string{"from-the-environment", "from-a-file", "written-out", "from-the-environment"} {
		if got := cfg.Policies[i].Config.(*signer).Key.Reveal(); got != want {
			t.Errorf("secret %d is %q", i, got)
		}
	}
	shown := string(cfg.Marshal())
	for _, p := range cfg.Policies {
		shown += fmt.Sprintf("%v %+v %#v %s", p.Config, p.Config, p.Config, p.Config)
	}
	if strings.Contains(shown, "from-") || strings.Contains(shown, "written") {
		t.Errorf("a secret was shown:\n%s", shown)
	}
	if !strings.Contains(shown, `"env": "SIGN_KEY"`) && !strings.Contains(shown, `"env":"SIGN_KEY"`) {
		t.Errorf("the reference is missing:\n%s", shown)
	}
	before := cfg.Digest()
	write(t, dir, map[string]string{"key": "another\n"})
	if cfg, faults = config.Load(filepath.Join(dir, "c.yaml"), catalog()); len(faults) > 0 || cfg.Digest() == before {
		t.Errorf("faults %v; the digest must tell that a secret changed", faults)
	}
}

// A pipe that nobody writes to holds up nobody: it is as good as empty.
func TestPipes(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, faults := config.Load(pipe, catalog()); !strings.Contains(faults.Error(), "holds no configuration") {
		t.Error(faults)
	}
	write(t, dir, map[string]string{"c.yaml": "policies: [{ sign: { key: { file: pipe } } }]\nroutes: []\n"})
	if _, faults := config.Load(filepath.Join(dir, "c.yaml"), catalog()); !strings.Contains(faults.Error(), "is empty") {
		t.Error(faults)
	}
}
