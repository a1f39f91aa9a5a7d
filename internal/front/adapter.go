package front

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"sync"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1"
)

// adapter implements exchange.Downstream over an http.ResponseWriter, for one
// request. It knows nothing of the server around it but what the functions
// below tell.
type adapter struct {
	x *exchange.Exchange
	w http.ResponseWriter
	r *http.Request
	c *http.ResponseController

	// Set before the exchange is served.
	closes   bool                            // the connection ends with this answer
	draining func() bool                     // it ends for other reasons
	broken   func(error) error               // the reason behind an error of reading the body
	stop     func(bool)                      // makes whoever reads the body fail, or ends that
	reset    func()                          // has the connection end so that nobody takes the answer for complete
	limit    func(due int64)                 // says when the answer must have been written
	upgrade  func() (exchange.Stream, error) // hands over the stream; nil: the connection is hijacked

	body     stdBody
	stream   stdStream
	failure  error // writing failed, or the answer was aborted
	length   int64 // of the answer's body
	bodiless bool  // HEAD, 204 and 304 have no body whatever is written
	headed   bool
	finished bool
	upgraded bool // by upgrade

	mu   sync.Mutex // guards over
	over bool       // the exchange is not ours any more
}

var (
	errAborted   = errors.New("answer was aborted")
	errTooLong   = errors.New("answer is longer than its Content-Length")
	errTooShort  = errors.New("answer is shorter than its Content-Length")
	errNoUpgrade = errors.New("status 101 outside an upgrade")
)

func newAdapter(x *exchange.Exchange, w http.ResponseWriter, r *http.Request) *adapter {
	a := &adapter{x: x, w: w, r: r, c: http.NewResponseController(w)}
	x.Down = a
	if x.Request.Length != 0 {
		a.body.a = a
		x.Request.Body = &a.body
		// Else the answer would wait for the body. HTTP/2 and later do not
		// know it because they never wait.
		_ = a.c.EnableFullDuplex()
	}
	return a
}

// gone is called when the client has gone, by any goroutine and at any time.
func (a *adapter) gone() {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.over {
		a.x.Cancel(exchange.ErrClientGone)
	}
}

// end is called after the exchange was served. It reports whether the
// connection cannot be used further, for the answer is not complete.
func (a *adapter) end() (failed bool) {
	a.mu.Lock()
	a.over = true
	a.mu.Unlock()
	if a.stream.Conn != nil || a.upgraded {
		return false
	}
	if !a.finished {
		a.Abort()
	}
	return !a.finished
}

// refuse answers a request that no handler sees.
func (a *adapter) refuse(p *exchange.Problem, refused func(*exchange.Exchange)) {
	x := a.x
	x.Fail(p)
	x.Render()
	a.closes = true
	err := a.WriteHead(x)
	if err == nil {
		x.Response.HeadSent = true
		_, err = a.WriteFrom(x)
	}
	if err == nil {
		err = a.Finish(x)
	}
	x.Times.End = exchange.Now()
	x.Response.Truncated = err != nil
	if refused != nil {
		refused(x)
	}
}

// Inform implements exchange.Downstream.
func (a *adapter) Inform(status int, h *exchange.Header) error {
	if a.x.Request.Proto == exchange.HTTP10 || status == 101 || a.headed {
		return a.failure
	}
	if status == 100 {
		if !a.x.Request.Expect || !a.body.ask() {
			return a.failure // it was not asked for, or has been said
		}
	}
	a.setFields(h, h1.HopFields)
	a.w.WriteHeader(status)
	clear(a.w.Header())
	return a.failure
}

// setFields sets the fields of h but those in the set skip. net/http writes
// them sorted by name; lines of one name keep their order.
func (a *adapter) setFields(h *exchange.Header, skip uint64) {
	to := a.w.Header()
	clear(to)
	for i := range h.Fields() {
		if f := &h.Fields()[i]; f.Known.Bit()&skip == 0 {
			name := textproto.CanonicalMIMEHeaderKey(f.Name)
			to[name] = append(to[name], harmless(f.Value))
		}
	}
}

// harmless turns control characters into spaces. net/http does so with line
// ends only, and leaves out names that are no tokens.
func harmless(value string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f {
			return ' '
		}
		return r
	}, value)
}

// WriteHead implements exchange.Downstream.
func (a *adapter) WriteHead(x *exchange.Exchange) error {
	r := &x.Response
	if a.failure != nil {
		return a.failure
	}
	if r.Status < 200 {
		a.Abort()
		return errNoUpgrade
	}
	skip := uint64(h1.HopFields)
	if r.Status == 426 && x.Request.Proto <= exchange.HTTP11 {
		skip &^= exchange.Upgrade.Bit()
	}
	a.setFields(&r.Header, skip)
	h := a.w.Header()
	a.length = r.Length
	a.bodiless = x.Request.Method == "HEAD" || r.Status == 204 || r.Status == 304
	if r.Length > 0 && r.Status != 204 || r.Length == 0 && r.Status != 204 && r.Status != 304 {
		h["Content-Length"] = []string{strconv.FormatInt(r.Length, 10)}
	}
	if _, ok := h["Content-Type"]; !ok {
		h["Content-Type"] = nil // or net/http would guess one
	}
	if r.Local && len(h["Server"]) == 0 {
		h["Server"] = []string{"gatehouse"}
	}
	a.closes = a.closes || r.Close || x.Request.Lent || a.draining() || !a.body.short(r.Length >= 0)
	if a.closes && x.Request.Proto <= exchange.HTTP11 {
		h["Connection"] = []string{"close"}
	}
	a.headed = true
	a.limit(x.Times.Due)
	a.w.WriteHeader(r.Status)
	if x.Request.Proto != exchange.HTTP3 {
		clear(h) // it has been copied, and what is in it later is taken for trailers
	}
	return nil
}

// WriteBody implements exchange.Downstream.
func (a *adapter) WriteBody(p []byte) error {
	if a.bodiless || len(p) == 0 || a.failure != nil {
		return a.failure
	}
	r := &a.x.Response
	if a.length >= 0 && r.Sent+int64(len(p)) > a.length {
		a.Abort()
		return errTooLong
	}
	r.Sent += int64(len(p))
	_, a.failure = a.w.Write(p)
	return a.failure
}

// WriteFrom implements exchange.Downstream.
func (a *adapter) WriteFrom(x *exchange.Exchange) (readErr, writeErr error) {
	if a.bodiless {
		return nil, a.failure
	}
	body := x.Response.Body
	ready, tells := body.(exchange.Ready)
	for {
		// The end of a counted body follows its last byte at once.
		atEnd := a.length >= 0 && x.Response.Sent == a.length
		if !atEnd && !(tells && ready.Ready()) {
			if err := a.Flush(); err != nil {
				return nil, err
			}
		}
		p, err := body.Next()
		switch {
		case err == io.EOF:
			return nil, nil
		case err != nil:
			return err, nil
		}
		if err := a.WriteBody(p); err != nil {
			return nil, err
		}
	}
}

// Flush implements exchange.Downstream.
func (a *adapter) Flush() error {
	if a.failure == nil && a.headed {
		a.failure = a.c.Flush()
	}
	return a.failure
}

// Finish implements exchange.Downstream.
func (a *adapter) Finish(x *exchange.Exchange) error {
	if a.failure != nil {
		return a.failure
	}
	if !a.bodiless && x.Response.Sent < a.length {
		a.Abort()
		return fmt.Errorf("%w: %d of %d bytes", errTooShort, x.Response.Sent, a.length)
	}
	err := a.Flush()
	h := a.w.Header()
	for i := range x.Response.Trailer.Fields() {
		if f := &x.Response.Trailer.Fields()[i]; h1.MayTrail(f) {
			name := http.TrailerPrefix + textproto.CanonicalMIMEHeaderKey(f.Name)
			h[name] = append(h[name], harmless(f.Value))
		}
	}
	a.finished = err == nil
	return err
}

// Abort implements exchange.Downstream.
func (a *adapter) Abort() {
	if a.failure != nil || a.finished {
		return
	}
	if a.headed && a.length < 0 && a.x.Request.Proto == exchange.HTTP10 {
		a.reset() // the end of the connection would be the end of the answer
	} else {
		_ = a.Flush() // nobody is told when it fails: the answer is lost anyway
	}
	a.failure = errAborted
	a.closes = true
}

// Upgrade implements exchange.Downstream.
func (a *adapter) Upgrade(x *exchange.Exchange) (exchange.Stream, error) {
	if x.Request.Upgrade == "" || a.headed || a.failure != nil {
		a.Abort()
		return nil, errNoUpgrade
	}
	if a.upgrade != nil {
		s, err := a.upgrade()
		if err != nil {
			a.Abort()
			return nil, err
		}
		a.headed, a.upgraded = true, true
		return s, nil
	}
	nc, rw, err := a.c.Hijack()
	if err != nil {
		a.failure = err
		return nil, err
	}
	a.stream = stdStream{nc, rw.Reader}
	if u, ok := nc.(interface{ upgraded() }); ok {
		u.upgraded()
	}
	head := h1.ResponseHead{Status: 101, Bodiless: true, Length: exchange.Unknown, Connection: "Upgrade"}
	a.headed = true
	if _, err := nc.Write(h1.AppendResponseHead(nil, &head, &x.Response.Header)); err != nil {
		a.failure = err
		return nil, err
	}
	return &a.stream, nil
}

// stdStream is a connection after an upgrade.
type stdStream struct {
	net.Conn
	r *bufio.Reader
}

// Read returns first what the client sent together with its request.
func (s *stdStream) Read(p []byte) (int, error) { return s.r.Read(p) }

func (s *stdStream) CloseWrite() error {
	if c, ok := s.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return errors.ErrUnsupported
}

// stdBody is the body of a request. Another goroutine than the exchange's may
// use it while Request.Lent says so.
type stdBody struct {
	a   *adapter
	buf []byte
	err error // io.EOF at the end

	mu      sync.Mutex // guards what follows
	stopped bool
	asked   bool // 100 Continue was sent, or will be
}

const (
	bodyPiece = 32 << 10
	// drainMost is how much of a body net/http reads after the answer.
	drainMost = 256 << 10
)

// Next implements exchange.Body.
func (b *stdBody) Next() ([]byte, error) {
	if b.err != nil {
		return nil, b.err
	}
	if b.buf == nil {
		b.ask()
		b.buf = make([]byte, bodyPiece)
	}
	for {
		n, err := b.a.r.Body.Read(b.buf)
		if err == io.EOF {
			b.err = io.EOF // it may come with the last bytes
		}
		if n > 0 {
			b.a.x.Request.Received += int64(n)
			return b.buf[:n], nil
		}
		switch {
		case err == nil:
			continue
		case err == io.EOF:
		case b.interrupted():
			return nil, errStopped
		default:
			b.err = b.a.broken(err)
			if errors.Is(b.err, exchange.ErrClientGone) {
				b.a.gone()
			}
		}
		return nil, b.err
	}
}

func (b *stdBody) interrupted() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.stopped
}

// Interrupt implements exchange.Interrupter.
func (b *stdBody) Interrupt() {
	b.mu.Lock()
	b.stopped = true
	b.mu.Unlock()
	b.a.stop(true)
}

// Close implements exchange.Body.
func (b *stdBody) Close() error {
	b.mu.Lock()
	stopped := b.stopped
	b.stopped = false
	b.mu.Unlock()
	if stopped {
		b.a.stop(false)
	}
	return nil
}

// ended reports whether there is no more to read. Nobody else may be using the
// body.
func (b *stdBody) ended() bool { return b.a == nil || b.err == io.EOF }

// ask notes that the client is told to send the body. net/http does it by
// itself when the body is read. It reports false when it was noted before.
func (b *stdBody) ask() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	first := !b.asked
	b.asked = true
	return first
}

// short reports whether what is left of the body is worth reading so that the
// connection can be used again. A client that waits for 100 Continue may or
// may not send it after the answer: that is settled by ending the connection.
// So is it after an answer that is not counted, whose end net/http does not
// send before the body was read. Nobody else may be using the body.
func (b *stdBody) short(counted bool) bool {
	switch {
	case b.ended():
		return true
	case !counted, b.err != nil, b.a.x.Request.Expect && !b.asked:
		return false
	}
	return b.a.x.Request.Length-b.a.x.Request.Received <= drainMost
}

var (
	_ exchange.Downstream  = (*adapter)(nil)
	_ exchange.Stream      = (*stdStream)(nil)
	_ exchange.Body        = (*stdBody)(nil)
	_ exchange.Interrupter = (*stdBody)(nil)
)
