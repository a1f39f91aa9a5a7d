package front

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/quic-go/quic-go/http3"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1"
	"gatehouse.dev/gatehouse/internal/h2"
)

// This file serves one request of HTTP/3.

// The problems of requests by HTTP/3. Codes are those of the other protocols.
var (
	h3BodyTooLarge = exchange.Problem{
		Status: 413, Code: "body_too_large", Side: exchange.SideClient,
		Detail: "The request body is larger than this gateway takes.",
	}
	h3BodyTimeout = exchange.Problem{
		Status: 408, Code: "body_timeout", Side: exchange.SideClient,
		Detail: "The request body did not arrive in time.",
	}
	h3BodyCut = exchange.Problem{
		Status: 400, Code: "body_cut", Side: exchange.SideClient,
		Detail: "The request body ended before its framing said so.",
	}
	tooEarly = exchange.Problem{
		Status: 425, Code: "too_early", Side: exchange.SideClient,
		Detail: "The request came before the handshake was complete, and could be a repetition.",
	}
)

// ServeHTTP implements http.Handler.
func (k *h3conn) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	o, s := k.h.l.o, k.h.now.Load()
	x := exchange.Get()
	x.Times.Start = exchange.Now()
	client, early := k.enter()
	defer k.leave()
	x.Client = client
	x.Request.Scheme = "https"
	body := &h3body{ReadCloser: r.Body, x: x, r: r, limits: s.limits, c: http.NewResponseController(w)}
	p := k.head(x, r, body)
	x.Times.Head = exchange.Now()
	r.Body = body
	out := &h3writer{ResponseWriter: w, c: body.c, idle: s.limits.IdleTimeout}
	a := newAdapter(x, out, r)
	a.limit = func(due int64) { out.due = due }
	a.draining, a.broken, a.stop, a.reset = k.isDraining, body.broken, body.stop, func() {}
	a.upgrade = func() (exchange.Stream, error) { return h3upgrade(w, x) }
	// The stream's context ends when the client resets it or goes.
	defer context.AfterFunc(r.Context(), a.gone)()
	switch {
	case p != nil:
	case early && !safe(x.Request.Method):
		p = &tooEarly
	case early:
		// RFC 8470, section 5.1: the service must know, too.
		x.Request.Header.Set("Early-Data", "1")
	}
	if p == nil && x.Request.Expect {
		// quic-go does not say it when the body is read, as net/http does.
		a.body.asked = true
		x.Request.Expect = false
		w.WriteHeader(http.StatusContinue)
	}
	if p != nil {
		a.refuse(p, o.Refused)
	} else {
		o.Handler(x)
	}
	failed := a.end()
	exchange.Put(x)
	if failed {
		panic(http.ErrAbortHandler) // http3 then resets the stream, and nothing else
	}
}

// safe tells the methods that may be repeated by anybody (RFC 9110, section
// 9.2.1).
func safe(method string) bool { return method == "GET" || method == "HEAD" || method == "OPTIONS" }

// head makes the exchange's request of what http3 has read, by the rules of
// HTTP/2: http3 has most of them, but not all.
func (k *h3conn) head(x *exchange.Exchange, r *http.Request, body *h3body) *exchange.Problem {
	var f h2.Fields
	f.Begin(&x.Request.Header, body.limits.HeaderBytes, body.limits.Headers)
	f.Add(":method", r.Method)
	tunnel := r.Method == http.MethodConnect && r.Proto != "HTTP/3.0"
	if r.Method != http.MethodConnect || tunnel {
		f.Add(":scheme", "https")
		f.Add(":path", r.RequestURI)
	}
	f.Add(":authority", r.Host)
	if tunnel {
		f.Add(":protocol", r.Proto)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		lower := strings.ToLower(name)
		for _, value := range r.Header[name] {
			if name != "Cookie" {
				f.Add(lower, value)
				continue
			}
			// http3 has joined them; they count as they came.
			for crumb := range strings.SplitSeq(value, "; ") {
				f.Add(lower, crumb)
			}
		}
	}
	ended := false
	if _, counted := r.Header["Content-Length"]; !counted && !tunnel && (safe(r.Method) || r.Method == http.MethodDelete) {
		// Such requests rarely have a body, and HTTP/1.1 has to say so.
		ended = body.peek()
	}
	return f.Request(&x.Request, body.limits.Body, ended)
}

// h3body is the body of a request, within the limits of the listener.
type h3body struct {
	io.ReadCloser
	x      *exchange.Exchange
	r      *http.Request
	limits *h1.Limits
	c      *http.ResponseController

	peeked   []byte
	failed   error
	received int64
	waited   time.Duration

	mu      sync.Mutex // guards what follows, and setting the deadline
	stopped bool
}

// h3RateGrace is how long a body may be slower than its least rate.
const h3RateGrace = 5 * time.Second

// peek waits for the first byte or the end. It reports whether there is no
// body.
func (b *h3body) peek() (ended bool) {
	one := make([]byte, 1)
	n, err := b.Read(one)
	b.peeked, b.failed = one[:n], err
	return n == 0 && errors.Is(err, io.EOF)
}

// Read implements io.Reader.
func (b *h3body) Read(p []byte) (int, error) {
	if len(b.peeked) > 0 {
		n := copy(p, b.peeked)
		b.peeked = b.peeked[n:]
		return n, nil
	}
	if b.failed != nil {
		return 0, b.failed
	}
	patience, ok := b.patience()
	if !ok {
		return 0, &h3BodyTimeout
	}
	before := exchange.Now()
	b.mu.Lock()
	deadline := until(before, patience)
	if b.stopped {
		deadline = past
	}
	err := b.c.SetReadDeadline(deadline)
	b.mu.Unlock()
	if err != nil {
		return 0, err
	}
	n, err := b.ReadCloser.Read(p)
	b.waited += time.Duration(exchange.Now() - before)
	b.received += int64(n)
	switch {
	case b.limits.Body > 0 && b.received > b.limits.Body:
		b.failed = &h3BodyTooLarge
		return 0, b.failed
	case errors.Is(err, io.EOF):
		if p := b.trailers(); p != nil {
			b.failed = p
			return 0, p
		}
	}
	return n, err
}

// patience is how long the next bytes may take, 0 for ever. It is false when
// the body as a whole is too slow.
func (b *h3body) patience() (d time.Duration, ok bool) {
	d = b.limits.IdleTimeout
	if rate := b.limits.BodyMinRate; rate > 0 {
		left := max(h3RateGrace, time.Duration(float64(b.received)/float64(rate)*float64(time.Second))) - b.waited
		if left <= 0 {
			return 0, false
		}
		if d == 0 || left < d {
			d = left
		}
	}
	return d, true
}

// trailers takes over what followed the body.
func (b *h3body) trailers() *exchange.Problem {
	lines := 0
	for _, name := range slices.Sorted(maps.Keys(b.r.Trailer)) {
		for _, value := range b.r.Trailer[name] {
			if lines++; lines > b.limits.Headers {
				return h1.Refuse("there are too many trailer fields")
			}
			name := strings.ToLower(name)
			if f := (exchange.Field{Name: name, Value: value, Known: exchange.LookupKnown(name)}); h1.MayTrail(&f) {
				b.x.Request.Trailer.Append(f)
			}
		}
	}
	return nil
}

// stop makes reading fail, now and later, or ends that.
func (b *h3body) stop(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped = on; on {
		// A stream that has ended has nobody who waits.
		_ = b.c.SetReadDeadline(past)
	}
}

// broken is the reason behind an error of reading.
func (b *h3body) broken(err error) error {
	var own *exchange.Problem
	switch {
	case errors.As(err, &own):
		return own
	case errors.Is(err, os.ErrDeadlineExceeded):
		return h3BodyTimeout.With(err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return h3BodyCut.With(err)
	}
	return errors.Join(exchange.ErrClientGone, err)
}

// h3writer writes an answer. A client may be slow, but it must not stop.
type h3writer struct {
	http.ResponseWriter
	c    *http.ResponseController
	idle time.Duration
	due  int64 // when all must have been written, 0 for never
}

// h3Piece is how much of an answer a client must take in the idle time.
const h3Piece = 16 << 10

func (w *h3writer) Write(p []byte) (n int, err error) {
	for len(p) > 0 && err == nil {
		var k int
		if err = w.wait(); err == nil {
			k, err = w.ResponseWriter.Write(p[:min(len(p), h3Piece)])
		}
		n += k
		p = p[k:]
	}
	return n, err
}

// FlushError is what http.ResponseController calls.
func (w *h3writer) FlushError() error {
	if err := w.wait(); err != nil {
		return err
	}
	return w.c.Flush()
}

func (w *h3writer) wait() error {
	return w.c.SetWriteDeadline(soonest(until(exchange.Now(), w.idle), w.due))
}

// h3upgrade hands over the stream of an extended CONNECT (RFC 9220).
func h3upgrade(w http.ResponseWriter, x *exchange.Exchange) (exchange.Stream, error) {
	if err := h2.Switched(x); err != nil {
		return nil, err
	}
	h := w.Header()
	clear(h)
	for i := range x.Response.Header.Fields() {
		if f := &x.Response.Header.Fields()[i]; f.Known.Bit()&(h1.HopFields|exchange.Upgrade.Bit()) == 0 {
			h[f.Name] = append(h[f.Name], harmless(f.Value))
		}
	}
	taken, ok := w.(http3.HTTPStreamer)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	w.WriteHeader(http.StatusOK)
	str, err := taken.HTTPStream()
	if err != nil {
		return nil, err
	}
	return &h3stream{str}, nil
}

// h3stream is a stream after an upgrade.
type h3stream struct{ *http3.Stream }

// CloseWrite says that no more will be written.
func (s *h3stream) CloseWrite() error { return s.Stream.Close() }

// Close ends both directions, and wakes who reads.
func (s *h3stream) Close() error {
	s.CancelRead(h3NoError)
	return s.Stream.Close()
}

const h3NoError = 0x100 // H3_NO_ERROR (RFC 9114, section 8.1)
