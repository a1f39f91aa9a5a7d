package limit

import (
	"strings"
	"testing"
	"time"
)

func TestFields(t *testing.T) {
	b := AppendPolicy(nil, "second", 10, time.Second)
	if got, want := string(AppendPolicy(b, "d a y", 5, 24*time.Hour)), `"second";q=10;w=1, "d a y";q=5;w=86400`; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	for want, c := range map[string]struct {
		remaining int64
		reset     time.Duration
	}{
		`"a";r=3;t=2`: {3, 1001 * time.Millisecond},
		`"a";r=0;t=0`: {-3, -7 * time.Second},
		`"a";r=0;t=1`: {0, time.Nanosecond},
	} {
		if got := string(AppendState(nil, "a", c.remaining, Seconds(c.reset))); got != want {
			t.Errorf("%+v: %s, want %s", c, got, want)
		}
	}
	for name, want := range map[string]bool{
		"day": true, "a b~": true, strings.Repeat("x", 64): true,
		"": false, strings.Repeat("x", 65): false, `a"b`: false, `a\b`: false, "ä": false, "a\n": false, "a\x7f": false,
	} {
		if IsName(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}
