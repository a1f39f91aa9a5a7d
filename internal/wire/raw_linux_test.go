package wire

import (
	"io"
	"net"
	"testing"
	"time"
)

// The time of a write begins anew when the other end takes a part of it, and
// never when it does not.
func TestTimeOfAWriteFollowsItsReader(t *testing.T) {
	s := &Sweeper{start: time.Now()} // its clock is set here
	s.now.Store(1)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	reader, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	c := New(nc, s)
	defer c.Close()
	c.SetTimeout(10 * time.Second)
	c.raw.give(make([]byte, 64<<20), nil, nil)
	// try writes as the poller would, and returns how much was taken.
	try := func() (taken int) {
		before := len(c.raw.pending[0])
		if err := c.raw.rc.Control(func(fd uintptr) { c.raw.tryWrite(fd) }); err != nil {
			t.Fatal(err)
		}
		return before - len(c.raw.pending[0])
	}
	want := c.deadline.Load()
	for second := range int64(20) {
		now := 1 + second*int64(time.Second)
		s.now.Store(now)
		if second%3 == 2 { // somebody reads
			if _, err := reader.Read(make([]byte, 4<<20)); err != nil {
				t.Fatal(err)
			}
		}
		if try() > 0 {
			want = now + int64(10*time.Second+Tick)
		}
		if d := c.deadline.Load(); d != want {
			t.Fatalf("after %d s the deadline is %s, want %s", second, time.Duration(d), time.Duration(want))
		}
	}
	s.now.Store(1 + int64(30*time.Second))
	done := make(chan error, 1)
	go func() { done <- c.raw.flush() }()
	if _, err := io.CopyN(io.Discard, reader, 32<<20); err != nil {
		t.Fatal(err)
	}
	if d := c.deadline.Load(); d != 1+int64(40*time.Second+Tick) {
		t.Errorf("a reader that reads has until %s", time.Duration(d))
	}
	c.Hangup()
	if err := <-done; err == nil {
		t.Error("64 MiB were taken by a reader of half of them")
	}
}
