package balance

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func algorithms() []string {
	return []string{"round_robin", "random", "least_requests", "ewma", "hash"}
}

func members(weights ...float64) (out []Member) {
	for i, w := range weights {
		out = append(out, Member{fmt.Sprintf("10.0.%d.%d:80", i/256, i%256), w, new(Load)})
	}
	return out
}

func many(n int) []Member {
	weights := make([]float64, n)
	for i := range weights {
		weights[i] = float64(i%10 + 1)
	}
	return members(weights...)
}

func equal(n int) []Member {
	weights := make([]float64, n)
	for i := range weights {
		weights[i] = 1
	}
	return members(weights...)
}

func picker(t testing.TB, algorithm string, m []Member) Picker {
	t.Helper()
	p, err := New(algorithm, m, Options{Slack: 0.25})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Every algorithm gives idle members of equal latency their shares.
func TestShares(t *testing.T) {
	for _, algorithm := range algorithms() {
		for _, weights := range [][]float64{{1, 1}, {1, 2, 3}, {1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, {10, 1, 5, 0.5}} {
			m := members(weights...)
			p := picker(t, algorithm, m)
			sum := 0.0
			for _, m := range m {
				sum += m.Weight
				m.Load.Observe(time.Second)
			}
			const picks = 200_000
			have := make([]int, len(m))
			for n := range picks {
				have[p.Pick(Hash(strconv.Itoa(n)), nil)]++
			}
			most := map[string]float64{"round_robin": 0.001, "hash": 0.4}[algorithm]
			if most == 0 {
				most = 0.04
			}
			for i, w := range weights {
				want := picks * w / sum
				if d := math.Abs(float64(have[i])-want) / want; d > most {
					t.Errorf("%s %v: member %d has %d picks, want %.0f", algorithm, weights, i, have[i], want)
				}
			}
		}
	}
}

func TestNoneTwice(t *testing.T) {
	for _, algorithm := range algorithms() {
		for _, n := range []int{0, 1, 2, 3, 50} {
			m := many(n)
			p := picker(t, algorithm, m)
			var tried []*Load
			for range n {
				i := p.Pick(12345, tried)
				if i < 0 {
					t.Fatalf("%s: %d of %d were picked", algorithm, len(tried), n)
				}
				for _, l := range tried {
					if l == m[i].Load {
						t.Fatalf("%s: picked twice", algorithm)
					}
				}
				tried = append(tried, m[i].Load)
			}
			if i := p.Pick(12345, tried); i >= 0 {
				t.Errorf("%s: %d of %d is left", algorithm, i, n)
			}
		}
	}
}

func TestRoundRobinIsSmooth(t *testing.T) {
	for _, c := range []struct {
		weights []float64
		want    string
	}{
		{[]float64{1}, "aaaa"},
		{[]float64{1, 1}, "abababab"},
		{[]float64{7, 7, 7}, "abcabcabc"},
		{[]float64{2, 1}, "abaaba"},
		{[]float64{3, 1}, "aabaaaba"},
		{[]float64{5, 1, 1}, "aaabcaaaaabcaa"},
		{[]float64{0.5, 0.5, 1}, "cabccabc"},
	} {
		p := picker(t, "round_robin", members(c.weights...))
		var got strings.Builder
		for range len(c.want) {
			got.WriteByte('a' + byte(p.Pick(0, nil)))
		}
		if got.String() != c.want {
			t.Errorf("%v: %s, want %s", c.weights, &got, c.want)
		}
	}
}

// When a set is replaced the turns go on: who has just had one waits.
func TestRoundRobinGoesOn(t *testing.T) {
	m := equal(4)
	p := picker(t, "round_robin", m)
	count := make([]int, 4)
	for n := range 400 {
		count[p.Pick(0, nil)]++
		if n%3 == 0 {
			var err error
			if p, err = New("round_robin", m, Options{Before: p}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i, n := range count {
		if n != 100 {
			t.Errorf("member %d has %d turns of 400", i, n)
		}
	}
}

func TestRoundRobinKeepsTheShares(t *testing.T) {
	m := members(1, 10, 100, 1000, 3, 50)
	r := newRoundRobin(m, nil)
	for i := range r.turns { // the clock is about to wrap around
		r.turns[i].at += 1<<64 - 1<<40
	}
	count := make([]atomic.Int64, len(m))
	var wg sync.WaitGroup
	const rounds = 20
	for range 4 {
		wg.Go(func() {
			for range 1164 * rounds / 4 {
				count[r.Pick(0, nil)].Add(1)
			}
		})
	}
	wg.Wait()
	for i, m := range m {
		if d := int(count[i].Load()) - int(m.Weight)*rounds; d < -1 || d > 1 {
			t.Errorf("weight %v has %d turns of %d", m.Weight, count[i].Load(), 1164*rounds)
		}
	}
}

// Of two the less busy one is taken, so the busiest of all never is.
func TestLeastRequestsAvoidsTheBusy(t *testing.T) {
	m := equal(5)
	for range 100 {
		m[2].Load.Begin()
	}
	p := picker(t, "least_requests", m)
	for range 10_000 {
		i := p.Pick(0, nil)
		if i == 2 {
			t.Fatal("the busiest was picked")
		}
	}
	// Requests that stay spread out evenly.
	for range 1000 {
		m[p.Pick(0, nil)].Load.Begin()
	}
	least, most := int64(1<<60), int64(0)
	for _, m := range m {
		least, most = min(least, m.Load.Active()), max(most, m.Load.Active())
	}
	if most-least > 10 {
		t.Errorf("the members have from %d to %d requests", least, most)
	}
}

// An endpoint 20 times slower than the others gets next to nothing, and is
// asked again after a while.
func TestEWMAAvoidsTheSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := equal(4)
		p := picker(t, "ewma", m)
		count := make([]int, 4)
		took := func(i int) time.Duration {
			if i == 3 {
				return 200 * time.Millisecond
			}
			return 10 * time.Millisecond
		}
		for range 10_000 {
			i := p.Pick(0, nil)
			count[i]++
			m[i].Load.Observe(took(i))
			time.Sleep(time.Millisecond)
		}
		if count[3] == 0 || count[3] > 100 {
			t.Errorf("the slow one was picked %d times of 10000", count[3])
		}
		time.Sleep(100 * memory)
		if l := m[3].Load.Latency(); l > 3*time.Millisecond {
			t.Errorf("it is still remembered as slow: %v", l)
		}
	})
}

// What becomes slow is noticed with the first answer, what becomes quick only
// with time.
func TestPeak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Load
		l.Observe(time.Millisecond)
		l.Observe(time.Second)
		if got := l.Latency(); got < time.Second-time.Millisecond {
			t.Errorf("after a peak %v", got)
		}
		l.Observe(time.Millisecond)
		if got := l.Latency(); got < 900*time.Millisecond {
			t.Errorf("forgotten at once: %v", got)
		}
		time.Sleep(memory)
		l.Observe(time.Millisecond)
		if got := l.Latency(); got > 400*time.Millisecond {
			t.Errorf("after a while still %v", got)
		}
	})
}

// A new endpoint gets a request to learn from, not all of them.
func TestEWMAOfTheUnknown(t *testing.T) {
	m := equal(3)
	m[0].Load.Observe(time.Millisecond)
	m[1].Load.Observe(time.Millisecond)
	p := picker(t, "ewma", m)
	for i := p.Pick(0, nil); i != 2; i = p.Pick(0, nil) {
	}
	m[2].Load.Begin()
	for range 1000 {
		if p.Pick(0, nil) == 2 {
			t.Fatal("a second request went to it before the first was answered")
		}
	}
}

// When a member leaves only its keys move: at most their share and what the
// shares differ.
func TestHashMovesFewKeys(t *testing.T) {
	const keys = 100_000
	for _, n := range []int{2, 3, 10, 100} {
		m := equal(n)
		before := picker(t, "hash", m)
		gone := n / 2
		rest := append(append([]Member{}, m[:gone]...), m[gone+1:]...)
		after := picker(t, "hash", rest)
		moved, own := 0, 0
		for k := range keys {
			key := Hash("user " + strconv.Itoa(k))
			was, is := m[before.Pick(key, nil)], rest[after.Pick(key, nil)]
			if was.ID == m[gone].ID {
				own++
			}
			if was.ID != is.ID {
				moved++
			}
		}
		if moved != own {
			t.Errorf("of %d: %d keys moved, %d were of the one that left", n, moved, own)
		}
		if share := float64(moved) / keys; share > 1.35/float64(n) {
			t.Errorf("of %d: a share of %.4f moved", n, share)
		}
	}
}

func TestHashIsTheSameForAllOrders(t *testing.T) {
	m := equal(10)
	turned := append(append([]Member{}, m[5:]...), m[:5]...)
	a, b := picker(t, "hash", m), picker(t, "hash", turned)
	for k := range 10_000 {
		key := Hash(strconv.Itoa(k))
		if m[a.Pick(key, nil)].ID != turned[b.Pick(key, nil)].ID {
			t.Fatal("the order of the members matters")
		}
	}
}

// One key that everybody asks for does not crush its endpoint.
func TestHashIsBounded(t *testing.T) {
	m := equal(10)
	var active atomic.Int64
	p, err := New("hash", m, Options{Slack: 0.25, Active: &active})
	if err != nil {
		t.Fatal(err)
	}
	key := Hash("popular")
	home := p.Pick(key, nil)
	for n := range 1000 {
		at := p.Pick(key, nil)
		if n < unbounded && at != home {
			t.Errorf("request %d goes elsewhere while few are in flight", n)
		}
		m[at].Load.Begin()
		active.Add(1)
	}
	for i, m := range m {
		if n := m.Load.Active(); n > 126 {
			t.Errorf("member %d has %d of 1000 requests", i, n)
		}
	}
}

func TestUnknownAlgorithm(t *testing.T) {
	if _, err := New("magic", nil, Options{}); err == nil || !strings.Contains(err.Error(), `"magic"`) {
		t.Error(err)
	}
}

func TestPickAllocatesNothing(t *testing.T) {
	for _, algorithm := range algorithms() {
		p := picker(t, algorithm, many(1000))
		key := uint64(0)
		if n := testing.AllocsPerRun(1000, func() { key += 1 << 50; p.Pick(key, nil) }); n > 0 {
			t.Errorf("%s: %v allocations", algorithm, n)
		}
	}
}

func BenchmarkPick(b *testing.B) {
	for _, algorithm := range algorithms() {
		for _, n := range []int{1, 10, 1000} {
			b.Run(algorithm+"/"+strconv.Itoa(n), func(b *testing.B) {
				m := many(n)
				for _, m := range m {
					m.Load.Observe(time.Millisecond)
				}
				p := picker(b, algorithm, m)
				key := uint64(0)
				b.ReportAllocs()
				for b.Loop() {
					key += 0x9e3779b97f4a7c15
					p.Pick(key, nil)
				}
			})
		}
	}
}

func BenchmarkNewRing(b *testing.B) {
	m := equal(1000)
	for b.Loop() {
		newRing(m, 0.25, nil)
	}
}
