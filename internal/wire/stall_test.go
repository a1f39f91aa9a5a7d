package wire

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// stalls are the connections of pairs and one with TLS.
func stalls(t *testing.T, f func(t *testing.T, a, b *Conn)) {
	everyPair(t, f)
	t.Run("tls", func(t *testing.T) {
		a, b := pairs["tcp"](t, sweeper(t))
		shake(t, a, b)
		f(t, a, b)
	})
}

// shake puts TLS over a connection, whose server is a.
func shake(t *testing.T, a, b *Conn) {
	t.Helper()
	server := tls.Server(a.Socket(), &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}})
	client := tls.Client(b.Socket(), &tls.Config{InsecureSkipVerify: true})
	shaken := make(chan error, 1)
	go func() { shaken <- client.Handshake() }()
	if err := errors.Join(server.Handshake(), <-shaken); err != nil {
		t.Fatal(err)
	}
	a.Secure(server)
	b.Secure(client)
}

// A reader that stops holds a write for the timeout, from the last byte that
// it took on.
func TestStalledWriteEndsAtItsTimeout(t *testing.T) {
	const timeout = time.Minute
	secured := func(c *Conn) {}
	for name, secure := range map[string]func(*Conn){
		"plain": secured, "secured": func(c *Conn) { c.Secure(c.Socket()) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := NewSweeper()
				defer s.Close()
				here, there := net.Pipe()
				c := New(there, s)
				defer c.Close()
				secure(c)
				ended := make(chan error)
				c.SetTimeout(timeout)
				go func() {
					_, err := c.Write(make([]byte, 1<<20))
					ended <- err
				}()
				for range 5 {
					time.Sleep(timeout - time.Second)
					if _, err := io.ReadFull(here, make([]byte, 100)); err != nil {
						t.Fatal(err)
					}
				}
				start := time.Now()
				if err := <-ended; !errors.Is(err, ErrTimeout) {
					t.Fatal(err)
				}
				if d := time.Since(start); d < timeout-Tick || d > timeout+3*Tick {
					t.Errorf("the write ended %v after the last byte was taken", d)
				}
			})
		})
	}
}

// Ending a connection never waits for a reader that is not there: TLS has a
// last word to say, and no room for it.
func TestCloseDoesNotWaitForAStalledReader(t *testing.T) {
	stalls(t, func(t *testing.T, a, b *Conn) {
		a.SetTimeout(Tick)
		if _, err := a.Write(make([]byte, 64<<20)); !errors.Is(err, ErrTimeout) {
			t.Fatal(err)
		}
		a.SetTimeout(0)
		// Its error says at most that the last word was lost.
		_ = a.Close()
		if _, err := a.Write([]byte("x")); err == nil {
			t.Error("it can be written to after it was closed")
		}
	})
}

// Where the stall is only found when the last word is said, it is waited for a
// few seconds and no longer.
func TestLastWordIsNotWaitedForForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewSweeper()
		defer s.Close()
		here, there := net.Pipe()
		defer here.Close()
		c := New(there, s)
		c.Secure(wordy{c.Socket()})
		start := time.Now()
		if err := c.Close(); !errors.Is(err, ErrTimeout) {
			t.Error(err)
		}
		if d := time.Since(start); d < lastWord || d > lastWord+3*Tick {
			t.Errorf("it took %v", d)
		}
		if _, err := there.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("the socket is not closed: %v", err)
		}
	})
}

// wordy has something to say before it is closed, as TLS does.
type wordy struct{ net.Conn }

func (w wordy) Close() error {
	_, err := w.Write([]byte("bye"))
	return errors.Join(err, w.Conn.Close())
}
