package upstream

import (
	"strconv"
	"strings"
	"sync"
	"testing"
)

func candidates(weights ...float64) (c []candidate) {
	for i, w := range weights {
		c = append(c, candidate{&endpoint{address: string(rune('a' + i))}, w})
	}
	return c
}

func TestRoundRobinIsSmoothAndWeighted(t *testing.T) {
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
		p, err := newPicker("round_robin", candidates(c.weights...))
		if err != nil {
			t.Fatal(err)
		}
		var got strings.Builder
		for range len(c.want) {
			got.WriteString(p.pick(nil, nil).address)
		}
		if got.String() != c.want {
			t.Errorf("%v: %s, want %s", c.weights, &got, c.want)
		}
	}
}

func TestRoundRobinKeepsTheShares(t *testing.T) {
	c := candidates(1, 10, 100, 1000, 3, 50)
	r := newRoundRobin(c)
	for i := range r.turns { // the clock is about to wrap around
		r.turns[i].at += 1<<64 - 1<<40
	}
	var mu sync.Mutex
	count := make(map[*endpoint]int)
	var wg sync.WaitGroup
	const rounds = 20
	for range 4 {
		wg.Go(func() {
			for range 1164 * rounds / 4 {
				e := r.pick(nil, nil)
				mu.Lock()
				count[e]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for _, c := range c {
		if d := count[c.endpoint] - int(c.weight)*rounds; d < -1 || d > 1 {
			t.Errorf("weight %v has %d turns of %d", c.weight, count[c.endpoint], 1164*rounds)
		}
	}
}

func TestPickPassesOverTheTried(t *testing.T) {
	c := candidates(1000, 1, 1)
	r := newRoundRobin(c)
	been := tried{}
	for range c {
		e := r.pick(nil, been)
		if e == nil || been[e] {
			t.Fatal("an endpoint comes twice, or not")
		}
		been[e] = true
	}
	if r.pick(nil, been) != nil {
		t.Fatal("something is left")
	}
	if newRoundRobin(nil).pick(nil, nil) != nil {
		t.Fatal("something comes from nothing")
	}
	if got := newRoundRobin(c[:1]).pick(nil, been); got != nil {
		t.Fatal("the only endpoint comes twice")
	}
}

func TestUnknownBalance(t *testing.T) {
	if _, err := newPicker("magic", nil); err == nil || !strings.Contains(err.Error(), `"magic"`) {
		t.Error(err)
	}
}

func TestPickAllocatesNothing(t *testing.T) {
	r := newRoundRobin(many(1000))
	if n := testing.AllocsPerRun(1000, func() { r.pick(nil, nil) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func many(n int) (c []candidate) {
	for i := range n {
		c = append(c, candidate{&endpoint{address: strconv.Itoa(i)}, float64(i%10 + 1)})
	}
	return c
}

func BenchmarkPick(b *testing.B) {
	for _, n := range []int{1, 10, 1000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			r := newRoundRobin(many(n))
			b.ReportAllocs()
			for b.Loop() {
				r.pick(nil, nil)
			}
		})
	}
}
