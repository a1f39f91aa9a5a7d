package h2

import (
	"errors"
	"io"
	"sync"

	"golang.org/x/net/http2"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

// stream is the part of a stream that both ends have: its state, its windows
// and what came on it. Its methods are called with the link's lock held unless
// they say otherwise.
type stream struct {
	l      *link
	id     uint32
	holder any // what the stream is a part of

	ended   bool  // the other end sends no more
	sent    bool  // we send no more
	failure error // why the stream ended before its time
	open    bool  // it is among the link's streams

	// Receiving.
	in          []piece  // what came and was not taken
	few         [1]piece // memory of in while one is enough
	taken       *wire.Buffer
	window      int   // what the other end may still send
	owed        int   // bytes of the window to give back
	size        int   // what the window is kept at
	length      int64 // what the body is to have, or exchange.Unknown
	got         int64 // bytes of the body that came
	hungry      bool  // its reader had to wait
	interrupted bool
	reading     sync.Cond
	readBy      int64 // when who waits to read has waited too long, 0 for never
	readWaits   bool
	readLate    bool

	// Sending.
	sendWindow int
	tail       int    // where the last frame begins, among what is gathered
	tailTurn   uint32 // if outTurn is still this
	writing    sync.Cond
	writeBy    int64
	writeWaits bool
	writeLate  bool
	progress   int   // bytes gathered since writeBy was set
	dueBy      int64 // when all must have been taken, whatever progress there is, 0 for never

	urgency     uint8 // RFC 9218, section 4.1
	incremental bool
	ticket      uint64

	bothWays bool  // progress of either direction is progress of both
	moved    int64 // when there was some, if so
	halted   bool  // sending is to stop

	trailer exchange.Header
}

// piece is a part of a body, in a borrowed buffer.
type piece struct {
	b    *wire.Buffer
	r, w int
}

func (s *stream) begin(l *link, id uint32, holder any) {
	in, trailer := s.in[:0], s.trailer
	trailer.Reset()
	*s = stream{l: l, id: id, holder: holder, in: in, trailer: trailer}
	if cap(s.in) == 0 {
		s.in = s.few[:0]
	}
	s.reading.L, s.writing.L = &l.mu, &l.mu
	s.window, s.size, s.sendWindow = l.streamWindow, l.streamWindow, l.peerWindow
	s.length = exchange.Unknown
	s.tail = -1
	s.urgency = defaultUrgency
	s.open = true
	l.streams[id] = s
	l.idleBy = 0
}

var errLate = errors.New("waited too long")

// awaitRead waits to be woken, or until s.readBy.
func (s *stream) awaitRead() error {
	if s.readBy != 0 {
		s.l.arm(s.readBy)
	}
	s.readWaits = true
	s.reading.Wait()
	s.readWaits = false
	if s.readLate {
		s.readLate = false
		return errLate
	}
	return nil
}

// awaitWrite waits to be woken, at most as long as the link allows to make no
// progress. That counts from when s.writeBy was zero.
func (s *stream) awaitWrite() error {
	if s.writeBy == 0 && s.l.idleFor > 0 {
		s.writeBy = exchange.Now() + int64(s.l.idleFor)
	}
	if s.writeBy != 0 {
		s.l.arm(s.writeBy)
	}
	if s.dueBy != 0 {
		if s.overdue(exchange.Now()) {
			return wire.ErrTimeout
		}
		s.l.arm(s.dueBy)
	}
	s.writeWaits = true
	s.writing.Wait()
	s.writeWaits = false
	if s.writeLate {
		s.writeLate = false
		if s.bothWays && s.moved+int64(s.l.idleFor) > exchange.Now() {
			s.writeBy = s.moved + int64(s.l.idleFor)
			return nil
		}
		return wire.ErrTimeout
	}
	return nil
}

// overdue reports whether the time for all that is sent has passed.
func (s *stream) overdue(now int64) bool { return s.dueBy != 0 && s.dueBy <= now }

// move notes progress, where it counts for both directions.
func (s *stream) move() {
	if s.bothWays && s.l.idleFor > 0 {
		s.moved = exchange.Now()
	}
}

// late wakes who has waited too long.
func (s *stream) late(over func(int64) bool) {
	if s.readWaits && over(s.readBy) {
		s.readBy, s.readLate = 0, true
		s.reading.Broadcast()
	}
	if !s.writeWaits {
		return
	}
	if late, due := over(s.writeBy), over(s.dueBy); late || due {
		s.writeBy, s.writeLate = 0, true
		s.writing.Broadcast()
	}
}

// receive keeps what came of the body until it is taken.
func (s *stream) receive(p []byte) {
	for len(p) > 0 {
		n := len(s.in)
		if n == 0 || s.in[n-1].w == wire.BufferSize {
			s.in = append(s.in, piece{b: wire.GetBuffer()})
			n++
		}
		last := &s.in[n-1]
		k := copy(last.b.B[last.w:], p)
		last.w += k
		p = p[k:]
	}
	s.move()
	s.reading.Broadcast()
}

// buffered reports whether something can be taken.
func (s *stream) buffered() bool { return len(s.in) > 0 && s.in[0].r < s.in[0].w }

// take takes the next piece of what came, which is valid until the next call,
// and gives the window back. It returns nil when nothing is there.
func (s *stream) take() []byte {
	s.release()
	if !s.buffered() {
		return nil
	}
	first := &s.in[0]
	p := first.b.B[first.r:first.w]
	first.r = first.w
	if first.w == wire.BufferSize {
		s.taken = first.b
		s.in = s.in[:copy(s.in, s.in[1:])]
	}
	s.restore(len(p))
	return p
}

// release gives back the buffer of what was taken last.
func (s *stream) release() {
	if s.taken != nil {
		s.taken.Put()
		s.taken = nil
	}
	if len(s.in) == 1 && s.in[0].r == s.in[0].w {
		s.in[0].b.Put()
		s.in = s.in[:0]
	}
}

// restore lets the other end send as much as was taken, in portions. When the
// reader is quicker than what comes, the window grows: it may be what holds the
// other end up.
func (s *stream) restore(n int) {
	s.owed += n
	if s.ended || !s.open || s.owed < s.size/2 || s.length >= 0 && s.length-s.got <= int64(s.window) {
		return
	}
	if s.hungry && s.size < mostWindow {
		s.owed += mostWindow - s.size
		s.size = mostWindow
	}
	s.hungry = false
	l := s.l
	if l.answer(appendWindowUpdate(l.gather(), s.id, s.owed)) != nil {
		l.hangUp(errUnread)
		return
	}
	s.window += s.owed
	s.owed = 0
	l.flush()
}

// next returns the next piece of the body, io.EOF at its end. It waits at most
// until the time that s.readBy holds.
func (s *stream) next() ([]byte, error) {
	for {
		if s.interrupted {
			return nil, wire.ErrInterrupted
		}
		if p := s.take(); p != nil {
			s.readBy = 0
			return p, nil
		}
		switch {
		case s.ended:
			return nil, io.EOF // even if it was reset afterwards
		case s.failure != nil:
			return nil, s.failure
		}
		s.hungry = true
		if err := s.awaitRead(); err != nil {
			return nil, err
		}
	}
}

// discard gives back all that came and was not taken.
func (s *stream) discard() {
	if s.taken != nil {
		s.taken.Put()
		s.taken = nil
	}
	for i := range s.in {
		s.in[i].b.Put()
		s.in[i] = piece{}
	}
	s.in = s.in[:0]
}

// writeError says why nothing can be sent.
func (s *stream) writeError() error {
	switch {
	case s.l.dead != nil:
		return s.l.dead
	case s.failure != nil:
		return s.failure
	case s.halted:
		return wire.ErrInterrupted
	case s.sent:
		return errSent
	}
	return nil
}

var errSent = errors.New("stream was ended")

// endRemote notes that the other end sends no more.
func (s *stream) endRemote() {
	s.ended = true
	s.reading.Broadcast()
	if s.sent {
		s.leave(false)
	}
}

// endLocal notes that we send no more.
func (s *stream) endLocal() {
	s.sent = true
	s.tail = -1
	if s.ended {
		s.leave(false)
	}
}

// end ends the stream before its time.
func (s *stream) end(err error) {
	if s.failure == nil {
		s.failure = err
	}
	s.reading.Broadcast()
	s.writing.Broadcast()
	s.leave(false)
}

// resetAs ends the stream by RST_STREAM. What of it is still gathered is sent
// before.
func (s *stream) resetAs(code http2.ErrCode, err error) {
	if !s.open {
		return
	}
	l := s.l
	if l.dead == nil && l.answer(appendReset(l.gather(), s.id, code)) != nil {
		l.abort(errUnread)
	}
	if s.failure == nil {
		s.failure = err
	}
	s.reading.Broadcast()
	s.writing.Broadcast()
	s.leave(true)
}

// leave takes the stream from the open ones.
func (s *stream) leave(ours bool) {
	if !s.open {
		return
	}
	s.open = false
	delete(s.l.streams, s.id)
	s.l.closed.add(s.id, ours)
	s.l.role.gone(s)
	s.l.settle()
}

// abort ends the connection for what somebody else than its reader found out:
// the reader is woken, and finishes it.
func (l *link) abort(err error) {
	if l.cause == nil {
		l.cause = err
		l.c.Interrupt()
	}
}
