package share

import (
	"fmt"
	"math"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
)

func TestTickets(t *testing.T) {
	table := NewTable([]string{"a", "none", "b"}, []int{3, 0, 1})
	for ticket, want := range []int{0, 0, 0, 2} {
		if got := table.ticket(uint64(ticket)); got != want {
			t.Errorf("ticket %d falls to share %d, not %d", ticket, got, want)
		}
	}
}

const callers = 100_000

func picks(names []string, weights []int) (of []int, counts []int) {
	table := NewTable(names, weights)
	of, counts = make([]int, callers), make([]int, len(names))
	for i := range of {
		of[i] = table.Pick(fmt.Sprint("caller-", i))
		counts[of[i]]++
	}
	return of, counts
}

// Every share has the callers that its weight gives it.
func TestWeightsAreHonoured(t *testing.T) {
	for _, weights := range [][]int{{1, 1}, {95, 5}, {1, 0, 3}, {999_999, 1}, {50, 25, 15, 10}, {7}} {
		names := make([]string, len(weights)) // the same name again and again
		sum := 0
		for i, w := range weights {
			names[i] = "checkout"
			sum += w
		}
		_, counts := picks(names, weights)
		for i, w := range weights {
			p := float64(w) / float64(sum)
			want, spread := p*callers, 5*math.Sqrt(p*(1-p)*callers)
			if math.Abs(float64(counts[i])-want) > spread+1 || w == 0 && counts[i] > 0 {
				t.Errorf("weights %v: share %d has %d callers, not %.0f", weights, i, counts[i], want)
			}
		}
	}
}

// While weights change only those callers move whom the change is about.
func TestCallersStay(t *testing.T) {
	names := []string{"v1", "v2", "v3"}
	tests := []struct {
		name     string
		weights  []int
		names    []string
		into     int     // the one share that callers may come to
		from     int     // or the one that they may leave; -1 for any
		moved    float64 // share of the callers
		original []int
	}{
		{"twice as much of everything", []int{180, 20, 0}, names, -1, -1, 0, []int{90, 10, 0}},
		{"another order", []int{10, 90, 0}, []string{"v2", "v1", "v3"}, -1, -1, 0, []int{90, 10, 0}},
		{"one percent more", []int{89, 11, 0}, names, 1, 0, 0.01, []int{90, 10, 0}},
		{"all to the new one", []int{0, 100, 0}, names, 1, 0, 0.9, []int{90, 10, 0}},
		{"a third one", []int{90, 10, 25}, names, 2, -1, 0.2, []int{90, 10, 0}},
		{"one leaves", []int{0, 10, 40}, names, -1, 0, 0.5, []int{50, 10, 40}},
	}
	for _, test := range tests {
		before, _ := picks(names, test.original)
		after, _ := picks(test.names, test.weights)
		moved := 0
		for i := range before {
			if names[before[i]] == test.names[after[i]] {
				continue
			}
			moved++
			if test.into >= 0 && after[i] != test.into || test.from >= 0 && before[i] != test.from {
				t.Fatalf("%s: a caller of %s came to %s", test.name, names[before[i]], test.names[after[i]])
			}
		}
		if got := float64(moved) / callers; math.Abs(got-test.moved) > 0.01 || test.moved == 0 && moved > 0 {
			t.Errorf("%s: %.4f of the callers moved, not %.2f", test.name, got, test.moved)
		}
	}
}

func TestKeys(t *testing.T) {
	x := &exchange.Exchange{Client: &exchange.Client{IP: "192.0.2.7"}}
	r := &x.Request
	r.Method, r.Query, r.HasQuery = "GET", "a=1&user=ada&user=bob", true
	r.Header.Add("X-User", "eve")
	r.Header.Add("Cookie", "a=b; sid=s1")
	r.Header.Add("Cookie", "sid=s2")
	for setting, want := range map[string]string{
		"client": "192.0.2.7", "header:x-user": "eve", "header:X-None": "", "cookie:sid": "s1", "cookie:id": "", "query:user": "ada", "query:b": "",
		`request.query.user + "/" + request.method`: "ada, bob/GET", `request.headers["x-none"]`: "",
	} {
		key, err := ParseKey(setting)
		if err != nil {
			t.Errorf("%s: %v", setting, err)
		} else if got := key(x); got != want {
			t.Errorf("%s: key %q, not %q", setting, got, want)
		}
	}
	if _, err := ParseKey("request.nothing"); err == nil {
		t.Error("a wrong expression is taken")
	}
}

func FuzzParseKey(f *testing.F) {
	for _, s := range []string{"client", "header:X-User", "cookie:a", "query:b", "request.path + 'a'", ":", ""} {
		f.Add(s, "a=1&b=2", "x=y; z=1")
	}
	f.Fuzz(func(t *testing.T, setting, query, cookies string) {
		key, err := ParseKey(setting)
		if err != nil {
			return
		}
		x := &exchange.Exchange{Client: &exchange.Client{IP: "192.0.2.7"}}
		x.Request.Query = query
		x.Request.Header.Add("Cookie", cookies)
		if a, b := key(x), key(x); a != b {
			t.Errorf("one request has the keys %q and %q", a, b)
		}
	})
}
