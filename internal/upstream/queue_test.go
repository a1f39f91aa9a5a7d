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

// limited lets two requests in, and three wait.
func limited(c *config.Upstream) {
	c.Concurrency = &config.Concurrency{Max: 2, Min: 1}
	c.Queue = &config.Queue{Max: 3, Timeout: dur(time.Second), First: config.StringList{"partners"}}
}

// slow has the first endpoint answer after a while.
func slow(l *lab, after time.Duration) {
	l.set(1, func(h *host) { h.answer = func(*http.Request) reply { return reply{after: after, status: 200} } })
}

func TestQueueIsFair(t *testing.T) {
	t.Run("in the order they came", func(t *testing.T) {
		inLab(t, limited, 1, func(l *lab) {
			slow(l, 100*ms)
			var mu sync.Mutex
			var order []string
			var wg sync.WaitGroup
			for n := range 5 {
				wg.Go(func() {
					time.Sleep(time.Duration(n) * ms)
					o := l.get()
					o.wants(t, 200, "")
					mu.Lock()
					order = append(order, fmt.Sprint(n))
					mu.Unlock()
				})
			}
			wg.Wait()
			if got := strings.Join(order, ""); got != "01234" || l.host(1).most.Load() != 2 {
				t.Errorf("the order was %s, %d at a time", got, l.host(1).most.Load())
			}
		})
	})
	t.Run("the important ones first", func(t *testing.T) {
		inLab(t, limited, 1, func(l *lab) {
			slow(l, 100*ms)
			var mu sync.Mutex
			var order []string
			var wg sync.WaitGroup
			for n := range 5 {
				wg.Go(func() {
					time.Sleep(time.Duration(n) * ms)
					q := request{}
					if n == 4 {
						q.groups = []string{"others", "partners"}
					}
					l.ask(q).wants(t, 200, "")
					mu.Lock()
					order = append(order, fmt.Sprint(n))
					mu.Unlock()
				})
			}
			wg.Wait()
			if got := strings.Join(order, ""); got[2] != '4' && got[3] != '4' || got[:2] != "01" {
				t.Errorf("the order was %s", got)
			}
		})
	})
}

func TestQueueIsBounded(t *testing.T) {
	t.Run("bounded in number and time", func(t *testing.T) {
		inLab(t, limited, 1, func(l *lab) {
			slow(l, 5*time.Second)
			var shed, late atomic.Int64
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					switch o := l.get(); {
					case o.status == 200:
					case o.code != "upstream_overloaded" || o.retry == 0:
						t.Errorf("%+v", o)
					case o.took == 0:
						shed.Add(1)
					case o.took == time.Second:
						late.Add(1)
					}
				})
			}
			wg.Wait()
			if shed.Load() != 5 || late.Load() != 3 || l.meter.event(Shed) != 8 {
				t.Errorf("%d were refused at once, %d after a second", shed.Load(), late.Load())
			}
		})
	})
	t.Run("the client goes while it waits", func(t *testing.T) {
		inLab(t, limited, 1, func(l *lab) {
			slow(l, 500*ms)
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() { l.get().wants(t, 200, "") })
			}
			synctest.Wait()
			gone := make(chan struct{})
			time.AfterFunc(100*ms, func() { close(gone) })
			o := l.ask(request{cancel: gone})
			o.wants(t, 499, "client_gone")
			if o.took != 100*ms {
				t.Errorf("%+v", o)
			}
			wg.Wait()
		})
	})
	t.Run("connections", func(t *testing.T) {
		inLab(t, func(c *config.Upstream) {
			c.Connections.MaxPerEndpoint = 2
			c.Queue = &config.Queue{Max: 100, Timeout: dur(time.Minute)}
		}, 2, func(l *lab) {
			for n := range 2 {
				l.set(n+1, func(h *host) { h.answer = func(*http.Request) reply { return reply{after: 100 * ms, status: 200} } })
			}
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() { l.get().wants(t, 200, "") })
			}
			wg.Wait()
			if a, b := l.host(1).most.Load(), l.host(2).most.Load(); a > 2 || b > 2 {
				t.Errorf("%d and %d at a time", a, b)
			}
		})
	})
	t.Run("without a queue", func(t *testing.T) {
		inLab(t, func(c *config.Upstream) { c.Concurrency = &config.Concurrency{Max: 1, Min: 1} }, 1, func(l *lab) {
			slow(l, time.Second)
			var wg sync.WaitGroup
			wg.Go(func() { l.get().wants(t, 200, "") })
			synctest.Wait()
			l.get().wants(t, 503, "upstream_overloaded")
			wg.Wait()
			l.get().wants(t, 200, "")
		})
	})
}

// Three times what a service can take, for a while: it is shed, and what is
// served takes no more than about twice as long as usual.
func TestAdaptiveConcurrency(t *testing.T) {
	inLab(t, func(c *config.Upstream) {
		c.Concurrency = &config.Concurrency{Adaptive: true, Min: 2}
	}, 1, func(l *lab) {
		// The service has 10 places; whoever comes beyond waits for one.
		places := make(chan struct{}, 10)
		l.set(1, func(h *host) {
			h.answer = func(*http.Request) reply {
				places <- struct{}{}
				time.Sleep(20 * ms)
				<-places
				return reply{status: 200}
			}
		})
		var slowest, served, shed atomic.Int64
		for tick := range 3000 { // 1500 a second where 500 can be served
			for range 3 {
				go func() {
					o := l.get()
					if o.status != 200 {
						shed.Add(1)
						return
					}
					served.Add(1)
					if tick > 1000 && int64(o.took) > slowest.Load() {
						slowest.Store(int64(o.took))
					}
				}()
			}
			time.Sleep(2 * ms)
		}
		time.Sleep(5 * time.Second)
		if d := time.Duration(slowest.Load()); d > 80*ms {
			t.Errorf("the slowest took %v", d)
		}
		if served.Load() < 2000 || shed.Load() == 0 {
			t.Errorf("%d served, %d shed", served.Load(), shed.Load())
		}
	})
}

// The requests of an endpoint are bounded however few connections carry them,
// and those beyond wait.
func TestQueueForSharedConnections(t *testing.T) {
	const each, requests = 3, 60
	for _, balance := range []string{"round_robin", "random", "least_requests", "hash"} {
		t.Run(balance, func(t *testing.T) {
			t.Parallel()
			var mu sync.Mutex
			most := map[int]int{}
			active := map[int]int{}
			cfg := settings()
			for n := range 2 {
				w := newWeb(t, func(w http.ResponseWriter, r *http.Request) {
					mu.Lock()
					active[n]++
					most[n] = max(most[n], active[n])
					mu.Unlock()
					time.Sleep(2 * ms) // so that others come meanwhile, if they may
					mu.Lock()
					active[n]--
					mu.Unlock()
					helloWeb(w, r)
				}, nil)
				cfg.Endpoints = append(cfg.Endpoints, &config.Endpoint{URL: w.url, Weight: 1})
			}
			if cfg.Balance.Algorithm = balance; balance == "hash" {
				cfg.Balance.Hash = "header:Host"
			}
			cfg.Concurrency = &config.Concurrency{PerEndpoint: each, Min: 1}
			cfg.Queue = &config.Queue{Max: requests, Timeout: dur(20 * time.Second)}
			r := newRig(t, cfg)
			var wg sync.WaitGroup
			for range requests {
				wg.Go(func() {
					k := r.dial()
					k.send(get)
					k.wants(200, "HTTP/2.0 ")
					<-r.seen
					<-r.ended
				})
			}
			wg.Wait()
			for n, m := range most {
				if m > each {
					t.Errorf("endpoint %d had %d requests at a time", n, m)
				}
			}
			st := r.u.Status()
			if st.Limit != 2*each {
				t.Errorf("the limit is %d", st.Limit)
			}
			for _, e := range st.Endpoints {
				if e.Idle != e.Connections {
					t.Errorf("%d of %d connections are idle after the end", e.Idle, e.Connections)
				}
			}
		})
	}
	t.Run("without a queue", func(t *testing.T) {
		inLab(t, func(c *config.Upstream) { c.Concurrency = &config.Concurrency{PerEndpoint: 1, Min: 1} }, 2, func(l *lab) {
			for n := range 2 {
				l.set(n+1, func(h *host) { h.answer = func(*http.Request) reply { return reply{after: time.Second, status: 200} } })
			}
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() { l.get().wants(t, 200, "") })
			}
			synctest.Wait()
			if o := l.get(); o.code != "upstream_overloaded" || o.retry == 0 {
				t.Errorf("%+v", o)
			}
			wg.Wait()
			l.get().wants(t, 200, "")
		})
	})
}
