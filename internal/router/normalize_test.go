package router

import (
	"errors"
	"net/url"
	"strings"
	"testing"
)

var normalCases = []struct {
	raw  string
	want string
	err  error
}{
	{raw: "/", want: "/"},
	{raw: "/a/b", want: "/a/b"},
	{raw: "/a/b/", want: "/a/b/"},
	{raw: "/-._~!$&'()*+,;=:@", want: "/-._~!$&'()*+,;=:@"},

	// Dot segments (RFC 3986, sections 5.2.4 and 5.4).
	{raw: "/.", want: "/"},
	{raw: "/..", want: "/"},
	{raw: "/./", want: "/"},
	{raw: "/../", want: "/"},
	{raw: "/../../../etc/passwd", want: "/etc/passwd"},
	{raw: "/a/.", want: "/a/"},
	{raw: "/a/..", want: "/"},
	{raw: "/a/b/..", want: "/a/"},
	{raw: "/a/b/../", want: "/a/"},
	{raw: "/a/b/c/./../../g", want: "/a/g"},
	{raw: "/a/./b/./c", want: "/a/b/c"},
	{raw: "/a/.../b", want: "/a/.../b"},
	{raw: "/a/.b/..c/d../e.", want: "/a/.b/..c/d../e."},
	{raw: "/.well-known/x", want: "/.well-known/x"},
	{raw: "/a/%2e%2e/b", want: "/b"},
	{raw: "/a/%2E./b", want: "/b"},
	{raw: "/a/.%2e", want: "/"},
	{raw: "/%2e%2e/%2e%2e/a", want: "/a"},

	// Duplicate slashes are kept, and are segments to step back over.
	{raw: "//", want: "//"},
	{raw: "//a//b//", want: "//a//b//"},
	{raw: "/a//../b", want: "/a/b"},
	{raw: "/a//..", want: "/a/"},
	{raw: "//..//a", want: "//a"},

	// Percent-encoding.
	{raw: "/%61%7Eb%2D%5f", want: "/a~b-_"},
	{raw: "/a%2fb", want: "/a%2Fb"},
	{raw: "/a%2Fb", want: "/a%2Fb"},
	{raw: "/caf%C3%A9", want: "/caf%C3%A9"},
	{raw: "/caf%c3%a9", want: "/caf%C3%A9"},
	{raw: "/a%20b%3f%23%25", want: "/a%20b%3F%23%25"},
	{raw: "/%252e%252e/a", want: "/%252e%252e/a"}, // decoded once only
	{raw: "/%25%32%65", want: "/%252e"},
	{raw: "/a%3Bb", want: "/a%3Bb"},
	{raw: "/{a}|<b>[c]^`\"", want: "/%7Ba%7D%7C%3Cb%3E%5Bc%5D%5E%60%22"},

	// Path parameters are data.
	{raw: "/a;v=1/b;c", want: "/a;v=1/b;c"},
	{raw: "/.a;b", want: "/.a;b"},

	// Two readings.
	{raw: "", err: errNoSlash},
	{raw: "a", err: errNoSlash},
	{raw: "%2Fa", err: errNoSlash},
	{raw: "*", err: errNoSlash},
	{raw: "/a\x00b", err: errControl},
	{raw: "/a%00b", err: errControl},
	{raw: "/a%0d%0aX", err: errControl},
	{raw: "/a%1fb", err: errControl},
	{raw: "/a%7Fb", err: errControl},
	{raw: "/a\tb", err: errControl},
	{raw: "/a\x7f", err: errControl},
	{raw: `/a\b`, err: errBackslash},
	{raw: `/a\..\b`, err: errBackslash},
	{raw: "/a%5Cb", err: errBackslash},
	{raw: "/a%5c..%5cb", err: errBackslash},
	{raw: "/a b", err: errByte},
	{raw: "/a?b", err: errByte},
	{raw: "/a#b", err: errByte},
	{raw: "/é", err: errByte},
	{raw: "/%", err: errEncoding},
	{raw: "/%2", err: errEncoding},
	{raw: "/%2/a", err: errEncoding},
	{raw: "/%g0", err: errEncoding},
	{raw: "/%u002e", err: errEncoding},
	{raw: "/a/..;/b", err: errDisguised},
	{raw: "/a/..;x=1/b", err: errDisguised},
	{raw: "/a/.;/b", err: errDisguised},
	{raw: "/a/%2e%2e;/b", err: errDisguised},
	{raw: "/a/..%3B/b", err: errDisguised},
	{raw: "/a/..%3bx/b", err: errDisguised},
	{raw: "/a/..;", err: errDisguised},
	{raw: "/a/..%2Fb", err: errDisguised},
	{raw: "/a/..%2fb", err: errDisguised},
	{raw: "/a/b%2F..", err: errDisguised},
	{raw: "/a/b%2F../c", err: errDisguised},
	{raw: "/a/b%2F.%2Fc", err: errDisguised},
	{raw: "/a/b%2F..;x%2Fc", err: errDisguised},
	{raw: "/a/b%2f%2e%2e%2fc", err: errDisguised},
}

func TestNormalize(t *testing.T) {
	for _, c := range normalCases {
		got, err := Normalize(c.raw)
		if got != c.want || !errors.Is(err, c.err) {
			t.Errorf("Normalize(%q) = %q, %v; want %q, %v", c.raw, got, err, c.want, c.err)
		}
	}
}

func TestNormalizeKeepsNormalPathsWithoutAllocating(t *testing.T) {
	for _, path := range []string{
		"/", "/api/v1/products/4711/reviews", "/caf%C3%A9/a%2Fb%20c", "//a//.b/..c/", "/a;v=1/%3B",
	} {
		allocs := testing.AllocsPerRun(100, func() {
			if got, err := Normalize(path); got != path || err != nil {
				t.Errorf("Normalize(%q) = %q, %v; want it unchanged", path, got, err)
			}
		})
		if allocs != 0 {
			t.Errorf("Normalize(%q): %v allocations, want 0", path, allocs)
		}
	}
}

func FuzzNormalize(f *testing.F) {
	for _, s := range []string{
		"/", "/a/../b", "/%2e%2E/a", "/a%2f..%2Fb", "//a//", "/..;/a", "/a%00", `/\`, "/%zz", "/caf%c3%a9", "/{a}", "/a//../..//b/.",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		got, err := Normalize(raw)
		if err != nil {
			if got != "" {
				t.Fatalf("Normalize(%q) refused and returned %q", raw, got)
			}
			return
		}
		if again, err := Normalize(got); again != got || err != nil {
			t.Fatalf("Normalize(%q) = %q, which is normalised to %q, %v", raw, got, again, err)
		}
		if got == "" || got[0] != '/' {
			t.Fatalf("Normalize(%q) = %q does not begin with a slash", raw, got)
		}
		for i := 0; i < len(got); i++ {
			if c := got[i]; c <= ' ' || c >= 0x7f || strings.IndexByte(`\?#"<>`, c) >= 0 {
				t.Fatalf("Normalize(%q) = %q holds %q", raw, got, c)
			}
		}
		for segment := range strings.SplitSeq(got, "/") {
			if decoded, err := url.PathUnescape(segment); err != nil || decoded == "." || decoded == ".." {
				t.Fatalf("Normalize(%q) = %q has segment %q, decoded %q, %v", raw, got, segment, decoded, err)
			}
		}
		if want := decodeThenRemoveDots(t, raw); unescape(t, got) != want {
			t.Fatalf("Normalize(%q) = %q, decoded %q; want %q", raw, got, unescape(t, got), want)
		}
	})
}

func unescape(t *testing.T, s string) string {
	out, err := url.PathUnescape(s)
	if err != nil {
		t.Fatalf("accepted %q, which net/url does not decode: %v", s, err)
	}
	return out
}

// decodeThenRemoveDots is the same by other means: net/url decodes each
// segment, and a stack removes the dot segments.
func decodeThenRemoveDots(t *testing.T, raw string) string {
	var stack []string
	segments := strings.Split(raw[1:], "/")
	for i, s := range segments {
		s = unescape(t, s)
		last := i == len(segments)-1
		switch {
		case s == ".." && len(stack) > 0:
			stack = stack[:len(stack)-1]
			fallthrough
		case s == "..", s == ".":
			if last {
				stack = append(stack, "")
			}
		default:
			stack = append(stack, s)
		}
	}
	return "/" + strings.Join(stack, "/")
}

func TestStripPrefix(t *testing.T) {
	for _, c := range []struct{ path, prefix, want string }{
		{"/checkout/cart", "/checkout", "/cart"},
		{"/checkout/cart", "/checkout/", "/cart"},
		{"/checkout", "/checkout", "/"},
		{"/checkout/", "/checkout", "/"},
		{"/checkout", "/checkout/", "/"},
		{"/checkouts/cart", "/checkout", "/checkouts/cart"},
		{"/a/checkout/cart", "/checkout", "/a/checkout/cart"},
		{"/checkout//evil", "/checkout", "//evil"},
		{"/a", "/", "/a"},
		{"/a", "", "/a"},
		{"/", "/a", "/"},
	} {
		if got := StripPrefix(c.path, c.prefix); got != c.want {
			t.Errorf("StripPrefix(%q, %q) = %q, want %q", c.path, c.prefix, got, c.want)
		}
	}
}

func TestParsePrefix(t *testing.T) {
	for _, c := range []struct{ raw, want, fault string }{
		{raw: "/a", want: "/a"},
		{raw: "/a/b/", want: "/a/b"},
		{raw: "/%7euser", want: "/~user"},
		{raw: "/", want: ""},
		{raw: "/a/*", fault: "holds a pattern"},
		{raw: "/{a}", fault: "holds a pattern"},
		{raw: "a", fault: "slash"},
		{raw: "/größe", fault: `write "/gr%C3%B6%C3%9Fe"`},
	} {
		got, err := ParsePrefix(c.raw)
		if got != c.want || (err == nil) != (c.fault == "") || err != nil && !strings.Contains(err.Error(), c.fault) {
			t.Errorf("ParsePrefix(%q) = %q, %v; want %q, %q", c.raw, got, err, c.want, c.fault)
		}
	}
}
