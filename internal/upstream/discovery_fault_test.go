package upstream

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
)

// lines is a log that a test reads while others write to it.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.b.String(), text)
}

// A name server that is down is seen in the log and in the metrics, once, also
// while the last good addresses serve.
func TestFailuresToResolveAreSeen(t *testing.T) {
	for name, c := range map[string]*config.Upstream{
		"discovery": discovered(config.Discovery{DNS: "a.example:80"}),
		"endpoints": settings("http://a.example"),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, meter, log := &names{answers: map[string]string{"a.example": "10.0.0.1"}}, new(counts), new(lines)
				u, err := New("test", c, Options{Log: slog.New(slog.NewTextHandler(log, nil)), Resolver: n, Meter: meter})
				if err != nil {
					t.Fatal(err)
				}
				defer synctest.Wait()
				defer u.Retire()
				step := func(what string, failed, worked int) {
					t.Helper()
					time.Sleep(time.Minute)
					synctest.Wait()
					if got := addresses(u); got != "10.0.0.1:80" {
						t.Fatalf("%s: endpoints are %q", what, got)
					}
					if why := u.Status().Discovery; (why != "") != (failed > worked) {
						t.Fatalf("%s: the status says %q", what, why)
					}
					if a, b, warned := meter.event(DiscoveryFailed), meter.event(DiscoveryWorked), log.count("level=WARN"); a != failed || b != worked || warned != failed {
						t.Fatalf("%s: %d failures, %d ended, %d warnings; want %d, %d\n%s", what, a, b, warned, failed, worked, log.b.String())
					}
				}
				step("all is well", 0, 0)
				n.mu.Lock()
				delete(n.answers, "a.example")
				n.mu.Unlock()
				step("the name is gone", 1, 0)
				n.set("a.example", "10.0.0.1")
				step("it is back", 1, 1)
				n.set("a.example", "")
				step("it has no address", 2, 1)
			})
		})
	}
}

// A failure is not good for as long as an answer would be: it is tried again
// soon, however long the interval is.
func TestFailedLookUpsAreTriedAgainSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &names{answers: map[string]string{}}
		u, err := New("test", discovered(config.Discovery{DNS: "a.example:80", Interval: dur(time.Hour)}), Options{Log: slog.New(slog.DiscardHandler), Resolver: n})
		if err != nil {
			t.Fatal(err)
		}
		defer synctest.Wait()
		defer u.Retire()
		time.Sleep(time.Minute)
		n.set("a.example", "10.0.0.1")
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if got := addresses(u); got != "10.0.0.1:80" {
			t.Errorf("endpoints are %q", got)
		}
	})
}

// One of several names that has no address is told of; the others serve.
func TestANameAmongOthersThatFails(t *testing.T) {
	n := &names{answers: map[string]string{"b.example": "10.0.0.3"}}
	found(t, config.Discovery{}, n, func(u *Upstream, f *finder) {
		f.told(urls("http://nobody.example", "http://b.example"), nil)
		if got := addresses(u); got != "10.0.0.3:80" {
			t.Errorf("endpoints are %q", got)
		}
		if got := u.meter.(*counts).event(DiscoveryFailed); got != 1 {
			t.Errorf("%d failures were told of", got)
		}
		n.set("nobody.example", "10.0.0.4")
		f.told(urls("http://nobody.example", "http://b.example"), nil)
		if got := u.meter.(*counts).event(DiscoveryWorked); got != 1 || addresses(u) != "10.0.0.4:80 10.0.0.3:80" {
			t.Errorf("%d failures ended, endpoints are %q", got, addresses(u))
		}
	})
}

// dripping is a resolver that takes its time, and tells how many ask at once.
type dripping struct {
	mu       sync.Mutex
	now, top int
	each     string
}

func (d *dripping) LookupNetIP(ctx context.Context, _, host string) ([]netip.Addr, error) {
	d.mu.Lock()
	d.now++
	d.top = max(d.top, d.now)
	d.mu.Unlock()
	select {
	case <-time.After(4 * time.Second):
	case <-ctx.Done():
	}
	d.mu.Lock()
	d.now--
	d.mu.Unlock()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	var all []netip.Addr
	for _, a := range strings.Fields(d.each) {
		all = append(all, netip.MustParseAddr(a))
	}
	return all, nil
}

// Many names are looked up together, and by so many at once and no more; a slow
// name server does not hold up a round for ever.
func TestManyNamesAndASlowResolver(t *testing.T) {
	var list []string
	for i := range 1000 {
		list = append(list, fmt.Sprintf("http://n%d.example", i))
	}
	slow := &dripping{each: "10.0.0.1"}
	synctest.Test(t, func(t *testing.T) {
		u, err := prepare("test", settings("http://192.0.2.1"), Options{Log: slog.New(slog.DiscardHandler), Resolver: slow, Meter: new(counts)})
		if err != nil {
			t.Fatal(err)
		}
		u.sites = nil
		if err := u.start(settings()); err != nil {
			t.Fatal(err)
		}
		defer u.Retire()
		f := &finder{u: u, finding: new(finding)}
		begun := time.Now()
		f.told(urls(list...), nil)
		if took := time.Since(begun); took > time.Minute {
			t.Errorf("1000 names took %v", took)
		}
		if slow.top > mostLookUps {
			t.Errorf("%d look-ups at once", slow.top)
		}
		if len(u.discovered) == 0 {
			t.Error("nothing was taken of what was resolved in time")
		}
	})
}

// However many records an answer has, and whatever each stands for, the
// endpoints have a ceiling.
func TestEndpointsFoundAreBounded(t *testing.T) {
	var all strings.Builder
	for i := range 200 {
		fmt.Fprintf(&all, "10.1.%d.%d ", i/250, i%250+1)
	}
	n := &names{answers: map[string]string{"first.example": "10.0.0.1"}}
	var list []string
	for i := range 100 {
		name := fmt.Sprintf("n%d.example", i)
		n.answers[name] = all.String()
		list = append(list, fmt.Sprintf("http://%s:%d", name, 1000+i))
	}
	found(t, config.Discovery{}, n, func(u *Upstream, f *finder) {
		f.told(urls("http://first.example"), nil)
		f.told(urls(list...), nil)
		if got := addresses(u); got != "10.0.0.1:80" {
			t.Errorf("%d endpoints were taken", len(u.live.Load().members))
		}
		if got := u.meter.(*counts).event(DiscoveryFailed); got != 1 {
			t.Errorf("%d failures were told of", got)
		}
	})
}

func TestLocal(t *testing.T) {
	for address, want := range map[string]bool{
		"127.0.0.1:80": true, "127.8.9.1:80": true, "[::1]:80": true, "[::ffff:127.0.0.1]:80": true, "0.0.0.0:80": true, "[::]:80": true,
		"169.254.169.254:80": true, "[fe80::1]:80": true, "224.0.0.1:80": true, "255.255.255.255:80": true,
		"[fd00:ec2::254]:80": true, "100.100.100.200:80": true, "192.0.0.192:80": true, "168.63.129.16:80": true,
		"[64:ff9b::a9fe:a9fe]:80": true, "[64:ff9b::7f00:1]:80": true, "[64:ff9b::a00:1]:80": false,
		"[::ffff:169.254.169.254]:80": true, "not an address": true, "name.example:80": true,
		"10.0.0.1:80": false, "192.168.1.1:80": false, "[fd00::1]:80": false, "100.100.100.201:80": false,
	} {
		if got := local(address); got != want {
			t.Errorf("%s is local: %v", address, got)
		}
	}
}

// A reload that changes the settings of an upstream keeps what was found last,
// also while names cannot be resolved or the source of endpoints is down.
func TestWhatWasFoundOutlivesAReload(t *testing.T) {
	for name, c := range map[string]func() *config.Upstream{
		"discovery": func() *config.Upstream { return discovered(config.Discovery{DNS: "a.example:80"}) },
		"endpoints": func() *config.Upstream { return settings("http://a.example") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n, m := &names{answers: map[string]string{"a.example": "10.0.0.1 10.0.0.2"}}, NewMemory()
				open := func(change func(*config.Upstream)) *Upstream {
					cfg := c()
					change(cfg)
					u, err := New("test", cfg, Options{Log: slog.New(slog.DiscardHandler), Resolver: n, Memory: m})
					if err != nil {
						t.Fatal(err)
					}
					return u
				}
				first := open(func(*config.Upstream) {})
				time.Sleep(time.Minute)
				n.mu.Lock()
				delete(n.answers, "a.example")
				n.mu.Unlock()
				second := open(func(c *config.Upstream) { c.Timeout.FirstByte = dur(time.Minute) })
				first.Retire()
				third := open(func(c *config.Upstream) {
					if c.Timeout.FirstByte = dur(time.Hour); c.Discovery != nil {
						c.Discovery.Interval = dur(time.Second)
					}
				})
				second.Retire()
				time.Sleep(time.Minute)
				synctest.Wait()
				if got := addresses(third); got != "10.0.0.1:80 10.0.0.2:80" {
					t.Errorf("endpoints are %q", got)
				}
				n.set("a.example", "10.0.0.3")
				time.Sleep(time.Minute)
				synctest.Wait()
				if got := addresses(third); got != "10.0.0.3:80" {
					t.Errorf("endpoints are %q", got)
				}
				third.Retire()
				synctest.Wait()
				if len(m.services) != 0 || len(third.service.findings) != 0 {
					t.Errorf("%d services and %d findings are remembered", len(m.services), len(third.service.findings))
				}
				fourth := open(func(*config.Upstream) {})
				if got := addresses(fourth); got != "" {
					t.Errorf("what nobody used any more is %q", got)
				}
				fourth.Retire()
				synctest.Wait()
			})
		})
	}
}
