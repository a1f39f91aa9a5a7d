package admin

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/observe"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type rig struct {
	*Server
	ready atomic.Bool
	log   bytes.Buffer
}

func start(t *testing.T, address string) *rig {
	t.Helper()
	r := new(rig)
	metrics := observe.NewMetrics(config.Metrics{MaxRoutes: 10})
	metrics.Reload(true, "abc")
	s, err := Listen(address, Deps{
		Metrics: metrics.Handler(), Ready: r.ready.Load,
		Status: func() Status {
			return Status{Version: "1.2.3", Digest: "abc", Routes: 2, Listeners: []Listener{{"web", "127.0.0.1:80", 3}}}
		},
		Log: slog.New(slog.NewTextHandler(&r.log, nil)),
	})
	if err != nil {
		t.Fatal(err)
	}
	r.Server = s
	t.Cleanup(s.Close)
	return r
}

// ask sends a request as it is and returns the answer.
func (r *rig) ask(t *testing.T, head string) (*http.Response, string) {
	t.Helper()
	network, address := "tcp", r.bound
	if path, ok := strings.CutPrefix(address, "unix:"); ok {
		network, address = "unix", path
	}
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, strings.ReplaceAll(head, "\n", "\r\n")+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	method, _, _ := strings.Cut(head, " ")
	res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

func TestPages(t *testing.T) {
	r := start(t, "127.0.0.1:0")
	for _, c := range []struct {
		name, head string
		status     int
		body       string
	}{
		{"alive", "GET /livez HTTP/1.1\nHost: localhost", 200, "ok\n"},
		{"alive, query and port", "GET /livez?x HTTP/1.1\nHost: 127.0.0.1:9901", 200, "ok\n"},
		{"alive, asked by a simple probe", "GET /livez HTTP/1.0", 200, "ok\n"},
		{"no body for HEAD", "HEAD /livez HTTP/1.1\nHost: localhost", 200, ""},
		{"not ready", "GET /readyz HTTP/1.1\nHost: localhost", 503, `"code":"not_ready"`},
		{"status", "GET /status HTTP/1.1\nHost: localhost", 200, `"version":"1.2.3"`},
		{"no faults are a list", "GET /status HTTP/1.1\nHost: localhost", 200, `"faults":[]`},
		{"metrics", "GET /metrics HTTP/1.1\nHost: localhost", 200, `gatehouse_config_reloads_total{result="ok"} 1`},
		{"nothing", "GET / HTTP/1.1\nHost: localhost", 404, `"code":"not_found"`},
		{"another spelling", "GET //livez HTTP/1.1\nHost: localhost", 404, ""},
		{"an encoded one", "GET /%6Civez HTTP/1.1\nHost: localhost", 404, ""},
		{"below", "GET /metrics/ HTTP/1.1\nHost: localhost", 404, ""},
		{"writing", "POST /status HTTP/1.1\nHost: localhost\nContent-Length: 0", 405, `"code":"method_not_allowed"`},
		{"deleting", "DELETE /metrics HTTP/1.1\nHost: localhost", 405, ""},
		{"asking what may be done", "OPTIONS /metrics HTTP/1.1\nHost: localhost", 405, ""},

		{"by name", "GET /livez HTTP/1.1\nHost: LocalHost.:1", 200, ""},
		{"by IPv6", "GET /livez HTTP/1.1\nHost: [::1]:9901", 200, ""},
		{"by IPv6 without port", "GET /livez HTTP/1.1\nHost: [::1]", 200, ""},
		{"another name", "GET /metrics HTTP/1.1\nHost: evil.example", 421, `"code":"host_refused"`},
		{"a name that looks like an address", "GET /metrics HTTP/1.1\nHost: 127.0.0.1.evil.example:9901", 421, ""},
		{"a name below localhost", "GET /metrics HTTP/1.1\nHost: a.localhost.evil", 421, ""},
		{"absolute target", "GET http://evil.example/metrics HTTP/1.1\nHost: localhost", 421, ""},
		{"same origin", "GET /status HTTP/1.1\nHost: localhost:9901\nOrigin: http://localhost:9901\nSec-Fetch-Site: same-origin", 200, ""},
		{"typed in", "GET /status HTTP/1.1\nHost: localhost:9901\nSec-Fetch-Site: none", 200, ""},
		{"another origin", "GET /status HTTP/1.1\nHost: localhost:9901\nOrigin: https://evil.example", 403, `"code":"origin_refused"`},
		{"another port", "GET /status HTTP/1.1\nHost: localhost:9901\nOrigin: http://localhost:3000", 403, ""},
		{"a sandbox", "GET /status HTTP/1.1\nHost: localhost:9901\nOrigin: null", 403, ""},
		{"cross-site", "GET /status HTTP/1.1\nHost: localhost:9901\nSec-Fetch-Site: cross-site", 403, ""},
		{"same site", "GET /status HTTP/1.1\nHost: localhost:9901\nSec-Fetch-Site: same-site", 403, ""},
		{"twice", "GET /status HTTP/1.1\nHost: localhost:9901\nSec-Fetch-Site: none\nSec-Fetch-Site: cross-site", 403, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			res, body := r.ask(t, c.head)
			if res.StatusCode != c.status || !strings.Contains(body, c.body) {
				t.Fatalf("status %d, body %q; want %d, %q", res.StatusCode, body, c.status, c.body)
			}
			kind := res.Header.Get("Content-Type")
			if c.status >= 400 && kind != "application/problem+json" {
				t.Errorf("a refusal has the type %q", kind)
			}
			if c.status >= 400 && c.body != "" {
				var p problem
				if err := json.Unmarshal([]byte(body), &p); err != nil || p.Status != c.status || p.Title == "" || p.Type != "about:blank" {
					t.Errorf("%q is not the problem: %v", body, err)
				}
			}
			if c.status == 405 && res.Header.Get("Allow") != "GET, HEAD" {
				t.Errorf("Allow is %q", res.Header.Get("Allow"))
			}
			for name, want := range map[string]string{"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Access-Control-Allow-Origin": ""} {
				if got := res.Header.Get(name); got != want {
					t.Errorf("%s is %q, want %q", name, got, want)
				}
			}
		})
	}
	r.ready.Store(true)
	if res, _ := r.ask(t, "GET /readyz HTTP/1.1\nHost: localhost"); res.StatusCode != 200 {
		t.Errorf("a ready gateway answers %d", res.StatusCode)
	}
}

func TestStatusIsJSON(t *testing.T) {
	r := start(t, "127.0.0.1:0")
	res, body := r.ask(t, "GET /status HTTP/1.1\nHost: localhost")
	if got := res.Header.Get("Content-Type"); got != "application/json" {
		t.Errorf("the type is %q", got)
	}
	var s Status
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		t.Fatal(err)
	}
	if s.Digest != "abc" || s.Routes != 2 || len(s.Listeners) != 1 || s.Listeners[0] != (Listener{"web", "127.0.0.1:80", 3}) {
		t.Errorf("the status is %+v", s)
	}
}

// A host name in the configuration is one that the address answers to.
func TestConfiguredName(t *testing.T) {
	for _, c := range []struct {
		address, host string
		known         bool
	}{
		{"admin.internal:9901", "admin.internal:9901", true},
		{"admin.internal:9901", "ADMIN.internal.", true},
		{"admin.internal:9901", "internal", false},
		{"admin.internal:9901", "xadmin.internal", false},
		{":9901", "", true},
		{":9901", ":9901", false},
		{":9901", "[::1%25lo]:9901", false},
		{"0.0.0.0:9901", "10.0.0.1:9901", true},
	} {
		if got := newGuard(c.address, nil).knows(c.host); got != c.known {
			t.Errorf("%q at %q: known is %v", c.host, c.address, got)
		}
	}
}

func TestListenSays(t *testing.T) {
	r := start(t, "127.0.0.1:0")
	if got := r.Address(); got != "127.0.0.1:0" {
		t.Errorf("the configured address is %q", got)
	}
	if want := "msg=listening listener=admin address=" + r.bound; !strings.Contains(r.log.String(), want) {
		t.Errorf("the log %q does not say %q", r.log.String(), want)
	}
	_, err := Listen(r.bound, Deps{Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("listening twice returns %v", err)
	}
}

func TestUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	// What a process that was killed leaves behind does not hinder the next.
	left, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	left.SetUnlinkOnClose(false)
	left.Close()

	r := start(t, "unix:"+path)
	if res, _ := r.ask(t, "GET /livez HTTP/1.1\nHost: any.name"); res.StatusCode != 200 {
		t.Errorf("status %d over the socket", res.StatusCode)
	}
	file, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if mode := file.Mode().Perm(); mode != 0o600 {
		t.Errorf("the socket's mode is %o", mode)
	}
	if _, err := Listen("unix:"+path, Deps{Log: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("a socket in use is taken away")
	}
	r.Close()
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestClose(t *testing.T) {
	var none *Server
	none.Close()
	r := start(t, "127.0.0.1:0")
	c, err := net.Dial("tcp", r.bound)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r.Close()
	r.Close()
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("a connection outlives the server")
	}
	if _, err := net.Dial("tcp", r.bound); err == nil {
		t.Error("the address is still open")
	}
}

// Connections over the ceiling wait until there is room, and do not hinder the
// end.
func TestConnectionsAreBounded(t *testing.T) {
	inner, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ln := newBounded(inner, 1)
	accepted := make(chan net.Conn)
	ended := make(chan error)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				ended <- err
				return
			}
			accepted <- c
		}
	}()
	for range 3 {
		c, err := net.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	first := <-accepted
	select {
	case <-accepted:
		t.Error("a second connection is accepted while there is no room")
	default:
	}
	first.Close()
	first.Close() // makes room once
	second := <-accepted
	if n := len(ln.room); n != 1 {
		t.Errorf("%d places are taken", n)
	}
	ln.Close()
	if err := <-ended; err == nil {
		t.Error("accepting goes on after the end")
	}
	second.Close()
}

func TestTimeouts(t *testing.T) {
	r := start(t, "127.0.0.1:0")
	for name, d := range map[string]time.Duration{
		"head": r.srv.ReadHeaderTimeout, "read": r.srv.ReadTimeout, "write": r.srv.WriteTimeout, "idle": r.srv.IdleTimeout,
	} {
		if d <= 0 || d > time.Minute {
			t.Errorf("the %s timeout is %v", name, d)
		}
	}
}

// A head over the limit is not read to its end: the answer, when it is not lost
// with the connection, is 431.
func TestLargeHead(t *testing.T) {
	r := start(t, "127.0.0.1:0")
	c, err := net.Dial("tcp", r.bound)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET /livez HTTP/1.1\r\nHost: localhost\r\nX: "+strings.Repeat("x", 2*mostHeaderBytes)+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(c)
	if !strings.HasPrefix(string(answer), "HTTP/1.1 431 ") && err == nil {
		t.Errorf("the answer is %q", answer)
	}
}

// Nothing before or after it makes a foreign name one of ours.
func FuzzKnows(f *testing.F) {
	f.Add("localhost:1", ":9901")
	f.Add("::1%", ":80")
	f.Add("[::1]:80@", "]")
	f.Fuzz(func(t *testing.T, before, after string) {
		g := newGuard("admin.internal:9901", nil)
		for _, host := range []string{before + ".evil.example", before + ".evil.example" + after} {
			name := host
			if h, _, err := net.SplitHostPort(host); err == nil {
				name = h
			}
			if strings.Contains(name, "evil") && g.knows(host) {
				t.Fatalf("%q is let in", host)
			}
		}
	})
}
