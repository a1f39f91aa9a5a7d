package identify

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unsafe"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

func client(address string) *exchange.Exchange {
	x := exchange.Get()
	x.Client = &exchange.Client{}
	if address != "" {
		x.Client.Addr = netip.MustParseAddrPort(address)
	}
	return x
}

func TestGuard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGuard(Attempts{Client: policy.Rate{Count: 3, Per: time.Minute}, Credential: policy.Rate{Count: 5, Per: time.Hour}})
		x := client("192.0.2.1:1")
		for i := range 3 {
			if g.blockedClient(x) != 0 {
				t.Errorf("blocked after %d", i)
			}
			g.fail(x, "ann")
			time.Sleep(time.Second)
		}
		if wait := g.blockedClient(x); wait != 57*time.Second {
			t.Errorf("to wait %v", wait)
		}
		for _, other := range []string{"192.0.2.2:1", "[2001:db8::1]:1", ""} {
			if g.blockedClient(client(other)) != 0 {
				t.Errorf("%q is blocked", other)
			}
		}
		if g.Blocked(x, "ann") != nil || g.Blocked(x, "bob") != nil {
			t.Error("a name is blocked too early")
		}
		g.fail(client(""), "ann") // clients without an address count for names only
		g.fail(client(""), "ann")
		var p *exchange.Problem
		if err := g.Blocked(x, "ann"); !errors.As(err, &p) || p.Status != 429 || p.Retry <= 0 {
			t.Errorf("a name: %v", err)
		}
		if g.blockedClient(client("[::ffff:192.0.2.1]:9")) == 0 {
			t.Error("the same address written as IPv6 gets around it")
		}
		time.Sleep(time.Minute)
		if g.blockedClient(x) != 0 {
			t.Error("blocked for ever")
		}
		time.Sleep(time.Hour)
		if g.Blocked(x, "ann") != nil {
			t.Error("the name is blocked for ever")
		}
		if n := g.entries.Load(); n != 0 {
			t.Errorf("%d entries are left", n)
		}
	})
}

// TestGuardFlood has failures of more clients than there is room for: the one
// that failed most is not forgotten for them.
func TestGuardFlood(t *testing.T) {
	g := NewGuard(Attempts{Client: policy.Rate{Count: 10, Per: time.Hour}})
	bad := client("192.0.2.1:1")
	for range 10 {
		g.fail(bad, "")
	}
	for i := range 200_000 {
		x := client(fmt.Sprintf("10.%d.%d.%d:1", i>>16&255, i>>8&255, i&255))
		g.fail(x, "")
		exchange.Put(x)
	}
	if n := g.entries.Load(); n > guardParts*mostInPart {
		t.Errorf("%d entries", n)
	}
	if g.blockedClient(bad) == 0 {
		t.Error("a flood of others lets it in again")
	}
}

// TestKnown has clients that have shown a credential before: guesses of others at
// it are not theirs, and there is a limit to how many are remembered.
func TestKnown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := NewGuard(Attempts{Credential: policy.Rate{Count: 2, Per: time.Hour}})
		owner, thief := client("[2001:db8::1]:1"), client("192.0.2.1:1")
		g.Proved(owner, "ann")
		g.Proved(client(""), "ann") // has no address to be known by
		blocked := func(when string, who *exchange.Exchange, name string, want bool) {
			t.Helper()
			if got := g.Blocked(who, name) != nil; got != want {
				t.Errorf("%s, %q of %v: blocked is %v", when, name, who.Client.Addr, got)
			}
		}
		g.fail(thief, "ann")
		g.fail(thief, "ann")
		blocked("after guesses", thief, "ann", true)
		blocked("after guesses", client(""), "ann", true)
		blocked("after guesses", owner, "ann", false)
		blocked("after guesses", client("[2001:db8::2]:1"), "ann", false) // of the same network
		g.fail(owner, "ann")
		blocked("after a mistake", owner, "ann", false)
		g.fail(owner, "ann")
		blocked("after two", owner, "ann", true)
		time.Sleep(time.Hour)
		blocked("an hour later", owner, "ann", false)
		blocked("an hour later", thief, "ann", false)
		time.Sleep(knownFor)
		g.fail(thief, "ann")
		g.fail(thief, "ann")
		blocked("long after", owner, "ann", true)
		for i := range 80_000 {
			x := client(fmt.Sprintf("10.%d.%d.%d:1", i>>16&255, i>>8&255, i&255))
			g.Proved(x, "eve")
			exchange.Put(x)
		}
		n := 0
		for i := range g.parts {
			n += len(g.parts[i].known)
		}
		if n > guardParts*mostInPart {
			t.Errorf("%d are remembered", n)
		}
	})
}

func TestReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewReplay(3)
		for _, c := range []struct {
			parts []string
			want  error
		}{
			{[]string{"a", "b"}, nil}, {[]string{"a", "b"}, ErrReplayed}, {[]string{"ab", ""}, nil}, {[]string{"", "ab"}, nil}, {[]string{"c"}, ErrFull}, {[]string{"ab", ""}, ErrReplayed},
		} {
			if err := r.Use(time.Minute, c.parts...); !errors.Is(err, c.want) {
				t.Errorf("%q: %v, want %v", c.parts, err, c.want)
			}
		}
		time.Sleep(time.Minute)
		if err := r.Use(time.Minute, "a", "b"); err != nil {
			t.Errorf("after its time: %v", err)
		}
	})
}

// TestReplayFull has a memory that is full: it is not looked through for every
// request, and has room again a second after the first time is over.
func TestReplayFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewReplay(2)
		for _, part := range []string{"a", "b"} {
			if err := r.Use(1500*time.Millisecond, part); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Second)
		swept := r.swept
		if err := r.Use(time.Minute, "c"); !errors.Is(err, ErrFull) || r.swept == swept {
			t.Errorf("%v, looked through at %d", err, r.swept)
		}
		swept = r.swept
		for range 9 {
			time.Sleep(100 * time.Millisecond)
			if err := r.Use(time.Minute, "c"); !errors.Is(err, ErrFull) || r.swept != swept {
				t.Errorf("%v, looked through at %d again", err, r.swept)
			}
		}
		time.Sleep(100 * time.Millisecond)
		if err := r.Use(time.Minute, "c"); err != nil {
			t.Errorf("after a second: %v", err)
		}
	})
}

func TestTokens(t *testing.T) {
	c := NewTokens[int](8)
	one := 1
	c.Put("a", &one, 100, 200)
	c.Put("b", &one, 100, 100)
	for token, want := range map[string]bool{"a": true, "b": false, "c": false} {
		if got := c.Get(token, 150) != nil; got != want {
			t.Errorf("%s: %v", token, got)
		}
	}
	if c.Get("a", 200) != nil {
		t.Error("it is good for too long")
	}
	for i := range 1000 {
		c.Put(fmt.Sprint(i), &i, 100, 200)
		if v := c.Get(fmt.Sprint(i), 150); v == nil || *v != i {
			t.Fatalf("%d is not remembered", i)
		}
	}
	// A token of a large head leaves the head alone.
	head := strings.Repeat("x", 1<<16)
	token := head[100:110]
	c.Put(token, &one, 100, 200)
	for i := range c.slots {
		if r := c.slots[i].Load(); r != nil && r.token == token && unsafe.StringData(r.token) == unsafe.StringData(token) {
			t.Error("the head of the request stays in memory with its token")
		}
	}
	var none *Tokens[int]
	none.Put("a", &one, 0, 1)
	if none.Get("a", 0) != nil {
		t.Error("no memory remembers")
	}
}

func TestJoin(t *testing.T) {
	who := func(consumer, method string, groups ...string) exchange.Who {
		return exchange.Who{Consumer: consumer, Method: method, Groups: groups}
	}
	for _, c := range []struct {
		a, b, want exchange.Who
		wrong      bool
	}{
		{who("", ""), who("a", "jwt"), who("a", "jwt"), false},
		{who("guest", ""), who("a", "jwt"), who("a", "jwt"), false},
		{who("a", "mtls", "x", "y"), who("a", "jwt", "y", "z"), who("a", "mtls+jwt", "x", "y", "z"), false},
		{who("a", "mtls"), who("", "jwt", "z"), who("a", "mtls+jwt", "z"), false},
		{who("", "mtls"), who("b", "jwt"), who("b", "mtls+jwt"), false},
		{who("a", "mtls"), who("b", "jwt"), who("", ""), true},
	} {
		now := c.b
		err := join(&c.a, &now)
		if (err != nil) != c.wrong || !c.wrong && !reflect.DeepEqual(now, c.want) {
			t.Errorf("%+v and %+v: %+v, %v", c.a, c.b, now, err)
		}
	}
}

func TestSources(t *testing.T) {
	who := &exchange.Who{
		Consumer: "c", Groups: []string{"a", "b"}, Scopes: []string{"r", "w"}, Labels: map[string]string{"plan": "gold"},
		Claims: map[string]any{
			"n": int64(1 << 60), "f": 1.5, "t": true, "l": []any{"x", int64(1)}, "deep": map[string]any{"er": map[string]any{"e.st": "v"}},
			"https://x/y": "z", "comma": []any{"a,b"}, "object": map[string]any{}, "nested": []any{[]any{"a"}}, "nothing": nil,
		},
	}
	for text, want := range map[string]string{
		"consumer": "c", "groups": "a,b", "scopes": "r w", "labels.plan": "gold", "labels.none": "", "claims.n": "1152921504606846976", "claims.f": "1.5",
		"claims.t": "true", "claims.l": "x,1", "claims.deep.er.e.st": "v", "claims.https://x/y": "z", "claims.comma": "", "claims.object": "",
		"claims.nested": "", "claims.nothing": "", "claims.none": "", "subject": "",
	} {
		s, f := ParseSource(text)
		if f != nil {
			t.Fatalf("%s: %v", text, f)
		}
		if got, _ := s.Text(who); got != want {
			t.Errorf("%s is %q, want %q", text, got, want)
		}
	}
	for _, text := range []string{"", "name", "consumer.x", "claims", "claims.", "labels."} {
		if _, f := ParseSource(text); f == nil {
			t.Errorf("%q was taken", text)
		}
	}
}

// FuzzPlaces has the law that what was taken out of a request is not found in
// it again, and that nothing else is lost.
func FuzzPlaces(f *testing.F) {
	f.Add("a=1&key=foo&b=2", "a=1; key=foo; b=2")
	f.Add("k%65y=1;x&=&&key", `key="a"; ; =; key`)
	f.Fuzz(func(t *testing.T, query, cookie string) {
		if strings.ContainsAny(cookie, "\r\n\x00") {
			return
		}
		x := exchange.Get()
		defer exchange.Put(x)
		r := &x.Request
		r.Query, r.HasQuery = query, true
		r.Header.Add("Cookie", cookie)
		for _, p := range []*Place{{Query: "key"}, {Cookie: "key"}} {
			p.Compile("header", "query", "cookie")
			p.Remove(r)
			if v, err := p.Find(r, 1<<20); v != "" || err != nil {
				t.Errorf("%s: %q is still there, %v", p, v, err)
			}
		}
		for piece := range strings.SplitSeq(query, "&") {
			if !names(piece, "key") && !strings.Contains(r.Query, piece) {
				t.Errorf("%q was lost from %q: %q", piece, query, r.Query)
			}
		}
	})
}

// TestFieldTwice has one field under two spellings: which of the two holds
// would be chance.
func TestFieldTwice(t *testing.T) {
	for settings, want := range map[*map[string]string]bool{
		{"X-Who": "consumer", "x-who": "subject"}:  true,
		{"X-Who": "consumer", "X-Whom": "subject"}: false,
	} {
		if _, faults := compileFields(*settings); (faults != nil) != want {
			t.Errorf("%v: %v", *settings, faults)
		}
	}
}

// TestRemoveLines has a credential in the second line of a field: it was read by
// nobody, and goes on to nobody.
func TestRemoveLines(t *testing.T) {
	for _, c := range []struct {
		lines []string
		stay  int
	}{
		{[]string{"Basic a"}, 0},
		{[]string{"basic"}, 0},
		{[]string{"Bearer a"}, 0},
		{[]string{"DPoP a"}, 0},
		{[]string{"Negotiate a"}, 1},
		{[]string{"Negotiate a", "Basic a"}, 0},
		{[]string{"Basic a", "Negotiate a"}, 0},
		{[]string{"", "BEARER a"}, 0},
		{[]string{"Negotiate a", "dpop a"}, 0},
		{[]string{"Negotiate a", "Digest b"}, 2},
	} {
		x := exchange.Get()
		for _, line := range c.lines {
			x.Request.Header.Add("Authorization", line)
		}
		for _, scheme := range []string{"Basic", "Bearer"} {
			p := &Place{Header: "Authorization", Scheme: scheme}
			p.Compile("header", "query", "cookie")
			p.Remove(&x.Request)
		}
		(&Binding{authority: true}).Remove(&x.Request)
		if n := x.Request.Header.Count(exchange.Authorization); n != c.stay {
			t.Errorf("of %q %d lines are left", c.lines, n)
		}
		exchange.Put(x)
	}
}
