package exchange

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// lines writes a header as one line a field.
func lines(h *Header) string {
	var out []string
	for name, value := range h.All() {
		out = append(out, name+": "+value)
	}
	return strings.Join(out, "\n")
}

func header(text ...string) *Header {
	h := new(Header)
	for _, line := range text {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, value)
	}
	return h
}

func TestHeaderChanges(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*Header)
		want   string
	}{
		{"nothing", func(*Header) {}, "Accept: a\nX-One: 1\nCookie: c=d\nx-one: 2\nACCEPT: b\nX-Two: 3"},
		{"add", func(h *Header) { h.Add("X-ONE", "4") }, "Accept: a\nX-One: 1\nCookie: c=d\nx-one: 2\nACCEPT: b\nX-Two: 3\nX-ONE: 4"},
		{"set keeps the place", func(h *Header) { h.Set("X-oNe", "4") }, "Accept: a\nX-oNe: 4\nCookie: c=d\nACCEPT: b\nX-Two: 3"},
		{"set a well-known one", func(h *Header) { h.Set("accept", "c") }, "accept: c\nX-One: 1\nCookie: c=d\nx-one: 2\nX-Two: 3"},
		{"set by number", func(h *Header) { h.SetKnown(Accept, "c") }, "Accept: c\nX-One: 1\nCookie: c=d\nx-one: 2\nX-Two: 3"},
		{"set a new one", func(h *Header) { h.Set("Via", "v") }, "Accept: a\nX-One: 1\nCookie: c=d\nx-one: 2\nACCEPT: b\nX-Two: 3\nVia: v"},
		{"set a new one by number", func(h *Header) { h.SetKnown(Via, "v") }, "Accept: a\nX-One: 1\nCookie: c=d\nx-one: 2\nACCEPT: b\nX-Two: 3\nVia: v"},
		{"del", func(h *Header) { h.Del("X-ONE") }, "Accept: a\nCookie: c=d\nACCEPT: b\nX-Two: 3"},
		{"del what is not there", func(h *Header) { h.Del("X-Three"); h.Del("Via"); h.DelKnown(Via); h.DelSet(Via.Bit()) }, "Accept: a\nX-One: 1\nCookie: c=d\nx-one: 2\nACCEPT: b\nX-Two: 3"},
		{"del a well-known one", func(h *Header) { h.Del("accept") }, "X-One: 1\nCookie: c=d\nx-one: 2\nX-Two: 3"},
		{"del a set", func(h *Header) { h.DelSet(Accept.Bit() | Cookie.Bit() | Via.Bit()) }, "X-One: 1\nx-one: 2\nX-Two: 3"},
		{"del by function", func(h *Header) { h.DelFunc(func(f *Field) bool { return f.Value < "2" }) }, "Accept: a\nCookie: c=d\nx-one: 2\nACCEPT: b\nX-Two: 3"},
		{"reset", func(h *Header) { h.Reset() }, ""},
	} {
		h := header("Accept: a", "X-One: 1", "Cookie: c=d", "x-one: 2", "ACCEPT: b", "X-Two: 3")
		c.change(h)
		if got := lines(h); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, got, c.want)
		}
		consistent(t, h)
	}
}

// consistent compares the ways to look at a header.
func consistent(t *testing.T, h *Header) {
	t.Helper()
	for k := Other + 1; k < numKnown; k++ {
		var want []string
		for name, value := range h.All() {
			if EqualFold(name, k.String()) {
				want = append(want, value)
			}
		}
		if h.Has(k) != (len(want) > 0) || h.Count(k) != len(want) || !slices.Equal(slices.Collect(h.Values(k.String())), want) {
			t.Errorf("%v: has %v, count %d, values %q, want %q", k, h.Has(k), h.Count(k), slices.Collect(h.Values(k.String())), want)
		}
		first := append(want, "")[0]
		if v, ok := h.Lookup(strings.ToLower(k.String())); h.Known(k) != first || h.Get(k.String()) != first || v != first || ok != (len(want) > 0) {
			t.Errorf("%v: %q, %q and %q, want %q", k, h.Known(k), h.Get(k.String()), v, first)
		}
	}
	if h.Len() != len(h.Fields()) {
		t.Errorf("length %d of %d fields", h.Len(), len(h.Fields()))
	}
}

// An empty value is not an absent field.
func TestHeaderLookup(t *testing.T) {
	h := header("X-Empty: ", "Via: ")
	for _, name := range []string{"x-empty", "via"} {
		if v, ok := h.Lookup(name); v != "" || !ok {
			t.Errorf("%s: %q, %v", name, v, ok)
		}
	}
	if _, ok := h.Lookup("X-None"); ok {
		t.Error("X-None is there")
	}
	for range h.Values("via") {
		break
	}
	for range h.All() {
		break
	}
}

// Copies are apart, and what was removed is let go.
func TestHeaderCopy(t *testing.T) {
	a := header("A: 1", "Via: 2")
	var b Header
	b.Add("C", "3")
	b.CopyFrom(a)
	a.Set("A", "changed")
	a.Del("Via")
	if got := lines(&b); got != "A: 1\nVia: 2" {
		t.Errorf("the copy is %s", got)
	}
	consistent(t, &b)
	b.Del("Via")
	if f := b.fields[:2][1]; f != (Field{}) {
		t.Errorf("a removed field is kept: %v", f)
	}
}

// Changes in any order leave a header that says what a simple list would.
func FuzzHeader(f *testing.F) {
	f.Add([]byte("a0b1c2"))
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 255, 254})
	names := []string{"Accept", "X-A", "accept", "x-a", "Via", "X-B", "TE", "te"}
	f.Fuzz(func(t *testing.T, program []byte) {
		var h Header
		var want []string // "name: value"
		is := func(line, name string) bool {
			have, _, _ := strings.Cut(line, ": ")
			return strings.EqualFold(have, name)
		}
		for i, op := range program[:min(len(program), 100)] {
			name, value := names[op&7], fmt.Sprint(i)
			k := LookupKnown(name)
			switch op >> 3 & 3 {
			case 0:
				h.Add(name, value)
				want = append(want, name+": "+value)
			case 1:
				h.Set(name, value)
				at := slices.IndexFunc(want, func(l string) bool { return is(l, name) })
				if at < 0 {
					want = append(want, name+": "+value)
					break
				}
				want[at] = name + ": " + value
				rest := slices.DeleteFunc(slices.Clone(want[at+1:]), func(l string) bool { return is(l, name) })
				want = append(want[:at+1], rest...)
			case 2:
				h.Del(name)
				want = slices.DeleteFunc(want, func(l string) bool { return is(l, name) })
			case 3:
				if k == Other {
					continue
				}
				h.DelSet(k.Bit())
				want = slices.DeleteFunc(want, func(l string) bool { return is(l, name) })
			}
			if got := lines(&h); got != strings.Join(want, "\n") {
				t.Fatalf("step %d:\n%s\nwant\n%s", i, got, strings.Join(want, "\n"))
			}
		}
		consistent(t, &h)
	})
}

func TestEqualFold(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{"", "", true},
		{"a", "A", true},
		{"X-Forwarded-For", "x-FORWARDED-for", true},
		{"a", "b", false},
		{"a", "ab", false},
		{"@", "`", false},
		{"[", "{", false},
		{"-", "\r", false},
		{"\u212a", "k", false},
		{"ä", "Ä", false},
		{"\xc1", "\xe1", false},
		{"_", "-", false},
	} {
		if EqualFold(c.a, c.b) != c.want || EqualFold(c.b, c.a) != c.want {
			t.Errorf("%q and %q: %v", c.a, c.b, !c.want)
		}
	}
}

func TestTokens(t *testing.T) {
	for list, want := range map[string][]string{
		"": nil, ",": nil, " , ,\t,": nil, "a": {"a"}, "a,b": {"a", "b"}, " a ,\tb c\t, ": {"a", "b c"}, ",a,,b": {"a", "b"},
	} {
		if got := slices.Collect(Tokens(list)); !slices.Equal(got, want) {
			t.Errorf("%q: %q, want %q", list, got, want)
		}
	}
	for range Tokens("a,b") {
		break
	}
	if !HasToken("keep-alive, Upgrade", "upgrade") || HasToken("keep-alive, Upgraded", "upgrade") || HasToken("", "") {
		t.Error("tokens are not told apart")
	}
}

// Looking and setting allocate nothing once there is memory.
func TestHeaderAllocations(t *testing.T) {
	h := header("Accept: a", "X-One: 1", "Cookie: c=d", "x-one: 2")
	n := testing.AllocsPerRun(100, func() {
		h.Set("X-One", "2")
		h.Add("X-Two", "2")
		h.AddKnown(Via, "v")
		if h.Get("x-two") != "2" || !h.Has(Via) {
			t.Error("a field is not there")
		}
		for range h.Values("accept") {
			continue
		}
		h.Del("X-Two")
		h.DelSet(Via.Bit())
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// Every well-known name is found however it is spelled, and nothing else is.
func TestKnown(t *testing.T) {
	if numKnown > 64 {
		t.Fatalf("%d names do not fit into a set", numKnown)
	}
	seen := make(map[string]bool)
	for k := Other + 1; k < numKnown; k++ {
		name := k.String()
		if name == "" || seen[strings.ToLower(name)] {
			t.Errorf("name %d is %q, or stands twice", k, name)
		}
		seen[strings.ToLower(name)] = true
		for _, s := range []string{name, strings.ToLower(name), strings.ToUpper(name)} {
			if got := LookupKnown(s); got != k {
				t.Errorf("%q is %v, want %v", s, got, k)
			}
		}
		for _, s := range []string{name + "s", "X" + name, name[1:], name[:len(name)-1], strings.ReplaceAll(name, "-", "_") + "_"} {
			if got := LookupKnown(s); got != Other && !seen[strings.ToLower(s)] && !EqualFold(got.String(), s) {
				t.Errorf("%q is taken for %v", s, got)
			}
		}
	}
	if LookupKnown("") != Other || LookupKnown("X_Forwarded_For") != Other {
		t.Error("a name is taken for a well-known one")
	}
}

// The table of names has room: no search goes far.
func TestKnownTable(t *testing.T) {
	run := 0
	for i := range 2 * len(knownTable) {
		if knownTable[i%len(knownTable)] == Other {
			run = 0
		} else if run++; run > 12 {
			t.Fatalf("%d names stand in a row", run)
		}
	}
}

func TestHeaderDelLooked(t *testing.T) {
	for _, name := range []string{"X-One", "x-one", "Cookie", "X-Two", "X-None"} {
		var h, want Header
		for _, f := range []string{"X-One", "Cookie", "x-oNe", "X-Two", "cookie", "X-ONE"} {
			h.Add(f, "v")
			if !EqualFold(f, name) {
				want.Add(f, "v")
			}
		}
		h.DelLooked(name, LookupKnown(name))
		if !slices.Equal(h.Fields(), want.Fields()) || h.Has(Cookie) != want.Has(Cookie) {
			t.Errorf("%s: %v, want %v", name, h.Fields(), want.Fields())
		}
	}
}
