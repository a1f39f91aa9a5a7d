package gateway_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"go.uber.org/goleak"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The scripts cover what needs no policy.
func TestScripts(t *testing.T) { policytest.Scripts(t, catalog(), nil) }

// probe is a policy that writes down when its steps run, and misbehaves as it
// is told.
type probe struct {
	Name         string            `yaml:"name"`
	At           string            `yaml:"at" enum:"edge,identify,authorize,admit,cache,transform,report"`
	Do           policy.StringList `yaml:"do"`
	HoldRequest  policy.Size       `yaml:"hold_request"`
	HoldResponse policy.Size       `yaml:"hold_response"`
	Keep         string            `yaml:"keep"`
}

func (p *probe) Stage() policy.Stage {
	for s := policy.Edge; s <= policy.Report; s++ {
		if s.String() == p.At {
			return s
		}
	}
	return policy.Transform
}

func (p *probe) Compile(env *policy.Env) (policy.Policy, error) {
	switch {
	case slices.Contains(p.Do, "panic-compile"):
		panic("compile")
	case slices.Contains(p.Do, "fault"):
		return nil, errors.Join(
			&policy.Fault{Field: "name", Text: "name is wrong", Hint: "write another"},
			fmt.Errorf("reading it: %w", &policy.Fault{Field: "do[0]", Text: "do is wrong"}),
			errors.New("all is wrong"),
		)
	}
	r := &running{probe: p, trace: env.Service("trace").(*trace), tapped: policy.NewSlot[int](env)}
	if p.Keep != "" {
		r.kept = env.Keep(p.Keep, func() any { return new(kept) }).(*kept)
	}
	return r, nil
}

// repeated is a probe of which one plan may have several.
type repeated struct {
	probe `yaml:"-"`
	Name  string `yaml:"name"`
}

func (r *repeated) Repeatable() {}

func (r *repeated) Compile(env *policy.Env) (policy.Policy, error) {
	return (&probe{Name: r.Name}).Compile(env)
}

// kept is a live object.
type kept struct {
	mu      sync.Mutex
	retired int
}

func (k *kept) Retire() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.retired++
}

// trace is what probes write down.
type trace struct {
	mu    sync.Mutex
	steps []string
	kept  []*kept // of the probes that ran
}

func (t *trace) note(format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.steps = append(t.steps, fmt.Sprintf(format, args...))
}

// take returns what was written down, and forgets it.
func (t *trace) take() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := strings.Join(t.steps, " ")
	t.steps = nil
	return out
}

type running struct {
	*probe
	trace  *trace
	tapped policy.Slot[int]
	kept   *kept
}

var teapot = exchange.Problem{Status: 418, Code: "teapot", Detail: "No coffee.", Close: true}

// does looks up what the probe does beside writing down.
func (r *running) does(what string) bool { return slices.Contains(r.Do, what) }

func (r *running) Request(x *exchange.Exchange) policy.Verdict {
	r.trace.note("%s?", r.Name)
	if r.kept != nil {
		r.trace.mu.Lock()
		r.trace.kept = append(r.trace.kept, r.kept)
		r.trace.mu.Unlock()
	}
	if p, ok := exchange.Held(x.Request.Body); ok && r.probe.HoldRequest > 0 {
		r.trace.note("held=%s", p)
	}
	for _, do := range r.Do {
		if g, ok := strings.CutPrefix(do, "group="); ok {
			x.Who.Groups = append(x.Who.Groups, g)
		}
	}
	switch {
	case r.does("panic-request"):
		panic("request")
	case r.does("fail"):
		x.Fail(&teapot)
		return policy.Stop
	case r.does("stop"):
		x.Response.Status = 202
		x.Response.SetBody([]byte("stopped"))
		return policy.Stop
	case r.does("stop-empty"):
		return policy.Stop
	}
	return policy.Next
}

func (r *running) Response(x *exchange.Exchange) {
	r.trace.note("%s=%d", r.Name, x.Response.Status)
	if p, ok := exchange.Held(x.Response.Body); ok && r.probe.HoldResponse > 0 {
		r.trace.note("held=%s", p)
	}
	switch {
	case r.does("panic-response"):
		panic("response")
	case r.does("fail-response"):
		x.Fail(&teapot)
	}
	x.Response.Header.Add("X-Probe", r.Name)
}

func (r *running) Done(x *exchange.Exchange) {
	r.trace.note("%s!", r.Name)
	if n := *r.tapped.Get(x); n > 0 {
		r.trace.note("%s:%d", r.Name, n)
	}
	if r.does("panic-done") {
		panic("done")
	}
}

func (r *running) HoldRequest() int64  { return int64(r.probe.HoldRequest) }
func (r *running) HoldResponse() int64 { return int64(r.probe.HoldResponse) }

func (r *running) TapRequest(x *exchange.Exchange, piece []byte) {
	if r.does("tap-request") {
		*r.tapped.Get(x) += len(piece)
	}
	if r.does("panic-tap-request") {
		panic("tap")
	}
}

func (r *running) TapResponse(x *exchange.Exchange, piece []byte) {
	if r.does("tap-response") {
		*r.tapped.Get(x) += len(piece)
	}
	if r.does("panic-tap-response") {
		panic("tap")
	}
}

// catalog has three kinds of probes, so that places in it can be told apart.
func catalog() *policy.Catalog {
	kind := func(name string) *policy.Kind {
		return &policy.Kind{Name: name, Doc: "Probes.", Stage: policy.Transform, New: func() policy.Config { return &probe{Name: name} }}
	}
	return policy.NewCatalog(kind("a"), kind("b"), kind("c"), &policy.Kind{
		Name: "r", Doc: "Probes, many.", Stage: policy.Transform, New: func() policy.Config { return &repeated{Name: "r"} },
	})
}

// newRig returns a gateway with probes, and what they write down.
func newRig(t testing.TB, text string) (*policytest.Rig, *trace) {
	t.Helper()
	tr := new(trace)
	r := policytest.NewRig(t, catalog(), text, tr.service)
	t.Cleanup(r.Close)
	return r, tr
}

func (t *trace) service(name string) any {
	if name == "trace" {
		return t
	}
	return nil
}
