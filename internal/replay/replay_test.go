package replay

import "testing"

func FuzzRead(f *testing.F) {
	f.Add((&Stored{Fingerprint: "f", Token: "t", Done: true, Until: 1, Expires: 2, Answer: []byte("a")}).Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := Read(b); err == nil && string(s.Append(nil)) != string(b) {
			t.Errorf("%q is written as %q", b, s.Append(nil))
		}
	})
}

func TestState(t *testing.T) {
	for _, c := range []struct {
		s    Stored
		want State
	}{
		{Stored{Expires: 5}, New},
		{Stored{Expires: 50}, Unknown},
		{Stored{Expires: 50, Until: 20}, Running},
		{Stored{Expires: 50, Until: 5, Done: true}, Done},
	} {
		if got := c.s.State(10); got != c.want {
			t.Errorf("%+v: %d", c.s, got)
		}
	}
}
