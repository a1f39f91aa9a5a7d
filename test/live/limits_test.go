package live_test

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/redis/redistest"
	"gatehouse.dev/gatehouse/test/live"
)

// The shared limit, and what each of three gateways allows by itself.
const (
	allowed = 1000
	share   = 500
)

// settings have one limit for each algorithm, and a route that tells whether
// Redis is reached.
const settings = `
listeners: [ { address: '127.0.0.1:0' } ]
admin: off
redis: { url: 'redis://%s' }
routes:
  - match: /gcra
    policies: [ { rate_limit: { limit: 1000/d, by: route, store: redis, timeout: 5s, on_failure: local, share: 50%% } } ]
    respond: { status: 200, body: ok }
  - match: /window
    policies: [ { rate_limit: { limit: 1000/d, algorithm: window, by: route, store: redis, timeout: 5s, on_failure: local, share: 50%% } } ]
    respond: { status: 200, body: ok }
  - match: /reached
    policies: [ { rate_limit: { limit: 1000000/s, by: route, store: redis, timeout: 5s, on_failure: closed } } ]
    respond: { status: 200, body: ok }
`

// processes starts three gateways that share a Redis server, and returns where
// they listen.
func processes(t *testing.T, redis string) (urls []string) {
	t.Helper()
	binary := build(t)
	for range 3 {
		g := serve(t, binary, t.TempDir(), fmt.Sprintf(settings, redis), "")
		addresses := slices.Collect(maps.Values(g.Addresses()))
		if len(addresses) != 1 {
			t.Fatalf("it listens on %q", addresses)
		}
		urls = append(urls, "http://"+addresses[0])
	}
	for _, url := range urls {
		reached(t, url, http.StatusOK)
	}
	return urls
}

// reached waits until a gateway knows that Redis answers, or that it does not.
func reached(t *testing.T, url string, want int) {
	t.Helper()
	for deadline := time.Now().Add(live.Patience); ; time.Sleep(5 * time.Millisecond) {
		got := flood(t, []string{url}, "/reached", 1, 1, nil)
		if got[want] == 1 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s answers %v, want %d", url, got, want)
		}
	}
}

// flood lets several clients ask each gateway, all at once, and counts the
// answers by status. answered, when there is one, is told of each.
func flood(t *testing.T, urls []string, path string, clients, each int, answered func()) map[int]int {
	t.Helper()
	var mu sync.Mutex
	counts := make(map[int]int)
	var all sync.WaitGroup
	for _, url := range urls {
		for range clients {
			all.Go(func() {
				client := &http.Client{Transport: new(http.Transport)}
				defer client.CloseIdleConnections()
				for range each {
					answer, err := client.Get(url + path)
					if err != nil {
						t.Error(err)
						return
					}
					_, _ = io.Copy(io.Discard, answer.Body) // the status is all that counts
					_ = answer.Body.Close()
					if answered != nil {
						answered()
					}
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

// near tells whether a number of requests is that of a limit, to one in a
// hundred.
func near(n, limit int) bool { return n >= limit-limit/100 && n <= limit+limit/100 }

// only tells whether there are no other answers than 200 and 429.
func only(counts map[int]int, total int) bool { return counts[200]+counts[429] == total }

// TestSharedLimit: three processes let as many requests through together as
// one would.
func TestSharedLimit(t *testing.T) {
	server := redistest.Start(t)
	urls := processes(t, server.Address)
	for _, path := range []string{"/gcra", "/window"} {
		counts := flood(t, urls, path, 4, 150, nil)
		if !near(counts[200], allowed) || !only(counts, 3*4*150) {
			t.Errorf("%s: %v, and %d may pass", path, counts, allowed)
		}
	}
}

// TestRedisKilled kills Redis in the middle of the load: each process goes on
// with its own share, no request meets an error, and the shared limit is back
// when Redis is.
func TestRedisKilled(t *testing.T) {
	server := redistest.Start(t)
	urls := processes(t, server.Address)
	for _, path := range []string{"/gcra", "/window"} {
		const before = 200 // answers that Redis had a part in
		var answers atomic.Int64
		counts := flood(t, urls, path, 4, 250, func() {
			if answers.Add(1) == before {
				server.Kill()
			}
		})
		if n := counts[200]; n < before+3*share || n > allowed+3*share || !only(counts, 3*4*250) {
			t.Errorf("%s, killed in the middle: %v", path, counts)
		}
		for _, url := range urls {
			reached(t, url, http.StatusServiceUnavailable)
		}
		if counts := flood(t, urls, path, 4, 10, nil); counts[429] != 3*4*10 {
			t.Errorf("%s: their shares are used up, and they answer %v", path, counts)
		}
		server.Run() // it has forgotten what was counted
		for _, url := range urls {
			reached(t, url, http.StatusOK)
		}
		if counts := flood(t, urls, path, 4, 150, nil); !near(counts[200], allowed) || !only(counts, 3*4*150) {
			t.Errorf("%s, mended: %v, and %d may pass", path, counts, allowed)
		}
	}
}
