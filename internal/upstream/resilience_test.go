package upstream

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
)

func (l *lab) state(n int) string {
	st := l.u.Status().Endpoints[n-1]
	return st.State
}

func checked(change func(h *config.Health)) func(c *config.Upstream) {
	return func(c *config.Upstream) {
		c.Health = new(config.Health)
		c.Health.Defaults()
		c.Health.Path = "/healthz"
		if change != nil {
			change(c.Health)
		}
	}
}

func TestChecks(t *testing.T) {
	sick := func(r *http.Request) reply {
		if r.URL.Path == "/healthz" {
			return reply{status: 500}
		}
		return reply{status: 200, body: "hello"}
	}
	inLab(t, checked(nil), 2, func(l *lab) {
		time.Sleep(time.Second)
		if r := l.host(1).last.Load(); r == nil || r.URL.Path != "/healthz" || r.Host != "10.0.0.1:80" || r.UserAgent() != "gatehouse-health" {
			t.Fatalf("it was asked %+v", r)
		}
		l.set(1, func(h *host) { h.answer = sick })
		time.Sleep(11 * time.Second) // two checks, at most three with jitter
		if l.state(1) == "unhealthy" {
			t.Log("three checks came in eleven seconds")
		}
		time.Sleep(8 * time.Second)
		if st := l.u.Status().Endpoints[0]; st.State != "unhealthy" || st.Reason != "status 500" {
			t.Fatalf("%+v", st)
		}
		if l.meter.event(FellIll) != 1 {
			t.Error("not counted")
		}
		before := l.host(2).asked.Load()
		for range 10 {
			if o := l.get(); o.endpoint != "10.0.0.2:80" {
				t.Errorf("%+v", o)
			}
		}
		if l.host(2).asked.Load()-before < 10 {
			t.Error("not all went to the healthy one")
		}
		l.set(1, func(h *host) { h.answer = ok200 })
		time.Sleep(13 * time.Second)
		if l.state(1) != "healthy" || l.meter.event(GotWell) != 1 {
			t.Error("it did not get well")
		}
	})
}

// What is not well from the beginning is known after the first check, and when
// all are ill requests are refused at once, until one is well.
func TestAllAreIll(t *testing.T) {
	inLab(t, checked(nil), 2, func(l *lab) {
		for n := range 2 {
			l.set(n+1, func(h *host) { h.refuses = true })
		}
		time.Sleep(time.Second)
		if l.u.Available() {
			t.Error("it is called available")
		}
		o := l.get()
		o.wants(t, 503, "upstream_unavailable")
		if o.took != 0 || o.attempts != 0 || o.retry == 0 {
			t.Errorf("%+v", o)
		}
		if r := l.u.Status().Endpoints[0].Reason; r != "connect: connection refused" {
			t.Error(r)
		}
		l.set(2, func(h *host) { h.refuses = false })
		time.Sleep(13 * time.Second)
		l.get().wants(t, 200, "")
		if !l.u.Available() {
			t.Error("it is not called available")
		}
	})
}

func TestKindsOfChecks(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(h *config.Health)
		host   func(h *host)
		reason string // "" for healthy
	}{
		{"expected status", func(h *config.Health) { h.Expect = config.StringList{"500"} }, func(h *host) { h.answer = fails(500) }, ""},
		{"unexpected status", func(h *config.Health) { h.Expect = config.StringList{"201-299", "404"} }, nil, "status 200"},
		{"tcp", func(h *config.Health) { h.Type = "tcp" }, func(h *host) { h.answer = fails(500) }, ""},
		{"tcp refused", func(h *config.Health) { h.Type = "tcp" }, func(h *host) { h.refuses = true }, "connect: connection refused"},
		{"hangs", nil, func(h *host) { h.answer = func(*http.Request) reply { return reply{after: time.Hour} } }, "no answer within 1s"},
		{"garbage", nil, func(h *host) { h.answer = func(*http.Request) reply { return reply{raw: "hello\r\n\r\n"} } }, "answer: malformed message: status line does not begin with HTTP/1.1 or HTTP/1.0 and a space"},
		{"closes", nil, func(h *host) { h.answer = closes }, "connection ended before the answer"},
		{"interim answers", nil, func(h *host) {
			h.answer = func(*http.Request) reply {
				return reply{raw: "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 103 Early Hints\r\nA: b\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"}
			}
		}, ""},
		{"endless head", nil, func(h *host) {
			h.answer = func(*http.Request) reply {
				return reply{raw: "HTTP/1.1 200 OK\r\n" + strings.Repeat("A: "+strings.Repeat("x", 1000)+"\r\n", 100)}
			}
		}, "answer: head is too large"},
		{"host and path", func(h *config.Health) { h.Host, h.Path = "a.example", "/x?y=1" }, func(h *host) {
			h.answer = func(r *http.Request) reply {
				if r.Host == "a.example" && r.RequestURI == "/x?y=1" {
					return reply{status: 200}
				}
				return reply{status: 500}
			}
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			inLab(t, checked(c.change), 1, func(l *lab) {
				if c.host != nil {
					l.set(1, c.host)
				}
				time.Sleep(3 * time.Second)
				st := l.u.Status().Endpoints[0]
				if (st.State == "healthy") != (c.reason == "") || c.reason != "" && st.Reason != c.reason {
					t.Errorf("%+v", st)
				}
				l.set(1, func(h *host) { h.answer = ok200 })
			})
		})
	}
}

// Checks of many endpoints do not come at the same moment.
func TestChecksAreSpreadOut(t *testing.T) {
	inLab(t, checked(func(h *config.Health) { h.Type = "tcp" }), 50, func(l *lab) {
		moments := make(map[time.Duration]int)
		began := time.Now()
		dial := l.u.dial
		_ = dial
		for range 100 {
			time.Sleep(100 * ms)
			sum := 0
			for n := range 50 {
				sum += int(l.host(n + 1).dialed.Load())
			}
			moments[time.Since(began)] = sum
		}
		last := 0
		for d := 100 * ms; d <= 10*time.Second; d += 100 * ms {
			if now := moments[d]; now-last > 25 {
				t.Errorf("%d checks within a tenth of a second", now-last)
			} else {
				last = now
			}
		}
	})
}

func outliers(change func(o *config.Outlier)) func(c *config.Upstream) {
	return func(c *config.Upstream) {
		c.Outlier = new(config.Outlier)
		c.Outlier.Defaults()
		if change != nil {
			change(c.Outlier)
		}
	}
}

func TestOutlierIsEjected(t *testing.T) {
	for _, c := range []struct {
		name string
		bad  func(h *host)
	}{
		{"status 500", func(h *host) { h.answer = fails(500) }},
		{"closes", func(h *host) { h.answer = closes }},
		{"refuses", func(h *host) { h.refuses = true }},
		{"cut", func(h *host) {
			h.answer = func(*http.Request) reply {
				return reply{raw: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhe"}
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inLab(t, outliers(nil), 3, func(l *lab) {
				l.u.limits.Idle = time.Second
				l.set(2, c.bad)
				failed := 0
				for range 60 {
					if o := l.get(); o.status != 200 || o.cut {
						failed++
					}
				}
				if failed > 5 {
					t.Errorf("%d requests failed before it was ejected", failed)
				}
				if st := l.u.Status().Endpoints[1]; st.State != "ejected" || !strings.Contains(st.Reason, "in a row") || st.Until <= 0 {
					t.Fatalf("%+v", st)
				}
				// It comes back, and is ejected for longer.
				time.Sleep(31 * time.Second)
				if l.state(2) != "healthy" {
					t.Error("it did not come back")
				}
				for range 60 {
					l.get()
				}
				if st := l.u.Status().Endpoints[1]; st.State != "ejected" || st.Until < 50*time.Second || st.Ejections != 2 {
					t.Errorf("%+v", st)
				}
				if l.meter.event(Ejected) != 2 {
					t.Error("not counted")
				}
			})
		})
	}
}

// Never more than the share is ejected, and of one endpoint none.
func TestEjectionsAreCapped(t *testing.T) {
	for n, most := range map[int]int{1: 0, 2: 1, 3: 1, 5: 2, 10: 5} {
		inLab(t, outliers(nil), n, func(l *lab) {
			for i := range n {
				l.set(i+1, func(h *host) { h.answer = fails(500) })
			}
			for range 100 {
				l.get()
			}
			out := 0
			for i := range n {
				if l.state(i+1) == "ejected" {
					out++
				}
			}
			if out != most {
				t.Errorf("%d of %d are ejected, want %d", out, n, most)
			}
		})
	}
}

// One that is 20 times slower than the others is ejected.
func TestTheSlowAreEjected(t *testing.T) {
	inLab(t, outliers(func(o *config.Outlier) { o.Slower = 5 }), 4, func(l *lab) {
		for n := range 4 {
			after := 10 * ms
			if n == 2 {
				after = 200 * ms
			}
			l.set(n+1, func(h *host) { h.answer = func(*http.Request) reply { return reply{after: after, status: 200} } })
		}
		for range 600 {
			l.get().wants(t, 200, "")
		}
		if st := l.u.Status().Endpoints[2]; st.State != "ejected" || !strings.Contains(st.Reason, "answers take 200ms") {
			t.Errorf("%+v", st)
		}
		for _, n := range []int{1, 2, 4} {
			if l.state(n) != "healthy" {
				t.Errorf("endpoint %d is %s", n, l.state(n))
			}
		}
	})
}

func breaking(c *config.Upstream) {
	c.Breaker = new(config.Breaker)
	c.Breaker.Defaults()
}

func TestBreaker(t *testing.T) {
	inLab(t, breaking, 2, func(l *lab) {
		for n := range 2 {
			l.set(n+1, func(h *host) { h.answer = fails(500) })
		}
		for range 20 {
			l.get().wants(t, 500, "")
		}
		o := l.get()
		o.wants(t, 503, "upstream_breaker_open")
		if o.retry != 5*time.Second || l.u.Available() {
			t.Errorf("%+v", o)
		}
		if st := l.u.Status(); st.Breaker != "open" || st.BreakerReason != "20 of 20 requests failed" {
			t.Errorf("%+v", st)
		}
		asked := l.host(1).asked.Load() + l.host(2).asked.Load()
		for range 100 {
			l.get().wants(t, 503, "upstream_breaker_open")
		}
		if l.host(1).asked.Load()+l.host(2).asked.Load() != asked {
			t.Error("the service was asked while the breaker was open")
		}
		time.Sleep(5 * time.Second)
		for n := range 2 {
			l.set(n+1, func(h *host) { h.answer = ok200 })
		}
		for range 10 {
			l.get().wants(t, 200, "")
		}
		if st := l.u.Status(); st.Breaker != "closed" || l.meter.event(BreakerOpened) != 1 || l.meter.event(BreakerClosed) != 1 {
			t.Errorf("%+v", st)
		}
	})
}

// What clients do wrong does not open it.
func TestBreakerKnowsWhoseFaultItIs(t *testing.T) {
	inLab(t, breaking, 1, func(l *lab) {
		l.set(1, func(h *host) {
			h.answer = func(*http.Request) reply { return reply{after: time.Second, status: 404} }
		})
		for range 30 {
			gone := make(chan struct{})
			time.AfterFunc(ms, func() { close(gone) })
			l.ask(request{cancel: gone}).wants(t, 499, "client_gone")
		}
		for range 30 {
			l.get().wants(t, 404, "")
		}
	})
}

// State outlives a change of settings.
func TestStateOutlivesSettings(t *testing.T) {
	inLab(t, func(c *config.Upstream) {
		outliers(nil)(c)
		breaking(c)
		c.Timeout.Idle = dur(time.Minute)
	}, 2, func(l *lab) {
		l.set(1, func(h *host) { h.answer = fails(500) })
		for range 12 {
			l.get()
		}
		if l.state(1) != "ejected" {
			t.Fatal(l.state(1))
		}
		c := settings("http://10.0.0.1:80", "http://10.0.0.2:80", "http://10.0.0.3:80")
		outliers(nil)(c)
		breaking(c)
		next := l.open(c, l.u.sweeper, l.u.memory)
		l.u.Retire()
		old := l.u
		l.u = next
		synctest.Wait()
		if l.state(1) != "ejected" || l.state(2) != "healthy" {
			t.Error("what was known is forgotten")
		}
		for range 10 {
			askOf(t, old, request{}).wants(t, 200, "") // who holds the old snapshot
		}
		l.set(2, func(h *host) { h.answer = fails(500) })
		l.set(3, func(h *host) { h.answer = fails(500) })
		for range 40 {
			l.get()
		}
		third := l.open(c, l.u.sweeper, l.u.memory)
		l.u.Retire()
		l.u = third
		l.get().wants(t, 503, "upstream_breaker_open")
		if len(l.u.memory.services) != 1 || len(l.u.service.endpoints) != 3 {
			t.Error("what nobody uses is not forgotten")
		}
		// Settings that no longer ask do not suffer from what was found.
		plain := l.open(settings("http://10.0.0.1:80"), l.u.sweeper, l.u.memory)
		l.u.Retire()
		l.u = plain
		if l.state(1) != "healthy" {
			t.Error(l.state(1))
		}
		l.get().wants(t, 500, "")
		if len(l.u.service.endpoints) != 1 {
			t.Error("endpoints are not forgotten")
		}
	})
}

func TestFailover(t *testing.T) {
	next := func(x *exchange.Exchange) {
		x.Response.Status = 200
		x.Response.SetBody([]byte("from the other"))
	}
	inLab(t, func(c *config.Upstream) { checked(nil)(c); breaking(c) }, 1, func(l *lab) {
		time.Sleep(time.Second)
		if o := l.ask(request{next: next}); o.body != "hello" {
			t.Errorf("%+v", o)
		}
		l.set(1, func(h *host) { h.answer = fails(500) })
		if o := l.ask(request{next: next}); o.status != 500 {
			t.Errorf("an answer is an answer: %+v", o)
		}
		l.set(1, func(h *host) { h.answer = closes })
		if o := l.ask(request{next: next}); o.code != "upstream_reset" {
			t.Errorf("it was sent twice: %+v", o)
		}
		l.set(1, func(h *host) { h.refuses = true })
		if o := l.ask(request{next: next, method: "POST", body: "x"}); o.body != "from the other" {
			t.Errorf("%+v", o)
		}
		time.Sleep(20 * time.Second)
		if o := l.ask(request{next: next}); o.body != "from the other" || o.attempts != 0 {
			t.Errorf("%+v", o)
		}
		if l.meter.event(FailedOver) != 2 {
			t.Error("not counted")
		}
	})
}
