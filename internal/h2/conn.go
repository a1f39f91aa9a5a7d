package h2

import (
	"errors"
	"io"
	"time"

	"golang.org/x/net/http2"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

// conn is one client's connection.
type conn struct {
	link
	s      *Server
	client *exchange.Client
	limits *Limits
	ended  func()

	coming  *turn         // whose head is being read
	fault   http2.ErrCode // what is wrong with the stream of an ignored header block
	running int           // exchanges whose goroutine has not ended
	served  int
	warned  bool              // the client was told that the connection will end
	early   map[uint32]string // priorities of streams that are still to come
	crossed uint32            // the last stream that came after the GOAWAY, on its way when that was sent
}

var errCut = errors.New("connection was cut")

// run serves the connection until it ends.
func (k *conn) run(in *wire.Buffer, n int, draining bool) {
	k.mu.Lock()
	k.out = k.appendHello(k.gather())
	k.idle0()
	k.flush()
	if draining {
		k.drain()
	}
	k.mu.Unlock()
	err := k.greet(in, n)
	if err == nil {
		err = k.read()
	}
	k.release(false)
	k.finish(err)
	k.mu.Lock()
	for k.running > 0 {
		k.changed.Wait()
	}
	k.mu.Unlock()
	k.s.leave(k)
	k.ended()
}

// appendHello appends what a server begins with (RFC 9113, section 3.4).
func (k *conn) appendHello(b []byte) []byte {
	b = appendSettings(b,
		http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: uint32(k.limits.Streams)},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: streamWindow},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: uint32(k.limits.HeaderBytes)},
		http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: 1}, // RFC 8441, section 3
		http2.Setting{ID: http2.SettingNoRFC7540Priorities, Val: 1},   // RFC 9218, section 2.1
	)
	return appendWindowUpdate(b, 0, connWindow-defaultWindow)
}

// greet reads the client's preface.
func (k *conn) greet(in *wire.Buffer, n int) error {
	if in == nil {
		k.pause(false)
		var err error
		if in, n, err = k.c.ReadBuffer(); err != nil {
			return k.why(err)
		}
	}
	k.borrow(in, n)
	var got [len(preface)]byte
	if _, err := io.ReadFull(k.feed, got[:]); err != nil {
		return k.why(err)
	}
	if string(got[:]) != preface {
		return protocolError("no connection preface")
	}
	return nil
}

// idle0 begins the time that the connection may have no stream.
func (k *conn) idle0() {
	if k.idleFor > 0 && k.dead == nil {
		k.idleBy = exchange.Now() + int64(k.idleFor)
		k.arm(k.idleBy)
	}
}

// drainPing is the PING that follows the warning: when it is answered, every
// request that was sent before the client knew has come.
var drainPing = [8]byte{'g', 'o', 'i', 'n', 'g'}

// drainTime is how long that answer is waited for.
const drainTime = time.Second

// drain begins the end of the connection, with the lock held. The client is
// warned first, so that requests which are on their way are not lost (RFC
// 9113, section 6.8).
func (k *conn) drain() {
	if k.warned || k.dead != nil {
		return
	}
	k.warned = true
	b := appendGoAway(k.gather(), 1<<31-1, http2.ErrCodeNo, "")
	k.out = appendPing(b, 0, drainPing)
	k.flushAside()
	k.notice = exchange.Now() + int64(drainTime)
	k.arm(k.notice)
}

// goAway refuses further streams, and ends the connection after the last one.
func (k *conn) goAway() {
	if k.closing || k.dead != nil {
		return
	}
	k.warned, k.closing = true, true
	k.out = appendGoAway(k.gather(), k.lastID, http2.ErrCodeNo, "")
	k.flushAside()
}

// The methods of role.

func (k *conn) lastSeen() uint32 { return k.lastID }

func (k *conn) opened(id uint32) bool { return id <= max(k.lastID, k.crossed) && id%2 == 1 }

func (k *conn) settings() {}

func (k *conn) idle() { k.goAway() }

func (k *conn) panicked(v any) {
	if k.s.Panicked == nil {
		panic(v)
	}
	k.s.Panicked(v)
}

// away is a client that wants no push. It may go on asking.
func (k *conn) away(uint32, http2.ErrCode) {}

func (k *conn) pong(data [8]byte) {
	if k.warned && data == drainPing {
		k.goAway()
	}
}

func (k *conn) mayHave(*stream, int) error { return nil }

func (k *conn) priority(id uint32, value string) {
	if s := k.streams[id]; s != nil {
		s.urgency, s.incremental = parsePriority(value, defaultUrgency, false)
		return
	}
	if id <= k.lastID || id%2 == 0 || len(value) > 64 {
		return
	}
	// It may come before its stream (RFC 9218, section 7.1).
	if k.early == nil {
		k.early = make(map[uint32]string)
	}
	if len(k.early) < k.limits.Streams {
		k.early[id] = value
	}
}

// head implements role: a new request, or a trailer section.
func (k *conn) head(id uint32, _ bool) (section, *exchange.Header, int, int, error) {
	k.coming, k.fault = nil, http2.ErrCodeNo
	most, fields := k.limits.HeaderBytes, k.limits.Headers
	if s := k.streams[id]; s != nil {
		if s.ended {
			k.fault = http2.ErrCodeStreamClosed
			return ignored, nil, most, fields, nil
		}
		return trailer, &s.trailer, most, fields, nil
	}
	switch {
	case id%2 == 0:
		return 0, nil, 0, 0, protocolError("client opens a stream with an even number")
	case id <= k.lastID:
		return ignored, nil, most, fields, k.stray(id, http2.FrameHeaders)
	case k.closing:
		// The client knows that nobody acts on it.
		k.crossed = max(k.crossed, id)
		return ignored, nil, most, fields, k.guard.reset()
	}
	k.lastID = id
	if k.running >= k.limits.Streams || len(k.streams) >= k.limits.Streams {
		// One that was reset counts as long as there is work for it.
		k.fault = http2.ErrCodeRefusedStream
		return ignored, nil, most, fields, nil
	}
	t := turns.Get().(*turn)
	t.start(k, id)
	k.coming = t
	return requestHead, &t.x.Request.Header, most, fields, nil
}

// take implements role.
func (k *conn) take(id uint32, ended bool) error {
	t := k.coming
	if t == nil {
		return k.takeOther(id, ended)
	}
	k.coming = nil
	k.served++
	k.guard.chat.earn(chatEarned)
	if n := k.limits.RequestsPerConn; n > 0 && k.served >= n {
		k.drain()
	}
	x := t.x
	x.Times.Head = exchange.Now()
	err := k.block.request(&x.Request, ended)
	switch {
	case k.block.large:
		t.problem = &headTooLarge
	case err != nil:
		t.problem = malformedRequest.With(err)
		t.begin(&k.link, id, t)
		t.silent = true
		t.resetAs(http2.ErrCodeProtocol, err)
		k.running++
		go t.reject()
		return k.guard.reset()
	default:
		t.problem = t.admit(&k.block)
	}
	t.begin(&k.link, id, t)
	t.length = x.Request.Length
	if x.Request.Upgrade != "" {
		t.length = exchange.Unknown // what follows is no body
	}
	if v := x.Request.Header.Known(exchange.Priority); v != "" {
		t.urgency, t.incremental = parsePriority(v, defaultUrgency, false)
	}
	if v, ok := k.early[id]; ok {
		t.urgency, t.incremental = parsePriority(v, defaultUrgency, false)
		delete(k.early, id)
	}
	if ended {
		t.endRemote()
	} else if x.Request.Upgrade == "" {
		x.Request.Body = &t.body
	}
	k.running++
	go t.run()
	return nil
}

// takeOther takes a header block that begins no exchange.
func (k *conn) takeOther(id uint32, ended bool) error {
	s := k.streams[id]
	switch {
	case k.fault == http2.ErrCodeRefusedStream:
		k.closed.add(id, true)
		if err := k.answer(appendReset(k.gather(), id, k.fault)); err != nil {
			return err
		}
		return k.guard.reset()
	case s == nil:
		return nil // it was reset
	case k.fault != http2.ErrCodeNo:
		return k.blame(s, k.fault, "HEADERS after the end")
	case !ended:
		return k.blame(s, http2.ErrCodeProtocol, "trailer section does not end the stream")
	case k.block.bad != nil:
		return k.blame(s, http2.ErrCodeProtocol, textOf(k.block.bad))
	case k.block.large:
		return k.blame(s, http2.ErrCodeProtocol, "trailer section is too large")
	case s.length >= 0 && s.got < s.length:
		return k.blame(s, http2.ErrCodeProtocol, "body is not as long as its Content-Length")
	}
	s.endRemote()
	return nil
}

// gone implements role: nobody waits for the answer of a stream that failed.
func (k *conn) gone(s *stream) {
	t := s.holder.(*turn)
	if s.failure != nil && !t.silent && t.x != nil {
		t.x.Cancel(exchange.ErrClientGone)
	}
}
