package health

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

const second = Clock(time.Second)

func TestWindowForgets(t *testing.T) {
	var w Window
	w.Length(10 * time.Second)
	for n := range Clock(10) {
		w.Add(n*second, Counts{Total: 1, Bad: int64(n % 2), Took: time.Second})
	}
	for _, c := range []struct {
		at    Clock
		total int64
	}{{9 * second, 10}, {10 * second, 9}, {14 * second, 5}, {18 * second, 1}, {19 * second, 0}, {1000 * second, 0}} {
		if got := w.Sum(c.at); got.Total != c.total || got.Took != time.Duration(c.total)*time.Second {
			t.Errorf("at %v: %+v, want %d", time.Duration(c.at), got, c.total)
		}
	}
	w.Add(1000*second, Counts{Total: 1})
	w.Length(10 * time.Second)
	if got := w.Sum(1000 * second); got.Total != 1 {
		t.Errorf("the same length empties it: %+v", got)
	}
	w.Length(time.Second)
	if got := w.Sum(1000 * second); got.Total != 0 {
		t.Errorf("another length does not empty it: %+v", got)
	}
}

// A storm: every attempt fails, every failure asks for another attempt.
func TestBudgetInAStorm(t *testing.T) {
	for _, rate := range []float64{1, 0.5} {
		b := Budget{Share: 0.2, Reserve: 3}
		requests, attempts := 0, 0
		for n := range 100_000 { // a thousand requests a second
			now := Clock(n) * second / 1000
			b.Count(now)
			requests++
			for try := 0; try < 5; try++ {
				if try > 0 && !b.Take(now) {
					break
				}
				attempts++
				if rand.Float64() > rate {
					break
				}
			}
		}
		if load := float64(attempts) / float64(requests); load > 1.2 || load < 1.15 {
			t.Errorf("with a share of %v failing the load is %.3f times", rate, load)
		}
	}
}

func TestBudgetOfFewRequests(t *testing.T) {
	b := Budget{Share: 0.1, Reserve: 3}
	b.Count(0)
	for n := range 5 {
		if got, want := b.Take(0), n < 3; got != want {
			t.Errorf("extra request %d: %v", n, got)
		}
	}
	if b.Take(9 * second) {
		t.Error("the reserve came back too soon")
	}
	if !b.Take(11 * second) {
		t.Error("the reserve did not come back")
	}
	b.Force(11 * second)
	b.Force(11 * second)
	if b.Take(11 * second) {
		t.Error("what was made in any case does not count")
	}
}

func TestPercentiles(t *testing.T) {
	var p Percentiles
	if got := p.At(0, 0.95); got != 0 {
		t.Errorf("of nothing: %v", got)
	}
	for n := range 1000 {
		p.Observe(0, time.Duration(n+1)*time.Millisecond)
	}
	for _, c := range []struct {
		share float64
		want  time.Duration
	}{{0.5, 500 * time.Millisecond}, {0.95, 950 * time.Millisecond}, {0.99, 990 * time.Millisecond}} {
		got := p.At(2*second, c.share)
		if got < c.want || float64(got) > 1.13*float64(c.want) {
			t.Errorf("p%.0f is %v, want about %v", 100*c.share, got, c.want)
		}
	}
	for range 1000 {
		p.Observe(40*second, time.Millisecond)
	}
	if got := p.At(42*second, 0.5); got > 300*time.Millisecond {
		t.Errorf("newer answers do not count: %v", got)
	}
	for range 100 {
		p.Observe(200*second, time.Millisecond)
	}
	if got := p.At(202*second, 0.99); got > 2*time.Millisecond {
		t.Errorf("old answers still count: %v", got)
	}
	for d := time.Duration(1); d < time.Hour; d = d*9/7 + 1 {
		if u := upper(bucket(d)); u < d || d > 64 && float64(u) > 1.13*float64(d) {
			t.Errorf("%v is in a bucket up to %v", d, u)
		}
	}
}

func TestChecks(t *testing.T) {
	for _, c := range []struct {
		name    string
		results string // g and b
		usable  string // after each
	}{
		{"nothing is known, then good", "gg", "11"},
		{"the first decides at once", "b", "0"},
		{"bad ones in a row", "gbbbb", "11100"},
		{"a good one between", "gbbgbbb", "1111110"},
		{"comes back", "bgg", "001"},
		{"falters while it comes back", "bgbgg", "00001"},
	} {
		var e Endpoint
		got := ""
		for _, r := range c.results {
			before := e.Usable(0)
			changed := e.Checked(0, r == 'g', "said so", 2, 3)
			if after := e.Usable(0); after != before && !changed {
				t.Errorf("%s: a change was not told", c.name)
			}
			if e.Usable(0) {
				got += "1"
			} else {
				got += "0"
			}
		}
		if got != c.usable {
			t.Errorf("%s: %s makes %s, want %s", c.name, c.results, got, c.usable)
		}
	}
	var e Endpoint
	e.Checked(0, false, "status 500", 1, 1)
	if s := e.Status(0); s.State != "unhealthy" || s.Reason != "status 500" || s.Usable {
		t.Errorf("%+v", s)
	}
	e.Unchecked()
	if !e.Usable(0) {
		t.Error("a result outlives the checks")
	}
}

func settings() *Outlier {
	return &Outlier{
		ConsecutiveErrors: 5, ErrorRate: 0.5, MinRequests: 20, Window: 10 * time.Second,
		Eject: 30 * time.Second, EjectMax: 100 * time.Second,
	}
}

func TestConsecutiveErrors(t *testing.T) {
	var e Endpoint
	for n := range 4 {
		if r := e.Record(0, settings(), true, 0); r != "" {
			t.Fatalf("after %d errors: %s", n+1, r)
		}
	}
	e.Record(0, settings(), false, 0)
	for range 4 {
		e.Record(0, settings(), true, 0)
	}
	if r := e.Record(0, settings(), true, 0); r != "5 errors in a row" {
		t.Errorf("%q", r)
	}
}

func TestErrorRate(t *testing.T) {
	o := settings()
	o.ConsecutiveErrors = 0
	var e Endpoint
	for n := range 30 {
		r := e.Record(0, o, n%2 == 1, 0)
		if want := n >= 19 && n%2 == 1; (r != "") != want {
			t.Errorf("request %d: %q", n+1, r)
		}
	}
	e = Endpoint{}
	for n := range Clock(30) { // spread out so that a window never holds enough
		if r := e.Record(n*second, o, true, 0); r != "" {
			t.Errorf("request %d: %q", n+1, r)
		}
	}
}

// Each ejection is longer, up to a limit, and good times make it shorter.
func TestEjectionsGrow(t *testing.T) {
	var e Endpoint
	o := settings()
	now := Clock(0)
	for _, want := range []time.Duration{30, 60, 90, 100, 100} {
		got := e.Eject(now, o, "bad")
		if got != want*time.Second {
			t.Fatalf("ejected for %v, want %v", got, want*time.Second)
		}
		if e.Usable(now) || e.Usable(now+Clock(got)-1) || !e.Usable(now+Clock(got)) {
			t.Error("not ejected, or not for as long")
		}
		if s := e.Status(now); s.State != "ejected" || s.Reason != "bad" || s.Until != got {
			t.Errorf("%+v", s)
		}
		now += Clock(got)
	}
	now += 130 * second
	if got := e.Eject(now, o, "bad"); got != 90*time.Second {
		t.Errorf("after a good time %v", got)
	}
	now += 10_000 * second
	if got := e.Eject(now, o, "bad"); got != 30*time.Second {
		t.Errorf("after a long good time %v", got)
	}
	e.Pardon(now + second)
	if !e.Usable(now + second) {
		t.Error("not pardoned")
	}
}

func TestWarmth(t *testing.T) {
	var old, late Endpoint
	old.Begin(0, true)
	late.Begin(100*second, false)
	const d = 30 * time.Second
	for _, c := range []struct {
		at         Clock
		old, young float64
	}{{100, 1, 0.1}, {115, 1, 0.5}, {130, 1, 1}, {1000, 1, 1}} {
		if o, y := old.Warmth(c.at*second, d), late.Warmth(c.at*second, d); o != c.old || y != c.young {
			t.Errorf("at %d: %v and %v", c.at, o, y)
		}
	}
	late.Eject(200*second, settings(), "bad")
	if w := late.Warmth(245*second, d); w != 0.5 {
		t.Errorf("15 seconds after an ejection: %v", w)
	}
}

func breaker() (*Breaker, *[]string) {
	b, states := new(Breaker), new([]string)
	b.Set(BreakerSettings{
		ErrorRate: 0.5, Slow: 2 * time.Second, SlowRate: 0.8, MinRequests: 20,
		Window: 10 * time.Second, Open: 5 * time.Second, Probes: 3,
	}, func(s, _ string) { *states = append(*states, s) })
	return b, states
}

func (b *Breaker) ask(now Clock, r Result, took time.Duration) bool {
	p, _, ok := b.Allow(now)
	if ok {
		b.Done(now, p, r, took)
	}
	return ok
}

func TestBreakerOpensAndCloses(t *testing.T) {
	b, states := breaker()
	for n := range 19 {
		if !b.ask(0, Bad, 0) {
			t.Fatalf("open after %d requests", n)
		}
	}
	for range 100 { // what says nothing does not count
		b.ask(0, None, 0)
	}
	b.ask(0, Bad, 0)
	if _, wait, ok := b.Allow(second); ok || wait != 4*time.Second {
		t.Errorf("not open, or for %v", wait)
	}
	if s, r := b.State(); s != "open" || r != "20 of 20 requests failed" || !b.Shut(second) {
		t.Errorf("%s: %s", s, r)
	}
	// Three probes are let through, and no fourth.
	var probes []Pass
	for range 3 {
		p, _, ok := b.Allow(5 * second)
		if !ok {
			t.Fatal("no probe")
		}
		probes = append(probes, p)
	}
	if _, _, ok := b.Allow(5 * second); ok {
		t.Error("a fourth probe")
	}
	b.Done(5*second, probes[0], None, 0) // says nothing: its place is free
	p, _, ok := b.Allow(5 * second)
	if !ok {
		t.Fatal("the place of a probe was lost")
	}
	for _, p := range []Pass{probes[1], probes[2], p} {
		b.Done(6*second, p, Good, 0)
	}
	if s, _ := b.State(); s != "closed" {
		t.Error(s)
	}
	for range 19 {
		b.ask(6*second, Bad, 0)
	}
	if s, _ := b.State(); s != "closed" {
		t.Error("what was counted before it opened counts again")
	}
	if got := strings.Join(*states, " "); got != "open half_open closed" {
		t.Error(got)
	}
}

func TestBreakerOpensAgain(t *testing.T) {
	b, states := breaker()
	for range 20 {
		b.ask(0, Bad, 0)
	}
	one, _, _ := b.Allow(5 * second)
	two, _, _ := b.Allow(5 * second)
	b.Done(5*second, one, Bad, 0)
	b.Done(5*second, two, Good, 0) // of an earlier turn
	if _, _, ok := b.Allow(9 * second); ok {
		t.Error("not open for as long as before")
	}
	if !b.ask(10*second, Good, 3*time.Second) {
		t.Error("no probe")
	}
	if got := strings.Join(*states, " "); got != "open half_open open half_open open" {
		t.Errorf("a slow probe closes it: %s", got)
	}
}

func TestBreakerOpensWhenSlow(t *testing.T) {
	b, _ := breaker()
	for n := range 50 {
		took := 3 * time.Second
		if n%5 == 0 {
			took = time.Millisecond
		}
		b.ask(0, Good, took)
	}
	if s, r := b.State(); s != "open" || !strings.Contains(r, "slow") {
		t.Errorf("%s: %s", s, r)
	}
}

func TestBreakerStaysClosedBelowItsRate(t *testing.T) {
	b, states := breaker()
	for n := range 10_000 {
		r := Good
		if n%5 < 2 {
			r = Bad
		}
		b.ask(Clock(n)*second/100, r, time.Second)
	}
	if len(*states) != 0 {
		t.Error(*states)
	}
}

// A service that has 50 places: beyond them requests wait for each other. The
// limit settles near 50, and rises when the service grows.
func TestGradient(t *testing.T) {
	g := NewGradient(4, 1000)
	now := Clock(0)
	run := func(places int, windows int) {
		for range windows {
			for range 20 {
				active := g.Limit() // everybody wants as much as is allowed
				took := 10 * time.Millisecond
				if active > places {
					took = took * time.Duration(active) / time.Duration(places)
				}
				g.Observe(now, took, active)
				now += second / 20
			}
		}
	}
	run(50, 200)
	if l := g.Limit(); l < 40 || l > 110 {
		t.Errorf("the limit is %d", l)
	}
	run(200, 200)
	if l := g.Limit(); l < 160 || l > 420 {
		t.Errorf("with more places the limit is %d", l)
	}
	run(50, 200)
	if l := g.Limit(); l < 40 || l > 110 {
		t.Errorf("with fewer places again the limit is %d", l)
	}
}

func TestGradientOfAnIdleService(t *testing.T) {
	g := NewGradient(4, 100)
	for n := range Clock(10_000) {
		g.Observe(n*second/10, time.Millisecond, 1)
	}
	if l := g.Limit(); l != 20 {
		t.Errorf("the limit is %d and nobody asked for it", l)
	}
}

// What was under way when an endpoint was ejected says nothing about how it is
// when it returns.
func TestLateFailuresAreNotHeldAgainstTheReturned(t *testing.T) {
	o := &Outlier{ConsecutiveErrors: 3, MinRequests: 100, Window: 10 * time.Second, Eject: 30 * time.Second, EjectMax: time.Minute}
	var e Endpoint
	now := Clock(time.Hour)
	for range 2 {
		if reason := e.Record(now, o, true, 0); reason != "" {
			t.Fatal(reason)
		}
	}
	reason := e.Record(now, o, true, 0)
	if reason == "" {
		t.Fatal("not ejected")
	}
	e.Eject(now, o, reason)
	for range 5 {
		if got := e.Record(now+1, o, true, 0); got != reason {
			t.Fatalf("%q", got)
		}
	}
	back := now + Clock(31*time.Second)
	if got := e.Record(back, o, true, 0); got != "" || !e.Usable(back) {
		t.Errorf("one error after its return: %q", got)
	}
}
