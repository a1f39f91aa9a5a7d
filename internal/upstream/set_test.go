package upstream

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/policy"
)

func near(t *testing.T, what string, have, want, slack int) {
	t.Helper()
	if have < want-slack || have > want+slack {
		t.Errorf("%s: %d, want about %d", what, have, want)
	}
}

// kill has an endpoint fail its checks.
func (l *lab) kill(n int) { l.set(n, func(h *host) { h.refuses = true }) }

func (l *lab) checksPass() { time.Sleep(30 * time.Second) }

// The gateway's own zone takes all while most of it is well, and less when it
// is not.
func TestZones(t *testing.T) {
	inLab(t, func(c *config.Upstream) {
		checked(nil)(c)
		c.Balance.Algorithm = "random"
		c.Zone = "a"
		for i, e := range c.Endpoints {
			e.Zone = []string{"a", "b"}[i/4]
		}
	}, 8, func(l *lab) {
		sum := func(n []int) (a, b int) { return n[0] + n[1] + n[2] + n[3], n[4] + n[5] + n[6] + n[7] }
		share := func(what string, wantA int) {
			t.Helper()
			l.checksPass()
			got := l.replies(1000)
			a, b := sum(got)
			near(t, what, a, wantA, 60)
			near(t, what+" elsewhere", b, 1000-wantA, 60)
		}
		share("all are well", 1000)
		l.kill(1)
		share("three of four", 1000)
		l.kill(2)
		share("two of four", 714) // 50% of 70%
		l.kill(3)
		share("one of four", 357)
		l.kill(4)
		share("none", 0)
		for n := range 4 {
			l.kill(n + 5)
			l.set(n+1, func(h *host) { h.refuses = false })
		}
		share("only our own", 1000)
	})
}

// replies asks so often and returns how many requests each endpoint answered.
func (l *lab) replies(requests int) []int {
	l.t.Helper()
	out := make([]int, len(l.u.live.Load().members))
	for range requests {
		o := l.get()
		o.wants(l.t, 200, "")
		for i, m := range l.u.live.Load().members {
			if m.e.address == o.endpoint {
				out[i]++
			}
		}
	}
	return out
}

func TestPriorities(t *testing.T) {
	inLab(t, func(c *config.Upstream) {
		checked(nil)(c)
		for i, e := range c.Endpoints {
			e.Priority = i / 2
		}
	}, 6, func(l *lab) {
		tiers := func(what string, want ...int) {
			t.Helper()
			l.checksPass()
			got := l.replies(1000)
			for i, w := range want {
				near(t, fmt.Sprintf("%s: tier %d", what, i), got[2*i]+got[2*i+1], w, 60)
			}
		}
		tiers("all are well", 1000, 0, 0)
		l.kill(1)
		tiers("half of the first tier", 714, 286, 0)
		l.kill(2)
		tiers("none of the first tier", 0, 1000, 0)
		l.kill(3)
		tiers("half of the second tier", 0, 714, 286)
		l.kill(4)
		tiers("only the third", 0, 0, 1000)
		l.kill(5)
		l.kill(6)
		l.checksPass()
		l.get().wants(t, 503, "upstream_unavailable")
	})
}

// Below the threshold health is ignored: the few would be crushed.
func TestPanic(t *testing.T) {
	inLab(t, func(c *config.Upstream) {
		checked(func(h *config.Health) { h.Path = "/healthz" })(c)
		c.Balance.Panic = 0.5
	}, 4, func(l *lab) {
		sick := func(r *http.Request) reply {
			if r.URL.Path == "/healthz" {
				return reply{status: 500}
			}
			return reply{status: 200}
		}
		for n := range 3 {
			l.set(n+1, func(h *host) { h.answer = sick })
			l.checksPass()
			used := 0
			for _, got := range l.replies(400) {
				if got > 0 {
					used++
				}
			}
			if want := []int{3, 2, 4}[n]; used != want || l.u.Status().Panic != (n == 2) {
				t.Errorf("%d are ill: %d are used, want %d", n+1, used, want)
			}
		}
	})
}

// One that comes back gets its share little by little.
func TestSlowStart(t *testing.T) {
	inLab(t, func(c *config.Upstream) {
		checked(nil)(c)
		c.SlowStart = dur(60 * time.Second)
	}, 2, func(l *lab) {
		first := l.replies(1000)
		near(t, "at the beginning all are warm", first[1], 500, 10)
		l.kill(2)
		l.checksPass()
		l.set(2, func(h *host) { h.refuses = false })
		for l.state(2) != "healthy" {
			time.Sleep(100 * ms)
		}
		share := func(after time.Duration, want int) {
			t.Helper()
			time.Sleep(after)
			near(t, fmt.Sprint("after ", after, " more"), l.replies(1000)[1], want, 30)
		}
		share(0, 91)               // a tenth of its weight
		share(30*time.Second, 333) // half
		share(35*time.Second, 500)
	})
}

func TestHashes(t *testing.T) {
	for _, c := range []struct {
		hash      string
		one, same request
		other     func(n int) request
	}{
		{
			"header:X-User",
			request{fields: []string{"X-User", "ann"}},
			request{fields: []string{"x-user", "ann", "A", "b"}, query: "x"},
			func(n int) request { return request{fields: []string{"X-User", fmt.Sprint(n)}} },
		},
		{
			"cookie:user",
			request{fields: []string{"Cookie", "a=b; user=ann"}},
			request{fields: []string{"Cookie", "user=ann"}},
			func(n int) request { return request{fields: []string{"Cookie", fmt.Sprint("user=", n)}} },
		},
		{
			"query:user",
			request{query: "user=ann"},
			request{query: "a=b&user=ann&c"},
			func(n int) request { return request{query: fmt.Sprint("user=", n)} },
		},
		{
			"client",
			request{client: "192.0.2.1"},
			request{client: "192.0.2.1", query: "x"},
			func(n int) request { return request{client: fmt.Sprint("192.0.2.", n)} },
		},
	} {
		t.Run(c.hash, func(t *testing.T) {
			inLab(t, func(u *config.Upstream) { u.Balance.Hash = c.hash }, 10, func(l *lab) {
				first := l.ask(c.one).endpoint
				for range 20 {
					if got := l.ask(c.same).endpoint; got != first {
						t.Fatalf("it went to %s and then to %s", first, got)
					}
				}
				seen := make(map[string]bool)
				for n := range 100 {
					seen[l.ask(c.other(n)).endpoint] = true
				}
				if len(seen) < 9 {
					t.Errorf("others went to %d endpoints only", len(seen))
				}
				clear(seen)
				if c.hash != "client" {
					for range 100 {
						seen[l.get().endpoint] = true
					}
					if len(seen) < 9 {
						t.Errorf("requests without a key went to %d endpoints only", len(seen))
					}
				}
			})
		})
	}
}

func sticking(change func(s *config.Sticky)) func(c *config.Upstream) {
	return func(c *config.Upstream) {
		checked(nil)(c)
		c.Sticky = new(config.Sticky)
		c.Sticky.Defaults()
		c.Sticky.Cookie = "gh_route"
		if change != nil {
			change(c.Sticky)
		}
	}
}

func with(cookie string) request {
	pair, _, _ := strings.Cut(cookie, ";")
	return request{fields: []string{"Cookie", "a=b; " + pair + "; c=d"}}
}

func TestSticky(t *testing.T) {
	t.Run("stays, falls over, and survives a restart", func(t *testing.T) {
		inLab(t, sticking(func(s *config.Sticky) { s.Secret = policy.NewSecret("one two three") }), 3, func(l *lab) {
			first := l.get()
			if !strings.HasPrefix(first.cookie, "gh_route=") || !strings.HasSuffix(first.cookie, "; Path=/; HttpOnly; SameSite=Lax") {
				t.Fatalf("cookie %q", first.cookie)
			}
			if strings.Contains(first.cookie, "10.0.0") {
				t.Error("the cookie tells the address")
			}
			for range 10 {
				if o := l.ask(with(first.cookie)); o.endpoint != first.endpoint || o.cookie != "" {
					t.Errorf("%+v", o)
				}
			}
			c := settings("http://10.0.0.2:80", "http://10.0.0.3:80", "http://10.0.0.1:80")
			sticking(func(s *config.Sticky) { s.Secret = policy.NewSecret("one two three") })(c)
			next := l.open(c, l.u.sweeper, NewMemory())
			l.u.Retire()
			l.u = next
			if o := l.ask(with(first.cookie)); o.endpoint != first.endpoint {
				t.Errorf("after a restart: %+v", o)
			}
			var n int
			fmt.Sscanf(first.endpoint, "10.0.0.%d:80", &n)
			l.kill(n)
			l.checksPass()
			o := l.ask(with(first.cookie))
			if o.wants(t, 200, ""); o.endpoint == first.endpoint || o.cookie == "" {
				t.Errorf("%+v", o)
			}
			if again := l.ask(with(o.cookie)); again.endpoint != o.endpoint {
				t.Errorf("%+v", again)
			}
		})
	})
	t.Run("its time", func(t *testing.T) {
		inLab(t, sticking(func(s *config.Sticky) { s.TTL, s.SameSite, s.Path = dur(time.Hour), "none", "/a" }), 3, func(l *lab) {
			first := l.get()
			if !strings.HasSuffix(first.cookie, "; Path=/a; Max-Age=3600; HttpOnly; SameSite=None; Secure") {
				t.Errorf("cookie %q", first.cookie)
			}
			time.Sleep(20 * time.Minute)
			if o := l.ask(with(first.cookie)); o.endpoint != first.endpoint || o.cookie != "" {
				t.Errorf("%+v", o)
			}
			time.Sleep(20 * time.Minute)
			o := l.ask(with(first.cookie))
			if o.endpoint != first.endpoint || o.cookie == "" {
				t.Errorf("not renewed: %+v", o)
			}
			time.Sleep(21 * time.Minute)
			if old := l.ask(with(first.cookie)); old.cookie == "" {
				t.Error("an old cookie counts")
			}
			if renewed := l.ask(with(o.cookie)); renewed.endpoint != first.endpoint {
				t.Errorf("%+v", renewed)
			}
		})
	})
}

func TestForgedCookies(t *testing.T) {
	inLab(t, sticking(nil), 3, func(l *lab) {
		good := l.get().cookie
		value, _, _ := strings.Cut(strings.TrimPrefix(good, "gh_route="), ";")
		for _, v := range []string{"", "x", value + "A", value[1:], "A" + value[1:], value[:len(value)-1] + "_", strings.Repeat("A", len(value)), value + "=", strings.Repeat("A", 10_000)} {
			if v == value {
				continue
			}
			if _, _, ok := l.u.sticky.parse(v); ok {
				t.Errorf("%q is taken", v)
			}
		}
		if _, _, ok := l.u.sticky.parse(value); !ok {
			t.Error("what was given is refused")
		}
	})
}

func FuzzStickyCookie(f *testing.F) {
	c := settings("http://10.0.0.1")
	c.Sticky = &config.Sticky{Cookie: "a", Secret: policy.NewSecret("key"), SameSite: "lax", Path: "/"}
	s := newSticky("test", c)
	want := s.token("http://10.0.0.1 10.0.0.1:80")
	good := s.value(want, time.Time{})
	f.Add(good)
	f.Add("")
	f.Fuzz(func(t *testing.T, value string) {
		if _, _, ok := s.parse(value); ok && value != good {
			t.Errorf("%q is taken for a cookie that was never given", value)
		}
	})
}

// Hundreds of endpoints that fall ill together cost few new sets.
func TestManyChangesAreJoined(t *testing.T) {
	inLab(t, func(c *config.Upstream) {
		outliers(func(o *config.Outlier) { o.MaxEjected, o.ConsecutiveErrors = 1, 1 })(c)
	}, 300, func(l *lab) {
		var sets []*set
		for n := range 300 {
			l.set(n+1, func(h *host) { h.answer = fails(500) })
		}
		for range 300 {
			l.get()
			if s := l.u.live.Load(); len(sets) == 0 || sets[len(sets)-1] != s {
				sets = append(sets, s)
			}
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if len(sets) > 3 {
			t.Errorf("%d sets were made", len(sets))
		}
		l.get().wants(t, 503, "upstream_unavailable")
	})
}

// picked returns a function that picks among a thousand endpoints in two tiers
// and three zones, a tenth of which are ill.
func picked(tb testing.TB, algorithm string) func(key uint64) *endpoint {
	tb.Helper()
	c := settings()
	c.Balance.Algorithm, c.Zone = algorithm, "a"
	if algorithm == "hash" {
		c.Balance.Hash = "client"
	}
	for n := range 1000 {
		c.Endpoints = append(c.Endpoints, &config.Endpoint{
			URL:    fmt.Sprintf("http://10.0.%d.%d", n/250, n%250+1),
			Weight: n%3 + 1, Priority: n % 2, Zone: string(rune('a' + n/2%3)),
		})
	}
	u, err := prepare("test", c, Options{Resolver: static{}})
	if err != nil {
		tb.Fatal(err)
	}
	if err := u.start(c); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(u.Retire)
	next := &set{members: slices.Clone(u.live.Load().members)}
	u.fill(next)
	for i := range next.members {
		next.members[i].usable = i%10 != 3
	}
	next.lay(u, true)
	if len(next.lanes) != 4 {
		tb.Fatalf("%d lanes", len(next.lanes))
	}
	keyed := algorithm == "hash"
	return func(key uint64) *endpoint { return next.pick(key, keyed, nil) }
}

func everyAlgorithm() []string {
	return []string{"round_robin", "random", "least_requests", "ewma", "hash"}
}

func BenchmarkServePick(b *testing.B) {
	for _, algorithm := range everyAlgorithm() {
		b.Run(algorithm, func(b *testing.B) {
			pick := picked(b, algorithm)
			b.ReportAllocs()
			for key := uint64(0); b.Loop(); key++ {
				pick(key * 0x9e3779b97f4a7c15)
			}
		})
	}
}

func TestPickAllocatesNothing(t *testing.T) {
	if raced {
		t.Skip("under the race detector")
	}
	for _, algorithm := range everyAlgorithm() {
		pick, key := picked(t, algorithm), uint64(0)
		n := testing.AllocsPerRun(1000, func() {
			if key++; pick(key*0x9e3779b97f4a7c15) == nil {
				t.Fatal("nothing was picked")
			}
		})
		if n > 0 {
			t.Errorf("%s: %v allocations a pick", algorithm, n)
		}
	}
}

// A panic in a check is the end of that check.
func TestPanicOfACheck(t *testing.T) {
	inLab(t, checked(nil), 2, func(l *lab) {
		l.set(1, func(h *host) { h.panics = true })
		l.checksPass()
		if st := l.u.Status().Endpoints; st[0].State != "unhealthy" || st[0].Reason != "panic: connecting" || st[1].State != "healthy" {
			t.Errorf("%+v", st)
		}
		l.set(1, func(h *host) { h.panics = false })
		l.checksPass()
		if st := l.u.Status().Endpoints[0]; st.State != "healthy" {
			t.Errorf("%+v", st)
		}
	})
}
