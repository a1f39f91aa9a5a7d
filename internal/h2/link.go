package h2

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

// link is one connection, whichever end of it we are: reading, flow control,
// what is gathered to be written, and deadlines. What its streams mean is the
// business of its role.
type link struct {
	c    *wire.Conn
	role role

	// The reader's own.
	feed   *feed          // borrowed while bytes are there
	dec    *hpack.Decoder // made when the first header block comes
	block  fieldBlock
	inside struct { // the header block that is being read
		id       uint32 // 0 for none
		ended    bool
		frames   int
		bytes    int
		dropEmit bool
	}
	settled  bool          // the other end's first SETTINGS came
	serial   uint64        // counts the frames, header blocks as one
	frameFor time.Duration // how long a frame or header block may take that has begun, 0 for ever

	mu      sync.Mutex
	dead    error // why nothing is sent or received any more
	cause   error // why the reader was interrupted
	closing bool  // the connection ends when it has nothing more to do
	broken  bool  // writing failed
	streams map[uint32]*stream
	lastID  uint32 // highest stream of the other end that was opened, or of ours
	closed  closedRing
	guard   guard

	// What the other end allows (RFC 9113, section 6.5.2).
	sendWindow   int
	peerWindow   int // of new streams
	peerFrame    int // largest frame
	peerStreams  uint32
	peerConnect  bool
	recvWindow   int
	owed         int // bytes of the connection's window to give back
	streamWindow int // what we gave to new streams

	out      []byte // what is gathered
	outBuf   *wire.Buffer
	outTurn  uint32    // changes whenever out is taken to be written
	control  int       // bytes of out that answer the other end's frames
	flushing bool      // somebody is writing
	changed  sync.Cond // flushing has ended, or an exchange has
	queue    []*stream // wait for room in out or in the connection's window
	tickets  uint64

	timer   *time.Timer // made at the first use
	look    int64       // when the timer fires, 0 for never
	readBy  int64       // deadlines in exchange.Now's time, 0 for none
	readOf  uint64      // the frame that readBy is for
	idleBy  int64
	notice  int64 // when idle is called in any case
	writeBy int64
	tookBy  int64 // what writeBy was for the last write that went out
	closeBy int64
	idleFor time.Duration // how long a write, or a stream's wait, may make no progress, 0 for ever
	held    *atomic.Int32 // how many connections are held after an offence, nil where none is
}

// role is what distinguishes the ends of a connection. The reader calls its
// methods, with the link's lock held.
type role interface {
	// head says what a header block on a stream is, and where its fields go.
	// fields and bytes are the limits.
	head(id uint32, ended bool) (kind section, h *exchange.Header, bytes, fields int, err error)
	// take takes a whole header block.
	take(id uint32, ended bool) error
	// mayHave says whether a body may come on the stream now.
	mayHave(s *stream, n int) error
	// opened reports whether the id is of a stream that was opened at some
	// time, by either end.
	opened(id uint32) bool
	// gone is told of a stream that is no longer open in both directions, or
	// failed; s.failure says why.
	gone(s *stream)
	// priority takes a PRIORITY_UPDATE.
	priority(id uint32, value string)
	// settings is told that the other end's settings have changed.
	settings()
	// away takes a GOAWAY.
	away(last uint32, code http2.ErrCode)
	// pong takes the answer to a PING of ours.
	pong(data [8]byte)
	// lastSeen is the stream that a GOAWAY names.
	lastSeen() uint32
	// idle is told that the connection has had no stream for its idle time.
	idle()
	// panicked is told of a panic of the reader, which ends the connection. It
	// is called without the lock.
	panicked(v any)
}

func (l *link) begin(c *wire.Conn, r role, resets int) {
	l.c, l.role = c, r
	c.SetLimit(0)
	c.SetTimeout(0) // the deadlines are ours
	l.streams = make(map[uint32]*stream)
	l.changed.L = &l.mu
	l.sendWindow, l.peerWindow, l.peerFrame = defaultWindow, defaultWindow, maxFrame
	l.recvWindow, l.streamWindow = connWindow, streamWindow
	l.peerStreams = 1 << 31
	l.guard.begin(resets)
}

// feed is what reading takes while there are bytes. Between two frames nothing
// of it is needed, so that an idle connection holds neither a buffer nor the
// Framer with its own.
type feed struct {
	l    *link
	fr   *http2.Framer
	in   *wire.Buffer
	r, w int
}

var feeds = sync.Pool{New: func() any {
	f := new(feed)
	f.fr = http2.NewFramer(nil, f)
	f.fr.SetReuseFrames()
	f.fr.SetMaxReadFrameSize(maxFrame)
	return f
}}

// Read implements io.Reader for the Framer, within a frame.
func (f *feed) Read(p []byte) (int, error) {
	if f.r == f.w {
		f.l.pause(true)
		n, err := f.l.c.Read(f.in.B)
		if err != nil {
			return 0, err
		}
		f.r, f.w = 0, n
	}
	n := copy(p, f.in.B[f.r:f.w])
	f.r += n
	return n, nil
}

// borrow makes n bytes in a buffer the next ones to be read.
func (l *link) borrow(in *wire.Buffer, n int) {
	f := feeds.Get().(*feed)
	f.l, f.in, f.r, f.w = l, in, 0, n
	l.feed = f
}

// release gives the feed back. After an error in the midst of a frame its
// Framer is of no further use.
func (l *link) release(clean bool) {
	f := l.feed
	if f == nil {
		return
	}
	l.feed = nil
	f.in.Put()
	f.l, f.in = nil, nil
	if clean {
		feeds.Put(f)
	}
}

// read reads frames until the connection ends. It returns why.
func (l *link) read() (err error) {
	defer l.release(false)
	defer func() {
		// What the other end sends must at worst harm this connection. Whatever
		// panics in here has let go of the lock on its way.
		if v := recover(); v != nil {
			l.role.panicked(v)
			err = errors.Join(&connError{http2.ErrCodeInternal, "internal error"}, fmt.Errorf("panic: %v", v))
		}
	}()
	for {
		if l.feed == nil {
			l.pause(false)
			in, n, err := l.c.ReadBuffer()
			if err != nil {
				return l.why(err)
			}
			l.borrow(in, n)
		}
		if err := l.frame(); err != nil {
			return err
		}
		if f := l.feed; f.r == f.w && l.inside.id == 0 {
			l.release(true)
		}
	}
}

// pause is called when the reader is about to wait: what it has to say goes
// out, and what has begun must be finished in time.
func (l *link) pause(within bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.control > 0 {
		l.flushAside()
	}
	if (within || l.inside.id != 0 || !l.settled) && l.frameFor > 0 {
		if l.readBy == 0 || l.readOf != l.serial {
			l.readOf = l.serial
			l.readBy = exchange.Now() + int64(l.frameFor)
			l.arm(l.readBy)
		}
	} else {
		l.readBy = 0
	}
}

// frame reads one frame and does what it says.
func (l *link) frame() error {
	fr := l.feed.fr
	h, err := fr.ReadFrameHeader()
	if err == nil {
		var f http2.Frame
		if f, err = fr.ReadFrameForHeader(h); err == nil {
			if err = l.dispatch(f); l.inside.id == 0 {
				l.serial++
			}
			return err
		}
	}
	var stream http2.StreamError
	var conn http2.ConnectionError
	switch {
	case errors.As(err, &stream):
		// A header block that is not decoded would leave the decoder behind.
		if h.Type == http2.FrameHeaders || h.Type == http2.FrameContinuation || !l.settled {
			return &connError{stream.Code, "malformed frame"}
		}
		return l.fault(h.StreamID, stream.Code, "malformed frame")
	case errors.As(err, &conn):
		return &connError{http2.ErrCode(conn), detail(fr)}
	case errors.Is(err, http2.ErrFrameTooLarge):
		return &connError{http2.ErrCodeFrameSize, "frame is too large"}
	}
	return l.why(err)
}

// why looks behind an interruption.
func (l *link) why(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.cause != nil:
		return l.cause
	case l.dead != nil:
		return l.dead
	}
	return err
}

// detail says what the Framer found wrong.
func detail(fr *http2.Framer) string {
	if err := fr.ErrorDetail(); err != nil {
		return err.Error()
	}
	return "malformed frame"
}

func (l *link) dispatch(f http2.Frame) error {
	if _, ok := f.(*http2.SettingsFrame); !ok && !l.settled {
		return protocolError("the first frame is not SETTINGS") // RFC 9113, section 3.4
	}
	switch f := f.(type) {
	case *http2.DataFrame:
		return l.data(f)
	case *http2.HeadersFrame:
		return l.headers(f)
	case *http2.ContinuationFrame:
		return l.fragment(f.HeaderBlockFragment(), f.HeadersEnded())
	case *http2.SettingsFrame:
		return l.settings(f)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch f := f.(type) {
	case *http2.WindowUpdateFrame:
		return l.windowUpdate(f)
	case *http2.RSTStreamFrame:
		return l.rstStream(f)
	case *http2.PingFrame:
		if f.IsAck() {
			l.role.pong(f.Data)
			return nil
		}
		if err := l.guard.chatter(1); err != nil {
			return err
		}
		return l.answer(appendPing(l.gather(), http2.FlagPingAck, f.Data))
	case *http2.GoAwayFrame:
		l.role.away(f.LastStreamID, f.ErrCode)
		return l.guard.chatter(1)
	case *http2.PushPromiseFrame:
		return protocolError("PUSH_PROMISE without leave") // RFC 9113, section 8.4
	case *http2.PriorityUpdateFrame:
		l.role.priority(f.PrioritizedStreamID, f.Priority)
		return l.guard.chatter(1)
	}
	// PRIORITY is obsolete and ignored (RFC 9113, section 5.3.2), as are types
	// that nobody knows (section 5.5).
	return l.guard.chatter(1)
}

// endTime is how long the end of a connection may take.
const endTime = 2 * time.Second

// finish ends a connection whose reading ended with err: it says why where
// that is of use, and waits until what was gathered is written.
func (l *link) finish(err error) {
	l.mu.Lock()
	var fault *connError
	polite := errors.As(err, &fault)
	if polite && l.dead == nil {
		l.out = appendGoAway(l.gather(), l.role.lastSeen(), fault.code, fault.text)
	}
	polite = polite || errors.Is(err, errDone)
	l.kill(err)
	l.closeBy = exchange.Now() + int64(endTime)
	l.arm(l.closeBy)
	if polite {
		l.c.Resume()
		l.flush()
	}
	for l.flushing {
		l.changed.Wait()
	}
	polite = polite && !l.broken
	l.readBy, l.writeBy, l.closeBy = 0, 0, 0
	l.mu.Unlock()
	// TLS says that it ends, which may have to wait for the other end to read.
	l.c.SetLimit(endTime)
	l.c.SetTimeout(endTime)
	if polite && l.c.CloseWrite() == nil {
		if fault != nil && l.held != nil {
			l.hold()
		} else {
			l.linger()
		}
	}
	l.mu.Lock()
	if l.timer != nil {
		l.timer.Stop()
	}
	l.mu.Unlock()
	// What can go wrong with it does not concern anybody any more.
	_ = l.c.Close()
}

const (
	// holdTime is how long a connection is kept after an offence. mostHeld is
	// how many are: the next one is closed at once.
	holdTime = time.Second
	mostHeld = 256
)

// hold leaves a connection unread that ended by the other end's fault. Who did
// that by error has the time to see the GOAWAY. Who attacks has his bytes
// stopped by the window of TCP, at no expense of ours, where reading them, or
// closing at once to take his next connection, would go on working for him.
func (l *link) hold() {
	defer l.held.Add(-1)
	if l.held.Add(1) > mostHeld {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closeBy = exchange.Now() + int64(holdTime)
	l.arm(l.closeBy)
	for !l.broken {
		l.changed.Wait()
	}
}

// lingerMost is how much of what the other end sends is read for nothing.
const lingerMost = 1 << 20

// linger ends a connection on which the other end may still be sending.
// Closing it at once would answer those bytes with a reset, which can overtake
// the GOAWAY.
func (l *link) linger() {
	b := wire.GetBuffer()
	defer b.Put()
	below := l.c.Socket() // what TLS says does not matter any more
	for left := lingerMost; left > 0; {
		n, err := below.Read(b.B)
		if err != nil {
			return // the end, the timeout, or a reset: there is no more to do
		}
		left -= n
	}
}

// kill ends all streams, with the lock held: nothing is received any more.
func (l *link) kill(err error) {
	if err == io.EOF {
		err = io.ErrUnexpectedEOF // io.EOF is the end of a body that is whole
	}
	if l.dead == nil {
		l.dead = err
	}
	for _, s := range l.streams {
		s.end(err)
	}
	for _, s := range l.queue {
		s.writing.Broadcast()
	}
}

// hangUp ends the connection at once, with the lock held.
func (l *link) hangUp(err error) {
	l.kill(err)
	l.broken = true
	l.changed.Broadcast()
	l.c.Hangup()
}

// arm has the deadlines looked at when that time has come. With the lock held.
func (l *link) arm(at int64) {
	if l.look != 0 && l.look <= at {
		return
	}
	l.look = at
	d := max(time.Duration(at-exchange.Now()), time.Millisecond)
	if l.timer == nil {
		l.timer = time.AfterFunc(d, l.late)
	} else {
		l.timer.Reset(d)
	}
}

// late looks at all deadlines. There is one timer a connection, and it is set
// anew only when it has fired: waiting and going on cost nothing.
func (l *link) late() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := exchange.Now()
	l.look = 0
	next := int64(0)
	over := func(at int64) bool {
		if at != 0 && at > now && (next == 0 || at < next) {
			next = at
		}
		return at != 0 && at <= now
	}
	if over(l.readBy) || over(l.writeBy) || over(l.closeBy) {
		l.hangUp(wire.ErrTimeout)
		return
	}
	if idle, notice := over(l.idleBy), over(l.notice); idle || notice {
		l.idleBy, l.notice = 0, 0
		l.role.idle()
	}
	for _, s := range l.streams {
		s.late(over)
	}
	if next != 0 {
		l.arm(next)
	}
}

// settle ends a connection that has nothing more to do, with the lock held.
func (l *link) settle() {
	if l.closing && len(l.streams) == 0 && len(l.out) == 0 && !l.flushing {
		l.abort(errDone)
	}
}
