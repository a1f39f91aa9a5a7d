// Package share owns the question which part of a whole a caller falls to:
// what callers are told apart by, and shares of them that stay the same while
// weights change. It refuses to know what the shares are of.
package share

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sort"
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/expr"
)

// Key returns what a request is told apart by, "" when it has nothing of it.
type Key func(x *exchange.Exchange) string

// ParseKey reads client, header:NAME, cookie:NAME, query:NAME or an expression.
func ParseKey(setting string) (Key, error) {
	what, name, _ := strings.Cut(setting, ":")
	switch what {
	case "client":
		return func(x *exchange.Exchange) string { return x.Client.IP }, nil
	case "header":
		return func(x *exchange.Exchange) string { return x.Request.Header.Get(name) }, nil
	case "cookie":
		return func(x *exchange.Exchange) string { return cookie(&x.Request, name) }, nil
	case "query":
		return func(x *exchange.Exchange) string { return parameter(x.Request.Query, name) }, nil
	}
	p, err := expr.Compile(setting, expr.Text)
	if err != nil {
		return nil, fmt.Errorf("hash of %q: %w", setting, err)
	}
	// A request for which the expression fails has nothing to tell it apart.
	return func(x *exchange.Exchange) string {
		text, _ := p.Text(x)
		return text
	}, nil
}

// cookie returns the value of a request's first cookie of a name.
func cookie(r *exchange.Request, name string) string {
	if !r.Header.Has(exchange.Cookie) {
		return ""
	}
	for line := range r.Header.Values("Cookie") {
		for pair := range strings.SplitSeq(line, ";") {
			if n, v, _ := strings.Cut(strings.TrimSpace(pair), "="); n == name {
				return v
			}
		}
	}
	return ""
}

// parameter returns the value of a query's first parameter of a name, as it
// came: what is written differently may hash differently.
func parameter(query, name string) string {
	for pair := range strings.SplitSeq(query, "&") {
		if n, v, _ := strings.Cut(pair, "="); n == name {
			return v
		}
	}
	return ""
}

// Table shares callers by weight. A caller has a lot in every share, drawn from
// his key and the share's name, and falls to the share where the lot is best
// for the weight (weighted rendezvous hashing): when a share grows by a
// hundredth of the whole, a hundredth of the callers change to it, and nobody
// changes between the others. It is the same in every process.
type Table struct {
	lots []lot
	upto []uint64 // running sums of the weights
}

type lot struct {
	seed   uint64
	weight float64
}

// NewTable returns a table of shares with names and weights, of which one at
// least is above 0. A name that comes again is another share.
func NewTable(names []string, weights []int) *Table {
	t := &Table{lots: make([]lot, len(names)), upto: make([]uint64, len(names))}
	seen := make(map[string]int)
	var sum uint64
	for i, name := range names {
		sum += uint64(weights[i])
		t.upto[i] = sum
		t.lots[i] = lot{hash(fmt.Sprintf("%s\x00%d", name, seen[name])), float64(weights[i])}
		seen[name]++
	}
	return t
}

// Any returns the index of a share by chance.
func (t *Table) Any() int { return t.ticket(rand.Uint64N(t.upto[len(t.upto)-1])) }

// ticket returns the share that ticket n, counted from zero, falls to.
func (t *Table) ticket(n uint64) int {
	return sort.Search(len(t.upto), func(i int) bool { return n < t.upto[i] })
}

// Pick returns the index of the share that a key falls to.
func (t *Table) Pick(of string) int {
	key := hash(of)
	best, least := 0, math.Inf(1)
	for i := range t.lots {
		l := &t.lots[i]
		if l.weight == 0 {
			continue
		}
		// Above 0 and below 1, so that the logarithm is a number below 0.
		at := (float64(mix(key^l.seed)>>11) + 0.5) / (1 << 53)
		if score := -math.Log(at) / l.weight; score < least {
			best, least = i, score
		}
	}
	return best
}

func hash(s string) uint64 {
	h := uint64(0xcbf29ce484222325) // FNV-1a
	for i := 0; i < len(s); i++ {
		h = (h ^ uint64(s[i])) * 0x100000001b3
	}
	return mix(h)
}

// mix spreads the bits of a hash (the finalizer of splitmix64).
func mix(h uint64) uint64 {
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}
