package wire

import (
	"testing"
	"time"
)

// On a socket, whose buffers take something at first, the time is counted from
// when they are full.
func TestStalledWriteToASocketBeginsItsTimeWithTheLastByte(t *testing.T) {
	a, _ := pairs["tcp"](t, sweeper(t))
	a.SetTimeout(time.Minute)
	a.deadline.Store(1) // long over, and the write must not end by it once something went out
	r := a.raw
	r.give(make([]byte, 16<<20), nil, nil)
	left := func() int { return len(r.pending[0]) }
	before := left()
	if err := r.rc.Write(func(fd uintptr) bool { r.tryWrite(fd); return true }); err != nil {
		t.Fatal(err)
	}
	if left() == before || left() == 0 {
		t.Fatal("the socket took all or nothing")
	}
	if d := a.deadline.Load() - a.sweeper.now.Load(); d < int64(time.Minute) {
		t.Errorf("%v are left after a part went out", time.Duration(d))
	}
	rest, deadline := left(), a.deadline.Load()
	r.tryWrite(uintptr(r.fd))
	if left() == rest && a.deadline.Load() != deadline {
		t.Error("a write that moved nothing began the time anew")
	}
	r.give(nil, nil, nil)
}

// The kernel wakes a writer when a good part of a buffer is free. Who reads a
// little now and then has not stopped, and the sweeper sees it.
func TestReadingALittleIsProgress(t *testing.T) {
	s := NewSweeper()
	a, b := pairs["unix"](t, s)
	s.Close() // its work is done by hand
	a.SetTimeout(time.Minute)
	r := a.raw
	r.give(make([]byte, 16<<20), nil, nil)
	if err := r.rc.Control(func(fd uintptr) { r.tryWrite(fd) }); err != nil {
		t.Fatal(err)
	}
	defer r.give(nil, nil, nil)
	if !a.stuck.Load() {
		t.Fatal("nobody knows that the write waits for room")
	}
	look := func() bool {
		a.deadline.Store(1)
		a.unstick()
		return a.deadline.Load() > 1
	}
	for range 2 {
		if look() {
			t.Error("a reader that takes nothing has progress")
		}
	}
	if _, err := b.Read(make([]byte, 4<<10)); err != nil {
		t.Fatal(err)
	}
	for rest := len(r.pending[0]); !look(); {
		if len(r.pending[0]) != rest {
			t.Fatal("the writer was woken, and nothing is shown")
		}
		if _, err := b.Read(make([]byte, 64<<10)); err != nil {
			t.Fatal(err)
		}
	}
}
