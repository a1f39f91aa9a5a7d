package upstream

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/upstream/discover"
)

func discovered(d config.Discovery) *config.Upstream {
	c := settings()
	d.Scheme = "http"
	if d.Interval == 0 {
		d.Interval = dur(5 * time.Second)
	}
	c.Discovery = &d
	return c
}

// found runs an upstream whose endpoints are told by a test.
func found(t *testing.T, d config.Discovery, n *names, test func(u *Upstream, f *finder)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		meter := new(counts)
		u, err := prepare("test", settings("http://192.0.2.1"), Options{Log: slog.New(slog.DiscardHandler), Resolver: n, Meter: meter})
		if err != nil {
			t.Fatal(err)
		}
		u.sites = nil
		if err := u.start(settings()); err != nil {
			t.Fatal(err)
		}
		defer u.Retire()
		test(u, &finder{u: u, allowEmpty: d.AllowEmpty, allowLocal: d.AllowLocal, finding: new(finding)})
	})
}

func urls(list ...string) (out []*config.Endpoint) {
	for _, u := range list {
		out = append(out, &config.Endpoint{URL: u, Weight: 1})
	}
	return out
}

func TestFound(t *testing.T) {
	n := &names{answers: map[string]string{"a.example": "10.0.0.1 10.0.0.2", "b.example": "10.0.0.3", "c.example": "127.0.0.1 10.0.0.4"}}
	found(t, config.Discovery{}, n, func(u *Upstream, f *finder) {
		wants := func(what, want string) {
			t.Helper()
			if got := addresses(u); got != want {
				t.Fatalf("%s: endpoints are %q, want %q", what, got, want)
			}
		}
		f.told(nil, errors.New("down"))
		wants("a failure at the beginning", "")
		f.told(urls("http://10.0.0.9", "http://a.example:81"), nil)
		wants("found", "10.0.0.9:80 10.0.0.1:81 10.0.0.2:81")
		before := u.live.Load()
		f.told(urls("http://a.example:81", "http://10.0.0.9"), nil)
		if u.live.Load() != before {
			t.Error("the same in another order is no change")
		}
		f.told(nil, errors.New("down"))
		wants("a failure", "10.0.0.9:80 10.0.0.1:81 10.0.0.2:81")
		f.told(nil, nil)
		wants("an empty answer", "10.0.0.9:80 10.0.0.1:81 10.0.0.2:81")
		n.mu.Lock()
		delete(n.answers, "a.example")
		n.mu.Unlock()
		f.told(urls("http://a.example:81", "http://b.example"), nil)
		wants("a name that is no longer resolved", "10.0.0.1:81 10.0.0.2:81 10.0.0.3:80")
		f.told(urls("http://nobody.example", "http://b.example"), nil)
		wants("a name that never was", "10.0.0.3:80")
		f.told(urls("http://nobody.example"), nil)
		wants("only that one", "10.0.0.3:80")
		f.told(urls("http://127.0.0.1", "http://169.254.169.254", "http://[::1]", "http://[fe80::1]", "http://[fd00:ec2::254]", "http://0.0.0.0", "http://unix:/run/a.sock", "http://c.example"), nil)
		wants("local ones", "10.0.0.4:80")
		f.told(urls("http://127.0.0.1"), nil)
		wants("nothing but local ones", "10.0.0.4:80")
		f.told(urls("not a url"), nil)
		wants("what is no endpoint", "10.0.0.4:80")
		f.told(urls("http://10.0.0.5"), nil)
		wants("another", "10.0.0.5:80")
		m := u.meter.(*counts)
		if a, b := m.event(DiscoveryFailed), m.event(DiscoveryWorked); a != b || a != 2 {
			t.Errorf("%d failures began and %d ended", a, b)
		}
	})
}

func TestAllowed(t *testing.T) {
	n := &names{answers: map[string]string{"a.example": ""}}
	found(t, config.Discovery{AllowEmpty: true, AllowLocal: true}, n, func(u *Upstream, f *finder) {
		f.told(urls("http://127.0.0.1:81", "http://unix:/run/a.sock"), nil)
		if got := addresses(u); got != "127.0.0.1:81 /run/a.sock" {
			t.Errorf("%q", got)
		}
		f.told(nil, errors.New("down"))
		if got := addresses(u); got == "" {
			t.Error("a failure is no empty answer")
		}
		f.told(urls("http://a.example"), nil)
		if got := addresses(u); got != "" {
			t.Errorf("%q", got)
		}
		f.told(urls("http://127.0.0.1:81"), nil)
		f.told(nil, nil)
		if got := addresses(u); got != "" {
			t.Errorf("%q", got)
		}
	})
}

// A DNS name is followed within its interval, and its failures change nothing.
func TestDiscoveryByDNS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &names{answers: map[string]string{"a.example": "10.0.0.1"}}
		u, err := New("test", discovered(config.Discovery{DNS: "a.example:8080"}), Options{Log: slog.New(slog.DiscardHandler), Resolver: n})
		if err != nil {
			t.Fatal(err)
		}
		defer synctest.Wait()
		defer u.Retire()
		wants := func(after time.Duration, want string) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if got := addresses(u); got != want {
				t.Fatalf("endpoints are %q, want %q", got, want)
			}
		}
		wants(0, "10.0.0.1:8080")
		n.set("a.example", "10.0.0.2 10.0.0.3")
		wants(6*time.Second, "10.0.0.2:8080 10.0.0.3:8080")
		n.set("a.example", "")
		wants(60*time.Second, "10.0.0.2:8080 10.0.0.3:8080")
		n.set("a.example", "127.0.0.1")
		wants(6*time.Second, "10.0.0.2:8080 10.0.0.3:8080")
		n.set("a.example", "10.0.0.4")
		wants(6*time.Second, "10.0.0.4:8080")
	})
}

func TestDiscoveryByFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "endpoints.yaml")
	write := func(text string) {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("- { url: http://10.0.0.1, zone: a, priority: 1, weight: 3 }\n")
	synctest.Test(t, func(t *testing.T) {
		u, err := New("test", discovered(config.Discovery{File: name}), Options{Log: slog.New(slog.DiscardHandler), Resolver: static{}})
		if err != nil {
			t.Fatal(err)
		}
		defer synctest.Wait()
		defer u.Retire()
		synctest.Wait()
		if st := u.Status().Endpoints; len(st) != 1 || st[0].Zone != "a" || st[0].Priority != 1 || st[0].Weight != 3 {
			t.Errorf("%+v", st)
		}
		write("- http://10.0.0.2\n- oops")
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if got := addresses(u); got != "10.0.0.1:80" {
			t.Errorf("a broken file: %q", got)
		}
		write("- http://10.0.0.2\n")
		time.Sleep(6 * time.Second)
		synctest.Wait()
		if got := addresses(u); got != "10.0.0.2:80" {
			t.Errorf("%q", got)
		}
	})
}

// A request that comes before the first answer waits for it, but not for long.
func TestWaitsForDiscovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &slowNames{after: time.Second}
		c := discovered(config.Discovery{DNS: "a.example:8080"})
		c.Connections.ConnectTimeout = dur(3 * time.Second)
		u, err := New("test", c, Options{Log: slog.New(slog.DiscardHandler), Resolver: n})
		if err != nil {
			t.Fatal(err)
		}
		u.dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("reached") }
		defer synctest.Wait()
		defer u.Retire()
		if o := askOf(t, u, request{}); o.code != "upstream_connect_failed" || o.took != time.Second {
			t.Errorf("%+v", o)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		c := discovered(config.Discovery{DNS: "a.example:8080"})
		c.Connections.ConnectTimeout = dur(3 * time.Second)
		u, err := New("test", c, Options{Log: slog.New(slog.DiscardHandler), Resolver: static{}})
		if err != nil {
			t.Fatal(err)
		}
		defer synctest.Wait()
		defer u.Retire()
		if o := askOf(t, u, request{}); o.code != "upstream_unavailable" || o.took != 3*time.Second {
			t.Errorf("%+v", o)
		}
	})
}

type slowNames struct{ after time.Duration }

func (s *slowNames) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	time.Sleep(s.after)
	return []netip.Addr{netip.MustParseAddr("10.0.0.1")}, nil
}

func TestDiscoveryThatCannotBegin(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	_, err := New("test", discovered(config.Discovery{Kubernetes: &config.Kubernetes{Service: "a"}}), Options{Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), `upstream "test"`) {
		t.Error(err)
	}
}

// odd is a source that panics before it tells of an endpoint.
type odd struct{ panics int }

func (o *odd) Watch(ctx context.Context, tell discover.Tell) {
	if o.panics--; o.panics >= 0 {
		panic("looking")
	}
	tell([]*config.Endpoint{{URL: "http://10.0.0.9", Weight: 1}}, nil)
	<-ctx.Done()
}

// A panic while endpoints are looked for is a failure like any other.
func TestPanicOfDiscovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meter := new(counts)
		u, err := New("test", discovered(config.Discovery{DNS: "a.example:8080"}), Options{Log: slog.New(slog.DiscardHandler), Resolver: static{}, Still: true, Meter: meter})
		if err != nil {
			t.Fatal(err)
		}
		defer synctest.Wait()
		defer u.Retire()
		go (&finder{u: u, finding: new(finding)}).follow(&odd{panics: 2})
		synctest.Wait()
		if got := addresses(u); got != "" || meter.event(DiscoveryFailed) != 1 {
			t.Errorf("endpoints are %q after %d failures", got, meter.event(DiscoveryFailed))
		}
		time.Sleep(2 * afterPanic)
		synctest.Wait()
		if got := addresses(u); got != "10.0.0.9:80" || meter.event(DiscoveryWorked) != 1 {
			t.Errorf("endpoints are %q", got)
		}
	})
}
