// Package wire owns raw socket I/O: reading, writing and splicing without
// waste, deadlines without timers, buffers that are borrowed only while bytes
// are there, and noticing clients that went away. It knows nothing of HTTP and
// refuses to interpret a single byte.
//
// One goroutine serves a connection with straight-line blocking code. On Linux
// the system calls are made directly on the non-blocking socket and the
// runtime's poller parks the goroutine; elsewhere, and for connections that
// are no sockets, net.Conn does the same more slowly.
package wire

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
	"time"
)

// Errors of reading and writing beside those of the socket.
var (
	// ErrTimeout says that the time given to SetTimeout has passed.
	ErrTimeout error = &passing{text: "timed out", timeout: true}
	// ErrInterrupted says that somebody called Interrupt.
	ErrInterrupted error = &passing{text: "interrupted"}
)

// passing is an error after which the connection can be used as before. A
// secure layer fails for good at every other: an idle client would be lost
// when the wait for it is only handed to another goroutine.
type passing struct {
	text    string
	timeout bool
}

func (p *passing) Error() string   { return p.text }
func (p *passing) Timeout() bool   { return p.timeout }
func (p *passing) Temporary() bool { return true }

var _ net.Error = (*passing)(nil)

// Conn is one connection. One goroutine may read and one may write at a time;
// Interrupt and Abort may be called by any.
type Conn struct {
	nc      net.Conn
	raw     *raw     // nil where there is no raw access to the socket
	over    net.Conn // carries the bytes when TLS runs over the socket
	sweeper *Sweeper

	resets      atomic.Bool // Close is to reset
	stalled     atomic.Bool // a write timed out: there is no room for a last word
	interrupted atomic.Bool
	timeout     atomic.Int64 // what SetTimeout was given, in nanoseconds
	limit       atomic.Int64 // what SetLimit was given, in the sweeper's clock, 0 for none
	deadline    atomic.Int64 // when the nearer of the two is reached, 0 for never
	armed       atomic.Int64 // when a wait began that the poller may not end, 0 for none
	stuck       atomic.Bool  // a write waits for room, and the sweeper looks for progress

	watch    atomic.Int64 // since when the other end is watched, or one of the states below
	watcher  Watcher
	grace    atomic.Int64 // how long a half-closed client is waited for, in nanoseconds
	halfOpen int64        // when the sweeper first saw the other end half-closed
	queued   int          // what the sweeper last saw of a stuck write's bytes that are still here

	peeked struct { // by WaitReadable, where the socket cannot be asked
		full bool
		b    [1]byte
	}

	impatient bool // read must not wait
	pace      pace
	holdup    time.Duration // what Held returns

	place place
}

// New takes over a connection. Close ends the sweeper's interest in it.
func New(nc net.Conn, s *Sweeper) *Conn {
	c := &Conn{nc: nc, sweeper: s}
	c.raw = newRaw(c, nc)
	s.add(c)
	return c
}

// Dial connects to an address of network "tcp" or "unix".
func Dial(ctx context.Context, network, address string, s *Sweeper) (*Conn, error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	return New(nc, s), nil
}

// Secure routes reading and writing through a connection, usually a TLS one,
// that itself runs over Socket.
func (c *Conn) Secure(over net.Conn) { c.over = over }

// Socket returns what lies below Secure as a net.Conn. It keeps to the
// timeouts and interruptions of the Conn; deadlines set on it have no effect.
func (c *Conn) Socket() net.Conn { return socket{c} }

// Read reads what is there, at least one byte, and waits when nothing is. The
// end is io.EOF.
func (c *Conn) Read(p []byte) (int, error) {
	switch {
	case len(p) == 0:
		return 0, nil
	case c.peeked.full:
		c.peeked.full = false
		p[0] = c.peeked.b[0]
		return 1 + c.readOn(p[1:]), nil
	case c.over != nil:
		return c.over.Read(p)
	}
	return c.read(p)
}

// readOn reads what a secure layer still has, or can have without waiting,
// after the byte that WaitReadable took.
func (c *Conn) readOn(p []byte) int {
	if c.over == nil || c.raw == nil || len(p) == 0 {
		return 0
	}
	c.impatient = true
	// An error that is not errNotNow is met again by the next Read.
	n, _ := c.over.Read(p)
	c.impatient = false
	return n
}

// errNotNow is what a secure layer reads when it must not wait. It takes a
// temporary error for no reason to give up.
var errNotNow net.Error = notNow{}

type notNow struct{}

func (notNow) Error() string   { return "nothing to read yet" }
func (notNow) Timeout() bool   { return true }
func (notNow) Temporary() bool { return true }

func (c *Conn) read(p []byte) (int, error) {
	if c.impatient && !c.raw.readable() {
		return 0, errNotNow
	}
	for {
		if c.interrupted.Load() {
			return 0, ErrInterrupted
		}
		var n int
		var err error
		if c.raw != nil {
			n, err = c.raw.read(p)
		} else {
			n, err = c.nc.Read(p)
		}
		if err == nil || n > 0 {
			return n, nil
		}
		if err = c.woken(err); err != nil {
			return 0, err
		}
	}
}

// ReadBuffer reads into a borrowed buffer and returns it with the number of
// bytes that came. While it waits on a socket it holds no buffer.
func (c *Conn) ReadBuffer() (*Buffer, int, error) {
	if c.over != nil || c.raw == nil {
		if c.over != nil {
			if err := c.WaitReadable(); err != nil {
				return nil, 0, err
			}
		}
		b := GetBuffer()
		n, err := c.Read(b.B)
		if err != nil {
			b.Put()
			return nil, 0, err
		}
		return b, n, nil
	}
	for {
		if c.interrupted.Load() {
			return nil, 0, ErrInterrupted
		}
		b, n, err := c.raw.readBuffer()
		if err == nil {
			return b, n, nil
		}
		if err = c.woken(err); err != nil {
			return nil, 0, err
		}
	}
}

// Each reads, hands f a borrowed buffer with the n bytes that came, and waits
// for more as long as f answers true. It returns nil after f answered false.
// Compared with reading in a loop it saves the read that finds nothing. f owns
// the buffer. It may write, but it must neither read from the connection nor
// close it. An end that comes together with bytes is noticed two ticks late.
func (c *Conn) Each(f func(b *Buffer, n int) bool) error {
	for {
		if c.interrupted.Load() {
			return ErrInterrupted
		}
		var err error
		if c.over == nil && c.raw != nil {
			err = c.raw.readEach(f)
		} else {
			var b *Buffer
			var n int
			if b, n, err = c.ReadBuffer(); err == nil && f(b, n) {
				continue
			}
		}
		if err == nil {
			return nil
		}
		if err = c.woken(err); err != nil {
			return err
		}
	}
}

// WaitReadable returns when a read would not wait: bytes are there, or the end
// or an error is. It holds no buffer.
func (c *Conn) WaitReadable() error {
	if c.peeked.full {
		return nil
	}
	if c.over != nil || c.raw == nil {
		// There is no asking. One byte is taken out and handed to the next
		// Read.
		n, err := c.Read(c.peeked.b[:])
		c.peeked.full = n > 0
		if err == io.EOF {
			err = nil // the next Read meets it again
		}
		return err
	}
	for {
		if c.interrupted.Load() {
			return ErrInterrupted
		}
		err := c.raw.waitReadable()
		if err == nil {
			return nil
		}
		if err = c.woken(err); err != nil {
			return err
		}
	}
}

// Write writes all of p.
func (c *Conn) Write(p []byte) (int, error) {
	if c.over != nil {
		return c.over.Write(p)
	}
	if err := c.writev(p, nil, nil); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Writev writes three pieces, any of which may be empty, as if they were one:
// in one system call where the socket takes them.
func (c *Conn) Writev(p, q, r []byte) error {
	if c.over == nil {
		return c.writev(p, q, r)
	}
	// Small pieces are joined: a TLS record each costs more than the copy.
	if n := len(p) + len(q) + len(r); n > len(p) && n <= BufferSize {
		b := GetBuffer()
		defer b.Put()
		_, err := c.over.Write(append(append(append(b.B[:0], p...), q...), r...))
		return err
	}
	for _, piece := range [...][]byte{p, q, r} {
		if len(piece) > 0 {
			if _, err := c.over.Write(piece); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Conn) writev(p, q, r []byte) error {
	if c.raw == nil {
		for _, piece := range [...][]byte{p, q, r} {
			if err := c.writeSlowly(piece); err != nil {
				return err
			}
		}
		return nil
	}
	c.raw.give(p, q, r)
	for {
		if c.interrupted.Load() {
			c.raw.give(nil, nil, nil)
			return ErrInterrupted
		}
		err := c.raw.flush()
		if err == nil {
			return nil
		}
		if err = c.wokenWriting(err); err != nil {
			c.raw.give(nil, nil, nil)
			return err
		}
	}
}

// writeSlowly has the sweeper wake it every tick, for only then net.Conn tells
// how much went out.
func (c *Conn) writeSlowly(p []byte) error {
	c.stuck.Store(true)
	defer c.stuck.Store(false)
	for len(p) > 0 {
		if c.interrupted.Load() {
			return ErrInterrupted
		}
		n, err := c.nc.Write(p)
		p = p[n:]
		if n > 0 {
			c.progress()
		}
		if err != nil {
			if err = c.wokenWriting(err); err != nil {
				return err
			}
		}
	}
	return nil
}

// wokenWriting is woken for writes, and remembers that the other end stopped.
func (c *Conn) wokenWriting(err error) error {
	if err = c.woken(err); errors.Is(err, ErrTimeout) {
		c.stalled.Store(true)
	}
	return err
}

// WriteRead writes w and then reads into r, which may be the same memory. The
// read that could only say that nothing is there yet is saved: the poller is
// armed before the write, so the answer's edge cannot be missed. What came
// before that moment, an answer to nothing or an end, may be; the sweeper
// finds it after a tick.
func (c *Conn) WriteRead(w, r []byte) (int, error) {
	if c.over != nil || c.raw == nil || c.peeked.full {
		if _, err := c.Write(w); err != nil {
			return 0, err
		}
		return c.Read(r)
	}
	if c.interrupted.Load() {
		return 0, ErrInterrupted
	}
	c.armed.Store(c.sweeper.now.Load())
	rest, n, err := c.raw.writeRead(w, r)
	c.armed.Store(0)
	if err != nil {
		if err = c.woken(err); err != nil {
			return 0, err
		}
		n = 0
	}
	if len(rest) > 0 {
		if err := c.writev(rest, nil, nil); err != nil {
			return 0, err
		}
	}
	if n > 0 {
		return n, nil
	}
	return c.read(r)
}

// Alive reports whether an idle connection can be used again: the other side
// has not closed it and has sent nothing unasked. It does not wait.
func (c *Conn) Alive() bool {
	if c.peeked.full || c.interrupted.Load() {
		return false
	}
	if c.raw == nil {
		return true // there is no telling
	}
	for {
		// Over TLS a session ticket may lie unread, so that bytes say nothing.
		quiet, err := c.raw.quiet(c.over != nil)
		if err == nil {
			return quiet
		}
		if c.woken(err) != nil {
			return false
		}
	}
}

// Interrupt makes reads and writes, waiting and later ones, fail with
// ErrInterrupted until Resume. Any goroutine may call it.
func (c *Conn) Interrupt() {
	c.interrupted.Store(true)
	c.wake()
}

// Resume ends the effect of Interrupt.
func (c *Conn) Resume() { c.interrupted.Store(false) }

// past is a deadline that has always gone by.
var past = time.Unix(1, 0)

// wake makes whoever waits on the socket look at his reasons again.
func (c *Conn) wake() {
	// An error means that the socket is closed, and then nobody waits.
	_ = c.nc.SetDeadline(past)
}

// woken says why a wait ended: nil when there was no good reason and the wait
// goes on. The deadline is cleared before the reasons are looked at, so that a
// reason that comes up in between wakes the next wait.
func (c *Conn) woken(err error) error {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	if err := c.nc.SetDeadline(time.Time{}); err != nil {
		return err
	}
	if c.interrupted.Load() {
		return ErrInterrupted
	}
	if d := c.deadline.Load(); d != 0 && c.sweeper.now.Load() >= d {
		return ErrTimeout
	}
	return nil
}

type closeWriter interface{ CloseWrite() error }

// CloseWrite says that no more will be written. It is errors.ErrUnsupported
// for connections that cannot be closed by half.
func (c *Conn) CloseWrite() error {
	if h, ok := c.over.(closeWriter); ok {
		return h.CloseWrite()
	}
	if h, ok := c.nc.(closeWriter); ok {
		return h.CloseWrite()
	}
	return errors.ErrUnsupported
}

// lastWord is how long a secure layer may take to say that it has ended.
const lastWord = 5 * time.Second

// Close closes the connection.
func (c *Conn) Close() error {
	if c.over != nil && !c.resets.Load() && !c.stalled.Load() {
		// The sweeper keeps the time until the socket is closed.
		c.SetTimeout(lastWord)
		err := c.over.Close()
		c.sweeper.remove(c)
		return err
	}
	c.sweeper.remove(c)
	return c.nc.Close()
}

// Abort is Reset and Close. Any goroutine may call it.
func (c *Conn) Abort() {
	c.sweeper.remove(c)
	c.Reset()
	_ = c.nc.Close()
}

// Reset makes Close reset the connection where there is such a thing, so that
// the other end cannot take what it got for complete. A secure layer does not
// say that it has ended, for the same reason (RFC 8446, section 6.1).
func (c *Conn) Reset() {
	c.resets.Store(true)
	if t, ok := c.nc.(*net.TCPConn); ok {
		// Without it the close is an ordinary one; it is still a close.
		_ = t.SetLinger(0)
	}
}

// Hangup ends both directions of the connection, for whoever waits on it and
// for the other end, and resets it when it is closed. Any goroutine may call
// it; the one that uses the connection still has to close it.
func (c *Conn) Hangup() {
	c.Reset()
	if c.raw != nil {
		c.raw.shutdown()
		return
	}
	_ = c.nc.Close()
}

// RemoteAddr returns the other end's address, the zero AddrPort where it has
// no IP address.
func (c *Conn) RemoteAddr() netip.AddrPort { return addrPort(c.nc.RemoteAddr()) }

// LocalAddr returns this end's address, the zero AddrPort where it has no IP
// address.
func (c *Conn) LocalAddr() netip.AddrPort { return addrPort(c.nc.LocalAddr()) }

func addrPort(a net.Addr) netip.AddrPort {
	if t, ok := a.(*net.TCPAddr); ok {
		ap := t.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
	}
	return netip.AddrPort{}
}

// socket is what lies below a secure layer.
type socket struct{ c *Conn }

func (s socket) Read(p []byte) (int, error)       { return s.c.read(p) }
func (s socket) LocalAddr() net.Addr              { return s.c.nc.LocalAddr() }
func (s socket) RemoteAddr() net.Addr             { return s.c.nc.RemoteAddr() }
func (s socket) SetDeadline(time.Time) error      { return nil }
func (s socket) SetReadDeadline(time.Time) error  { return nil }
func (s socket) SetWriteDeadline(time.Time) error { return nil }

func (s socket) Close() error {
	s.c.sweeper.remove(s.c)
	return s.c.nc.Close()
}

func (s socket) Write(p []byte) (int, error) {
	if err := s.c.writev(p, nil, nil); err != nil {
		return 0, err
	}
	return len(p), nil
}
