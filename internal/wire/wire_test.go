package wire

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// pair returns two ends of a connection.
type pair func(t *testing.T, s *Sweeper) (a, b *Conn)

var pairs = map[string]pair{
	"tcp": func(t *testing.T, s *Sweeper) (a, b *Conn) { return dialed(t, s, "tcp", "127.0.0.1:0") },
	"unix": func(t *testing.T, s *Sweeper) (a, b *Conn) {
		return dialed(t, s, "unix", filepath.Join(t.TempDir(), "s"))
	},
	"pipe": func(t *testing.T, s *Sweeper) (a, b *Conn) {
		p, q := net.Pipe()
		return opened(t, New(p, s), New(q, s))
	},
	"secured": func(t *testing.T, s *Sweeper) (a, b *Conn) {
		a, b = dialed(t, s, "tcp", "127.0.0.1:0")
		a.Secure(a.Socket())
		b.Secure(b.Socket())
		return a, b
	},
}

func dialed(t *testing.T, s *Sweeper, network, address string) (a, b *Conn) {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	a, err = Dial(context.Background(), network, ln.Addr().String(), s)
	if err != nil {
		t.Fatal(err)
	}
	nc, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	return opened(t, a, New(nc, s))
}

func opened(t *testing.T, a, b *Conn) (*Conn, *Conn) {
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func sweeper(t *testing.T) *Sweeper {
	s := NewSweeper()
	t.Cleanup(s.Close)
	return s
}

// everyPair runs a test over every kind of connection.
func everyPair(t *testing.T, f func(t *testing.T, a, b *Conn)) {
	for name, p := range pairs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := p(t, sweeper(t))
			f(t, a, b)
		})
	}
}

func readAll(c *Conn) ([]byte, error) {
	var all []byte
	p := make([]byte, 1000)
	for {
		n, err := c.Read(p)
		all = append(all, p[:n]...)
		if err == io.EOF {
			return all, nil
		}
		if err != nil {
			return all, err
		}
	}
}

func noise(n int) []byte {
	p := make([]byte, n)
	rand.Read(p)
	return p
}

func TestVectoredWriteLargerThanSocketBuffers(t *testing.T) {
	everyPair(t, func(t *testing.T, a, b *Conn) {
		p, q, r := noise(3), noise(3<<20), noise(1<<20)
		done := make(chan error, 1)
		go func() {
			err := a.Writev(p, q, r)
			a.Close()
			done <- err
		}()
		got, err := readAll(b)
		if err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if want := append(append(append([]byte(nil), p...), q...), r...); !bytes.Equal(got, want) {
			t.Fatalf("%d bytes came, other than the %d written", len(got), len(want))
		}
	})
}

func TestEmptyPiecesAreNotWritten(t *testing.T) {
	everyPair(t, func(t *testing.T, a, b *Conn) {
		go func() {
			if err := a.Writev(nil, []byte("x"), nil); err != nil {
				t.Error(err)
			}
			if err := a.Writev(nil, nil, nil); err != nil {
				t.Error(err)
			}
			a.Close()
		}()
		if got, err := readAll(b); err != nil || string(got) != "x" {
			t.Fatalf("%q %v", got, err)
		}
	})
}

func TestWriteReadExchangesMessages(t *testing.T) {
	everyPair(t, func(t *testing.T, a, b *Conn) {
		go func() {
			p := make([]byte, 100)
			for {
				n, err := b.Read(p)
				if err != nil {
					return
				}
				if _, err := b.Write(p[:n]); err != nil {
					return
				}
			}
		}()
		p := make([]byte, 100)
		for i := range 1000 {
			msg := append(p[:0], byte(i), byte(i>>8))
			n, err := a.WriteRead(msg, p)
			if err != nil || n != 2 || p[0] != byte(i) || p[1] != byte(i>>8) {
				t.Fatalf("message %d: %d bytes %v, %v", i, n, p[:n], err)
			}
		}
	})
}

func TestWriteReadFinishesALargeWrite(t *testing.T) {
	everyPair(t, func(t *testing.T, a, b *Conn) {
		w := noise(4 << 20)
		var got []byte
		var wg sync.WaitGroup
		wg.Go(func() {
			p := make([]byte, 64<<10)
			for len(got) < len(w) {
				n, err := b.Read(p)
				if err != nil {
					t.Error(err)
					return
				}
				got = append(got, p[:n]...)
			}
			if _, err := b.Write([]byte("done")); err != nil {
				t.Error(err)
			}
		})
		p := make([]byte, 10)
		n, err := a.WriteRead(w, p)
		if err != nil || string(p[:n]) != "done" {
			t.Fatalf("%q %v", p[:n], err)
		}
		wg.Wait()
		if !bytes.Equal(got, w) {
			t.Fatal("other bytes came than were written")
		}
	})
}

// What was there before the write raises no edge after it: the sweeper has to
// find it.
func TestWriteReadFindsWhatCameBefore(t *testing.T) {
	for _, early := range []string{"answer to nothing", ""} {
		everyPair(t, func(t *testing.T, a, b *Conn) {
			if a.raw == nil || a.over != nil {
				t.Skip("only where the write happens in the read")
			}
			if early != "" {
				if _, err := b.Write([]byte(early)); err != nil {
					t.Fatal(err)
				}
			} else if err := b.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if err := a.WaitReadable(); err != nil { // it has arrived
				t.Fatal(err)
			}
			p := make([]byte, 100)
			n, err := a.WriteRead([]byte("question"), p)
			if string(p[:n]) != early || early == "" && err != io.EOF {
				t.Fatalf("%q %v", p[:n], err)
			}
		})
	}
}

func TestTimeoutEndsReadAndWrite(t *testing.T) {
	everyPair(t, func(t *testing.T, a, _ *Conn) {
		a.SetTimeout(time.Millisecond)
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, ErrTimeout) {
			t.Fatalf("read: %v", err)
		}
		a.SetTimeout(time.Millisecond)
		if _, _, err := a.ReadBuffer(); !errors.Is(err, ErrTimeout) {
			t.Fatalf("read into a buffer: %v", err)
		}
		a.SetTimeout(time.Millisecond)
		if err := a.WaitReadable(); !errors.Is(err, ErrTimeout) {
			t.Fatalf("wait: %v", err)
		}
		a.SetTimeout(time.Millisecond)
		if _, err := a.WriteRead(make([]byte, 16<<20), make([]byte, 1)); !errors.Is(err, ErrTimeout) {
			t.Fatalf("write and read: %v", err)
		}
		a.SetTimeout(time.Millisecond)
		if err := a.Writev(make([]byte, 16<<20), []byte("x"), nil); !errors.Is(err, ErrTimeout) {
			t.Fatalf("write: %v", err)
		}
	})
}

func TestSlowReaderIsWrittenTo(t *testing.T) {
	everyPair(t, func(t *testing.T, a, b *Conn) {
		a.SetTimeout(20 * Tick)
		want := make([]byte, 8<<20)
		done := make(chan error, 1)
		go func() {
			_, err := a.Write(want)
			if err != nil {
				a.Close() // nobody waits for the rest
			}
			done <- err
		}()
		p := make([]byte, 1<<20)
		for got, reads := 0, 0; got < len(want); reads++ {
			if reads < 3 {
				time.Sleep(10 * Tick) // in all more than the timeout
			}
			n, err := b.Read(p)
			if err != nil {
				t.Fatal(err, <-done)
			}
			got += n
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

func TestUseAfterTimeout(t *testing.T) {
	everyPair(t, func(t *testing.T, a, b *Conn) {
		a.SetTimeout(time.Millisecond)
		if _, err := a.Read(make([]byte, 1)); !errors.Is(err, ErrTimeout) {
			t.Fatalf("read: %v", err)
		}
		a.SetTimeout(time.Minute)
		go b.Write([]byte("x"))
		p := make([]byte, 5)
		if n, err := a.Read(p); err != nil || n != 1 {
			t.Fatalf("read: %d %v", n, err)
		}
	})
}

func TestSpuriousWakesAreHarmless(t *testing.T) {
	everyPair(t, func(t *testing.T, a, b *Conn) {
		stop := make(chan struct{})
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					a.wake()
				}
			}
		})
		wg.Go(func() {
			for range 200 {
				if _, err := b.Write([]byte("x")); err != nil {
					t.Error(err)
				}
			}
			b.CloseWrite()
			b.Close()
		})
		got, err := readAll(a)
		close(stop)
		wg.Wait()
		if err != nil || len(got) != 200 {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	})
}

func TestInterruptAndResume(t *testing.T) {
	everyPair(t, func(t *testing.T, a, b *Conn) {
		for range 20 {
			got := make(chan error)
			go func() {
				_, err := a.Read(make([]byte, 1))
				got <- err
			}()
			a.Interrupt()
			if err := <-got; !errors.Is(err, ErrInterrupted) {
				t.Fatalf("read: %v", err)
			}
			if _, err := a.Write([]byte("x")); a.over == nil && !errors.Is(err, ErrInterrupted) {
				t.Fatalf("write: %v", err)
			}
			a.Resume()
			wrote := make(chan error)
			go func() {
				_, err := b.Write([]byte("x"))
				wrote <- err
			}()
			if n, err := a.Read(make([]byte, 1)); n != 1 {
				t.Fatalf("read after Resume: %v", err)
			}
			if err := <-wrote; err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestWaitReadableKeepsTheBytes(t *testing.T) {
	everyPair(t, func(t *testing.T, a, b *Conn) {
		go func() {
			b.Write([]byte("abc"))
			b.Close()
		}()
		for range 3 {
			if err := a.WaitReadable(); err != nil {
				t.Fatal(err)
			}
		}
		got, err := readAll(a)
		if err != nil || string(got) != "abc" {
			t.Fatalf("%q %v", got, err)
		}
		if err := a.WaitReadable(); err != nil {
			t.Fatalf("wait at the end: %v", err)
		}
	})
}

func TestReadBuffer(t *testing.T) {
	everyPair(t, func(t *testing.T, a, b *Conn) {
		go func() {
			b.Write([]byte("abc"))
			b.Close()
		}()
		var got []byte
		for {
			buf, n, err := a.ReadBuffer()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, buf.B[:n]...)
			buf.Put()
		}
		if string(got) != "abc" {
			t.Fatalf("%q", got)
		}
	})
}

func TestAlive(t *testing.T) {
	for name, change := range map[string]func(*Conn) error{
		"stray bytes": func(c *Conn) error { _, err := c.Write([]byte("x")); return err },
		"half closed": (*Conn).CloseWrite,
		"closed":      (*Conn).Close,
		"reset":       func(c *Conn) error { c.Abort(); return nil },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := pairs["tcp"](t, sweeper(t))
			if a.raw == nil {
				t.Skip("there is no telling on this system")
			}
			if !a.Alive() {
				t.Fatal("a quiet connection is not alive")
			}
			if err := change(b); err != nil {
				t.Fatal(err)
			}
			if err := a.WaitReadable(); err != nil {
				t.Fatal(err)
			}
			if a.Alive() {
				t.Fatal("alive")
			}
		})
	}
}

type told chan struct{}

func (w told) ClientGone() { w <- struct{}{} }

func TestWatchTellsOfClientsThatWentAway(t *testing.T) {
	for name, leave := range map[string]func(*Conn){
		"reset":      (*Conn).Abort,
		"half close": func(c *Conn) { c.CloseWrite() },
		"close":      func(c *Conn) { c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := pairs["tcp"](t, sweeper(t))
			if a.raw == nil {
				t.Skip("nothing is watched on this system")
			}
			w := make(told, 1)
			a.Watch(w, 3*Tick)
			leave(b)
			<-w
			a.Unwatch()
		})
	}
}

func TestHalfClosedClientIsWaitedFor(t *testing.T) {
	a, b := pairs["tcp"](t, sweeper(t))
	w := make(told, 1)
	a.Watch(w, time.Hour)
	b.CloseWrite()
	// The sweeper has seen it several times when this timeout ends.
	b.SetTimeout(4 * Tick)
	if _, err := b.Read(make([]byte, 1)); !errors.Is(err, ErrTimeout) {
		t.Fatal(err)
	}
	a.Unwatch()
	if len(w) > 0 {
		t.Fatal("was taken to have gone")
	}
	if _, err := a.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	b.SetTimeout(0)
	if n, err := b.Read(make([]byte, 1)); n != 1 {
		t.Fatal(err)
	}
}

func TestUnwatchedClientIsNobodysBusiness(t *testing.T) {
	a, b := pairs["tcp"](t, sweeper(t))
	w := make(told) // nobody receives: a call would block
	a.Watch(w, 0)
	a.Unwatch()
	a.Unwatch()
	b.Abort()
	a.SetTimeout(3 * Tick)
	if err := a.WaitReadable(); err != nil {
		t.Fatal(err)
	}
}

func TestCloseTwice(t *testing.T) {
	everyPair(t, func(t *testing.T, a, b *Conn) {
		a.Close()
		a.Close()
		b.Abort()
		b.Abort()
		if n := registered(a.sweeper); n != 0 {
			t.Fatalf("%d connections are still with the sweeper", n)
		}
	})
}

func registered(s *Sweeper) (n int) {
	for i := range s.shards {
		s.shards[i].mu.Lock()
		n += len(s.shards[i].conns)
		s.shards[i].mu.Unlock()
	}
	return n
}

func TestPlainPathDoesNotAllocate(t *testing.T) {
	if raced {
		t.Skip("under the race detector")
	}
	a, b := pairs["tcp"](t, sweeper(t))
	go func() {
		for {
			buf, n, err := b.ReadBuffer()
			if err != nil {
				return
			}
			err = b.Writev(buf.B[:n], buf.B[:n], buf.B[:1])
			buf.Put()
			if err != nil {
				return
			}
		}
	}()
	w, p := []byte("0123456789"), make([]byte, 100)
	got := testing.AllocsPerRun(500, func() {
		a.SetTimeout(time.Minute)
		n, err := a.WriteRead(w, p)
		for err == nil && n < 21 {
			var k int
			k, err = a.Read(p[n:])
			n += k
		}
		if err != nil {
			t.Error(err)
		}
		a.Watch(nil, 0)
		a.Unwatch()
	})
	if got > 0 {
		t.Fatalf("%v allocations a message", got)
	}
}
