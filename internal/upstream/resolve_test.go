package upstream

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
)

// names is a resolver whose answers a test sets. What it has no answer for
// fails.
type names struct {
	mu      sync.Mutex
	answers map[string]string
	asked   int
	hang    bool
}

func (n *names) set(name, addresses string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.answers[name] = addresses
}

func (n *names) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked++
	if n.hang {
		n.mu.Unlock()
		<-ctx.Done()
		n.mu.Lock()
		return nil, ctx.Err()
	}
	answer, ok := n.answers[host]
	if !ok {
		return nil, errors.New("no such host")
	}
	var found []netip.Addr
	for _, a := range strings.Fields(answer) {
		found = append(found, netip.MustParseAddr(a))
	}
	return found, nil
}

func endpoints(u *Upstream) (list []*endpoint) {
	for _, m := range u.live.Load().members {
		list = append(list, m.e)
	}
	return list
}

func addresses(u *Upstream) string {
	var list []string
	for _, e := range endpoints(u) {
		list = append(list, e.address)
	}
	return strings.Join(list, " ")
}

func TestNamesAreResolvedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &names{answers: map[string]string{"a.example": "10.0.0.2 10.0.0.1", "b.example": "::1"}}
		u, err := New("test", settings("http://a.example:8080", "http://10.1.0.1", "http://b.example"),
			Options{Log: slog.New(slog.DiscardHandler), Resolver: n})
		if err != nil {
			t.Fatal(err)
		}
		defer synctest.Wait()
		defer u.Retire()
		later := func(d time.Duration, want string) {
			t.Helper()
			time.Sleep(d)
			synctest.Wait()
			if got := addresses(u); got != want {
				t.Fatalf("endpoints are %s, want %s", got, want)
			}
		}
		const round = 12 * time.Second // an interval and its jitter
		later(0, "10.0.0.1:8080 10.0.0.2:8080 10.1.0.1:80 [::1]:80")
		before := endpoints(u)

		n.set("a.example", "10.0.0.1 10.0.0.2 10.0.0.1") // the same in another order
		later(round, "10.0.0.1:8080 10.0.0.2:8080 10.1.0.1:80 [::1]:80")
		if !slices.Equal(before, endpoints(u)) {
			t.Error("endpoints were made anew without a change")
		}
		n.set("a.example", "10.0.0.2 10.0.0.3 ::ffff:10.0.0.4")
		later(round, "10.0.0.2:8080 10.0.0.3:8080 10.0.0.4:8080 10.1.0.1:80 [::1]:80")
		if endpoints(u)[0] != before[1] {
			t.Error("an endpoint that stayed was made anew")
		}
		if before[1].retired || !before[0].retired {
			t.Error("it is not exactly the endpoint that went away which was retired")
		}

		n.set("a.example", "") // an empty answer
		n.set("b.example", "::2")
		later(round, "10.0.0.2:8080 10.0.0.3:8080 10.0.0.4:8080 10.1.0.1:80 [::2]:80")
		n.mu.Lock()
		delete(n.answers, "a.example")
		n.hang = true
		n.mu.Unlock()
		later(10*round, "10.0.0.2:8080 10.0.0.3:8080 10.0.0.4:8080 10.1.0.1:80 [::2]:80")
		n.mu.Lock()
		n.hang = false
		n.mu.Unlock()
		n.set("a.example", "10.0.0.9")
		later(round+resolveTimeout, "10.0.0.9:8080 10.1.0.1:80 [::2]:80")
	})
}

func TestNameWithoutAddressIsTriedAgainSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &names{answers: map[string]string{}}
		u, err := New("test", settings("http://a.example"), Options{Log: slog.New(slog.DiscardHandler), Resolver: n})
		if err != nil {
			t.Fatal(err)
		}
		defer synctest.Wait()
		defer u.Retire()
		time.Sleep(time.Minute)
		n.set("a.example", "10.0.0.1")
		time.Sleep(resolveAgain)
		synctest.Wait()
		if got := addresses(u); got != "10.0.0.1:80" {
			t.Errorf("endpoints are %q", got)
		}
		if n.asked < 50 || n.asked > 62 {
			t.Errorf("it was asked %d times in a minute", n.asked)
		}
	})
}

func TestRequestWaitsForTheFirstAnswer(t *testing.T) {
	for _, c := range []struct {
		name   string
		during func(n *names, x *exchange.Exchange)
		code   string
		after  time.Duration
	}{
		{"that does not come", func(*names, *exchange.Exchange) {}, "upstream_unavailable", 5 * time.Second},
		{"and gives up with its client", func(_ *names, x *exchange.Exchange) {
			time.Sleep(2 * time.Second)
			x.Cancel(exchange.ErrClientGone)
		}, "client_gone", 2 * time.Second},
		{"that comes", func(n *names, _ *exchange.Exchange) {
			time.Sleep(2500 * time.Millisecond)
			n.set("a.example", "0.0.0.0") // the sockets of the test are somewhere else
		}, "upstream_connect_failed", 3 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &names{answers: map[string]string{}}
				u, err := New("test", settings("http://a.example:1"), Options{Log: slog.New(slog.DiscardHandler), Resolver: n})
				if err != nil {
					t.Fatal(err)
				}
				defer synctest.Wait()
				defer u.Retire()
				x := exchange.Get()
				x.Client = new(exchange.Client)
				x.Request.Method = "GET"
				go c.during(n, x)
				start := time.Now()
				u.Serve(x)
				if x.Problem == nil || x.Problem.Code != c.code {
					t.Errorf("problem %v", x.Problem)
				}
				if d := time.Since(start); d != c.after {
					t.Errorf("it took %v", d)
				}
			})
		})
	}
}

// All addresses of a name are used; one where nobody listens is passed over.
func TestAllAddressesOfANameAreUsed(t *testing.T) {
	first, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(first.Addr().String())
	second, err := net.Listen("tcp", "127.0.0.2:"+port)
	if err != nil {
		first.Close()
		t.Skip("this system has no second loopback address, or the port is taken:", err)
	}
	a, b := serveOn(t, first, hello), serveOn(t, second, hello)
	n := &names{answers: map[string]string{"a.example": "127.0.0.1 127.0.0.2 127.0.0.3"}}
	cfg := settings("http://a.example:" + port)
	cfg.Connections = config.Connections{ConnectTimeout: cfg.Connections.ConnectTimeout}
	r := newRigWith(t, cfg, n, nil)
	k := r.dial()
	for range 9 {
		k.send(get)
		k.wants(200, "hello")
	}
	if a.connections() < 3 || b.connections() < 3 || a.connections()+b.connections() != 9 {
		t.Errorf("%d and %d connections", a.connections(), b.connections())
	}
}
