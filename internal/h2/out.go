package h2

import (
	"runtime"

	"golang.org/x/net/http2"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

// This file is the way out: frames are gathered under the link's lock, and
// whoever wants them sent writes what is there, for all. While one writes,
// others gather behind him.

// gather returns what is gathered, with memory to gather more.
func (l *link) gather() []byte {
	if l.outBuf == nil {
		l.outBuf = wire.GetLarge()
		l.out = l.outBuf.B[:0]
	}
	return l.out
}

// answer makes b, which is what gather returned and more, what is gathered.
// What was added answers the other end: it does not wait, and so has a limit.
func (l *link) answer(b []byte) error {
	l.control += len(b) - len(l.out)
	l.out = b
	if l.control > gatherMost {
		return errUnread
	}
	return nil
}

// room returns how much streams may still gather.
func (l *link) room() int { return gatherMost - controlSpare - len(l.out) }

// flush writes what is gathered, or leaves it to who is writing. The lock is
// held, and let go of while writing.
func (l *link) flush() {
	if l.flushing || len(l.out) == 0 || l.broken {
		return
	}
	l.flushing = true
	// Other exchanges that are about to answer get into the same write.
	l.mu.Unlock()
	runtime.Gosched()
	l.mu.Lock()
	l.write()
	if len(l.out) > 0 && !l.broken {
		// An exchange does not write for the others longer than that.
		go l.flushOn()
		return
	}
	l.stopFlushing()
}

// flushAside flushes on another goroutine: the reader must not wait for the
// other end to read.
func (l *link) flushAside() {
	if l.flushing || len(l.out) == 0 || l.broken {
		return
	}
	l.flushing = true
	go l.flushOn()
}

// flushOn writes until nothing more is gathered.
func (l *link) flushOn() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for len(l.out) > 0 && !l.broken {
		l.write()
	}
	l.stopFlushing()
}

func (l *link) stopFlushing() {
	l.flushing = false
	l.changed.Broadcast()
	l.settle()
}

// write writes once what is gathered.
func (l *link) write() {
	p, b := l.out, l.outBuf
	l.out, l.outBuf = nil, nil
	l.control = 0
	l.outTurn++
	if l.idleFor > 0 {
		l.writeBy = exchange.Now() + int64(l.idleFor)
		l.arm(l.writeBy)
	}
	l.mu.Unlock()
	_, err := l.c.Write(p)
	b.Put()
	l.mu.Lock()
	l.tookBy, l.writeBy = l.writeBy, 0
	if err != nil && !l.broken {
		l.hangUp(err)
	}
	l.call()
}

// The exchanges that wait for room, or for the connection's window, are served
// in the order of RFC 9218, section 10: by urgency, then one after the other,
// but those that are incremental by turns.

// before reports whether s is served before o.
func (s *stream) before(o *stream) bool {
	switch {
	case s.urgency != o.urgency:
		return s.urgency < o.urgency
	case s.incremental && o.incremental:
		return s.ticket < o.ticket
	case s.incremental != o.incremental:
		return o.incremental
	}
	return s.id < o.id
}

// first returns who is to be served next, nil when nobody waits.
func (l *link) first() (first *stream) {
	for _, s := range l.queue {
		if first == nil || s.before(first) {
			first = s
		}
	}
	return first
}

// call wakes whose turn it is when there is something to be had.
func (l *link) call() {
	if len(l.queue) > 0 && l.room() > frameHead && l.sendWindow > 0 {
		l.first().writing.Broadcast()
	}
}

// lineUp waits in the queue for the connection, once. As long as the other end
// takes what others send, it is not the one that makes a stream wait.
func (s *stream) lineUp() error {
	l := s.l
	l.queue = append(l.queue, s)
	err := s.awaitWrite()
	if now := exchange.Now(); err != nil && l.tookBy > now && !s.overdue(now) {
		s.writeBy, err = l.tookBy, nil
	}
	for i, o := range l.queue {
		if o == s {
			last := len(l.queue) - 1
			l.queue[i] = l.queue[last]
			l.queue[last] = nil
			l.queue = l.queue[:last]
			break
		}
	}
	if err != nil || s.writeError() != nil {
		l.call() // somebody else's turn
	}
	return err
}

// mayWrite waits until n bytes, or some of them, can be gathered as DATA, and
// returns how many. What the windows cut short is counted.
func (s *stream) mayWrite(n int) (int, error) {
	l := s.l
	for {
		if err := s.writeError(); err != nil {
			return 0, err
		}
		if s.sendWindow <= 0 {
			// What was gathered before may be what the other end waits for.
			l.flush()
			if err := s.writeError(); err != nil {
				return 0, err
			}
			if s.sendWindow <= 0 {
				if err := s.awaitWrite(); err != nil {
					return 0, err
				}
			}
			continue
		}
		enough := l.room() >= frameHead+min(n, 4<<10)
		if !enough && !l.flushing {
			l.flush()
			continue
		}
		// Who waits goes before a newcomer, unless he is worse.
		f := l.first()
		if enough && l.sendWindow > 0 && (f == nil || !f.before(s)) {
			break
		}
		if l.sendWindow <= 0 {
			l.flush()
			if l.sendWindow > 0 {
				continue
			}
		}
		if err := s.writeError(); err != nil {
			return 0, err
		}
		if err := s.lineUp(); err != nil {
			return 0, err
		}
	}
	window := min(s.sendWindow, l.sendWindow)
	most := min(n, l.peerFrame, l.room()-frameHead)
	if window < most {
		most = window
		if most < crumbSize {
			if err := l.guard.crumb(); err != nil {
				l.abort(err)
				return 0, err
			}
		}
	}
	return most, nil
}

// send gathers p as DATA frames. It waits for windows and room. With the lock
// held.
func (s *stream) send(p []byte) error {
	l := s.l
	s.writeBy = 0
	for len(p) > 0 {
		n, err := s.mayWrite(len(p))
		if err != nil {
			return err
		}
		b := l.gather()
		s.tail, s.tailTurn = len(b), l.outTurn
		b = appendFrame(b, n, http2.FrameData, 0, s.id)
		l.out = append(b, p[:n]...)
		s.sendWindow -= n
		l.sendWindow -= n
		l.guard.sent(n)
		if n >= 4*crumbSize {
			l.guard.crumbs.earn(1) // the rest of a window may be small
		}
		l.tickets++
		s.ticket = l.tickets
		p = p[n:]
		s.move()
		if s.progress += n; s.progress >= 4<<10 {
			s.progress, s.writeBy = 0, 0
		}
		if len(l.queue) > 0 {
			l.call()
		}
	}
	return nil
}

// makeRoom waits until a head of about that size can be gathered. One that is
// larger than everything gets room when nothing else is there.
func (s *stream) makeRoom(size int) error {
	l := s.l
	for l.room() < size+frameHead && len(l.out) > 0 {
		if err := s.writeError(); err != nil {
			return err
		}
		if !l.flushing {
			l.flush()
			continue
		}
		if err := s.lineUp(); err != nil {
			return err
		}
	}
	return s.writeError()
}

// putHead gathers HEADERS, and CONTINUATION where one frame does not hold the
// block that fill appends to what it is given.
func (s *stream) putHead(end bool, fill func([]byte) []byte) {
	l := s.l
	b := l.gather()
	at := len(b)
	s.tail, s.tailTurn = at, l.outTurn
	flags := http2.FlagHeadersEndHeaders
	if end {
		flags |= http2.FlagHeadersEndStream
	}
	b = fill(appendFrame(b, 0, http2.FrameHeaders, flags, s.id))
	if len(b)-at-frameHead > l.peerFrame {
		b = divide(b, at, l.peerFrame)
	} else {
		setLength(b, at)
	}
	l.out = b
	l.guard.chat.earn(chatEarned)
}

// sendHead is makeRoom and putHead.
func (s *stream) sendHead(size int, end bool, fill func([]byte) []byte) error {
	if err := s.makeRoom(size); err != nil {
		return err
	}
	s.putHead(end, fill)
	return nil
}

// divide makes several frames of the HEADERS frame that begins at an index of
// b, for its block is too long for one.
func divide(b []byte, at, most int) []byte {
	block := append([]byte(nil), b[at+frameHead:]...)
	id := uint32(b[at+5])<<24 | uint32(b[at+6])<<16 | uint32(b[at+7])<<8 | uint32(b[at+8])
	b[at+4] &^= byte(http2.FlagHeadersEndHeaders)
	b = append(b[:at+frameHead], block[:most]...)
	setLength(b, at)
	for block = block[most:]; len(block) > 0; {
		n := min(len(block), most)
		var flags http2.Flags
		if n == len(block) {
			flags = http2.FlagContinuationEndHeaders
		}
		b = append(appendFrame(b, n, http2.FrameContinuation, flags, id), block[:n]...)
		block = block[n:]
	}
	return b
}

// sendEnd ends our direction of the stream: by the last frame that is still
// there to be changed, or by an empty one.
func (s *stream) sendEnd() error {
	if err := s.writeError(); err != nil {
		return err
	}
	l := s.l
	if s.tail >= 0 && s.tailTurn == l.outTurn && l.outBuf != nil {
		l.out[s.tail+4] |= byte(http2.FlagDataEndStream) // the bit is the same for HEADERS
	} else {
		l.out = appendFrame(l.gather(), 0, http2.FrameData, http2.FlagDataEndStream, s.id)
	}
	s.endLocal()
	return nil
}
