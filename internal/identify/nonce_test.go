package identify

import "testing"

// TestNonceTimes takes a nonce for two to four minutes from when it was given
// out, also at a gateway whose clock is a little behind.
func TestNonceTimes(t *testing.T) {
	n := &nonces{secrets: [][]byte{[]byte("one"), []byte("two")}}
	const made = 1_000_000 * nonceTime
	text := n.current(made)
	for after, want := range map[int64]bool{
		-nonceTime - 1: false, -nonceTime: true, -1: true, 0: true, nonceTime: true, 2*nonceTime - 1: true, 2 * nonceTime: false, 1000 * nonceTime: false,
	} {
		if got := n.fresh(text, made+after); got != want {
			t.Errorf("after %d s: %v", after, got)
		}
	}
	for _, other := range []string{"", text[1:], text + "A", text[:len(text)-1] + "?"} {
		if n.fresh(other, made) {
			t.Errorf("%q was taken", other)
		}
	}
	if next := n.current(made + nonceTime); next == text || next == n.current(made+2*nonceTime) {
		t.Error("a nonce stands for two times")
	}
}
