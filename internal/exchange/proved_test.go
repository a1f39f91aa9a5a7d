package exchange

import (
	"crypto/sha256"
	"testing"
)

func TestProved(t *testing.T) {
	p := new(Proved)
	want := func(p *Proved, secret string, known bool) {
		t.Helper()
		if sum, is := p.SHA256(secret); is != known || sum != sha256.Sum256([]byte(secret)) {
			t.Errorf("%q is known: %v", secret, is)
		}
	}
	want(p, "a", false)
	want(p, "a", false) // it was not right
	p.Right("a", sha256.Sum256([]byte("a")))
	want(p, "a", true)
	for _, other := range []string{"", "b", "ab", "A"} {
		want(p, other, false)
	}
	// Another one takes its place, if it comes often enough.
	for range 1000 {
		p.Right("b", sha256.Sum256([]byte("b")))
	}
	want(p, "b", true)
	want(p, "a", false)
	var none *Proved
	none.Right("a", sha256.Sum256([]byte("a")))
	want(none, "a", false)
}
