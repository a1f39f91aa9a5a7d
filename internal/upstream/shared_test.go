package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
)

// web is a service of net/http that speaks HTTP/2.
type web struct {
	t      testing.TB
	s      *http.Server
	url    string
	opened atomic.Int64
	ca     string // file of the authority of its certificate
}

// newWeb starts a service: over TLS with these protocols of ALPN, or without
// TLS and with prior knowledge when there are none.
func newWeb(t testing.TB, h http.HandlerFunc, change func(*http.Server), alpn ...string) *web {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &web{t: t, url: "h2c://" + ln.Addr().String()}
	w.s = &http.Server{Handler: h, Protocols: new(http.Protocols), HTTP2: new(http.HTTP2Config), ErrorLog: nil}
	w.s.Protocols.SetUnencryptedHTTP2(true)
	w.s.Protocols.SetHTTP1(true)
	w.s.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			w.opened.Add(1)
		}
	}
	if change != nil {
		change(w.s)
	}
	var serving sync.WaitGroup
	if len(alpn) > 0 {
		a := newAuthority(t)
		cert, key := a.issue("127.0.0.1", nil)
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		w.s.Protocols.SetHTTP2(alpn[0] == "h2")
		w.s.Protocols.SetHTTP1(alpn[len(alpn)-1] == "http/1.1")
		w.s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{pair}}
		w.ca, w.url = a.file, "https://"+ln.Addr().String()
		serving.Go(func() { _ = w.s.ServeTLS(ln, "", "") })
	} else {
		serving.Go(func() { _ = w.s.Serve(ln) })
	}
	t.Cleanup(func() {
		w.s.Close()
		serving.Wait()
	})
	return w
}

// settings returns the settings of an upstream with the service as endpoint.
func (w *web) settings(change func(*config.Upstream)) *config.Upstream {
	cfg := settings(w.url)
	if w.ca != "" {
		cfg.TLS = &config.UpstreamTLS{Verify: true, CAFile: w.ca}
	}
	if change != nil {
		change(cfg)
	}
	return cfg
}

func helloWeb(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(w, io.MultiReader(strings.NewReader(r.Proto+" "), r.Body))
}

func TestProtocolOfEndpoints(t *testing.T) {
	for name, c := range map[string]struct {
		scheme string
		alpn   []string
		want   string
		code   string
	}{
		"h2c":                  {"h2c", nil, "HTTP/2.0 ", ""},
		"grpc":                 {"grpc", nil, "HTTP/2.0 ", ""},
		"http":                 {"http", nil, "HTTP/1.1 ", ""},
		"https with both":      {"https", []string{"h2", "http/1.1"}, "HTTP/2.0 ", ""},
		"https with the old":   {"https", []string{"http/1.1"}, "HTTP/1.1 ", ""},
		"https with the new":   {"https", []string{"h2"}, "HTTP/2.0 ", ""},
		"grpcs with both":      {"grpcs", []string{"h2", "http/1.1"}, "HTTP/2.0 ", ""},
		"grpcs without HTTP/2": {"grpcs", []string{"http/1.1"}, "", "upstream_tls_failed"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newWeb(t, helloWeb, nil, c.alpn...)
			s.url = c.scheme + s.url[strings.Index(s.url, "://"):]
			r := newRig(t, s.settings(nil))
			k := r.dial()
			for range 3 {
				k.send(get)
				if c.code != "" {
					k.fails(502, c.code)
					continue
				}
				k.wants(200, c.want)
				k.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")
				k.wants(200, c.want+"abc")
				k.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
				k.wants(200, c.want+"abc")
			}
			if n := s.opened.Load(); c.code == "" && n != 1 {
				t.Errorf("%d connections", n)
			}
			r.u.Retire()
			r.opens(0)
		})
	}
}

// gather has so many requests wait in a service at the same time, and lets
// them go on.
func gather(t *testing.T, r *rig, n int, begun <-chan struct{}, release chan<- struct{}) {
	t.Helper()
	var all sync.WaitGroup
	for range n {
		k := r.dial()
		all.Go(func() {
			k.send(get)
			k.wants(200, "HTTP/2.0 ")
		})
	}
	for range n {
		<-begun
	}
	for range n {
		release <- struct{}{}
	}
	all.Wait()
}

func TestConnectionsAreShared(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	wait := func(w http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		<-release
		helloWeb(w, r)
	}
	for name, alpn := range map[string][]string{"plain": nil, "secure": {"h2", "http/1.1"}} {
		t.Run(name, func(t *testing.T) {
			s := newWeb(t, wait, nil, alpn...)
			r := newRig(t, s.settings(nil))
			gather(t, r, 40, begun, release) // all came before there was a connection
			gather(t, r, 40, begun, release)
			if n := s.opened.Load(); n != 1 {
				t.Errorf("%d connections", n)
			}
			if n := r.meter.reused.Load(); n != 79 {
				t.Errorf("%d requests on a kept connection", n)
			}
			r.u.Retire()
			r.opens(0)
		})
	}
}

func TestConnectionsGrowWhenFull(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	s := newWeb(t, func(w http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		<-release
		helloWeb(w, r)
	}, func(s *http.Server) { s.HTTP2.MaxConcurrentStreams = 2 })
	r := newRig(t, s.settings(func(c *config.Upstream) { c.Connections.MaxPerEndpoint = 3 }))
	k := r.dial()
	k.send(get) // from here on the settings of the service are known
	<-begun
	release <- struct{}{}
	k.wants(200, "HTTP/2.0 ")
	<-r.ended // its place is free

	var all sync.WaitGroup
	var others []*client
	for range 6 {
		o := r.dial()
		o.send(get)
		others = append(others, o)
		<-begun
	}
	if n := r.u.open.Load(); n > 3 || n < 2 {
		t.Errorf("%d connections", n)
	}
	for i := range others {
		all.Go(func() { others[i].wants(200, "HTTP/2.0 ") })
	}
	k.send(get)
	k.fails(503, "upstream_overloaded")
	for range 6 {
		release <- struct{}{}
	}
	all.Wait()
	r.u.Retire()
	r.opens(0)
}

func TestSharedConnectionsEndWhenIdle(t *testing.T) {
	s := newWeb(t, helloWeb, nil)
	r := newRig(t, s.settings(func(c *config.Upstream) { c.Connections.IdleTimeout = config.Duration(100 * time.Millisecond) }))
	k := r.dial()
	k.send(get)
	k.wants(200, "HTTP/2.0 ")
	r.opens(0)
	k.send(get)
	k.wants(200, "HTTP/2.0 ")
	if n := s.opened.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
	r.u.Retire()
	r.opens(0)
}

func TestSharedConnectionsAreNotKept(t *testing.T) {
	s := newWeb(t, helloWeb, nil)
	r := newRig(t, s.settings(func(c *config.Upstream) { c.Connections.Idle = 0 }))
	k := r.dial()
	for range 3 {
		k.send(get)
		k.wants(200, "HTTP/2.0 ")
	}
	r.opens(0)
	if n := s.opened.Load(); n != 3 {
		t.Errorf("%d connections", n)
	}
}

// Who waits for a connection that cannot be established has failed with it.
func TestSharedDialFails(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		code string
		n    int
	}{
		"refused": {&net.OpError{Op: "dial", Err: errors.New("connection refused")}, "upstream_connect_failed", 502},
		"late":    {&net.OpError{Op: "dial", Err: context.DeadlineExceeded}, "upstream_connect_timeout", 504},
	} {
		t.Run(name, func(t *testing.T) {
			dialed := make(chan struct{})
			release := make(chan struct{})
			r := newRigWith(t, settings("h2c://10.0.0.1:80"), nil, func(u *Upstream) {
				u.dial = func(context.Context, string, string) (net.Conn, error) {
					dialed <- struct{}{}
					<-release
					return nil, c.err
				}
			})
			first := r.dial()
			first.send(get)
			<-dialed
			var all sync.WaitGroup
			e := r.u.live.Load().members[0].e
			for range 5 {
				k := r.dial()
				k.send(get)
				all.Go(func() { k.fails(c.n, c.code) })
			}
			for e.record.load.Active() < 6 {
				time.Sleep(time.Millisecond)
			}
			close(release)
			first.fails(c.n, c.code)
			go func() {
				for range dialed { // who came too late to wait for the first one
				}
			}()
			all.Wait()
			close(dialed)
		})
	}
}

func TestClientThatGoesCancelsItsStream(t *testing.T) {
	begun, ended := make(chan struct{}), make(chan struct{})
	s := newWeb(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "POST" {
			helloWeb(w, r)
			return
		}
		close(begun)
		<-r.Context().Done()
		close(ended)
	}, nil)
	r := newRig(t, s.settings(nil))
	k := r.dial()
	k.send(get)
	<-begun
	_ = k.SetLinger(0)
	k.Close()
	<-ended
	if p := <-r.ended; p == nil || p.Status != 499 {
		t.Errorf("ended with %v", p)
	}
	// The connection is as good as before.
	k = r.dial()
	k.send(postABC)
	k.wants(200, "HTTP/2.0 abc")
	if n := s.opened.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	r.u.Retire()
	r.opens(0)
}

func TestTimesOfSharedConnections(t *testing.T) {
	over := make(chan struct{})
	t.Cleanup(func() { close(over) })
	s := newWeb(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/body" {
			w.WriteHeader(200)
			_ = http.NewResponseController(w).Flush()
		}
		select {
		case <-over:
		case <-r.Context().Done():
		}
	}, nil)
	for name, c := range map[string]struct {
		set  func(*config.Upstream)
		code string
	}{
		"first byte": {func(c *config.Upstream) { c.Timeout.FirstByte = config.Duration(50 * time.Millisecond) }, "upstream_timeout"},
		"request":    {func(c *config.Upstream) { c.Timeout.Request = config.Duration(50 * time.Millisecond) }, "upstream_timeout"},
		"try": {func(c *config.Upstream) {
			c.Retry = &config.Retry{Attempts: 2, On: config.StringList{"timeout"}, Methods: config.StringList{"GET"}, Budget: 1, TryTimeout: config.Duration(50 * time.Millisecond)}
		}, "upstream_timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, s.settings(c.set))
			k := r.dial()
			k.send(get)
			k.fails(504, c.code)
			if u := <-r.seen; name == "try" && u.Attempts != 2 {
				t.Errorf("%d attempts", u.Attempts)
			}
			r.u.Retire()
			r.opens(0)
		})
	}
}

func TestHedgingOverSharedConnections(t *testing.T) {
	slow := newWeb(t, func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, nil)
	quick := newWeb(t, helloWeb, nil)
	cfg := settings(slow.url, quick.url)
	cfg.Hedge = &config.Hedge{After: "20ms", Budget: 1}
	r := newRig(t, cfg)
	k := r.dial()
	for range 4 {
		k.send(get)
		k.wants(200, "HTTP/2.0 ")
	}
	if r.meter.event(Hedged) == 0 {
		t.Error("nothing was hedged")
	}
	r.u.Retire()
	r.opens(0)
}

func TestRetireWhileConnectionsAreShared(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	s := newWeb(t, func(w http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		<-release
		helloWeb(w, r)
	}, nil)
	r := newRig(t, s.settings(nil))
	k := r.dial()
	k.send(get)
	<-begun
	r.u.Retire()
	later := r.dial()
	later.send(get) // of who has an older snapshot
	<-begun
	close(release)
	k.wants(200, "HTTP/2.0 ")
	later.wants(200, "HTTP/2.0 ")
	r.opens(0)
	if n := s.opened.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
}

func TestIdleSharedConnectionMakesRoom(t *testing.T) {
	a, b := newWeb(t, helloWeb, nil), newWeb(t, helloWeb, nil)
	cfg := settings(a.url, b.url)
	cfg.Connections.Max = 1
	r := newRig(t, cfg)
	k := r.dial()
	for range 6 {
		k.send(get)
		k.wants(200, "HTTP/2.0 ")
	}
	if n := r.u.open.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	r.u.Retire()
	r.opens(0)
}
