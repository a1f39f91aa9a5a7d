package app

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/limit"
	"gatehouse.dev/gatehouse/internal/redis/redistest"
)

// gateways starts several that share a Redis server, and returns their
// addresses.
func gateways(t *testing.T, n int, redis, policy string) (urls []string) {
	t.Helper()
	for range n {
		text := fmt.Sprintf("listeners: [ { address: '127.0.0.1:0' } ]\nadmin: off\nobserve: { log: { level: error } }\nredis: { url: 'redis://%s' }\nroutes:\n  - match: /*\n    policies: [ %s ]\n    respond: { status: 200, body: ok }\n", redis, policy)
		a, err := New(Source{Name: "gatehouse.yaml", Data: []byte(text)}, "test", io.Discard)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { a.Close(context.Background()) })
		redistest.Until(t, "the server answers", a.stores.redis.store.Ready)
		urls = append(urls, "http://"+a.front.Listeners()[0].Address)
	}
	return urls
}

// flood asks all gateways at once, and counts the answers by status.
func flood(t *testing.T, urls []string, each int) map[int]int {
	t.Helper()
	var mu sync.Mutex
	counts := make(map[int]int)
	var all sync.WaitGroup
	for _, url := range urls {
		for range 4 {
			all.Go(func() {
				client := &http.Client{Transport: &http.Transport{}}
				defer client.CloseIdleConnections()
				for range each {
					answer, err := client.Get(url)
					if err != nil {
						t.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, answer.Body)
					_ = answer.Body.Close()
					mu.Lock()
					counts[answer.StatusCode]++
					mu.Unlock()
				}
			})
		}
	}
	all.Wait()
	return counts
}

// TestSharedLimit: three gateways let as many requests through together as one
// would, to one in a hundred.
func TestSharedLimit(t *testing.T) {
	server := redistest.Start(t)
	for _, algorithm := range []string{"gcra", "window"} {
		const limit = 1000
		server.Do("FLUSHALL")
		urls := gateways(t, 3, server.Address, fmt.Sprintf("rate_limit: { limit: %d/d, algorithm: %s, store: redis, timeout: 5s, by: route }", limit, algorithm))
		counts := flood(t, urls, 200)
		if n := counts[200]; n < limit || n > limit+limit/100 {
			t.Errorf("%s: %d requests passed, %d may: %v", algorithm, n, limit, counts)
		}
	}
}

// TestRedisFails breaks Redis in the middle of a load: every request is
// answered by the declared mode, none with an error, and the shared limit is
// back when Redis is.
func TestRedisFails(t *testing.T) {
	server := redistest.Start(t)
	urls := gateways(t, 1, server.Address, "rate_limit: { limit: 1000000/s, store: redis, timeout: 100ms, on_failure: local, by: route }")
	closed := gateways(t, 1, server.Address, "rate_limit: { limit: 1000000/s, store: redis, timeout: 100ms, on_failure: closed, by: route }")
	for name, c := range map[string]struct{ breaks, mends func() }{
		"killed":  {server.Kill, func() { server.Run() }},
		"paused":  {server.Pause, server.Resume},
		"flushed": {func() { server.Do("FLUSHALL"); server.Do("SCRIPT", "FLUSH") }, func() {}},
	} {
		var stop atomic.Bool
		var all sync.WaitGroup
		all.Go(func() {
			for !stop.Load() {
				if counts := flood(t, urls, 5); len(counts) != 1 || counts[200] == 0 {
					t.Errorf("%s: %v", name, counts)
					return
				}
			}
		})
		c.breaks()
		if name != "flushed" {
			if counts := flood(t, closed, 5); counts[503] == 0 || counts[200] != 0 {
				t.Errorf("%s: closed answers %v", name, counts)
			}
		}
		c.mends()
		redistest.Until(t, name+" is healed", func() bool { return flood(t, closed, 1)[200] == 4 })
		stop.Store(true)
		all.Wait()
	}
}

// TestRedisShown: whether Redis answers is in the metrics, and is not when no
// configuration names one any more.
func TestRedisShown(t *testing.T) {
	server := redistest.Start(t)
	text := "listeners: [ { address: '127.0.0.1:0' } ]\nadmin: off\nobserve: { log: { level: error } }\nroutes: [ { match: /*, respond: {} } ]\n"
	a, file := running(t, text+"redis: { url: 'redis://"+server.Address+"' }\n")
	t.Cleanup(func() { a.Close(context.Background()) })
	up := func() string { return shown(a, "gatehouse_redis_up") }
	redistest.Until(t, "the server is shown to answer", func() bool { return up() == "1" })
	server.Kill()
	redistest.Until(t, "the server is shown not to answer", func() bool {
		_ = a.stores.redis.store.Take(t.Context(), []limit.Call{{Key: "k", Rule: limit.Rule{Count: 1, Per: time.Second, Burst: 1}}}) // somebody has to notice
		return up() == "0"
	})
	write(t, file, text)
	if a.Reload(true); up() != "" {
		t.Errorf("without redis it is shown as %q", up())
	}
}

// shown returns what the metrics say of a series, "" when there is none.
func shown(a *App, series string) string {
	w := httptest.NewRecorder()
	a.metrics.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for line := range strings.Lines(w.Body.String()) {
		if v, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// TestRedisChanges: a reload that changes how Redis is reached loses no request,
// although all of them need Redis; neither does a start.
func TestRedisChanges(t *testing.T) {
	server := redistest.Start(t)
	text := func(ms int) string {
		return fmt.Sprintf(`
listeners: [ { name: web, address: "127.0.0.1:0" } ]
admin: off
observe: { log: { level: error } }
redis: { url: "redis://%s", connect_timeout: %dms }
routes:
  - match: /*
    policies: [ rate_limit: { limit: 1000000/s, store: redis, timeout: 5s, on_failure: closed, by: route } ]
    respond: { status: 200, body: ok }
`, server.Address, ms)
	}
	a, file := running(t, text(2000))
	t.Cleanup(func() { a.Close(context.Background()) })
	urls := []string{"http://" + address(t, a, "web")}
	if counts := flood(t, urls, 1); counts[200] != 4 {
		t.Errorf("at the start: %v", counts)
	}
	var stop atomic.Bool
	var all sync.WaitGroup
	all.Go(func() {
		for !stop.Load() {
			if counts := flood(t, urls, 20); counts[200] != 80 {
				t.Errorf("%v", counts)
				return
			}
		}
	})
	for i := range 10 {
		write(t, file, text(2001+i))
		a.Reload(true)
	}
	stop.Store(true)
	all.Wait()
}
