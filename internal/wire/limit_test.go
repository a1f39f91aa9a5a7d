package wire

import (
	"errors"
	"testing"
	"time"
)

func TestLimitHoldsWhateverProgressIsMade(t *testing.T) {
	bothPaths(t, func(t *testing.T, a, b, c, d *Conn) {
		go func() {
			for { // a byte a tick keeps every other timeout away
				if _, err := a.Write([]byte("x")); err != nil {
					return
				}
				time.Sleep(Tick)
			}
		}()
		go readAll(d)
		b.SetLimit(3 * Tick)
		b.SetTimeout(time.Minute)
		if _, err := Splice(c, b, -1); !errors.Is(err, ErrTimeout) || !b.Limited() {
			t.Error(err)
		}
		b.SetLimit(0)
		b.SetTimeout(time.Minute)
		if n, err := b.Read(make([]byte, 10)); n == 0 || err != nil || b.Limited() {
			t.Error("after the limit was taken away:", n, err)
		}
		b.Close()
	})
}

func TestLimitHoldsWithoutATimeout(t *testing.T) {
	a, _ := pairs["tcp"](t, sweeper(t))
	a.SetLimit(Tick)
	a.SetTimeout(0)
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, ErrTimeout) {
		t.Fatal(err)
	}
}
