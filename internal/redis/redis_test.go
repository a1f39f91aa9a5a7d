package redis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/limit"
	"gatehouse.dev/gatehouse/internal/policy"
	"gatehouse.dev/gatehouse/internal/redis/redistest"
)

func settings(change func(*config.Redis)) *config.Redis {
	c := new(config.Redis)
	c.Defaults()
	change(c)
	return c
}

func open(t *testing.T, cfg *config.Redis) *Store {
	t.Helper()
	s, err := New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func to(t *testing.T, server *redistest.Server) *Store {
	t.Helper()
	s := open(t, settings(func(c *config.Redis) { c.URL = "redis://" + server.Address }))
	redistest.Until(t, "the server answers", s.Ready)
	return s
}

func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func take(t *testing.T, s *Store, c limit.Call) limit.State {
	t.Helper()
	calls := []limit.Call{c}
	if err := s.Take(within(t, 5*time.Second), calls); err != nil {
		t.Fatal(err)
	}
	return calls[0].State
}

func TestTake(t *testing.T) {
	s := to(t, redistest.Start(t))
	rate := limit.Call{Key: "r", Rule: limit.Rule{Count: 6, Per: time.Hour, Burst: 3}, Cost: 1}
	for i := range 3 {
		if st := take(t, s, rate); !st.OK || st.Remaining != int64(2-i) {
			t.Errorf("%d: %+v", i, st)
		}
	}
	st := take(t, s, rate)
	if st.OK || st.Remaining != 0 || st.Retry < 9*time.Minute || st.Retry > 10*time.Minute || st.Reset > 30*time.Minute {
		t.Errorf("%+v", st)
	}
	rate.Cost = 4
	if st := take(t, s, rate); st.OK || st.Retry != limit.Never {
		t.Errorf("%+v", st)
	}
	rate.Cost = -2
	if err := s.Add(context.Background(), []limit.Call{rate}); err != nil {
		t.Fatal(err)
	}
	rate.Cost = 2
	if st := take(t, s, rate); !st.OK || st.Remaining != 0 {
		t.Errorf("after giving back: %+v", st)
	}

	window := limit.Call{Key: "w", Rule: limit.Rule{Count: 3, Per: time.Hour, Burst: 3}, Cost: 2, Exact: true}
	if st := take(t, s, window); !st.OK || st.Remaining != 1 || st.Reset != time.Hour {
		t.Errorf("%+v", st)
	}
	if st := take(t, s, window); st.OK || st.Remaining != 1 || st.Retry < 59*time.Minute || st.Retry > time.Hour {
		t.Errorf("%+v", st)
	}
	window.Cost = 5
	if st := take(t, s, window); st.OK || st.Retry != limit.Never {
		t.Errorf("%+v", st)
	}
	window.Cost = -1
	if err := s.Add(context.Background(), []limit.Call{window}); err != nil {
		t.Fatal(err)
	}
	window.Cost = 2
	if st := take(t, s, window); !st.OK || st.Remaining != 0 {
		t.Errorf("after giving back: %+v", st)
	}
}

// TestOddCalls: what a limit may ask is never an error, which would pass for a
// server that does not answer.
func TestOddCalls(t *testing.T) {
	s := to(t, redistest.Start(t))
	// More than a window holds, of a key that has none.
	window := limit.Call{Key: "w", Rule: limit.Rule{Count: 3, Per: time.Hour, Burst: 3}, Cost: 5, Exact: true}
	if st := take(t, s, window); st.OK || st.Retry != limit.Never || st.Remaining != 3 || st.Reset != 0 {
		t.Errorf("%+v", st)
	}
	// Nothing, of a key that has none.
	window.Cost = 0
	if st := take(t, s, window); !st.OK || st.Remaining != 3 {
		t.Errorf("%+v", st)
	}
	// What was counted in a period that is over, or was flushed, is given back.
	used, ok, err := s.Use(within(t, 5*time.Second), limit.Quota{Key: "q", Limit: 10, Cost: -2, Slot: 7, Slots: 1, Keep: time.Hour})
	if used != 0 || !ok || err != nil {
		t.Errorf("%d, %v, %v", used, ok, err)
	}
	if used, _, err := s.Use(within(t, 5*time.Second), limit.Quota{Key: "q", Limit: 10, Cost: 1, Slot: 7, Slots: 1, Keep: time.Hour}); used != 1 || err != nil {
		t.Errorf("%d, %v", used, err)
	}
}

// TestDebt: what was charged over the limit is paid back before anything
// passes.
func TestDebt(t *testing.T) {
	s := to(t, redistest.Start(t))
	rate := limit.Call{Key: "r", Rule: limit.Rule{Count: 10, Per: time.Hour, Burst: 10}, Cost: 20}
	if err := s.Add(within(t, 5*time.Second), []limit.Call{rate}); err != nil {
		t.Fatal(err)
	}
	rate.Cost = 1
	for range 2 {
		if st := take(t, s, rate); st.OK || st.Remaining != 0 || st.Retry < 65*time.Minute || st.Retry > 66*time.Minute {
			t.Errorf("%+v", st)
		}
	}
	rate = limit.Call{Key: "r2", Rule: rate.Rule, Cost: 20, Exact: true}
	if err := s.Add(within(t, 5*time.Second), []limit.Call{rate}); err != nil {
		t.Fatal(err)
	}
	rate.Cost = 1
	if st := take(t, s, rate); st.OK || st.Remaining != 0 || st.Retry < 59*time.Minute {
		t.Errorf("%+v", st)
	}
}

// TestExact has many goroutines through several stores at one limit.
func TestExact(t *testing.T) {
	server := redistest.Start(t)
	for name, exact := range map[string]bool{"gcra": false, "window": true} {
		var passed atomic.Int64
		var all sync.WaitGroup
		for range 3 {
			s := to(t, server)
			for range 8 {
				all.Go(func() {
					for range 50 {
						if take(t, s, limit.Call{Key: name, Rule: limit.Rule{Count: 500, Per: time.Hour, Burst: 500}, Cost: 1, Exact: exact}).OK {
							passed.Add(1)
						}
					}
				})
			}
		}
		all.Wait()
		// The rate gives one back in seven seconds.
		if n := passed.Load(); n < 500 || n > 503 {
			t.Errorf("%s: %d passed", name, n)
		}
	}
}

// TestFast counts a fast rate over a second of real time.
func TestFast(t *testing.T) {
	s := to(t, redistest.Start(t))
	rule := limit.Rule{Count: 700, Per: time.Second, Burst: 7}
	start, passed := time.Now(), 0
	for time.Since(start) < time.Second {
		if take(t, s, limit.Call{Key: "fast", Rule: rule, Cost: 1}).OK {
			passed++
		}
	}
	if most := 7 + int(700*time.Since(start).Seconds()) + 1; passed > most {
		t.Errorf("%d passed, at most %d", passed, most)
	}
}

func TestQuota(t *testing.T) {
	s := to(t, redistest.Start(t))
	use := func(cost, slot, slots int64, force bool) (int64, bool) {
		t.Helper()
		used, ok, err := s.Use(within(t, 5*time.Second), limit.Quota{Key: "q", Limit: 10, Cost: cost, Slot: slot, Slots: slots, Keep: time.Hour, Force: force})
		if err != nil {
			t.Fatal(err)
		}
		return used, ok
	}
	for i, c := range []struct {
		cost, slot, slots int64
		force             bool
		used              int64
		ok                bool
	}{
		{6, 100, 3, false, 6, true},
		{4, 101, 3, false, 10, true},
		{1, 101, 3, false, 10, false},
		{0, 102, 3, false, 10, true},
		{1, 103, 3, false, 5, true}, // what was counted in slot 100 is past
		{9, 103, 3, true, 14, true},
		{-3, 103, 3, false, 11, true},
		{-99, 103, 3, false, 0, true},
	} {
		if used, ok := use(c.cost, c.slot, c.slots, c.force); used != c.used || ok != c.ok {
			t.Errorf("step %d: %d, %v", i, used, ok)
		}
	}
}

// TestHeals kills, pauses and flushes the server. Calls fail within their
// time, then at once, and succeed again when the server does.
func TestHeals(t *testing.T) {
	server := redistest.Start(t)
	s := to(t, server)
	callFor := func(d time.Duration) error {
		calls := []limit.Call{{Key: "k", Rule: limit.Rule{Count: 1000, Per: time.Second, Burst: 1000}, Cost: 1}}
		return s.Take(within(t, d), calls)
	}
	const patience = 10 * time.Second // of what is to succeed, on a busy machine too
	call := func() error { return callFor(100 * time.Millisecond) }
	if err := callFor(patience); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ breaks, mends func() }{
		"killed": {server.Kill, func() { server.Run() }},
		"paused": {server.Pause, server.Resume},
		"another password": {
			func() { server.Kill(); server.Run("--requirepass", "secret") },
			func() { server.Kill(); server.Run() },
		},
	} {
		c.breaks()
		if err := call(); err == nil {
			t.Errorf("%s: a call succeeded", name)
		}
		redistest.Until(t, "the server is thought to be down", func() bool { return errors.Is(call(), ErrDown) })
		c.mends()
		redistest.Until(t, "the server answers", s.Ready)
		redistest.Until(t, "calls are answered again", func() bool { return callFor(patience) == nil })
	}
	server.Do("SCRIPT", "FLUSH")
	server.Do("FLUSHALL")
	if err := callFor(patience); err != nil {
		t.Errorf("after a flush: %v", err)
	}
}

// TestOneBadKey: a key that holds something else fails the calls that ask for
// it, and nobody else's.
func TestOneBadKey(t *testing.T) {
	server := redistest.Start(t)
	s := to(t, server)
	server.Do("RPUSH", "gatehouse:bad", "x")
	rule := limit.Rule{Count: 10, Per: time.Hour, Burst: 10}
	for range 3 {
		if err := s.Take(within(t, 5*time.Second), []limit.Call{{Key: "bad", Rule: rule, Cost: 1}}); err == nil || errors.Is(err, ErrDown) {
			t.Fatalf("%v", err)
		}
		take(t, s, limit.Call{Key: "good", Rule: rule, Cost: 1})
	}
}

// TestPauses: a server that answers when it is tried and fails the calls after
// that is tried less and less often.
func TestPauses(t *testing.T) {
	s := new(Store)
	now := time.Now()
	want := []time.Duration{0, firstTry, 2 * firstTry, 4 * firstTry, 8 * firstTry, 16 * firstTry, 32 * firstTry, slowestTry, slowestTry}
	for i, want := range want {
		if got := s.pause(now); got != want {
			t.Errorf("failure %d: tried after %v, want %v", i, got, want)
		}
		now = now.Add(time.Second)
	}
	if got := s.pause(now.Add(time.Minute)); got != 0 {
		t.Errorf("after a good minute: tried after %v", got)
	}
}

func TestDownFromTheBeginning(t *testing.T) {
	server := redistest.Start(t)
	server.Kill()
	s := open(t, settings(func(c *config.Redis) { c.URL = "redis://" + server.Address }))
	if err := s.Take(within(t, time.Second), []limit.Call{{Key: "k", Rule: limit.Rule{Count: 1, Per: time.Second, Burst: 1}, Cost: 1}}); !errors.Is(err, ErrDown) {
		t.Errorf("%v", err)
	}
	server.Run()
	redistest.Until(t, "the server answers", s.Ready)
}

func TestPassword(t *testing.T) {
	server := redistest.Start(t, "--requirepass", "right")
	wrong := open(t, settings(func(c *config.Redis) { c.URL, c.Password = "redis://"+server.Address, policy.NewSecret("wrong") }))
	right := open(t, settings(func(c *config.Redis) { c.URL, c.Password = "redis://"+server.Address+"/3", policy.NewSecret("right") }))
	redistest.Until(t, "the server answers", right.Ready)
	if wrong.Ready() {
		t.Error("a wrong password is taken")
	}
}

// TestFailover kills a master: sentinels name another, and the store follows.
func TestFailover(t *testing.T) {
	master := redistest.Start(t)
	replica := redistest.Start(t, "--replicaof", "127.0.0.1 "+master.Port(), "--replica-serve-stale-data", "yes", "--repl-diskless-sync-delay", "0")
	file := filepath.Join(t.TempDir(), "sentinel.conf")
	text := fmt.Sprintf("sentinel monitor main 127.0.0.1 %s 1\nsentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n", master.Port())
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	redistest.Until(t, "the replica follows", func() bool { return strings.Contains(replica.Do("INFO", "replication"), "master_link_status:up") })
	sentinel := redistest.Start(t, file, "--sentinel")
	redistest.Until(t, "the sentinel knows the replica", func() bool { return strings.Contains(sentinel.Do("SENTINEL", "REPLICAS", "main"), replica.Port()) })
	s := open(t, settings(func(c *config.Redis) {
		c.Nodes, c.Sentinel = policy.StringList{sentinel.Address}, &config.Sentinel{Master: "main"}
	}))
	redistest.Until(t, "the server answers", s.Ready)
	rule := limit.Rule{Count: 10, Per: time.Hour, Burst: 10}
	for range 10 {
		take(t, s, limit.Call{Key: "k", Rule: rule, Cost: 1})
	}
	redistest.Until(t, "the replica has the key", func() bool { return strings.Contains(replica.Do("EXISTS", "gatehouse:k"), ":1") })
	master.Kill()
	var calls []limit.Call
	redistest.Until(t, "the replica is the master", func() bool {
		calls = []limit.Call{{Key: "k", Rule: rule, Cost: 1}}
		return s.Take(within(t, 200*time.Millisecond), calls) == nil
	})
	if calls[0].State.OK {
		t.Error("the limit was forgotten by the failover")
	}
}

// TestCluster spreads keys over three nodes.
func TestCluster(t *testing.T) {
	cli, err := exec.LookPath("redis-cli")
	if err != nil {
		t.Skip("redis-cli is not installed: apt-get install redis-tools")
	}
	var nodes policy.StringList
	for range 3 {
		nodes = append(nodes, redistest.Start(t, "--cluster-enabled", "yes", "--cluster-node-timeout", "2000", "--cluster-port", "0").Address)
	}
	args := append([]string{"--cluster", "create"}, nodes...)
	if out, err := exec.Command(cli, append(args, "--cluster-yes")...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	s := open(t, settings(func(c *config.Redis) { c.Nodes, c.Cluster = nodes[:1], true }))
	redistest.Until(t, "the server answers", s.Ready)
	rule := limit.Rule{Count: 1, Per: time.Hour, Burst: 1}
	redistest.Until(t, "the cluster serves every slot", func() bool {
		calls := make([]limit.Call, 50)
		for i := range calls {
			calls[i] = limit.Call{Key: fmt.Sprint("probe", i), Rule: rule, Cost: 0}
		}
		return s.Take(within(t, time.Second), calls) == nil
	})
	for round := range 2 {
		calls := make([]limit.Call, 50)
		for i := range calls {
			calls[i] = limit.Call{Key: fmt.Sprint("k", i), Rule: rule, Cost: 1}
		}
		if err := s.Take(within(t, 5*time.Second), calls); err != nil {
			t.Fatal(err)
		}
		for i := range calls {
			if calls[i].State.OK != (round == 0) {
				t.Errorf("round %d, key %d: %+v", round, i, calls[i].State)
			}
		}
	}
}

func TestUnixSocket(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	redistest.Start(t, "--unixsocket", socket)
	s := open(t, settings(func(c *config.Redis) { c.URL = "unix://" + socket }))
	redistest.Until(t, "the server answers", s.Ready)
}
