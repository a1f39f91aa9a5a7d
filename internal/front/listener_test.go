package front

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
)

func pathOf(x *exchange.Exchange) { reply(x, x.Client.Listener+x.Request.Path) }

// with is a copy of a listener with changes.
func with(l *config.Listener, change func(*config.Listener)) *config.Listener {
	c := *l
	change(&c)
	return &c
}

func TestUnixSocket(t *testing.T) {
	each(t, func(t *testing.T, door string) {
		path := filepath.Join(t.TempDir(), "s")
		cfg := listenerOf(door)
		cfg.Address = "unix:" + path
		seen := make(chan exchange.Client, 1)
		r := newRig(t, cfg, func(x *exchange.Exchange) {
			seen <- *x.Client
			reply(x, "")
		})
		k := r.dial(t)
		k.send(simple)
		k.expect(200, "")
		if c := <-seen; !c.Trusted || c.IP != "" || c.Port != "" || c.Listener != "test" {
			t.Errorf("client %+v", c)
		}
		r.apply()
		if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the socket's file is still there: %v", err)
		}
	})
}

func TestAbandonedUnixSocketIsReplaced(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	old, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err != nil {
		t.Fatal(err)
	}
	cfg := listenerOf("native")
	cfg.Address = "unix:" + path
	f := New(Options{})
	if _, err := f.Prepare([]*config.Listener{cfg}, plainSets); !errors.Is(err, syscall.EADDRINUSE) {
		t.Fatalf("a socket in use was taken: %v", err)
	}
	old.SetUnlinkOnClose(false)
	old.Close()
	r := newRig(t, cfg, echo)
	k := r.dial(t)
	k.send(simple)
	k.expect(200, "")
}

func TestUnixSocketDoesNotReplaceAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg := listenerOf("native")
	cfg.Address = "unix:" + path
	if _, err := New(Options{}).Prepare([]*config.Listener{cfg}, plainSets); err == nil {
		t.Error("listening")
	}
	if b, err := os.ReadFile(path); string(b) != "precious" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

func TestClientsAreDescribed(t *testing.T) {
	each(t, func(t *testing.T, door string) {
		for _, c := range []struct {
			address, proxies, ip string
			trusted              bool
		}{
			{"127.0.0.1:0", "", "127.0.0.1", false},
			{"127.0.0.1:0", "127.0.0.0/8", "127.0.0.1", true},
			{"127.0.0.1:0", "10.0.0.0/8", "127.0.0.1", false},
			{"[::1]:0", "::1/128", "::1", true},
		} {
			cfg := listenerOf(door)
			cfg.Address = c.address
			if c.proxies != "" {
				cfg.TrustedProxies = []netip.Prefix{netip.MustParsePrefix(c.proxies)}
			}
			seen := make(chan exchange.Client, 1)
			r := newRig(t, cfg, func(x *exchange.Exchange) {
				seen <- *x.Client
				reply(x, "")
			})
			k := r.dial(t)
			k.send(simple)
			k.expect(200, "")
			got := <-seen
			_, port, _ := net.SplitHostPort(r.address)
			if got.IP != c.ip || got.Trusted != c.trusted || got.Port != port || got.Addr.String() != k.LocalAddr().String() || got.Peer != got.Addr {
				t.Errorf("%s, %s: client %+v", c.address, c.proxies, got)
			}
		}
	})
}

func TestSeveralListeners(t *testing.T) {
	each(t, func(t *testing.T, door string) {
		first := listenerOf(door)
		r := newRig(t, first, pathOf)
		second := with(first, func(l *config.Listener) { l.Name, l.Address = "second", "[::1]:0" })
		kept := r.dial(t)
		kept.send(simple)
		kept.expect(200, "test/")
		r.apply(first, second)
		kept.send(simple)
		kept.expect(200, "test/")
		for _, s := range r.f.Listeners() {
			nc, err := net.Dial("tcp", s.Address)
			if err != nil {
				t.Fatal(err)
			}
			nc.Close()
		}
		r.apply(second)
		kept.expectEnd()
		if list := r.f.Listeners(); len(list) != 1 || list[0].Name != "second" {
			t.Errorf("listeners %+v", list)
		}
		if _, err := net.Dial(r.network, r.address); err == nil {
			t.Error("the removed listener is open")
		}
	})
}

func TestFaultyChangeOpensNothing(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	first := listenerOf("native")
	r := newRig(t, first, pathOf)
	second := with(first, func(l *config.Listener) { l.Address = "127.0.0.1:0 " })
	third := with(first, func(l *config.Listener) { l.Address = taken.Addr().String() })
	_, err = r.f.Prepare([]*config.Listener{first, third}, plainSets)
	var where *Error
	if !errors.As(err, &where) || where.Index != 1 || !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("error %v", err)
	}
	if _, err = r.f.Prepare([]*config.Listener{second}, plainSets); err == nil {
		t.Error("an address with a space was taken")
	}
	if list := r.f.Listeners(); len(list) != 1 {
		t.Errorf("listeners %+v", list)
	}
	k := r.dial(t)
	k.send(simple)
	k.expect(200, "test/")
}

func TestLimitsChangeForRunningConnections(t *testing.T) {
	each(t, func(t *testing.T, door string) {
		cfg := listenerOf(door)
		r := newRig(t, cfg, pathOf)
		k := r.dial(t)
		k.send(simple)
		k.expect(200, "test/")
		r.apply(with(cfg, func(l *config.Listener) { l.Limits.Body = 3 }))
		k.send(simple)
		k.expect(200, "test/")
		k.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nfour")
		if res, _ := k.answer("POST"); res.StatusCode != 413 {
			t.Errorf("status %d", res.StatusCode)
		}
	})
}

// A change of who is trusted, of the name or of the engine ends connections
// when their requests are answered, and keeps the socket.
func TestChangesThatConnectionsDoNotOutlast(t *testing.T) {
	for name, change := range map[string]func(*config.Listener){
		"trust": func(l *config.Listener) { l.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} },
		"name":  func(l *config.Listener) { l.Name = "other" },
		"engine": func(l *config.Listener) {
			if l.Engine == "std" {
				l.Engine = "native"
			} else {
				l.Engine = "std"
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, door string) {
				begun, answer := make(chan struct{}), make(chan struct{})
				cfg := listenerOf(door)
				r := newRig(t, cfg, func(x *exchange.Exchange) {
					if x.Request.Path == "/slow" {
						close(begun)
						<-answer
					}
					pathOf(x)
				})
				idle, slow, fresh := r.dial(t), r.dial(t), r.dial(t)
				idle.send(simple)
				idle.expect(200, "test/")
				slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
				<-begun
				changed := with(cfg, change)
				r.apply(changed)
				idle.expectEnd()
				fresh.send(simple) // was accepted before the change, and not yet used
				if res, _ := fresh.answer("GET"); res.StatusCode != 200 || !res.Close {
					t.Errorf("answer %d on a new connection, close %v", res.StatusCode, res.Close)
				}
				close(answer)
				slow.expect(200, "test/slow")
				slow.expectEnd()
				k := r.dial(t)
				k.send(simple)
				k.expect(200, changed.Name+"/")
			})
		})
	}
}

func TestConnectionsBeyondTheCeilingWait(t *testing.T) {
	each(t, func(t *testing.T, door string) {
		cfg := listenerOf(door)
		cfg.Limits.Connections = 2
		r := newRig(t, cfg, pathOf)
		a, b := r.dial(t), r.dial(t)
		for _, k := range []*client{a, b} {
			k.send(simple)
			k.expect(200, "test/")
		}
		c, d := r.dial(t), r.dial(t)
		go c.send(simple) // a handshake waits for who accepts
		go d.send(simple)
		if n := r.f.Listeners()[0].Connections; n != 2 {
			t.Errorf("%d connections", n)
		}
		a.Close()
		c.expect(200, "test/")
		r.apply(with(cfg, func(l *config.Listener) { l.Limits.Connections = 3 }))
		d.expect(200, "test/")
	})
}

// failing is a listener whose first accepts fail.
type failing struct {
	net.Listener
	left int
}

func (f *failing) Accept() (net.Conn, error) {
	if f.left > 0 {
		f.left--
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
	}
	return f.Listener.Accept()
}

func TestAcceptingComesBack(t *testing.T) {
	r := newRig(t, listenerOf("native"), pathOf)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	o := r.f.o
	o.Log = slog.New(slog.NewTextHandler(&log, nil))
	l := newListener(&failing{ln, 3}, &o)
	l.configure(r.cfg, nil, nil)
	l.serve()
	r.network, r.address = "tcp", ln.Addr().String()
	k := r.dial(t)
	k.send(simple)
	k.expect(200, "test/")
	l.close()
	l.drain()
	k.expectEnd()
	l.wait(t.Context())
	if n := strings.Count(log.String(), "level=WARN"); n != 1 {
		t.Errorf("%d warnings: %s", n, &log)
	}
	w := httptest.NewRecorder()
	o.Metrics.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if want := `gatehouse_listener_accept_errors_total{listener="test"} 3`; !strings.Contains(w.Body.String(), want) {
		t.Errorf("no %s", want)
	}
}

// What goes on going wrong is told once a minute.
func TestComplaints(t *testing.T) {
	var c complaint
	start := time.Now()
	for i, want := range []int{1, 0, 0, 3, 0} {
		if n := c.due(start.Add(time.Duration(i) * 20 * time.Second)); n != want {
			t.Errorf("%d: %d, want %d", i, n, want)
		}
	}
}

func TestConnectionsInTheQueueAreServedWhenAListenerCloses(t *testing.T) {
	each(t, func(t *testing.T, door string) {
		begun, answer := make(chan struct{}), make(chan struct{})
		r := newRig(t, listenerOf(door), func(x *exchange.Exchange) {
			if x.Request.Path == "/slow" {
				close(begun)
				<-answer
			}
			pathOf(x)
		})
		slow := r.dial(t)
		slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
		<-begun
		var late []*client
		for range 20 {
			k := r.dial(t)
			k.send(simple)
			late = append(late, k)
		}
		r.apply()
		for _, k := range late {
			k.expect(200, "test/")
			k.expectEnd()
		}
		close(answer)
		slow.expect(200, "test/slow")
	})
}

func TestNothingOpensAfterDrain(t *testing.T) {
	r := newRig(t, listenerOf("native"), pathOf)
	pending, err := r.f.Prepare([]*config.Listener{with(r.cfg, func(l *config.Listener) { l.Address = "[::1]:0" })}, plainSets)
	if err != nil {
		t.Fatal(err)
	}
	r.f.Drain(t.Context())
	pending.Commit()
	if list := r.f.Listeners(); len(list) != 0 {
		t.Errorf("listeners %+v", list)
	}
	if _, err := r.f.Prepare([]*config.Listener{r.cfg}, plainSets); err == nil {
		t.Error("prepared")
	}
}
