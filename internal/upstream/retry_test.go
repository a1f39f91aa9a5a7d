package upstream

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
)

const ms = time.Millisecond

func dur(d time.Duration) config.Duration { return config.Duration(d) }

// retries are the defaults of the language, with a change.
func retries(change func(r *config.Retry)) func(c *config.Upstream) {
	return func(c *config.Upstream) {
		c.Retry = new(config.Retry)
		c.Retry.Defaults()
		if change != nil {
			change(c.Retry)
		}
	}
}

func fails(status int) func(*http.Request) reply {
	return func(*http.Request) reply { return reply{status: status, body: "sorry"} }
}

func closes(*http.Request) reply { return reply{} }

// says answers a call of gRPC with nothing but a status.
func says(status string, fields ...string) func(*http.Request) reply {
	return func(*http.Request) reply {
		return reply{status: 200, fields: "Content-Type: application/grpc\r\nGrpc-Status: " + status + "\r\n" + strings.Join(fields, "")}
	}
}

// calls has calls of gRPC sent again that nobody was there for.
func calls(r *config.Retry) {
	r.On = append(r.On, "UNAVAILABLE")
	r.Methods = append(r.Methods, "POST")
}

func TestRetries(t *testing.T) {
	rpcRequest := request{method: "POST", body: "\x00\x00\x00\x00\x01a", chunks: true, fields: []string{"Content-Type", "application/grpc", "TE", "trailers"}}
	everything := func(r *config.Retry) {
		r.On = config.StringList{"connect", "reset", "timeout", "malformed", "500", "503"}
		r.TryTimeout = dur(time.Second)
	}
	late := func(*http.Request) reply { return reply{after: 5 * time.Second, status: 200} }
	garbage := func(*http.Request) reply { return reply{raw: "SSH-2.0-x\r\n\r\n"} }
	for _, c := range []struct {
		name     string
		change   func(r *config.Retry)
		bad      func(*http.Request) reply
		q        request
		status   int
		code     string
		attempts int
	}{
		{"reset", nil, closes, request{}, 200, "", 2},
		{"reset of PUT", nil, closes, request{method: "PUT", body: "hello"}, 200, "", 2},
		{"reset of POST", nil, closes, request{method: "POST", body: "hello"}, 502, "upstream_reset", 1},
		{"reset of a listed POST", func(r *config.Retry) { r.Methods = config.StringList{"POST"} }, closes, request{method: "POST", body: "hello"}, 200, "", 2},
		{"reset when not listed", func(r *config.Retry) { r.On = config.StringList{"connect"} }, closes, request{}, 502, "upstream_reset", 1},
		{"503", nil, fails(503), request{}, 200, "", 2},
		{"503 of PUT", nil, fails(503), request{method: "PUT", body: "hello"}, 200, "", 2},
		{"503 of POST", nil, fails(503), request{method: "POST", body: "hello"}, 503, "", 1},
		{"500 when not listed", nil, fails(500), request{}, 500, "", 1},
		{"500", everything, fails(500), request{}, 200, "", 2},
		{"404", everything, fails(404), request{}, 404, "", 1},
		{"late", everything, late, request{}, 200, "", 2},
		{"late when not listed", func(r *config.Retry) { r.TryTimeout = dur(time.Second) }, late, request{}, 504, "upstream_timeout", 1},
		{"garbage", everything, garbage, request{}, 200, "", 2},
		{"garbage when not listed", nil, garbage, request{}, 502, "upstream_malformed", 1},
		{"body that is too large", func(r *config.Retry) { r.Body = 4 }, fails(503), request{method: "PUT", body: "hello"}, 503, "", 1},
		{"reset of chunks", nil, closes, request{method: "PUT", body: "hello", chunks: true}, 200, "", 2},
		{"503 of chunks", nil, fails(503), request{method: "PUT", body: "hello", chunks: true}, 200, "", 2},
		{"503 of a chunked POST", nil, fails(503), request{method: "POST", body: "hello", chunks: true}, 503, "", 1},
		{"chunks that are too large", func(r *config.Retry) { r.Body = 4 }, fails(503), request{method: "PUT", body: "hello", chunks: true}, 503, "", 1},
		{"UNAVAILABLE", calls, says("14"), rpcRequest, 200, "", 2},
		{"UNAVAILABLE when not listed", nil, says("14"), rpcRequest, 200, "", 1},
		{"INTERNAL", calls, says("13"), rpcRequest, 200, "", 1},
		{"OK", calls, says("0"), rpcRequest, 200, "", 1},
		{"no status at all", calls, says("x"), rpcRequest, 200, "", 1},
		{"a status beyond all", calls, says("17"), rpcRequest, 200, "", 1},
		{"UNAVAILABLE of what is no call", calls, says("14"), request{method: "POST", body: "hello"}, 200, "", 1},
		{"UNAVAILABLE, please come back", calls, says("14", "Grpc-Retry-Pushback-Ms: 50\r\n"), rpcRequest, 200, "", 2},
		{"UNAVAILABLE, please do not", calls, says("14", "Grpc-Retry-Pushback-Ms: -1\r\n"), rpcRequest, 200, "", 1},
		{"one attempt", func(r *config.Retry) { r.Attempts = 1 }, fails(503), request{}, 503, "", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			inLab(t, retries(c.change), 2, func(l *lab) {
				l.set(1, func(h *host) { h.answer = c.bad })
				o := l.ask(c.q)
				o.wants(t, c.status, c.code)
				if o.attempts != c.attempts || int(l.host(1).asked.Load()+l.host(2).asked.Load()) != c.attempts {
					t.Errorf("%d attempts, of which %d and %d came", o.attempts, l.host(1).asked.Load(), l.host(2).asked.Load())
				}
				if c.status != 200 || c.attempts == 1 {
					return
				}
				if o.body != "hello" || l.host(2).last.Load().Method != l.host(1).last.Load().Method || *l.host(2).body.Load() != c.q.body {
					t.Errorf("answer %+v to %q", o, *l.host(2).body.Load())
				}
			})
		})
	}
}

// The last answer is the client's, whatever it is.
func TestRetriesEnd(t *testing.T) {
	inLab(t, retries(func(r *config.Retry) { r.Attempts = 3 }), 4, func(l *lab) {
		for n := range 4 {
			l.set(n+1, func(h *host) { h.answer = fails(503) })
		}
		o := l.get()
		o.wants(t, 503, "")
		if o.body != "sorry" || o.attempts != 3 {
			t.Errorf("%+v", o)
		}
		for n := range 4 {
			if asked := l.host(n + 1).asked.Load(); asked > 1 {
				t.Errorf("endpoint %d was asked %d times", n+1, asked)
			}
		}
	})
}

// With one endpoint the same one is asked again.
func TestRetryAtTheOnlyEndpoint(t *testing.T) {
	inLab(t, retries(func(r *config.Retry) { r.Attempts = 3 }), 1, func(l *lab) {
		var n atomic.Int64
		l.set(1, func(h *host) {
			h.answer = func(*http.Request) reply {
				if n.Add(1) < 3 {
					return reply{status: 503}
				}
				return reply{status: 200, body: "hello"}
			}
		})
		o := l.get()
		o.wants(t, 200, "")
		if o.attempts != 3 {
			t.Errorf("%+v", o)
		}
	})
}

// A connection that cannot be had is passed over for every method, and without
// a setting.
func TestPassesOverTheUnreachable(t *testing.T) {
	inLab(t, nil, 3, func(l *lab) {
		l.set(1, func(h *host) { h.refuses = true })
		l.set(2, func(h *host) { h.refuses = true })
		for range 6 {
			o := l.ask(request{method: "POST", body: "hello"})
			o.wants(t, 200, "")
		}
	})
	inLab(t, nil, 30, func(l *lab) {
		for n := range 30 {
			l.set(n+1, func(h *host) { h.refuses = true })
		}
		o := l.get()
		o.wants(t, 502, "upstream_connect_failed")
		if o.attempts != maxPassed {
			t.Errorf("%d endpoints were tried", o.attempts)
		}
	})
	inLab(t, nil, 30, func(l *lab) {
		for n := range 30 {
			l.set(n+1, func(h *host) { h.hangs = true })
		}
		o := l.get()
		o.wants(t, 504, "upstream_connect_timeout")
		if o.attempts != maxSlow || o.took > 4*time.Second {
			t.Errorf("%+v", o)
		}
	})
}

// The waits are random, grow to a limit, and end when the client goes.
func TestBackoff(t *testing.T) {
	inLab(t, retries(func(r *config.Retry) {
		r.Attempts, r.Budget = 10, 1
		r.Backoff = config.Backoff{Base: dur(100 * ms), Max: dur(400 * ms)}
	}), 1, func(l *lab) {
		l.u.retry.budget.Reserve = 1000
		l.set(1, func(h *host) { h.answer = fails(503) })
		seen := make(map[time.Duration]bool)
		for range 20 {
			o := l.get()
			if o.attempts != 10 || o.took > 100*ms+200*ms+7*400*ms+ms {
				t.Errorf("%+v", o)
			}
			seen[o.took] = true
			time.Sleep(time.Minute)
		}
		if len(seen) < 19 {
			t.Error("the waits are not random")
		}
	})
	inLab(t, retries(func(r *config.Retry) {
		r.Backoff = config.Backoff{Base: dur(time.Minute), Max: dur(time.Minute)}
	}), 2, func(l *lab) {
		l.set(1, func(h *host) { h.answer = fails(503) })
		l.set(2, func(h *host) { h.answer = fails(503) })
		l.u.retry.base, l.u.retry.max = 10*time.Minute, 10*time.Minute
		l.u.limits.Request = 0
		gone := make(chan struct{})
		time.AfterFunc(ms, func() { close(gone) })
		if o := l.ask(request{cancel: gone}); o.status != 499 || o.took > time.Second {
			t.Errorf("%+v", o)
		}
	})
}

// What an endpoint asks for with Retry-After holds for itself: another one is
// asked at once, and it is left alone.
func TestRetryAfter(t *testing.T) {
	busy := func(*http.Request) reply { return reply{status: 503, fields: "Retry-After: 20\r\n"} }
	inLab(t, retries(nil), 2, func(l *lab) {
		l.set(1, func(h *host) { h.answer = busy })
		for range 10 {
			o := l.get()
			o.wants(t, 200, "")
		}
		if n := l.host(1).asked.Load(); n != 1 {
			t.Errorf("it was asked %d times", n)
		}
		time.Sleep(21 * time.Second)
		l.set(1, func(h *host) { h.answer = ok200 })
		for range 10 {
			l.get()
		}
		if n := l.host(1).asked.Load(); n < 5 {
			t.Errorf("it was not asked again: %d", n)
		}
	})
	// With nobody else the client is told.
	inLab(t, retries(nil), 1, func(l *lab) {
		l.set(1, func(h *host) { h.answer = busy })
		for range 3 {
			o := l.get()
			o.wants(t, 503, "")
			if o.attempts != 1 {
				t.Errorf("%d attempts", o.attempts)
			}
		}
	})
}

func TestReadsRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		at := time.Now().UTC().Add(90 * time.Second).Format(http.TimeFormat)
		for _, c := range []struct {
			value string
			want  time.Duration
		}{
			{"", 0},
			{"0", 0},
			{"120", 2 * time.Minute},
			{"-1", 0},
			{"1.5", 0},
			{"soon", 0},
			{"99999999999999999999", 0},
			{at, 90 * time.Second},
			{"Wed, 21 Oct 1998 07:28:00 GMT", 0},
		} {
			if got := retryAfter(c.value); got != c.want {
				t.Errorf("%q: %v, want %v", c.value, got, c.want)
			}
		}
	})
}

func FuzzRetryAfter(f *testing.F) {
	f.Add("120")
	f.Add("Wed, 21 Oct 2015 07:28:00 GMT")
	f.Fuzz(func(t *testing.T, value string) {
		if d := retryAfter(value); d < 0 {
			t.Errorf("%q: %v", value, d)
		}
	})
}

// The total holds for all attempts together, and the service is told what is
// left of it.
func TestDeadline(t *testing.T) {
	inLab(t, func(c *config.Upstream) {
		retries(func(r *config.Retry) {
			r.Attempts, r.On, r.TryTimeout = 5, config.StringList{"timeout"}, dur(time.Second)
		})(c)
		c.Timeout.Request, c.Timeout.Field = dur(3*time.Second), "X-Timeout-Ms"
	}, 5, func(l *lab) {
		var mu sync.Mutex
		var told []string
		for n := range 5 {
			l.set(n+1, func(h *host) {
				h.answer = func(r *http.Request) reply {
					mu.Lock()
					told = append(told, r.Header.Get("X-Timeout-Ms"))
					mu.Unlock()
					return reply{after: 10 * time.Second, status: 200}
				}
			})
		}
		o := l.get()
		o.wants(t, 504, "upstream_timeout")
		if o.took > 3500*ms {
			t.Errorf("it took %v", o.took)
		}
		mu.Lock()
		defer mu.Unlock()
		if len(told) < 2 || told[0] != "3000" {
			t.Errorf("the service was told %q", told)
		}
		for i := 1; i < len(told); i++ {
			var before, now int
			fmt.Sscan(told[i-1], &before)
			fmt.Sscan(told[i], &now)
			if now >= before || now <= 0 {
				t.Errorf("the service was told %q", told)
			}
		}
	})
}

// A try's timeout ends with the answer's head: the body may take longer.
func TestTryTimeoutEndsWithTheHead(t *testing.T) {
	inLab(t, retries(func(r *config.Retry) { r.TryTimeout = dur(time.Second) }), 1, func(l *lab) {
		l.set(1, func(h *host) {
			h.answer = func(*http.Request) reply {
				return reply{raw: "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe"}
			}
		})
		l.u.limits.Idle = 10 * time.Second
		if o := l.get(); o.status != 200 || !o.cut || o.took < 9*time.Second {
			t.Errorf("%+v", o)
		}
	})
}

// Retries do not double an outage: every endpoint fails half of the time, or
// all of it, and what comes there is at most 1.2 times what clients ask for.
func TestRetryStorm(t *testing.T) {
	for _, every := range []int64{1, 2} {
		inLab(t, retries(func(r *config.Retry) {
			r.Attempts = 5
			r.Backoff = config.Backoff{}
		}), 4, func(l *lab) {
			var n atomic.Int64
			for i := range 4 {
				l.set(i+1, func(h *host) {
					h.answer = func(*http.Request) reply {
						if n.Add(1)%every == 0 {
							return reply{status: 503}
						}
						return reply{status: 200}
					}
				})
			}
			const requests = 4000
			for range requests / 40 {
				var wg sync.WaitGroup
				for range 40 {
					wg.Go(func() { l.get() })
				}
				wg.Wait()
				time.Sleep(100 * ms)
			}
			if load := float64(n.Load()) / requests; load > 1.2 {
				t.Errorf("1 of %d failing: the load is %.3f times", every, load)
			}
			if l.meter.event(BudgetSpent) == 0 {
				t.Error("the budget was never spent")
			}
		})
	}
}

func hedged(after string) func(c *config.Upstream) {
	return func(c *config.Upstream) { c.Hedge = &config.Hedge{After: after, Budget: 1} }
}

func slowly(after time.Duration) func(*http.Request) reply {
	return func(*http.Request) reply { return reply{after: after, status: 200, body: "late"} }
}

func TestHedge(t *testing.T) {
	t.Run("the second wins", func(t *testing.T) {
		inLab(t, hedged("100ms"), 2, func(l *lab) {
			l.set(1, func(h *host) { h.answer = slowly(5 * time.Second) })
			for range 3 {
				o := l.get()
				o.wants(t, 200, "")
				if o.body != "hello" || o.took > 200*ms || o.endpoint != "10.0.0.2:80" {
					t.Errorf("%+v", o)
				}
				l.get() // whose turn it is first
			}
		})
	})
	t.Run("the first wins", func(t *testing.T) {
		inLab(t, hedged("100ms"), 2, func(l *lab) {
			l.set(1, func(h *host) { h.answer = slowly(300 * ms) })
			l.set(2, func(h *host) { h.answer = slowly(time.Hour) })
			o := l.get()
			o.wants(t, 200, "")
			if o.body != "late" || o.took != 300*ms || o.endpoint != "10.0.0.1:80" || l.host(2).asked.Load() != 1 {
				t.Errorf("%+v", o)
			}
		})
	})
	t.Run("the first fails, the second is waited for", func(t *testing.T) {
		inLab(t, hedged("100ms"), 2, func(l *lab) {
			l.set(1, func(h *host) { h.answer = func(*http.Request) reply { return reply{after: 200 * ms} } })
			l.set(2, func(h *host) { h.answer = slowly(time.Second) })
			o := l.get()
			o.wants(t, 200, "")
			if o.took != 1100*ms {
				t.Errorf("%+v", o)
			}
		})
	})
	t.Run("both fail", func(t *testing.T) {
		inLab(t, hedged("100ms"), 2, func(l *lab) {
			for n := range 2 {
				l.set(n+1, func(h *host) { h.answer = func(*http.Request) reply { return reply{after: 200 * ms} } })
			}
			l.get().wants(t, 502, "upstream_reset")
		})
	})
}

func TestHedgesAreBounded(t *testing.T) {
	t.Run("the client goes", func(t *testing.T) {
		inLab(t, hedged("100ms"), 2, func(l *lab) {
			for n := range 2 {
				l.set(n+1, func(h *host) { h.answer = slowly(time.Minute) })
			}
			gone := make(chan struct{})
			time.AfterFunc(time.Second, func() { close(gone) })
			l.ask(request{cancel: gone}).wants(t, 499, "client_gone")
		})
	})
	t.Run("not what may do harm", func(t *testing.T) {
		inLab(t, hedged("100ms"), 2, func(l *lab) {
			for n := range 2 {
				l.set(n+1, func(h *host) { h.answer = slowly(time.Second) })
			}
			l.ask(request{method: "POST"}).wants(t, 200, "")
			l.ask(request{method: "PUT", body: "hello"}).wants(t, 200, "")
			if l.host(1).asked.Load()+l.host(2).asked.Load() != 2 {
				t.Error("it was sent twice")
			}
		})
	})
	t.Run("percentile and budget", func(t *testing.T) {
		inLab(t, func(c *config.Upstream) { c.Hedge = &config.Hedge{After: "p80", Budget: 0.05} }, 2, func(l *lab) {
			var n atomic.Int64
			for i := range 2 {
				l.set(i+1, func(h *host) {
					h.answer = func(*http.Request) reply {
						if n.Add(1)%7 == 0 { // more often than the percentile leaves room for
							return reply{after: time.Second, status: 200}
						}
						return reply{after: 10 * ms, status: 200}
					}
				})
			}
			for range 2000 {
				l.get().wants(t, 200, "")
			}
			hedges := l.meter.event(Hedged)
			if hedges < 20 || hedges > 100 {
				t.Errorf("%d of 2000 requests were hedged", hedges)
			}
		})
	})
}
