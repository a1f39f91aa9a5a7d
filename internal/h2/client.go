package h2

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/net/http2"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

// ResponseLimits bounds what an upstream may answer and how slowly. A zero
// duration is no limit.
type ResponseLimits struct {
	HeaderBytes int           // most bytes of a head or trailer section, counted as RFC 9113, section 10.5.1, does
	Headers     int           // most fields of a head or trailer section
	FirstByte   time.Duration // from the request sent whole to the answer's head
	Request     time.Duration // from the first byte sent to the last one received
	Try         time.Duration // from the first byte sent to the answer's head
	Idle        time.Duration // without progress while a body goes either way
}

// Owner is told what becomes of a connection. It is never told while a method
// of the Client is waited for.
type Owner interface {
	// Free says that an exchange has no more use of its place.
	Free(c *Client)
	// Gone says that the connection takes no further exchange. It is called
	// once; exchanges may still be under way.
	Gone(c *Client)
	// Panicked is told of a panic in reading the connection, which ends it.
	Panicked(v any)
}

// Errors of RoundTrip beside wire.ErrTimeout, a Malformed, a *RequestError and
// the reason for which the exchange was cancelled.
var (
	// ErrNoAnswer says that the connection ended, or the stream was reset,
	// before the head of the answer was there.
	ErrNoAnswer = errors.New("stream ended before the answer")
	// ErrCut says that the stream ended before the answer did.
	ErrCut = errors.New("answer was cut")
	// ErrNoTunnel says that the upstream does not take extended CONNECT.
	ErrNoTunnel = errors.New("upstream has not enabled extended CONNECT")

	errBodyLength = errors.New("request body is not as long as its length says")
	errShut       = errors.New("connection takes no further exchange")
)

// RequestError is why a request could not be sent whole: its own body failed,
// not the upstream.
type RequestError struct{ Err error }

func (e *RequestError) Error() string { return "request body: " + e.Err.Error() }

// Unwrap returns the body's error.
func (e *RequestError) Unwrap() error { return e.Err }

// unsentError is ErrNoAnswer of a request whose body is still there.
type unsentError struct {
	err     error
	refused bool
}

func (e *unsentError) Error() string   { return e.err.Error() }
func (e *unsentError) Unwrap() []error { return []error{ErrNoAnswer, e.err} }

// Unsent reports whether the request of a RoundTrip that failed with err may
// be sent on another connection as far as its bytes are concerned: nothing of
// an answer came, and its body is still with the exchange. Whether sending it
// twice does harm is for the caller to know.
func Unsent(err error) bool {
	var e *unsentError
	return errors.As(err, &e)
}

// Refused reports whether the upstream has said that it did not act on the
// request (RFC 9113, section 8.7), or it was never sent. Any method may then be
// sent again if Unsent says so.
func Refused(err error) bool {
	var e *unsentError
	return errors.As(err, &e) && e.refused
}

// Client is one connection to an upstream, shared by many exchanges.
type Client struct {
	link
	limits *ResponseLimits
	owner  Owner
	scheme string

	nextID  uint32
	taken   int             // places that are in use
	since   int64           // when the last one was given back, in exchange.Now's time
	left    bool            // Gone was, or is being, called
	probing bool            // a PING is to show whether somebody is there
	spare   exchange.Header // memory for the next answer
}

// NewClient begins a connection over one that nothing was sent on. scheme is
// "http" or "https". Requests may be sent at once.
func NewClient(c *wire.Conn, scheme string, l *ResponseLimits, o Owner) *Client {
	k := &Client{limits: l, owner: o, scheme: scheme, nextID: 1}
	k.begin(c, k, 1<<30) // the streams are ours: resets cost nothing that we did not ask for
	k.block.lenient = true
	k.frameFor, k.idleFor = l.Idle, l.Idle
	k.peerStreams = 100 // until the upstream says: RFC 9113, section 6.5.2
	k.since = exchange.Now()
	k.mu.Lock()
	b := append(k.gather(), preface...)
	b = appendSettings(b,
		http2.Setting{ID: http2.SettingEnablePush, Val: 0},
		http2.Setting{ID: http2.SettingInitialWindowSize, Val: streamWindow},
		http2.Setting{ID: http2.SettingMaxHeaderListSize, Val: uint32(l.HeaderBytes)},
	)
	k.out = appendWindowUpdate(b, 0, connWindow-defaultWindow)
	// The first request goes with it, unless there is none.
	k.control = 1
	k.mu.Unlock()
	go k.run()
	return k
}

func (c *Client) run() {
	err := c.read()
	c.release(false)
	c.mu.Lock()
	c.leave()
	c.mu.Unlock()
	c.finish(err)
}

// leave has the owner told that the connection takes no further exchange.
func (c *Client) leave() {
	if !c.left {
		c.left = true
		go c.owner.Gone(c)
	}
}

// Take takes a place for an exchange. It is false when all that the upstream
// allows are taken, or the connection is going to end. Who has a place calls
// RoundTrip, or Drop.
func (c *Client) Take() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.usable() || c.taken >= int(min(c.peerStreams, 1<<20)) {
		return false
	}
	c.taken++
	return true
}

// Drop gives a place back that no RoundTrip has used.
func (c *Client) Drop() { c.drop() }

func (c *Client) drop() {
	c.mu.Lock()
	c.taken--
	c.since = exchange.Now()
	c.settle()
	c.mu.Unlock()
	c.owner.Free(c)
}

func (c *Client) usable() bool {
	return c.dead == nil && c.cause == nil && !c.closing && !c.probing && c.nextID < 1<<31-2
}

// Full reports whether all places are taken.
func (c *Client) Full() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.taken >= int(min(c.peerStreams, 1<<20))
}

// Alive reports whether the connection takes further exchanges, when it has
// places.
func (c *Client) Alive() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.usable()
}

// Idle returns for how long no place has been taken, 0 while some are.
func (c *Client) Idle() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.taken > 0 {
		return 0
	}
	return time.Duration(exchange.Now() - c.since)
}

// Shut ends the connection after its last exchange.
func (c *Client) Shut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing || c.dead != nil {
		return
	}
	c.closing = true
	c.leave()
	c.out = appendGoAway(c.gather(), 0, http2.ErrCodeNo, "")
	c.flushAside()
}

// Cut ends the connection and all that it carries.
func (c *Client) Cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hangUp(errShut)
}

// The methods of role.

func (c *Client) lastSeen() uint32 { return 0 }

func (c *Client) opened(id uint32) bool { return id%2 == 1 && id < c.nextID }

func (c *Client) priority(uint32, string) {}

// settings implements role: who waits to know whether tunnels are possible is
// woken.
func (c *Client) settings() { c.changed.Broadcast() }

// away implements role: streams above the last one were not acted on (RFC
// 9113, section 6.8).
func (c *Client) away(last uint32, code http2.ErrCode) {
	c.closing = true
	c.leave()
	for id, s := range c.streams {
		if id > last {
			s.end(resetError{http2.ErrCodeRefusedStream, true, "GOAWAY: " + code.String()})
		}
	}
	c.settle()
}

// probeTime is how long an upstream that let an exchange time out may take to
// answer a PING.
const probeTime = 5 * time.Second

var probePing = [8]byte{'a', 'l', 'i', 'v', 'e', '?'}

// probe asks whether somebody is there, after an exchange has timed out. Until
// that is known, no further exchange is sent here.
func (c *Client) probe() {
	if c.probing || c.dead != nil {
		return
	}
	c.probing = true
	c.out = appendPing(c.gather(), 0, probePing)
	c.flushAside()
	c.notice = exchange.Now() + int64(probeTime)
	c.arm(c.notice)
}

func (c *Client) pong(data [8]byte) {
	if data == probePing {
		c.probing, c.notice = false, 0
	}
}

// idle implements role: a probe was not answered.
func (c *Client) idle() {
	if c.probing {
		c.hangUp(wire.ErrTimeout)
	}
}

// panicked implements role.
func (c *Client) panicked(v any) { c.owner.Panicked(v) }

// head implements role: an answer's head, or its trailer section.
func (c *Client) head(id uint32, _ bool) (section, *exchange.Header, int, int, error) {
	most, fields := c.limits.HeaderBytes, c.limits.Headers
	s := c.streams[id]
	switch {
	case s == nil && !c.opened(id):
		return 0, nil, 0, 0, protocolError("HEADERS on an idle stream")
	case s == nil:
		// It may have crossed a reset of ours; another one costs.
		if ours, _ := c.closed.find(id); !ours {
			if err := c.guard.chatter(1); err != nil {
				return 0, nil, 0, 0, err
			}
		}
		return ignored, nil, most, fields, nil
	case s.ended:
		return ignored, nil, most, fields, nil
	}
	if a := s.holder.(*call); !a.final {
		return responseHead, &a.head, most, fields, nil
	}
	return trailer, &s.trailer, most, fields, nil
}

// take implements role.
func (c *Client) take(id uint32, ended bool) error {
	s := c.streams[id]
	if s == nil {
		return nil
	}
	a := s.holder.(*call)
	switch {
	case s.ended:
		return c.blame(s, http2.ErrCodeStreamClosed, "HEADERS after the end")
	case c.block.large:
		return c.blame(s, http2.ErrCodeProtocol, "fields are too large or too many")
	case c.block.kind == trailer && !ended:
		return c.blame(s, http2.ErrCodeProtocol, "trailer section does not end the stream")
	case c.block.kind == trailer && c.block.bad != nil:
		return c.blame(s, http2.ErrCodeProtocol, textOf(c.block.bad))
	case c.block.kind == trailer && !a.bodiless && s.length >= 0 && s.got < s.length:
		return c.blame(s, http2.ErrCodeProtocol, "body is not as long as its Content-Length")
	case c.block.kind == responseHead:
		if err := a.hear(&c.block, ended); err != nil {
			return c.blame(s, http2.ErrCodeProtocol, textOf(err))
		}
	}
	if ended {
		s.endRemote()
	}
	return nil
}

// mayHave implements role.
func (c *Client) mayHave(s *stream, n int) error {
	switch a := s.holder.(*call); {
	case !a.final:
		return errors.New("DATA before the head")
	case a.bodiless && n > 0:
		return errors.New("DATA of an answer without a body")
	}
	return nil
}

// gone implements role. Who waits has been woken.
func (c *Client) gone(*stream) {}

// lost says what the end of a stream means while there is no answer.
func lost(err error) error {
	var reset resetError
	if errors.As(err, &reset) && !reset.remote {
		return Malformed(reset.text)
	}
	return fmt.Errorf("%w: %w", ErrNoAnswer, err)
}
