package grpcweb

import (
	"encoding/base64"
	"encoding/binary"
	"io"
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
)

var malformed = exchange.Problem{
	Status: 400, Code: "grpc_web_malformed", Side: exchange.SideClient, Close: true,
	Detail: "The body of the call is not valid base64.",
}

// decoder is the body of a call in text form: base64, of which every part may
// have been padded for itself.
type decoder struct {
	body exchange.Body
	rest []byte // of a group of four
	buf  []byte
}

// Next implements exchange.Body.
func (d *decoder) Next() ([]byte, error) {
	for {
		p, err := d.body.Next()
		if err == io.EOF && len(d.rest) > 0 {
			return nil, &malformed
		}
		if err != nil && len(p) == 0 {
			return nil, err
		}
		out, ok := d.decode(p)
		if !ok {
			return nil, &malformed
		}
		if len(out) > 0 {
			return out, nil
		}
	}
}

func (d *decoder) decode(p []byte) (out []byte, ok bool) {
	d.buf = d.buf[:0]
	if len(d.rest) > 0 {
		n := min(4-len(d.rest), len(p))
		d.rest = append(d.rest, p[:n]...)
		if p = p[n:]; len(d.rest) < 4 {
			return nil, true
		}
		if d.buf, ok = appendGroups(d.buf, d.rest); !ok {
			return nil, false
		}
		d.rest = d.rest[:0]
	}
	whole := len(p) / 4 * 4
	if d.buf, ok = appendGroups(d.buf, p[:whole]); !ok {
		return nil, false
	}
	d.rest = append(d.rest, p[whole:]...)
	return d.buf, true
}

// appendGroups decodes whole groups. Padding may end any of them.
func appendGroups(out, p []byte) ([]byte, bool) {
	for len(p) > 0 {
		n := len(p)
		for i := 3; i < len(p); i += 4 {
			if p[i] == '=' {
				n = i + 1
				break
			}
		}
		var err error
		// It skips line ends, which would shift the groups.
		for _, c := range p[:n] {
			if c == '\n' || c == '\r' {
				return nil, false
			}
		}
		if out, err = base64.StdEncoding.Strict().AppendDecode(out, p[:n]); err != nil {
			return nil, false
		}
		p = p[n:]
	}
	return out, true
}

// Close implements exchange.Body.
func (d *decoder) Close() error { return d.body.Close() }

// Interrupt implements exchange.Interrupter for bodies that can wait.
func (d *decoder) Interrupt() {
	if i, ok := d.body.(exchange.Interrupter); ok {
		i.Interrupt()
	}
}

// encoder is the body of an answer. What gRPC has as a trailer follows the
// messages as a frame of its own.
type encoder struct {
	body  exchange.Body
	x     *exchange.Exchange
	text  bool
	buf   []byte
	ended bool
}

// trailerFrame is the flag of a frame that holds the trailer.
const trailerFrame = 0x80

// Next implements exchange.Body.
func (e *encoder) Next() ([]byte, error) {
	if e.ended {
		return nil, io.EOF
	}
	p, err := e.body.Next()
	switch {
	case err == io.EOF:
		e.ended = true
		p = append(p[:len(p):len(p)], e.trailer()...)
	case err != nil:
		return nil, err
	}
	if !e.text {
		return p, nil
	}
	// Every piece is padded for itself: a client must not wait for the next.
	e.buf = base64.StdEncoding.AppendEncode(e.buf[:0], p)
	return e.buf, nil
}

// trailer takes the trailer out of the answer and makes a frame of it.
func (e *encoder) trailer() []byte {
	var b strings.Builder
	t := &e.x.Response.Trailer
	for i := range t.Fields() {
		f := &t.Fields()[i]
		b.WriteString(strings.ToLower(f.Name) + ": " + f.Value + "\r\n")
	}
	t.Reset()
	frame := binary.BigEndian.AppendUint32([]byte{trailerFrame}, uint32(b.Len()))
	return append(frame, b.String()...)
}

// Close implements exchange.Body.
func (e *encoder) Close() error { return e.body.Close() }

// Ready implements exchange.Ready for bodies that can tell.
func (e *encoder) Ready() bool {
	r, ok := e.body.(exchange.Ready)
	return ok && r.Ready()
}

var (
	_ exchange.Interrupter = (*decoder)(nil)
	_ exchange.Ready       = (*encoder)(nil)
)
