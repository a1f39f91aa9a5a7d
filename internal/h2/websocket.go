package h2

import (
	"crypto/rand"
	"crypto/sha1" // RFC 6455 wants it; nothing rests on it
	"encoding/base64"
	"errors"
	"io"

	"golang.org/x/net/http2"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// This file is WebSocket over HTTP/2 (RFC 8441). Everybody else in the gateway
// sees the handshake of HTTP/1 (RFC 6455, section 4): a GET with Upgrade, and
// status 101.

const (
	websocketGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
	acceptField   = "Sec-WebSocket-Accept"
)

// upgradeFields gives a request the key that HTTP/1 wants and HTTP/2 does not
// have.
func upgradeFields(h *exchange.Header) {
	var nonce [16]byte
	_, _ = rand.Read(nonce[:]) // it never fails
	h.SetKnown(exchange.SecWebSocketKey, base64.StdEncoding.EncodeToString(nonce[:]))
}

// acceptOf returns the proof that a key was understood.
func acceptOf(key string) string {
	sum := sha1.Sum([]byte(key + websocketGUID)) //nolint:gosec // RFC 6455 wants it, nothing rests on it
	return base64.StdEncoding.EncodeToString(sum[:])
}

var errAccept = errors.New("the service did not accept the WebSocket handshake")

// Upgrade implements exchange.Downstream.
func (t *turn) Upgrade(x *exchange.Exchange) (exchange.Stream, error) {
	a, r := &t.answer, &x.Response
	if x.Request.Upgrade == "" || a.headed {
		t.Abort()
		return nil, errNoUpgrade
	}
	if err := Switched(x); err != nil {
		t.Abort()
		return nil, err
	}
	a.length = exchange.Unknown
	if err := t.writeHead(r, 200, exchange.Unknown); err != nil {
		return nil, err
	}
	if err := t.Flush(); err != nil {
		return nil, err
	}
	t.tunnel.t = t
	t.tunnel.s = &t.stream
	return &t.tunnel, nil
}

// tunnelStream is a stream after an extended CONNECT.
type tunnelStream struct {
	s    *stream
	t    *turn
	rest []byte // of the piece that was taken last
}

func (s *tunnelStream) Read(p []byte) (int, error) {
	if len(s.rest) == 0 {
		l := s.s.l
		l.mu.Lock()
		defer l.mu.Unlock()
		s.s.readBy = 0
		piece, err := s.s.next()
		if err != nil {
			return 0, err
		}
		s.rest = piece
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func (s *tunnelStream) Write(p []byte) (int, error) {
	l := s.s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := s.s.send(p); err != nil {
		return 0, err
	}
	l.flush()
	return len(p), s.s.l.deadOr(nil)
}

// CloseWrite says that no more will be written.
func (s *tunnelStream) CloseWrite() error {
	l := s.s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := s.s.sendEnd(); err != nil {
		return err
	}
	l.flush()
	return nil
}

// Close ends the stream in both directions and wakes who waits on it.
func (s *tunnelStream) Close() error {
	l := s.s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	if s.t != nil {
		s.t.silent = true
	}
	if s.s.open {
		s.s.resetAs(http2.ErrCodeCancel, io.ErrClosedPipe)
		l.flush()
	}
	return nil
}

func (l *link) deadOr(err error) error {
	if l.dead != nil {
		return l.dead
	}
	return err
}

var _ exchange.Stream = (*tunnelStream)(nil)
