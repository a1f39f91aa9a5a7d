package front

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/certs"
	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1/h1test"
	"gatehouse.dev/gatehouse/internal/observe"
	"gatehouse.dev/gatehouse/internal/wire"
)

// doors are the ways in: every behaviour of matrix_test.go is tested through
// each of them.
var doors = []string{"native", "std", "native-tls", "std-tls"}

// each runs a test through every door.
func each(t *testing.T, f func(t *testing.T, door string)) {
	for _, door := range doors {
		t.Run(door, func(t *testing.T) { f(t, door) })
	}
}

// rig is a front with one listener on loopback.
type rig struct {
	t       testing.TB
	f       *Front
	cfg     *config.Listener
	store   *certs.Store
	network string
	address string

	mu      sync.Mutex
	refused []*exchange.Problem
}

// settings are those of the tables in h1test, with times that nothing here
// reaches.
func listenerOf(door string) *config.Listener {
	engine, secure := strings.CutSuffix(door, "-tls")
	l := &config.Listener{Name: "test", Address: "127.0.0.1:0", Protocol: "http", Engine: engine}
	if secure {
		l.TLS, l.Protocols = new(config.TLS), config.StringList{"http1"}
	}
	l.Limits.Defaults()
	l.Limits.HeaderBytes, l.Limits.Headers, l.Limits.Body = 8192, 50, 65536
	l.Limits.HeaderTimeout = config.Duration(time.Minute)
	l.Limits.HalfCloseTimeout = config.Duration(time.Minute)
	l.Limits.BodyMinRate = config.Rate{}
	return l
}

func newRig(t testing.TB, cfg *config.Listener, handler func(*exchange.Exchange)) *rig {
	t.Helper()
	return newRigOf(t, cfg, Options{Handler: handler})
}

// newRigOf makes a rig with options of which the usual ones are filled in.
func newRigOf(t testing.TB, cfg *config.Listener, o Options) *rig {
	t.Helper()
	r := &rig{t: t, cfg: cfg, network: "tcp", store: newStore(t)}
	sweeper := wire.NewSweeper()
	o.Refused = func(x *exchange.Exchange) {
		r.mu.Lock()
		r.refused = append(r.refused, x.Problem)
		r.mu.Unlock()
	}
	o.Metrics = observe.NewMetrics(config.Metrics{})
	o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	o.Sweeper = sweeper
	r.f = New(o)
	r.apply(cfg)
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		r.f.Drain(ctx)
		sweeper.Close()
	})
	s := r.f.Listeners()[0]
	r.address = s.Address
	if path, ok := strings.CutPrefix(s.Address, "unix:"); ok {
		r.network, r.address = "unix", path
	}
	return r
}

func (r *rig) apply(cfgs ...*config.Listener) {
	r.t.Helper()
	c, err := r.f.Prepare(cfgs, r.sets(cfgs...))
	if err != nil {
		r.t.Fatal(err)
	}
	c.Commit()
}

// sets gives the certificates of listeners, for which they get files.
func (r *rig) sets(cfgs ...*config.Listener) Sets {
	for _, cfg := range cfgs {
		if cfg.TLS != nil && cfg.TLS.Certificates == nil {
			cfg.TLS = tlsOf(r.t.(interface{ TempDir() string }).TempDir())
		}
	}
	return sets(r.t, r.store, cfgs)
}

// refusals returns the codes of what was reported as refused.
func (r *rig) refusals() (codes []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.refused {
		codes = append(codes, p.Code)
	}
	return codes
}

// client is a connection to a rig.
type client struct {
	t testing.TB
	net.Conn
	r *bufio.Reader
}

func (r *rig) dial(t testing.TB) *client {
	t.Helper()
	nc, err := net.Dial(r.network, r.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	if err := nc.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if r.cfg.TLS != nil {
		nc = tls.Client(nc, trusting())
	}
	return &client{t, nc, bufio.NewReader(nc)}
}

// send writes; a server that has closed already is no fault.
func (c *client) send(s string) { _, _ = io.WriteString(c.Conn, s) }

// bare writes below TLS.
func (c *client) bare(s string) { _, _ = io.WriteString(c.tcp(), s) }

func (c *client) closeWrite() {
	c.t.Helper()
	if err := c.Conn.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		c.t.Fatal(err)
	}
	if _, ok := c.Conn.(*tls.Conn); ok {
		// That TLS has ended is seen by who reads; whoever does not sees the
		// socket.
		if err := c.tcp().CloseWrite(); err != nil {
			c.t.Fatal(err)
		}
	}
}

// tcp returns the socket of a connection, below TLS where there is any.
func (c *client) tcp() *net.TCPConn {
	if t, ok := c.Conn.(*tls.Conn); ok {
		return t.NetConn().(*net.TCPConn)
	}
	return c.Conn.(*net.TCPConn)
}

// head reads an answer's head; the body is still to be read.
func (c *client) head(method string) *http.Response {
	c.t.Helper()
	res, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("no answer: %v", err)
	}
	return res
}

// answer reads an answer with its body.
func (c *client) answer(method string) (*http.Response, string) {
	c.t.Helper()
	res := c.head(method)
	body, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatalf("body of an answer %d: %v", res.StatusCode, err)
	}
	return res, string(body)
}

// expect reads an answer of that status and body.
func (c *client) expect(status int, body string) *http.Response {
	c.t.Helper()
	res, got := c.answer("GET")
	if res.StatusCode != status || got != body {
		c.t.Fatalf("answer %d %q, want %d %q", res.StatusCode, got, status, body)
	}
	return res
}

// expectEnd reads the end of the connection.
func (c *client) expectEnd() {
	c.t.Helper()
	if rest, err := io.ReadAll(c.r); err != nil || len(rest) > 0 {
		c.t.Fatalf("want the end of the connection, have %q, %v", rest, err)
	}
}

// Handlers, and what they are made of.
var (
	finish   = h1test.Finish
	reply    = h1test.Reply
	readBody = h1test.ReadBody
	echo     = h1test.Echo
)

const simple = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"

func post(body string) string {
	return "POST / HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n" + body
}
