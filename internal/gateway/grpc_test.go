package gateway

import (
	"testing"
	"time"
)

func TestTimeoutOfGRPC(t *testing.T) {
	for s, want := range map[string]time.Duration{
		"1S": time.Second, "100m": 100 * time.Millisecond, "99999999n": 99999999, "5u": 5 * time.Microsecond,
		"2M": 2 * time.Minute, "3H": 3 * time.Hour, "0S": 0, "00000001S": time.Second, "99999999H": 1<<63 - 1,
	} {
		if d, ok := parseTimeout(s); !ok || d != want {
			t.Errorf("%q: %v %v", s, d, ok)
		}
	}
	for _, s := range []string{"", "S", "1", "1s", "1.5S", "-1S", "+1S", " 1S", "1 S", "1S ", "123456789S", "1h"} {
		if d, ok := parseTimeout(s); ok {
			t.Errorf("%q: %v", s, d)
		}
	}
}

func FuzzTimeoutOfGRPC(f *testing.F) {
	f.Add("1S")
	f.Add("99999999H")
	f.Fuzz(func(t *testing.T, s string) {
		if d, ok := parseTimeout(s); d < 0 || !ok && d != 0 {
			t.Errorf("%q: %v %v", s, d, ok)
		}
	})
}
