// Package policytest is the suite that every kind of policy must pass, and the
// harness that runs a policy's scripts in a whole gateway. It owns no policy,
// and no socket: requests and upstreams are in memory, so that time can be
// virtual. It is for tests only.
package policytest

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Suite says what is put to the test.
type Suite struct {
	Catalog  *policy.Catalog       // all kinds: scripts and examples may use others beside the one
	Kind     string                // the name of the kind
	Settings string                // settings in YAML that compile and let a GET of / pass; "" for {}
	Services func(name string) any // what app offers to the policy beside the access log; may be nil
	Allocs   int                   // most allocations that one plain exchange makes because of the policy
}

// Run puts a kind through the suite. The test stands in the folder of the
// policy.
func Run(t *testing.T, s Suite) {
	kind, _ := s.Catalog.Lookup(s.Kind)
	if kind == nil {
		t.Fatalf("the catalog has no policy %q", s.Kind)
	}
	if s.Settings == "" {
		s.Settings = "{}"
	}
	t.Run("kind", func(t *testing.T) { s.kind(t, kind) })
	t.Run("round trip", s.roundTrip)
	t.Run("settings stay", s.settingsStay)
	t.Run("concurrent", s.concurrent)
	t.Run("plain path", s.plainPath)
	t.Run("readme", func(t *testing.T) { s.readme(t, kind) })
	t.Run("reference", s.reference)
	t.Run("scripts", func(t *testing.T) { Scripts(t, s.Catalog, s.Services) })
}

// config returns a configuration in which the policy stands on the only route,
// or no policy at all.
func (s *Suite) config(with bool) string {
	text := "routes:\n  - match: /*\n    upstream: http://up\n"
	if with {
		text += "    policies:\n      - " + s.Kind + ": " + s.Settings + "\n"
	}
	return text
}

func (s *Suite) parse(t *testing.T, text string) *config.Config {
	t.Helper()
	cfg, faults := config.Parse("gatehouse.yaml", []byte(text), s.Catalog)
	if faults.Fatal() {
		t.Fatal(faults)
	}
	return cfg
}

// kind looks at the description and the defaults.
func (s *Suite) kind(t *testing.T, k *policy.Kind) {
	if regexp.MustCompile(`^[a-z][a-z0-9_]*$`).FindString(k.Name) == "" {
		t.Errorf("%q is no name of a policy", k.Name)
	}
	if !strings.HasSuffix(k.Doc, ".") || strings.Count(k.Doc, ". ") > 0 {
		t.Errorf("the doc is no sentence: %q", k.Doc)
	}
	if k.Stage > policy.Report {
		t.Errorf("there is no stage %d", k.Stage)
	}
	a, b := k.New(), k.New()
	v := reflect.ValueOf(a)
	if v.Kind() != reflect.Pointer || v.Elem().Kind() != reflect.Struct {
		t.Fatalf("settings are a %T, and not a pointer to a struct", a)
	}
	if !reflect.DeepEqual(a, b) {
		t.Errorf("the defaults differ from one call to the next: %+v and %+v", a, b)
	}
	if path := shared(v, reflect.ValueOf(b), "settings"); path != "" {
		t.Errorf("two sets of defaults share %s", path)
	}
	if folder, _ := filepath.Abs("."); filepath.Base(folder) != strings.ReplaceAll(k.Name, "_", "") {
		t.Errorf("policy %q stands in the folder %q", k.Name, filepath.Base(folder))
	}
}

// shared returns the path of memory that two values have in common.
func shared(a, b reflect.Value, path string) string {
	switch a.Kind() {
	case reflect.Pointer, reflect.Map, reflect.Slice:
		if a.IsNil() || b.IsNil() || a.Kind() == reflect.Slice && a.Cap() == 0 {
			return ""
		}
		if a.Pointer() == b.Pointer() && !(a.Kind() == reflect.Pointer && a.Type().Elem().Size() == 0) {
			return path
		}
		if a.Kind() == reflect.Pointer {
			return shared(a.Elem(), b.Elem(), path)
		}
	case reflect.Struct:
		for i := range a.NumField() {
			if at := shared(a.Field(i), b.Field(i), path+"."+a.Type().Field(i).Name); at != "" {
				return at
			}
		}
	}
	return ""
}

// roundTrip writes settings in their canonical form and reads them again.
func (s *Suite) roundTrip(t *testing.T) {
	for _, settings := range []string{s.Settings, "{}"} {
		one := *s
		one.Settings = settings
		before, faults := config.Parse("gatehouse.yaml", []byte(one.config(true)), s.Catalog)
		if faults.Fatal() {
			if settings == s.Settings {
				t.Fatal(faults)
			}
			continue // something is required
		}
		text := before.Marshal()
		after := s.parse(t, string(text))
		if before.Digest() != after.Digest() {
			t.Errorf("settings differ after a round trip through\n%s", text)
		}
		if a, b := before.Routes[0].Policies[0].Config, after.Routes[0].Policies[0].Config; !reflect.DeepEqual(a, b) && !strings.Contains(string(text), "[secret]") {
			t.Errorf("settings differ after a round trip: %+v and %+v", a, b)
		}
	}
}

// settingsStay compiles the same settings twice and looks whether that left
// them alone: a snapshot must not reach what another one is made from.
func (s *Suite) settingsStay(t *testing.T) {
	cfg := s.parse(t, s.config(true))
	digest := cfg.Digest()
	again := s.parse(t, s.config(true))
	r := newRig(t, s.Catalog, s.Services)
	defer r.Close()
	for range 2 {
		if faults := r.Gateway.Apply(cfg); faults.Fatal() {
			t.Fatal(faults)
		}
	}
	r.Config = cfg
	r.Do(Request{Target: "/"})
	if a, b := cfg.Routes[0].Policies[0].Config, again.Routes[0].Policies[0].Config; !reflect.DeepEqual(a, b) || cfg.Digest() != digest {
		t.Errorf("compiling changed the settings: %+v, and they were %+v", a, b)
	}
}

// concurrent serves from many goroutines, while the configuration is applied
// again and again. The race detector looks on.
func (s *Suite) concurrent(t *testing.T) {
	r := NewRig(t, s.Catalog, s.config(true), s.Services)
	defer r.Close()
	var all sync.WaitGroup
	for g := range 8 {
		all.Go(func() {
			client := r.Client("192.0.2."+string(rune('1'+g))+":4000", r.Config.Listeners[0])
			for i := range 50 {
				q := Request{Target: "/", Client: client}
				if i%3 == 0 {
					q.Method, q.Body, q.Chunked = "POST", "hello", i%2 == 0
				}
				if a := r.Do(q); a.Status == 0 || a.Status == 500 {
					t.Errorf("an exchange failed: %v", a)
				}
			}
		})
	}
	other := s.config(true) + "  - match: /other\n    respond: {}\n"
	first, second := s.parse(t, s.config(true)), s.parse(t, other)
	for i := range 20 {
		cfg := first
		if i%2 == 0 {
			cfg = second
		}
		if faults := r.Gateway.Apply(cfg); faults.Fatal() {
			t.Error(faults)
		}
	}
	all.Wait()
}

// plainPath counts the allocations that the policy adds to an exchange.
func (s *Suite) plainPath(t *testing.T) {
	if raced {
		t.Skip("pools drop at random under the race detector")
	}
	without, with := s.allocs(t, false), s.allocs(t, true)
	if more := with - without; more > float64(s.Allocs) {
		t.Errorf("the policy makes %v allocations in a plain exchange, %d are allowed", more, s.Allocs)
	}
}

func (s *Suite) allocs(t *testing.T, with bool) float64 {
	serve := Plain(t, s.Catalog, s.config(with), s.Services)
	return testing.AllocsPerRun(200, serve)
}

// Plain returns a function that has a whole gateway serve a plain exchange: a
// GET of / with the fields of a browser, and an answer of a few bytes. What it
// allocates is the gateway's doing alone. Benchmarks use it too.
func Plain(t testing.TB, cat *policy.Catalog, text string, services func(name string) any) func() {
	t.Helper()
	return PlainWith(t, cat, text, services)
}

// PlainWith is Plain with further fields in the request, such as a credential.
func PlainWith(t testing.TB, cat *policy.Catalog, text string, services func(name string) any, fields ...exchange.Field) func() {
	t.Helper()
	r := NewRig(t, cat, text, services)
	t.Cleanup(r.Close)
	r.quiet = true
	down, client := new(sink), r.DefaultClient()
	body := []byte("hello")
	r.Behave("http://up", Behaviour{Do: func(x *exchange.Exchange) {
		x.Response.Status = 200
		x.Response.Header.AddKnown(exchange.ContentType, "text/plain")
		x.Response.Header.AddKnown(exchange.Server, "up")
		x.Response.SetBody(body)
	}})
	q := Request{Target: "/", Header: append([]exchange.Field{
		{Name: "User-Agent", Value: "Mozilla/5.0"},
		{Name: "Accept", Value: "*/*"},
		{Name: "Accept-Encoding", Value: "gzip, br"},
		{Name: "Accept-Language", Value: "en"},
	}, fields...)}
	return func() {
		x := exchange.Get()
		x.Client, x.Down = client, down
		q.fill(x)
		r.Serve(x)
		if x.Response.Status != 200 {
			t.Errorf("a plain exchange was answered %d", x.Response.Status)
		}
		exchange.Put(x)
	}
}

// sink is a client that listens to nothing.
type sink struct{ Answer }

func (*sink) WriteHead(*exchange.Exchange) error                { return nil }
func (*sink) WriteBody([]byte) error                            { return nil }
func (*sink) WriteFrom(*exchange.Exchange) (readErr, err error) { return nil, nil }
func (*sink) Finish(*exchange.Exchange) error                   { return nil }

// readme looks at the policy's page: its parts, and that its examples are
// configurations without faults which use the policy. That its table of
// settings is fresh is looked at where it is made, in schema.
func (s *Suite) readme(t *testing.T, k *policy.Kind) {
	data, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	if !strings.HasPrefix(text, "# "+k.Name+"\n") {
		t.Errorf("its title is not %q", "# "+k.Name)
	}
	at := 0
	for _, part := range []string{"\n## Why\n", "\n## Config\n", `<!-- config: made by "make generate" -->`, "<!-- end of config -->", "\n## Examples\n", "\n## Metrics\n"} {
		i := strings.Index(text[at:], part)
		if i < 0 {
			t.Errorf("it has no %q, or not in this place", strings.TrimSpace(part))
			continue
		}
		at += i
	}
	examples := 0
	for _, m := range regexp.MustCompile("(?ms)^```yaml\n(.*?)^```").FindAllStringSubmatch(text, -1) {
		if !strings.Contains("\n"+m[1], "\nroutes:") {
			continue
		}
		if strings.Contains(m[1], k.Name+":") {
			examples++
		}
		names, _ := Secrets(m[1])
		for _, name := range names {
			t.Setenv(name, Secret)
		}
		r := newRig(t, s.Catalog, s.Services)
		if faults := r.Apply(m[1]); len(faults) > 0 {
			t.Errorf("an example has faults: %v\n%s", faults, m[1])
		}
		r.Close()
	}
	if examples == 0 {
		t.Error("it has no example: a whole configuration that uses the policy")
	}
}

// reference looks for the policy in what is made from its settings, and for
// the description of each.
func (s *Suite) reference(t *testing.T) {
	const reference = "../../../docs/reference/"
	if _, err := os.Stat(reference + "policies/" + s.Kind + ".md"); err != nil {
		t.Errorf("it has no page: run make generate (%v)", err)
	}
	data, err := os.ReadFile(reference + "gatehouse.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Defs map[string]struct {
			Properties map[string]struct{ Description string }
		} `json:"$defs"`
	}
	if err := json.Unmarshal(data, &schema); err != nil {
		t.Fatal(err)
	}
	def, ok := schema.Defs["policy."+s.Kind]
	if !ok {
		t.Fatal("it is not in the schema: run make generate")
	}
	kind, _ := s.Catalog.Lookup(s.Kind)
	var keys []string
	for _, f := range config.Fields(reflect.TypeOf(kind.New()).Elem()) {
		keys = append(keys, f.Key)
	}
	slices.Sort(keys)
	if have := slices.Sorted(maps.Keys(def.Properties)); !slices.Equal(have, keys) {
		t.Errorf("the schema has the settings %q, and the policy %q: run make generate", have, keys)
	}
	for key, p := range def.Properties {
		if p.Description == "" {
			t.Errorf("setting %q has no comment", key)
		}
	}
}

// Added reports, as added-ns/op, what with takes longer than without. Both run
// in turns, so that whatever else the machine does slows both; of the turns'
// differences the median counts.
func Added(b *testing.B, with, without func()) {
	b.Helper()
	const calls = 100
	turn := func(f func()) int64 {
		start := time.Now()
		for range calls {
			f()
		}
		return int64(time.Since(start))
	}
	turn(with)
	turn(without)
	var more []int64
	for b.Loop() {
		w := turn(with)
		more = append(more, w-turn(without))
	}
	slices.Sort(more)
	b.ReportMetric(float64(more[len(more)/2])/calls, "added-ns/op")
	b.ReportMetric(testing.AllocsPerRun(calls, with)-testing.AllocsPerRun(calls, without), "added-allocs/op")
	b.ReportMetric(0, "ns/op") // a turn of both says nothing
}
