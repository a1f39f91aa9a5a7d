package idempotency

import (
	"encoding/binary"
	"errors"
	"io"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// collect reads an answer's body up to a size. When there is more, what was
// read is put before the rest, and whole is false.
func collect(r *exchange.Response, most int) (body []byte, whole bool, err error) {
	if r.Length > int64(most) {
		return nil, false, nil
	}
	for {
		p, err := r.Body.Next()
		body = append(body, p...)
		switch {
		case errors.Is(err, io.EOF):
			_ = r.Body.Close() // it was read to its end
			// Length stays: that of an answer to HEAD is not that of its body.
			r.Body = exchange.Bytes(body)
			if len(body) == 0 {
				r.Body = exchange.NoBody
			}
			return body, true, nil
		case err != nil:
			r.Body = &resumed{Body: r.Body, first: body, err: err}
			return nil, false, err
		case len(body) > most:
			r.Body = &resumed{Body: r.Body, first: body}
			return nil, false, nil
		}
	}
}

// resumed is a body of which the first part was read already.
type resumed struct {
	exchange.Body
	first []byte
	err   error // what came after the first part
}

func (b *resumed) Next() ([]byte, error) {
	switch {
	case len(b.first) > 0:
		p := b.first
		b.first = nil
		return p, nil
	case b.err != nil:
		return nil, b.err
	}
	return b.Body.Next()
}

// Ready implements exchange.Ready for bodies that can tell.
func (b *resumed) Ready() bool {
	if len(b.first) > 0 || b.err != nil {
		return true
	}
	r, ok := b.Body.(exchange.Ready)
	return ok && r.Ready()
}

// Interrupt lets whoever pulls the body be woken.
func (b *resumed) Interrupt() {
	if i, ok := b.Body.(exchange.Interrupter); ok {
		i.Interrupt()
	}
}

// The first byte of a kept answer says how it is written: without a trailer,
// as it was at first, or with one.
const (
	withoutTrailer = 1
	withTrailer    = 2
)

// appendAnswer writes an answer as it is kept: the status, the fields, the
// trailer, the body. What belongs to the moment is left out.
func appendAnswer(b []byte, r *exchange.Response, body []byte) []byte {
	b = append(b, withTrailer)
	b = binary.BigEndian.AppendUint16(b, uint16(r.Status))
	b = appendFields(b, &r.Header)
	b = appendFields(b, &r.Trailer)
	return append(b, body...)
}

func appendFields(b []byte, h *exchange.Header) []byte {
	fields := h.Fields()
	at := len(b)
	b = append(b, 0, 0)
	n := 0
	for i := range fields {
		f := &fields[i]
		if f.Known == exchange.Date || f.Known == exchange.Age || len(f.Name) > 0xffff || len(f.Value) > 0xffff {
			continue
		}
		n++
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(f.Name))), f.Name...)
		b = append(binary.BigEndian.AppendUint16(b, uint16(len(f.Value))), f.Value...)
	}
	binary.BigEndian.PutUint16(b[at:], uint16(n))
	return b
}

// readAnswer fills in an answer that was kept. It reports false for what is
// none.
func readAnswer(b []byte, r *exchange.Response) bool {
	if len(b) < 3 || b[0] != withoutTrailer && b[0] != withTrailer {
		return false
	}
	r.Status = int(binary.BigEndian.Uint16(b[1:]))
	rest, ok := readFields(b[3:], &r.Header)
	if ok && b[0] == withTrailer {
		rest, ok = readFields(rest, &r.Trailer)
	}
	if r.SetBody(rest); r.Trailer.Len() > 0 {
		r.Length = exchange.Unknown // nothing comes behind a body of known length
	}
	return ok && r.Status >= 200 && r.Status <= 599
}

func readFields(b []byte, h *exchange.Header) (rest []byte, ok bool) {
	if len(b) < 2 {
		return nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	b = b[2:]
	cut := func() (string, bool) {
		if len(b) < 2 {
			return "", false
		}
		size := int(binary.BigEndian.Uint16(b))
		if len(b) < 2+size {
			return "", false
		}
		s := string(b[2 : 2+size])
		b = b[2+size:]
		return s, true
	}
	for range n {
		name, ok := cut()
		value, ok2 := cut()
		if !ok || !ok2 {
			return nil, false
		}
		h.Add(name, value)
	}
	return b, true
}
