package upstream

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

// lab is an upstream in a network without sockets, where time is virtual:
// what is connected to is a function that answers requests.
type lab struct {
	t     *testing.T
	u     *Upstream
	meter *counts

	mu    sync.Mutex
	hosts map[string]*host
	wait  sync.WaitGroup
}

// host is an endpoint in the lab.
type host struct {
	answer  func(r *http.Request) reply
	refuses bool // connections
	panics  bool // when it is connected to
	hangs   bool // when it is connected to
	asked   atomic.Int64
	active  atomic.Int64
	most    atomic.Int64 // at a time
	dialed  atomic.Int64
	last    atomic.Pointer[http.Request]
	body    atomic.Pointer[string] // of the last one
}

// reply is what a host answers.
type reply struct {
	after  time.Duration
	status int // 0: it closes the connection
	fields string
	body   string
	raw    string // sent as it is instead
	piece  string // sent after it, again and again
	each   time.Duration
}

func ok200(*http.Request) reply { return reply{status: 200, body: "hello"} }

// labAddress returns the address of the lab's n-th host, from 1. Nobody is to
// be asked for it.
func labAddress(n int) string { return fmt.Sprintf("10.0.%d.%d:80", n/256, n%256) }

// inLab runs a test in a lab with endpoints of these names, each of which
// answers 200.
func inLab(t *testing.T, cfg func(*config.Upstream), endpoints int, test func(l *lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := &lab{t: t, hosts: make(map[string]*host), meter: new(counts)}
		c := settings()
		c.Connections.ConnectTimeout = config.Duration(time.Second)
		for i := range endpoints {
			a := labAddress(i + 1)
			l.hosts[a] = &host{answer: ok200}
			c.Endpoints = append(c.Endpoints, &config.Endpoint{URL: "http://" + a, Weight: 1})
		}
		if cfg != nil {
			cfg(c)
		}
		sweeper := wire.NewSweeper()
		defer sweeper.Close()
		l.u = l.open(c, sweeper, NewMemory())
		defer func() {
			l.u.Retire()
			synctest.Wait()
			time.Sleep(time.Minute)
			l.wait.Wait()
			if n := l.u.open.Load(); n != 0 {
				t.Errorf("%d connections are still counted after the end", n)
			}
			for _, m := range l.u.live.Load().members {
				if n := m.e.record.load.Active(); n != 0 {
					t.Errorf("%d requests are still counted at %s after the end", n, m.e.address)
				}
			}
			if l.u.gate != nil {
				if active, queued, _ := l.u.gate.load(); active != 0 || queued != 0 {
					t.Errorf("%d requests are in and %d wait after the end", active, queued)
				}
			}
		}()
		test(l)
	})
}

// open returns an upstream in the lab.
func (l *lab) open(c *config.Upstream, sweeper *wire.Sweeper, m *Memory) *Upstream {
	l.t.Helper()
	u, err := prepare("test", c, Options{Sweeper: sweeper, Log: slog.New(slog.DiscardHandler), Meter: l.meter, Memory: m})
	if err == nil {
		u.dial = l.dial
		err = u.start(c)
	}
	if err != nil {
		l.t.Fatal(err)
	}
	return u
}

func (l *lab) host(n int) *host {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := labAddress(n)
	if l.hosts[a] == nil {
		l.hosts[a] = &host{answer: ok200}
	}
	return l.hosts[a]
}

// set changes what a host does.
func (l *lab) set(n int, change func(h *host)) {
	h := l.host(n)
	l.mu.Lock()
	defer l.mu.Unlock()
	change(h)
}

func (l *lab) dial(ctx context.Context, _, address string) (net.Conn, error) {
	l.mu.Lock()
	h := l.hosts[address]
	refuses, hangs := h == nil || h.refuses, h != nil && h.hangs
	panics := h != nil && h.panics
	l.mu.Unlock()
	if panics {
		panic("connecting")
	}
	if hangs {
		<-ctx.Done()
		return nil, &net.OpError{Op: "dial", Err: ctx.Err()}
	}
	if refuses {
		return nil, &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
	}
	h.dialed.Add(1)
	ours, theirs := net.Pipe()
	l.wait.Go(func() {
		defer theirs.Close()
		r := bufio.NewReader(theirs)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			got, err := io.ReadAll(req.Body)
			if err != nil {
				return
			}
			h.asked.Add(1)
			h.body.Store(new(string(got)))
			h.last.Store(req)
			if n := h.active.Add(1); n > h.most.Load() {
				h.most.Store(n)
			}
			l.mu.Lock()
			answer := h.answer
			l.mu.Unlock()
			a := answer(req)
			if a.after > 0 {
				time.Sleep(a.after)
			}
			h.active.Add(-1)
			out := a.raw
			if out == "" {
				if a.status == 0 {
					return
				}
				out = fmt.Sprintf("HTTP/1.1 %d X\r\n%sContent-Length: %d\r\n\r\n%s", a.status, a.fields, len(a.body), a.body)
			}
			_, err = io.WriteString(theirs, out)
			for err == nil && a.piece != "" {
				time.Sleep(a.each)
				_, err = io.WriteString(theirs, a.piece)
			}
			if err != nil {
				return
			}
		}
	})
	return ours, nil
}

// outcome is what became of a request.
type outcome struct {
	status   int // of the answer, or of the problem
	code     string
	body     string
	cut      bool
	attempts int
	endpoint string
	cookie   string
	retry    time.Duration
	took     time.Duration
}

// request is what a test asks for; "GET /" when nothing is said.
type request struct {
	method string
	fields []string // names and values
	body   string
	chunks bool // its length is not told
	query  string
	client string
	groups []string
	cancel <-chan struct{}
	next   func(*exchange.Exchange)
}

func (l *lab) get() outcome { return l.ask(request{}) }

// ask does what the gateway does around an upstream.
func (l *lab) ask(q request) outcome { return askOf(l.t, l.u, q) }

func askOf(t testing.TB, u *Upstream, q request) outcome {
	x := exchange.Get()
	defer exchange.Put(x)
	x.Client = &exchange.Client{IP: q.client}
	x.Down = silent{}
	x.Who.Groups = q.groups
	r := &x.Request
	if r.Method = q.method; r.Method == "" {
		r.Method = "GET"
	}
	r.Authority, r.Path, r.Query, r.HasQuery, r.Scheme = "shop.example", "/", q.query, q.query != "", "http"
	for i := 0; i < len(q.fields); i += 2 {
		r.Header.Add(q.fields[i], q.fields[i+1])
	}
	if q.body != "" {
		if r.Body, r.Length = exchange.Bytes([]byte(q.body)), int64(len(q.body)); q.chunks {
			r.Length = exchange.Unknown
		}
	}
	if q.cancel != nil {
		over := make(chan struct{})
		gone := make(chan struct{})
		go func() {
			defer close(gone)
			select {
			case <-q.cancel:
				x.Cancel(exchange.ErrClientGone)
			case <-over:
			}
		}()
		defer func() { close(over); <-gone }()
	}
	before := time.Now()
	if q.next != nil {
		u.ServeOr(x, q.next)
	} else {
		u.Serve(x)
	}
	o := outcome{attempts: x.Upstream.Attempts, endpoint: x.Upstream.Endpoint, took: time.Since(before)}
	if x.Problem != nil {
		o.status, o.code, o.retry = x.Problem.Status, x.Problem.Code, x.Problem.Retry
		return o
	}
	o.status = x.Response.Status
	o.cookie = x.Response.Header.Known(exchange.SetCookie)
	var b strings.Builder
	for {
		p, err := x.Response.Body.Next()
		b.Write(p)
		if err != nil {
			o.cut = err != io.EOF
			break
		}
	}
	o.body = b.String()
	o.took = time.Since(before)
	if err := x.Response.Body.Close(); err != nil {
		t.Error(err)
	}
	return o
}

// wants compares an outcome with a status and a code.
func (o outcome) wants(t *testing.T, status int, code string) {
	t.Helper()
	if o.status != status || o.code != code {
		t.Fatalf("have %d %q after %d attempts, want %d %q", o.status, o.code, o.attempts, status, code)
	}
}

// static is a resolver that knows nobody.
type static struct{}

func (static) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return nil, errors.New("no such host")
}
