//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/http2"
)

// The service that is called costs less than any of the proxies: it looks at no
// field of a request, so that it needs no tables, and answers each with the
// same prepared frames, as long as the window of the connection lasts.

const (
	callPath = "/shop.v1.Products/Get"
	callSize = 100 // bytes of a message
)

// message is a gRPC message with its prefix.
func message() []byte {
	return append([]byte{0, 0, 0, 0, callSize}, bytes.Repeat([]byte("g"), callSize)...)
}

// serveCalls answers calls on the address until something breaks.
func serveCalls(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	defer l.Close()
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			_ = newCallee(c).run() // it ends when the proxy has enough
		}()
	}
}

// callee is one connection of the service.
type callee struct {
	in      *bufio.Reader
	out     *bufio.Writer
	fr      *http2.Framer
	window  int64    // of the connection, for what is sent
	taken   int      // bytes of DATA that have not been given back
	waiting []uint32 // streams that wait for the window
	answer  []byte
	head    []byte
	trailer []byte
}

func newCallee(c net.Conn) *callee {
	s := &callee{in: bufio.NewReaderSize(c, 64<<10), out: bufio.NewWriterSize(c, 64<<10), window: 65535, answer: message()}
	s.fr = http2.NewFramer(s.out, s.in)
	s.fr.SetReuseFrames()
	// :status 200 is entry 8 of the static table; the others are literals that
	// no table keeps (RFC 7541, sections 6.1 and 6.2.2).
	s.head = append([]byte{0x88}, literal("content-type", "application/grpc")...)
	s.trailer = literal("grpc-status", "0")
	return s
}

func literal(name, value string) []byte {
	b := append([]byte{0, byte(len(name))}, name...)
	return append(append(b, byte(len(value))), value...)
}

func (s *callee) run() error {
	if _, err := s.in.Discard(len(http2.ClientPreface)); err != nil {
		return err
	}
	if err := s.fr.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 1000}); err != nil {
		return err
	}
	for {
		if s.in.Buffered() == 0 {
			if err := s.out.Flush(); err != nil {
				return err
			}
		}
		f, err := s.fr.ReadFrame()
		if err == nil {
			err = s.take(f)
		}
		if err != nil {
			return err
		}
	}
}

func (s *callee) take(f http2.Frame) error {
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			return s.fr.WriteSettingsAck()
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			return s.fr.WritePing(true, f.Data)
		}
	case *http2.WindowUpdateFrame:
		if f.StreamID == 0 {
			s.window += int64(f.Increment)
			return s.reply()
		}
	case *http2.HeadersFrame:
		if f.StreamEnded() {
			s.waiting = append(s.waiting, f.StreamID)
			return s.reply()
		}
	case *http2.DataFrame:
		if s.taken += int(f.Length); s.taken >= 16<<10 {
			if err := s.fr.WriteWindowUpdate(0, uint32(s.taken)); err != nil {
				return err
			}
			s.taken = 0
		}
		if f.StreamEnded() {
			s.waiting = append(s.waiting, f.StreamID)
			return s.reply()
		}
	}
	return nil
}

// reply answers what waits, as far as the window goes.
func (s *callee) reply() error {
	n := 0
	for _, id := range s.waiting {
		if s.window < int64(len(s.answer)) {
			break
		}
		s.window -= int64(len(s.answer))
		n++
		if err := s.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: s.head, EndHeaders: true}); err != nil {
			return err
		}
		if err := s.fr.WriteData(id, false, s.answer); err != nil {
			return err
		}
		if err := s.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: s.trailer, EndHeaders: true, EndStream: true}); err != nil {
			return err
		}
	}
	s.waiting = append(s.waiting[:0], s.waiting[n:]...)
	return nil
}

// callOnce makes one call over HTTP/2 without TLS and looks at all of its
// answer.
func callOnce(address string) error {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: protocols}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+callPath, bytes.NewReader(message()))
	if err != nil {
		return err
	}
	req.Host = siteName
	req.Header = http.Header{"Content-Type": {"application/grpc"}, "Te": {"trailers"}}
	answer, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK || answer.Trailer.Get("Grpc-Status") != "0" || !bytes.Equal(body, message()) {
		return fmt.Errorf("a call is answered by %s, %v, %.100q, %v", answer.Status, answer.Header, body, answer.Trailer)
	}
	return nil
}

func calls(ctx context.Context, b *bench) (*table, error) {
	if err := b.playService(); err != nil {
		return nil, err
	}
	l := h2load{connections: 8, streams: 10, scheme: "http", path: callPath, call: message(), threads: b.opts.cores, dir: b.dir}
	rows, err := b.hold(ctx, contest{b.speakHTTP2(site{GRPC: true}), l, b.few()})
	if err != nil {
		return nil, err
	}
	return newTable(rows, []metric{cpuPerRequest, rate, p50, p99, rss, peak, busy}, rivals()), nil
}
