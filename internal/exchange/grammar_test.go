package exchange

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestSplitHost(t *testing.T) {
	for authority, want := range map[string]string{ // "" for refused
		"a.example": "a.example", "A.Example:8080": "a.example", "a.example.": "a.example", "a_b-c": "a_b-c",
		"[::1]": "[::1]", "[2001:DB8::1]:443": "[2001:db8::1]", "[2001:db8:0:0::0001]": "[2001:db8::1]", "[0:0:0:0:0:0:0:1]:80": "[::1]", "[::ffff:102:304]": "[::ffff:1.2.3.4]", "127.0.0.1:0": "127.0.0.1",
		"": "", ".": "", "..": "", "a..b": "", ".a": "", "a:": "", "a:65536": "", "a:123456": "", "a:8a": "", "a:80:80": "",
		"user@a": "", "a/b": "", "a#b": "", "a b": "", "a%41": "", "a,b": "", "ä.example": "",
		"[::1": "", "[::1]x": "", "[1.2.3.4]": "", "[fe80::1%eth0]": "", "::1": "", "[::1]:": "",
		strings.Repeat("a", 253): strings.Repeat("a", 253), strings.Repeat("a", 254): "",
	} {
		if host, ok := SplitHost(authority); ok != (want != "") || ok && host != want {
			t.Errorf("%q: %q %v, want %q", authority, host, ok, want)
		}
	}
}

func TestParseLength(t *testing.T) {
	for s, want := range map[string]int64{
		"0": 0, "1": 1, "007": 7, "999999999999999999": 999999999999999999,
		"": -1, "-1": -1, "+1": -1, " 1": -1, "1 ": -1, "1,1": -1, "0x10": -1, "1e3": -1, "1_0": -1, "1000000000000000000": -1, "١": -1,
	} {
		if n, ok := ParseLength(s); ok != (want >= 0) || ok && n != want {
			t.Errorf("%q: %d %v, want %d", s, n, ok, want)
		}
	}
}

// What AppendTarget writes holds nothing that a target may not, whatever it is
// given.
func TestAppendTarget(t *testing.T) {
	for c := range 256 {
		got := string(AppendTarget([]byte("/"), "a"+string([]byte{byte(c)})+"b"))
		if SpanTarget(got) != len(got) {
			t.Errorf("byte %#x: %q", c, got)
		}
		if visible := c > ' ' && c < 0x7f && c != '#'; visible != (len(got) == len("/a.b")) {
			t.Errorf("byte %#x: %q", c, got)
		}
	}
	if got := string(AppendTarget(nil, "/a b\r\n#%41")); got != "/a%20b%0D%0A%23%41" {
		t.Errorf("%q", got)
	}
}

func TestIsToken(t *testing.T) {
	for c := range 256 {
		want := c < 0x80 && (strings.ContainsRune("!#$%&'*+-.^_`|~", rune(c)) ||
			'0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z')
		if s := string([]byte{byte(c)}); InToken(byte(c)) != want || IsToken("x"+s) != want || (SpanToken(s) == 1) != want {
			t.Errorf("byte %#x in a token: %v", c, !want)
		}
	}
	if IsToken("") {
		t.Error("nothing is a token")
	}
}

// TestClasses says of every byte where it may stand.
func TestClasses(t *testing.T) {
	for c := range 256 {
		s := string([]byte{byte(c)})
		value := c >= ' ' && c != 0x7f || c == '\t'
		lower := IsToken(s) && (c < 'A' || c > 'Z')
		target := c > ' ' && c < 0x7f && c != '#'
		if InValue(byte(c)) != value || IsValue("a"+s) != value || IsLowerToken("a"+s) != lower || IsTarget("/"+s) != target {
			t.Errorf("%q: value %v, lower token %v, target %v", s, InValue(byte(c)), IsLowerToken("a"+s), IsTarget("/"+s))
		}
	}
	if IsLowerToken("") || IsTarget("") || !IsValue("") {
		t.Error("of nothing")
	}
}

func TestDateText(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d DateText
		first := d.At(time.Second)
		if want := time.Now().UTC().Format("Mon, 02 Jan 2006 15:04:05 GMT"); first != want {
			t.Fatalf("%q, want %q", first, want)
		}
		time.Sleep(time.Hour) // the wall clock is set
		for _, c := range []struct {
			at   time.Duration
			same bool
		}{{2*time.Second - 1, true}, {2 * time.Second, false}} {
			if got := d.At(c.at); (got == first) != c.same {
				t.Errorf("at %v: %q", c.at, got)
			}
		}
		if got := d.At(0); got == first {
			t.Error("a clock that went back keeps an old date")
		}
	})
}
