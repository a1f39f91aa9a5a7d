package wire

import (
	"errors"
	"io"
	"testing"
	"time"
)

func TestEach(t *testing.T) {
	everyPair(t, func(t *testing.T, a, b *Conn) {
		const messages = 500
		go func() {
			for range messages { // each waits for its echo
				if _, err := b.WriteRead([]byte("x"), make([]byte, 10)); err != nil {
					t.Error(err)
				}
			}
			// More than a buffer at once, and the end with it.
			if _, err := b.Write(make([]byte, 3*BufferSize)); err != nil {
				t.Error(err)
			}
			b.Close()
		}()
		var got, calls int
		err := a.Each(func(buf *Buffer, n int) bool {
			got, calls = got+n, calls+1
			buf.Put()
			if calls <= messages {
				if _, err := a.Write([]byte("y")); err != nil {
					t.Error(err)
				}
			}
			return true
		})
		if err != io.EOF || got != messages+3*BufferSize {
			t.Fatalf("%d bytes, %v", got, err)
		}
	})
}

func TestEachEndsWhenToldTo(t *testing.T) {
	everyPair(t, func(t *testing.T, a, b *Conn) {
		go b.Write([]byte("x"))
		if err := a.Each(func(buf *Buffer, n int) bool { buf.Put(); return false }); err != nil {
			t.Fatal(err)
		}
		a.SetTimeout(time.Millisecond)
		if err := a.Each(func(*Buffer, int) bool { return true }); !errors.Is(err, ErrTimeout) {
			t.Fatal(err)
		}
		a.SetTimeout(0)
		a.Interrupt()
		if err := a.Each(func(*Buffer, int) bool { return true }); !errors.Is(err, ErrInterrupted) {
			t.Fatal(err)
		}
	})
}

// What comes while the callback runs must not be lost, however the two meet.
func TestEachLosesNothing(t *testing.T) {
	a, b := pairs["tcp"](t, sweeper(t))
	const bytes = 20000
	go func() {
		for range bytes {
			if _, err := b.Write([]byte("x")); err != nil {
				t.Error(err)
			}
		}
	}()
	got := 0
	err := a.Each(func(buf *Buffer, n int) bool {
		got += n
		buf.Put()
		return got < bytes
	})
	if err != nil || got != bytes {
		t.Fatalf("%d bytes, %v", got, err)
	}
}
