package gateway

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
	"gatehouse.dev/gatehouse/internal/router"
)

// Explanation says what would become of a request, and why. It holds no
// credential.
type Explanation struct {
	Path    string      `json:"path"`            // as it is matched, "" when it is not valid
	Route   string      `json:"route,omitempty"` // the one that takes it, "" for none
	Routes  []Candidate `json:"routes"`          // the routes that come close, the winner and what is asked first before others
	Omitted int         `json:"omitted"`         // further routes, which do not come close
	Steps   []Step      `json:"steps"`
	Who     *Identity   `json:"identity,omitempty"` // nil: nobody is known
	Depends []string    `json:"depends"`            // the kinds of policies that were left out, on which the result depends
	Result  Result      `json:"result"`
}

// Candidate is a route as the request meets it.
type Candidate struct {
	Name    string `json:"name"`
	Place   Place  `json:"place"`
	Outcome string `json:"outcome"` // won, order, condition, method, path or host
	Reason  string `json:"reason"`
}

// Place is where something stands in the configuration.
type Place struct {
	File string `json:"file"`
	Line int    `json:"line"`
}

// String returns the place as file:line, "" where there is none.
func (p Place) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d", p.File, p.Line)
}

// What became of a step.
const (
	StepNext       = "next"
	StepStop       = "stop"
	StepUnknown    = "unknown"     // it was left out: it reaches beyond the request
	StepSkipped    = "skipped"     // it is for the consumers of other groups
	StepLater      = "later"       // it has to do with the answer, or with what is told afterwards
	StepNotReached = "not_reached" // an earlier one stops the request
)

// Step is one policy of the plan, or the rewrite.
type Step struct {
	Policy string `json:"policy"`
	Stage  string `json:"stage"`
	From   string `json:"from"` // gateway, or listener, group or route with a name
	Place  Place  `json:"place"`
	// What it is set to, but for defaults and what may be a credential.
	Settings map[string]any `json:"settings,omitempty"`
	Verdict  string         `json:"verdict"`
	Text     string         `json:"text,omitempty"`
	Changes  []string       `json:"changes,omitempty"` // what it changes of the request
}

// Identity is who asks, as far as it was proved.
type Identity struct {
	Consumer string   `json:"consumer,omitempty"`
	Subject  string   `json:"subject,omitempty"`
	Method   string   `json:"method,omitempty"`
	Groups   []string `json:"groups,omitempty"`
	Scopes   []string `json:"scopes,omitempty"`
}

// The kinds of results.
const (
	ResultUpstream = "upstream" // it goes on
	ResultAnswer   = "answer"   // the gateway answers, as the configuration says
	ResultProblem  = "problem"  // the gateway refuses
)

// Result is what the request ends in.
type Result struct {
	Kind      string   `json:"kind"`
	By        string   `json:"by,omitempty"` // the policy that ends it, "" for the route
	Status    int      `json:"status,omitempty"`
	Code      string   `json:"code,omitempty"`
	Cause     string   `json:"cause,omitempty"` // what the client is not told
	Location  string   `json:"location,omitempty"`
	Upstreams []Target `json:"upstreams,omitempty"` // several: the request goes to one of them, by weight
	Mirror    string   `json:"mirror,omitempty"`
	Host      string   `json:"host,omitempty"` // what the upstream is asked for
	Path      string   `json:"path,omitempty"`
}

// Target is an upstream that the request may go to.
type Target struct {
	Name       string   `json:"name"`
	Weight     int      `json:"weight,omitempty"` // of a split
	Endpoints  []string `json:"endpoints,omitempty"`
	Discovered bool     `json:"discovered,omitempty"` // there are others, which discovery finds
	Failover   string   `json:"failover,omitempty"`
}

// Explain plays a request on the snapshot: its steps run, but for those that
// reach beyond it, and no upstream is asked. x is as a protocol would hand it
// to Serve, without a body.
func (p *Pending) Explain(x *exchange.Exchange) *Explanation {
	e := &explainer{g: p.g, s: p.s, cfg: p.cfg, x: x, out: unexplained()}
	plan := e.find()
	switch plan.route {
	case "redirect_https", "acme": // the listener answers before any route is looked for
		e.by = plan.route
		e.out.Path = x.Request.Path
	default:
		e.candidates()
	}
	if x.Problem == nil {
		e.steps(plan)
	}
	switch {
	case x.Problem != nil:
		e.problem()
	case x.Response.Status != 0:
		e.answered()
	default:
		e.end(plan)
	}
	if w := &x.Who; w.Method != "" || w.Consumer != "" {
		e.out.Who = &Identity{w.Consumer, w.Subject, w.Method, w.Groups, w.Scopes}
	}
	return &e.out
}

func unexplained() Explanation {
	return Explanation{Routes: []Candidate{}, Steps: []Step{}, Depends: []string{}}
}

// Refused explains a request that a protocol refuses: no route is looked for.
func Refused(p *exchange.Problem) Explanation {
	out := unexplained()
	out.Result = refusal(p, "")
	return out
}

// explainer makes one explanation.
type explainer struct {
	g   *Gateway
	s   *Snapshot
	cfg *config.Config
	x   *exchange.Exchange
	out Explanation
	by  string // the policy that stopped the request

	unproved bool // a policy that tells who asks was left out
}

func (e *explainer) find() (p *plan) {
	p = e.s.unmatched[0]
	defer e.g.contain(e.x)
	return e.s.find(e.x)
}

func (e *explainer) place(path string) Place {
	f := e.cfg.Fault(path, "", "")
	return Place{f.File, f.Line}
}

// mostCandidates is how many routes are shown: a screen is short.
const mostCandidates = 8

// candidates tells which routes come close. A route of which only the path is
// another one does when the path begins alike; one of another host only where no
// route takes the request.
func (e *explainer) candidates() {
	r := &e.x.Request
	if normal, err := router.Normalize(r.RawPath); err != nil {
		return
	} else {
		e.out.Path = normal
	}
	won := e.x.Route.Index >= 0
	if won {
		e.out.Route = e.x.Route.Name
	}
	method := r.Method
	if method == "OPTIONS" && won {
		// A preflight is taken by the route of what it asks leave for.
		if e.s.preflight(e.x) != nil {
			r.Method, _ = r.Header.Lookup("Access-Control-Request-Method")
		} else {
			e.s.table.Match(e.x) // as it was before that look-up
		}
	}
	all := e.s.table.Explain(e.x)
	r.Method = method
	for _, c := range all {
		near := c.Outcome < router.LostPath || (c.Outcome == router.LostPath || !won) && e.alike(c.Index)
		if !near || len(e.out.Routes) >= mostCandidates && c.Outcome != router.Won {
			e.out.Omitted++
			continue
		}
		e.out.Routes = append(e.out.Routes, Candidate{c.Name, e.place(fmt.Sprintf("routes[%d]", c.Index)), c.Outcome.String(), c.Reason})
	}
	slices.SortStableFunc(e.out.Routes, func(a, b Candidate) int {
		switch {
		case a.Outcome == b.Outcome:
		case a.Outcome == "won":
			return -1
		case b.Outcome == "won":
			return 1
		}
		return 0
	})
}

// alike tells whether a route's path begins with the first segment of the
// request's.
func (e *explainer) alike(route int) bool {
	first := func(path string) string {
		head, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
		return head
	}
	have := first(e.x.Request.Path)
	want := first(e.cfg.Routes[route].Match.Pattern())
	return have != "" && (have == want || len(have) > 2 && strings.HasPrefix(want, have[:3]))
}

// steps runs the request steps until one stops the request.
func (e *explainer) steps(p *plan) {
	stopped := false
	for i := range p.steps {
		s := &p.steps[i]
		o := s.origin
		out := Step{Policy: o.kind, Stage: o.stage.String(), From: o.owner}
		if o == &rewriting {
			out.From, out.Place = "route "+p.route, e.place(fmt.Sprintf("routes[%d].rewrite", e.x.Route.Index))
		} else {
			out.Place, out.Settings = e.place(o.path), settings(o.use)
		}
		switch {
		case stopped && !s.always:
			out.Verdict = StepNotReached
		case s.skips(e.x):
			out.Verdict, out.Text = StepSkipped, s.when.String()
		case s.request == nil || stopped:
			out.Verdict = StepLater
		default:
			e.step(s, &out)
			stopped = out.Verdict == StepStop
		}
		e.out.Steps = append(e.out.Steps, out)
	}
}

// step runs one request step, or says what it would do.
func (e *explainer) step(s *step, out *Step) {
	x := e.x
	if r, ok := s.origin.policy.(policy.Reaches); ok {
		if text := r.Reaches(x); text != "" {
			out.Verdict, out.Text = StepUnknown, text
			e.leftOut(s)
			return
		}
	}
	_, secret := s.origin.policy.(policy.Conceals)
	before := e.look()
	verdict := e.run(s)
	after := e.look()
	out.Changes = before.changes(after, secret)
	out.Verdict = StepNext
	if x.Who.Method != before.method || x.Who.Consumer != before.consumer {
		out.Text = whoText(&x.Who)
	}
	if verdict == policy.Next {
		return
	}
	if x.Problem == nil && x.Response.Status == 0 {
		x.Fail(&noAnswer)
	}
	var left *policy.LeftOut
	if x.Problem != nil && errors.As(x.Problem, &left) {
		x.Problem = nil
		out.Verdict, out.Text, out.Changes = StepUnknown, left.Text, nil
		e.leftOut(s)
		return
	}
	out.Verdict, out.Text = StepStop, fmt.Sprintf("answers %d", x.Response.Status)
	if x.Problem != nil {
		out.Text = problemText(x.Problem)
	}
	if e.unproved && s.origin.stage > policy.Identify && x.Who.Method == "" {
		// It refuses nobody; whom the policy that was left out would have found
		// it may not refuse.
		x.Problem = nil
		x.Response.Reset()
		out.Verdict, out.Text = StepUnknown, "if nobody is known it "+out.Text
		e.leftOut(s)
		return
	}
	e.by = s.origin.kind
}

// leftOut notes that the result depends on a step whose verdict is not known.
func (e *explainer) leftOut(s *step) {
	if !slices.Contains(e.out.Depends, s.origin.kind) {
		e.out.Depends = append(e.out.Depends, s.origin.kind)
	}
	e.unproved = e.unproved || s.origin.stage == policy.Identify
}

// run runs a request step as Serve would.
func (e *explainer) run(s *step) (v policy.Verdict) {
	v = policy.Stop // of one that panics
	defer e.g.contain(e.x)
	if s.holdRequest > 0 && !holdRequest(e.x, s.holdRequest) {
		return policy.Stop
	}
	return s.request.Request(e.x)
}

func problemText(p *exchange.Problem) string {
	text := fmt.Sprintf("answers %d %s", p.Status, p.Code)
	if p.Cause != nil {
		text += ": " + p.Cause.Error()
	}
	return text
}

func whoText(w *exchange.Who) string {
	var b strings.Builder
	switch {
	case w.Consumer != "":
		b.WriteString("consumer " + w.Consumer)
	case w.Subject != "":
		b.WriteString("subject " + w.Subject)
	default:
		b.WriteString("somebody")
	}
	if w.Method != "" {
		b.WriteString(" by " + w.Method)
	}
	if len(w.Groups) > 0 {
		b.WriteString(", groups " + strings.Join(w.Groups, ", "))
	}
	return b.String()
}

// String says for whom a step is not.
func (c *condition) String() string {
	var parts []string
	if c.only != "" {
		parts = append(parts, "only for group "+c.only)
	}
	if len(c.unless) > 0 {
		parts = append(parts, "not for group "+strings.Join(c.unless, ", "))
	}
	return strings.Join(parts, ", ")
}

// seen is what a step may change of a request.
type seen struct {
	method, consumer  string
	path, query, host string
	fields            []exchange.Field
}

func (e *explainer) look() seen {
	r := &e.x.Request
	return seen{e.x.Who.Method, e.x.Who.Consumer, r.Path, r.Query, r.Authority, slices.Clone(r.Header.Fields())}
}

// changes says what differs. Values are shown of fields that can hold no
// credential; secret says that any may.
func (a *seen) changes(b seen, secret bool) (out []string) {
	minus := func(x, y []exchange.Field) (left []exchange.Field) {
		y = slices.Clone(y)
		for _, f := range x {
			if i := slices.IndexFunc(y, func(o exchange.Field) bool { return exchange.EqualFold(o.Name, f.Name) && o.Value == f.Value }); i >= 0 {
				y = slices.Delete(y, i, i+1)
				continue
			}
			left = append(left, f)
		}
		return left
	}
	for _, f := range minus(a.fields, b.fields) {
		out = append(out, "-"+f.Name)
	}
	for _, f := range minus(b.fields, a.fields) {
		if secret || confidential(f.Name) {
			out = append(out, "+"+f.Name)
		} else {
			out = append(out, "+"+f.Name+": "+f.Value)
		}
	}
	if a.path != b.path {
		out = append(out, "path "+a.path+" becomes "+b.path)
	}
	if a.host != b.host {
		out = append(out, "host "+a.host+" becomes "+b.host)
	}
	if a.query != b.query {
		out = append(out, "query changed")
	}
	return out
}

// confidential tells fields whose values are better not shown.
func confidential(name string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc([]string{"auth", "cookie", "key", "token", "secret", "password", "credential"}, func(part string) bool {
		return strings.Contains(name, part)
	})
}
