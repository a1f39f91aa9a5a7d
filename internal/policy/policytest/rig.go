package policytest

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/consumer"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/gateway"
	"gatehouse.dev/gatehouse/internal/observe"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Rig is a whole gateway without sockets: what stands before it is Do, what
// stands behind it are upstreams that do as they are told.
type Rig struct {
	*gateway.Gateway
	Config    *config.Config  // the one that was applied last
	Consumers *consumer.Index // those of the configuration
	// Challenge answers ACME authorities; nil answers none.
	Challenge func(host, path string) (answer string, ok bool)

	t       testing.TB
	cat     *policy.Catalog
	service func(name string) any
	quiet   bool         // the access log takes nothing down
	log     bytes.Buffer // under mu, as is all that follows

	mu         sync.Mutex
	errors     []string // what was logged at level error
	behaviours map[string]Behaviour
	received   []*Received
	logged     []string
}

// NewRig returns a gateway with the given configuration, which must be
// without faults. services offers what policies ask for beside the access log
// and the consumers, which the rig has; it may be nil.
func NewRig(t testing.TB, cat *policy.Catalog, text string, services func(name string) any) *Rig {
	t.Helper()
	r := newRig(t, cat, services)
	if faults := r.Apply(text); faults.Fatal() {
		t.Fatalf("the configuration has faults:\n%v", faults)
	}
	return r
}

func newRig(t testing.TB, cat *policy.Catalog, services func(name string) any) *Rig {
	r := &Rig{t: t, cat: cat, Consumers: consumer.New(), behaviours: make(map[string]Behaviour)}
	r.service = func(name string) any {
		if services != nil {
			if v := services(name); v != nil {
				return v
			}
		}
		switch name {
		case "access_log":
			return accessLog{r}
		case "consumers":
			return r.Consumers
		}
		return nil
	}
	r.Gateway = gateway.New(gateway.Deps{
		Log:     slog.New(slog.NewTextHandler(locked{r}, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Metrics: observe.NewMetrics(config.Metrics{MaxRoutes: 1000}),
		Service: r.service,
		Challenge: func(host, path string) (string, bool) {
			if r.Challenge == nil {
				return "", false
			}
			return r.Challenge(host, path)
		},
		Upstream: func(name string, _ *config.Upstream) (gateway.Upstream, error) {
			return &upstream{r: r, name: name}, nil
		},
	})
	t.Cleanup(func() {
		for _, line := range r.Errors() {
			t.Errorf("the gateway logged an error: %s", line)
		}
		if t.Failed() {
			t.Logf("the gateway's log:\n%s", r.log.String())
		}
	})
	return r
}

// Apply makes a configuration the live one, or returns its faults.
func (r *Rig) Apply(text string) config.Faults {
	cfg, faults := config.Parse("gatehouse.yaml", []byte(text), r.cat)
	if faults.Fatal() {
		return faults
	}
	change, more := r.Consumers.Prepare(cfg)
	if faults = append(faults, more...); faults.Fatal() {
		return faults
	}
	if faults = append(faults, r.Gateway.Apply(cfg)...); !faults.Fatal() {
		change.Commit()
		r.Config = cfg
	}
	return faults
}

// Errors returns, and forgets, what the gateway logged at level error.
func (r *Rig) Errors() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.errors
	r.errors = nil
	return out
}

// Logged returns, and forgets, the lines of the access log: method, path,
// status, route, consumer and request id, "-" for what there is none of.
func (r *Rig) Logged() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.logged
	r.logged = nil
	return out
}

// Received returns, and forgets, what the upstreams were asked.
func (r *Rig) Received() []*Received {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := r.received
	r.received = nil
	return out
}

// Behave says what the upstream of that name does from now on, "" for all that
// were not told otherwise.
func (r *Rig) Behave(name string, b Behaviour) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.behaviours[name] = b
}

// locked is the writer of the gateway's log.
type locked struct{ r *Rig }

func (l locked) Write(p []byte) (int, error) {
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	if bytes.Contains(p, []byte("level=ERROR")) {
		l.r.errors = append(l.r.errors, strings.TrimSpace(string(p)))
	}
	return l.r.log.Write(p)
}

// accessLog keeps a line for each exchange.
type accessLog struct{ r *Rig }

func (l accessLog) Write(x *exchange.Exchange) {
	if l.r.quiet {
		return
	}
	or := func(s string) string {
		if s == "" {
			return "-"
		}
		return s
	}
	line := fmt.Sprintf("%s %s %d %s %s %s", or(x.Request.Method), or(x.Request.RawPath), x.Response.Status,
		or(x.Route.Name), or(x.Who.Consumer), x.RequestID())
	l.r.mu.Lock()
	defer l.r.mu.Unlock()
	l.r.logged = append(l.r.logged, line)
}

// Request is what a client sends.
type Request struct {
	Method  string // GET where nothing is said
	Target  string // a path with its query, or an absolute URL
	Header  []exchange.Field
	Body    string
	Chunked bool // the body's length is not announced
	Cut     bool // the body breaks off at its end
	Trailer []exchange.Field
	Leave   time.Duration // after this time the client is gone; 0: it stays
	Writes  error         // when set, what writing to the client fails with
	Client  *exchange.Client
}

// DefaultClient returns the client of requests that name none.
func (r *Rig) DefaultClient() *exchange.Client {
	return r.Client("192.0.2.1:40000", r.Config.Listeners[0])
}

// Client returns a client of a listener, as a connection from that address
// would be seen.
func (r *Rig) Client(address string, l *config.Listener) *exchange.Client {
	ap := netip.MustParseAddrPort(address)
	c := &exchange.Client{Addr: ap, Peer: ap, IP: ap.Addr().String(), Listener: l.Name, Proved: new(exchange.Proved), Port: "8080", Proxies: l.TrustedProxies}
	for _, p := range l.TrustedProxies {
		c.Trusted = c.Trusted || p.Contains(ap.Addr())
	}
	return c
}

// Do sends a request through the gateway and returns the answer.
func (r *Rig) Do(q Request) *Answer {
	x := exchange.Get()
	defer exchange.Put(x)
	if x.Client = q.Client; x.Client == nil {
		x.Client = r.DefaultClient()
	}
	q.fill(x)
	a := &Answer{writes: q.Writes}
	x.Down = a
	if q.Leave > 0 {
		left := make(chan struct{})
		timer := time.AfterFunc(q.Leave, func() {
			defer close(left)
			x.Cancel(exchange.ErrClientGone)
		})
		defer func() {
			if !timer.Stop() {
				<-left // it must not reach the next user of x
			}
		}()
	}
	r.Gateway.Serve(x)
	a.Status, a.Problem, a.Route, a.Truncated = x.Response.Status, x.Problem, x.Route.Name, x.Response.Truncated
	return a
}

// fill makes an exchange's request of q, as a protocol does.
func (q *Request) fill(x *exchange.Exchange) {
	m := &x.Request
	x.Times.Start = exchange.Now()
	x.Times.Head = x.Times.Start
	m.Proto, m.Method, m.Scheme, m.Authority = exchange.HTTP11, q.Method, "http", "gateway.test"
	if m.Method == "" {
		m.Method = "GET"
	}
	target := q.Target
	if scheme, rest, ok := strings.Cut(target, "://"); ok {
		host, path, _ := strings.Cut(rest, "/")
		m.Scheme, m.Authority, target = scheme, host, "/"+path
	}
	for _, f := range q.Header {
		switch f.Known = exchange.LookupKnown(f.Name); f.Known {
		case exchange.Host:
			m.Authority = f.Value
			continue
		case exchange.Upgrade:
			m.Upgrade = f.Value
		}
		m.Header.Append(f)
	}
	m.Host = strings.ToLower(m.Authority)
	if i := strings.LastIndexByte(m.Host, ':'); i > strings.LastIndexByte(m.Host, ']') {
		m.Host = m.Host[:i]
	}
	m.RawPath, m.Query, m.HasQuery = strings.Cut(target, "?")
	if target == "*" {
		m.Asterisk, m.Path = true, "*"
	}
	if q.Body != "" {
		m.Body, m.Length = &pieces{list: []string{q.Body}, cut: q.Cut, end: func() {
			for _, f := range q.Trailer {
				m.Trailer.Add(f.Name, f.Value)
			}
		}}, int64(len(q.Body))
		if q.Chunked {
			m.Length = exchange.Unknown
		}
	}
}
