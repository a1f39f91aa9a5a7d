package gateway

import (
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// A tap stands in the way of nothing that the body can do.
func TestTappedBody(t *testing.T) {
	woken := 0
	for _, c := range []struct {
		body  exchange.Body
		ready bool
	}{
		{exchange.Bytes([]byte("a")), true},
		{waiting{exchange.NoBody, &woken}, false},
	} {
		b := &tapped{Body: c.body}
		if b.Ready() != c.ready {
			t.Errorf("%T: ready %v", c.body, !c.ready)
		}
		b.Interrupt()
	}
	if woken != 1 {
		t.Errorf("woken %d times", woken)
	}
}

// waiting is a body that has to be waited for.
type waiting struct {
	exchange.Body
	woken *int
}

func (w waiting) Interrupt()  { *w.woken++ }
func (w waiting) Ready() bool { return false }

func TestVia(t *testing.T) {
	for p, want := range map[exchange.Proto]string{
		exchange.HTTP10: "1.0 gatehouse", exchange.HTTP11: "1.1 gatehouse", exchange.HTTP2: "2 gatehouse", exchange.HTTP3: "3 gatehouse",
	} {
		if got := via(p); got != want {
			t.Errorf("%v: %q", p, got)
		}
	}
}
