package h1

import (
	"bytes"
	"crypto/rand"
	"io"
	"net/http"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

// rawBody is the body of an answer that comes from a connection.
type rawBody struct {
	c        *wire.Conn
	buffered []byte
	left     int64 // negative: until it ends
	whole    bool  // not to be spliced
	spliced  int64
	buf      [1000]byte
}

func (b *rawBody) Raw() (*wire.Conn, []byte, int64) {
	if b.whole {
		return nil, nil, 0
	}
	return b.c, b.buffered, b.left
}

func (b *rawBody) Advance(n int64) {
	if len(b.buffered) > 0 {
		b.buffered = b.buffered[n:]
		return
	}
	b.spliced += n
	if b.left > 0 {
		b.left -= n
	}
}

func (b *rawBody) Broken(err error) error { return err }
func (b *rawBody) Close() error           { return b.c.Close() }

func (b *rawBody) Next() ([]byte, error) {
	if p := b.buffered; len(p) > 0 {
		b.buffered = nil
		return p, nil
	}
	if b.left == 0 {
		return nil, io.EOF
	}
	p := b.buf[:]
	if b.left > 0 {
		p = p[:min(b.left, int64(len(p)))]
	}
	n, err := b.c.Read(p)
	if b.left > 0 {
		b.left -= int64(n)
	}
	if err == io.EOF && b.left > 0 {
		err = io.ErrUnexpectedEOF
	}
	return p[:n], err
}

// source returns a connection from which all of p can be read, and then the
// end.
func source(t *testing.T, s *wire.Sweeper, p []byte) *wire.Conn {
	nc, other := connected(t)
	go func() {
		other.Write(p)
		other.Close()
	}()
	return wire.New(nc, s)
}

func TestBodiesFromConnections(t *testing.T) {
	data := make([]byte, 1<<20)
	rand.Read(data)
	const proto10 = "GET / HTTP/1.0\r\n\r\n"
	for _, c := range []struct {
		name, request string
		send          int // bytes of data that the source has
		buffered      int
		length        int64 // of the answer
		whole         bool
		spliced       bool
		cut           bool
	}{
		{"counted", simple, 1 << 20, 1000, 1 << 20, false, true, false},
		{"counted with nothing buffered", simple, 1 << 20, 0, 1 << 20, false, true, false},
		{"counted, not to be spliced", simple, 1 << 20, 1000, 1 << 20, true, false, false},
		{"short", simple, 50000, 1000, 50000, false, false, false},
		{"until the end", proto10, 1 << 20, 1000, exchange.Unknown, false, true, false},
		{"until the end, as chunks", simple, 1 << 20, 1000, exchange.Unknown, false, false, false},
		{"ends too early", simple, 1<<20 - 1, 1000, 1 << 20, false, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			body := &rawBody{buffered: data[:c.buffered], left: c.length, whole: c.whole}
			if c.length > 0 {
				body.left -= int64(c.buffered)
			}
			body.c = source(t, newSweeper(t), data[c.buffered:c.send])
			r := newRig(t, tableLimits(), func(x *exchange.Exchange) {
				x.Response.Status, x.Response.Length, x.Response.Body = 200, c.length, body
				finish(x)
				body.Close()
				if want := int64(c.send); x.Response.Sent != want {
					t.Errorf("%d bytes were counted, want %d", x.Response.Sent, want)
				}
			})
			k := r.dial()
			k.t = t
			k.send(c.request)
			res, err := http.ReadResponse(k.r, nil)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(res.Body)
			if (err != nil) != c.cut || !bytes.Equal(got, data[:c.send]) {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			r.s.Cut()
			r.conns.Wait()
			if (body.spliced > 0) != c.spliced {
				t.Errorf("%d bytes were spliced", body.spliced)
			}
		})
	}
}

// What an upstream's client does with a long request body.
func TestRequestBodyTakenFromTheConnection(t *testing.T) {
	data := make([]byte, 1<<20)
	rand.Read(data)
	l := tableLimits()
	l.Body = 0
	got := make(chan []byte, 1)
	r := newRig(t, l, func(x *exchange.Exchange) {
		c, buffered, remaining := x.Request.Body.(RawBody).Raw()
		if c == nil || int64(len(buffered))+remaining != 1<<20 {
			t.Errorf("%v, %d and %d bytes", c, len(buffered), remaining)
			return
		}
		all := bytes.Clone(buffered)
		x.Request.Body.(RawBody).Advance(int64(len(buffered)))
		p := make([]byte, remaining)
		for n := 0; n < len(p); {
			k, err := c.Read(p[n:])
			if err != nil {
				t.Error(x.Request.Body.(RawBody).Broken(err))
				return
			}
			n += k
		}
		x.Request.Body.(RawBody).Advance(remaining)
		if _, err := x.Request.Body.Next(); err != io.EOF {
			t.Errorf("after the end: %v", err)
		}
		if x.Request.Received != 1<<20 {
			t.Errorf("%d bytes were counted", x.Request.Received)
		}
		got <- append(all, p...)
		reply(x, "")
	})
	k := r.dial()
	k.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1048576\r\nExpect: 100-continue\r\n\r\n")
	k.expect("HTTP/1.1 100 Continue\r\n\r\n")
	go k.send(string(data))
	if !bytes.Equal(<-got, data) {
		t.Fatal("other bytes came than were sent")
	}
	k.answer("POST")
}
