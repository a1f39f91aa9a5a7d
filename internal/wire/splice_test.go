package wire

import (
	"bytes"
	"errors"
	"io"
	"testing"
	"time"
)

// everyPath runs a test over pairs of connections: a writes to b, and b is
// spliced to c, which d reads.
func everyPath(t *testing.T, f func(t *testing.T, a, b, c, d *Conn)) {
	for from := range pairs {
		for to := range pairs {
			path(t, from, to, f)
		}
	}
}

// bothPaths runs a test, one that takes time, over the kernel's path and over
// the copying one.
func bothPaths(t *testing.T, f func(t *testing.T, a, b, c, d *Conn)) {
	path(t, "tcp", "unix", f)
	path(t, "secured", "tcp", f)
}

func path(t *testing.T, from, to string, f func(t *testing.T, a, b, c, d *Conn)) {
	t.Run(from+" to "+to, func(t *testing.T) {
		t.Parallel()
		s := sweeper(t)
		a, b := pairs[from](t, s)
		c, d := pairs[to](t, s)
		f(t, a, b, c, d)
	})
}

func TestSplice(t *testing.T) {
	body := noise(3<<20 + 17)
	everyPath(t, func(t *testing.T, a, b, c, d *Conn) {
		go func() {
			a.Write(body)
			a.Close()
		}()
		go func() {
			if n, err := Splice(c, b, 1<<20); n != 1<<20 || err != nil {
				t.Errorf("a part: %d bytes, %v", n, err)
			}
			if n, err := Splice(c, b, -1); n != int64(len(body)-1<<20) || err != nil {
				t.Errorf("the rest: %d bytes, %v", n, err)
			}
			if n, err := Splice(c, b, 1); n != 0 || !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("after the end: %d bytes, %v", n, err)
			}
			c.Close()
		}()
		got, err := readAll(d)
		if err != nil || !bytes.Equal(got, body) {
			t.Fatalf("%d bytes came, other than the %d sent; %v", len(got), len(body), err)
		}
	})
}

func TestSpliceTellsWhichSideFailed(t *testing.T) {
	everyPath(t, func(t *testing.T, a, b, c, d *Conn) {
		d.Abort()
		go func() {
			for {
				if _, err := a.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}()
		_, err := Splice(c, b, -1)
		var w *WriteError
		if !errors.As(err, &w) {
			t.Errorf("want an error of the destination, have %v", err)
		}
		a.Close()
	})
}

func TestSpliceTimesOutWithoutProgress(t *testing.T) {
	bothPaths(t, func(t *testing.T, a, b, c, d *Conn) {
		go a.Write(make([]byte, 100))
		go readAll(d)
		b.SetTimeout(2 * Tick)
		n, err := Splice(c, b, 200)
		if n != 100 || !errors.Is(err, ErrTimeout) {
			t.Fatalf("%d bytes, %v", n, err)
		}
	})
}

func TestSpliceIsStoppedByAStalledReader(t *testing.T) {
	bothPaths(t, func(t *testing.T, a, b, c, d *Conn) {
		go func() {
			for {
				if _, err := a.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		}()
		c.SetTimeout(2 * Tick)
		_, err := Splice(c, b, -1)
		var w *WriteError
		if !errors.As(err, &w) || !errors.Is(err, ErrTimeout) {
			t.Fatal(err)
		}
		a.Close()
	})
}

func TestSpliceEndsASourceThatIsTooSlow(t *testing.T) {
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
		b.SetTimeout(time.Minute)
		b.SetPace(1000, 3*Tick)
		if _, err := Splice(c, b, -1); !errors.Is(err, ErrTimeout) {
			t.Fatal(err)
		}
		b.Close()
	})
}

func BenchmarkSplice(b *testing.B) {
	s := NewSweeper()
	defer s.Close()
	t := new(testing.T)
	from, src := pairs["tcp"](t, s)
	dst, to := pairs["tcp"](t, s)
	const size = 64 << 20
	go func() {
		p := make([]byte, 256<<10)
		for {
			if _, err := from.Write(p); err != nil {
				return
			}
		}
	}()
	go func() {
		p := make([]byte, 256<<10)
		for {
			if _, err := to.Read(p); err != nil {
				return
			}
		}
	}()
	b.SetBytes(size)
	dst.SetTimeout(time.Minute)
	for b.Loop() {
		if _, err := Splice(dst, src, size); err != nil {
			b.Fatal(err)
		}
	}
	src.Close()
	to.Close()
}
