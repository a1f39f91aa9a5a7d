package schema

import (
	"bytes"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v4"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/policy"
)

// limiter has settings of every type.
type limiter struct {
	Limit  policy.Rate       `yaml:"limit" required:"true"`
	Burst  int               `yaml:"burst" min:"0" max:"1000"`
	By     string            `yaml:"by" enum:"client,consumer"`
	Wait   policy.Duration   `yaml:"wait" max:"1m"`
	Share  policy.Percent    `yaml:"share"`
	Body   policy.Size       `yaml:"body" max:"1MiB"`
	Dry    bool              `yaml:"dry"`
	Scale  float64           `yaml:"scale" max:"2"`
	Key    policy.Secret     `yaml:"key"`
	Fields policy.StringList `yaml:"fields" enum:"date,host"`
	Rules  []rule            `yaml:"rules"`
}

type rule struct {
	Name string         `yaml:"name" required:"true"`
	Keys map[string]int `yaml:"keys" min:"1" max:"9"`
}

func (*limiter) Compile(*policy.Env) (policy.Policy, error) { return nil, nil }

type stamp struct{}

func (*stamp) Compile(*policy.Env) (policy.Policy, error) { return nil, nil }

func testCatalog() *policy.Catalog {
	return policy.NewCatalog(
		&policy.Kind{Name: "limit", Doc: "Limits.", New: func() policy.Config { return &limiter{By: "client", Scale: 1} }},
		&policy.Kind{Name: "stamp", Doc: "Stamps.", New: func() policy.Config { return new(stamp) }},
	)
}

func compile(t *testing.T, cat *policy.Catalog) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(JSON(cat)))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource(ID, doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(ID)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func validate(t *testing.T, s *jsonschema.Schema, text string) error {
	t.Helper()
	var v any
	if err := yaml.Load([]byte(text), &v); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return s.Validate(asText(v))
}

// asText makes text of dates: YAML 1.2 has no type for them, and editors see
// what stands there.
func asText(v any) any {
	switch v := v.(type) {
	case time.Time:
		return v.Format(time.RFC3339)
	case []any:
		for i := range v {
			v[i] = asText(v[i])
		}
	case map[string]any:
		for name := range v {
			v[name] = asText(v[name])
		}
	}
	return v
}

// What the decoder takes is valid.
func TestValid(t *testing.T) {
	t.Setenv("X", "7")
	t.Setenv("SLASH", "/")
	s := compile(t, testCatalog())
	for _, text := range []string{
		"routes: []",
		"routes: [{ match: /api/*, upstream: http://127.0.0.1:9001 }]",
		"routes: [{ match: { host: a, path: /, methods: [GET, POST], headers: { A: b, C: { regex: d }, E: { present: true }, F: 1 } }, respond: {} }]",
		"routes: [{ match: /, respond: { status: 200, body: 1, headers: { a: true } } }]\nadmin: off",
		"routes: [{ match: \"${SLASH}\", redirect: { to: /x, status: \"${NO:-301}\" } }]",
		"routes: [{ match: /, split: [{ upstream: http://h, weight: 0 }, { upstream: a }] }]\nupstreams: { a: { endpoints: [http://h, { url: http://i, weight: 2 }], balance: round_robin } }",
		"routes: [{ match: /, upstream: a }]\nupstreams: { a: { discovery: { dns: \"a:1\" }, balance: { hash: client }, retry: {}, hedge: { after: 100ms }, health: { expect: [200-299] }, outlier: {}, breaker: { slow: 1s }, queue: {}, concurrency: { adaptive: true }, sticky: { cookie: a } } }",
		"listeners: [{ address: \":1\", trusted_proxies: [10.0.0.0/8], limits: { header_bytes: 2048, body: 0, header_timeout: 1m30s, idle_timeout: 24h, body_min_rate: 0, half_close_timeout: 0 } }]\nroutes: []",
		"listeners: [{ address: \":1\", limits: { headers: \"${X}\", body: \"${X}MiB\", header_timeout: \"${X}s\", body_min_rate: 1KiB/s } }]\nroutes: []",
		"policies: [stamp: {}, stamp:, limit: { limit: 100/m }]\nroutes: []",
		"policies: [limit: { limit: 1/d, burst: 0, by: consumer, wait: 1s, share: 12.5%, body: 1KiB, dry: true, scale: 1.5, key: a, fields: date, rules: [{ name: a, keys: { b: 9 } }] }]\nroutes: []",
		"policies: [limit: { limit: 0, dry: \"${NO:-true}\", key: { env: X }, fields: [date, host] }]\nroutes: []",
		"observe: { access_log: { format: combined, sample: 0.5% }, metrics: { max_routes: 1 }, log: { level: debug } }\nshutdown: { drain: 1m, delay: 0 }\nadmin: { address: \":1\" }\nroutes: []",
	} {
		if _, faults := config.Parse("f.yaml", []byte(text), testCatalog()); faults.Fatal() {
			t.Fatalf("the decoder refuses %s: %v", text, faults)
		}
		if err := validate(t, s, text); err != nil {
			t.Errorf("%s:\n%v", text, err)
		}
	}
}

func TestInvalid(t *testing.T) {
	s := compile(t, testCatalog())
	for _, text := range []string{
		"{}",
		"null",
		"[]",
		"hello",
		"route: []",
		"routes: {}",
		"routes: [/]",
		"routes: [{ match: / }]",
		"routes: [{ respond: {} }]",
		"routes: [{ match: /, respond: {}, upstream: http://h }]",
		"routes: [{ match: nopath, respond: {} }]",
		"routes: [{ match: { paht: / }, respond: {} }]",
		"routes: [{ match: { path: /, path_regex: / }, respond: {} }]",
		"routes: [{ match: { host: { a: b } }, respond: {} }]",
		"routes: [{ match: { headers: { a: {} } }, respond: {} }]",
		"routes: [{ match: { headers: { a: { exact: b, regex: c } } }, respond: {} }]",
		"routes: [{ match: { headers: { a: { present: maybe } } }, respond: {} }]",
		"routes: [{ match: /, respond: { status: 100 } }]",
		"routes: [{ match: /, respond: { status: \"200\" } }]",
		"routes: [{ match: /, redirect: { to: /x, status: 300 } }]",
		"routes: [{ match: /, redirect: {} }]",
		"routes: [{ match: /, split: [{ weight: 1 }] }]",
		"routes: [{ match: /, respond: {}, mirror: {} }]",
		"listeners: [{}]",
		"listeners: [{ address: \"\" }]",
		"listeners: [{ address: \":1\", engine: fast }]",
		"listeners: [{ address: \":1\", limits: { headers: 0 } }]",
		"listeners: [{ address: \":1\", limits: { headers: 1.5 } }]",
		"listeners: [{ address: \":1\", limits: { header_bytes: 32KB } }]",
		"listeners: [{ address: \":1\", limits: { header_timeout: 5 } }]",
		"listeners: [{ address: \":1\", limits: { header_timeout: 5d } }]",
		"listeners: [{ address: \":1\", limits: { body_min_rate: 100 } }]",
		"upstreams: { a: { endpoints: [10.0.0.1] } }",
		"upstreams: { a: {} }",
		"upstreams: [a]",
		"upstreams: { a: { endpoints: [http://h], balance: magic } }",
		"upstreams: { a: { discovery: {} } }",
		"upstreams: { a: { discovery: { dns: a:1, srv: b } } }",
		"policies: [stamp]",
		"policies: [nobody: {}]",
		"policies: [{}]",
		"policies: [{ stamp: {}, limit: { limit: 1/s } }]",
		"policies: [limit:]",
		"policies: [limit: { burst: 1 }]",
		"policies: [limit: { limit: 1/s, burst: 1001 }]",
		"policies: [limit: { limit: 1/s, by: nobody }]",
		"policies: [limit: { limit: 1/s, share: 0.2 }]",
		"policies: [limit: { limit: 1/s, key: {} }]",
		"policies: [limit: { limit: 1/s, key: { env: A, file: b } }]",
		"policies: [limit: { limit: 1/s, fields: [x] }]",
		"policies: [limit: { limit: 1/s, rules: [{ keys: { a: 1 } }] }]",
		"policies: [limit: { limit: 1/s, rules: [{ name: a, keys: { a: 10 } }] }]",
		"policies: [stamp: { a: b }]",
		"admin: on",
		"observe: { access_log: { sample: 20 } }",
		"shutdown: { drain: soon }",
	} {
		if validate(t, s, text) == nil {
			t.Errorf("%s is valid", text)
		}
		if _, faults := config.Parse("f.yaml", []byte(text), testCatalog()); !faults.Fatal() {
			t.Errorf("the decoder takes %s", text)
		}
	}
}
