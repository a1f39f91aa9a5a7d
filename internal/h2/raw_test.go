package h2

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// raw is the other end of a connection, that does as a test says.
type raw struct {
	t     testing.TB
	nc    net.Conn
	fr    *http2.Framer
	block bytes.Buffer
	enc   *hpack.Encoder
	dec   *hpack.Decoder
}

func newRaw(t testing.TB, nc net.Conn) *raw {
	t.Cleanup(func() { nc.Close() })
	r := &raw{t: t, nc: nc, fr: http2.NewFramer(nc, nc)}
	r.fr.AllowIllegalWrites = true
	r.enc = hpack.NewEncoder(&r.block)
	r.dec = hpack.NewDecoder(4096, nil)
	return r
}

// dial connects to a rig and sends preface and settings.
func (r *rig) dial(settings ...http2.Setting) *raw {
	r.t.Helper()
	nc, err := net.Dial("tcp", r.address)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := nc.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		r.t.Fatal(err)
	}
	c := newRaw(r.t, nc)
	io.WriteString(nc, preface)
	c.fr.WriteSettings(settings...)
	c.fr.WriteSettingsAck()
	return c
}

var simple = []string{":method", "GET", ":scheme", "http", ":authority", "a.example", ":path", "/"}

// fields encodes a header block.
func (c *raw) fields(pairs ...string) []byte {
	c.block.Reset()
	for i := 0; i < len(pairs); i += 2 {
		if err := c.enc.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]}); err != nil {
			c.t.Fatal(err)
		}
	}
	return c.block.Bytes()
}

// request sends a head. Errors are those of a server that has closed already.
func (c *raw) request(id uint32, end bool, pairs ...string) error {
	return c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.fields(pairs...), EndStream: end, EndHeaders: true})
}

// next returns the next frame in words, of those that say something about a
// stream or end the connection: "headers 1 :status=200 end", "data 1 5 end",
// "reset 1 CANCEL", "goaway 1 NO_ERROR", "end".
func (c *raw) next() string {
	for {
		f, err := c.fr.ReadFrame()
		if err != nil {
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				c.t.Fatal("nothing came")
			}
			return "end"
		}
		id := f.Header().StreamID
		end := ""
		if f.Header().Flags.Has(http2.FlagDataEndStream) {
			end = " end"
		}
		switch f := f.(type) {
		case *http2.HeadersFrame:
			s := fmt.Sprint("headers ", id)
			list, err := c.dec.DecodeFull(f.HeaderBlockFragment())
			if err != nil {
				c.t.Fatal(err)
			}
			for _, h := range list {
				if h.Name == ":status" || h.Name[0] == 'x' {
					s += " " + h.Name + "=" + h.Value
				}
			}
			return s + end
		case *http2.DataFrame:
			return fmt.Sprint("data ", id, " ", len(f.Data()), end)
		case *http2.RSTStreamFrame:
			return fmt.Sprint("reset ", id, " ", f.ErrCode)
		case *http2.GoAwayFrame:
			return fmt.Sprint("goaway ", f.LastStreamID, " ", f.ErrCode)
		}
	}
}

func (c *raw) expect(want ...string) {
	c.t.Helper()
	expect(c.t, c.next, want...)
}

// expect takes an end that comes by itself for one with what is before it:
// which it is depends on who writes when.
func expect(t testing.TB, next func() string, want ...string) {
	t.Helper()
	for _, w := range want {
		got := next()
		if part, ends := strings.CutSuffix(w, " end"); ends && got == part {
			var kind string
			var id int
			fmt.Sscan(got, &kind, &id)
			if end := next(); end == fmt.Sprint("data ", id, " 0 end") {
				got = w
			} else {
				got += ", " + end
			}
		}
		if got != w {
			t.Fatalf("%q, want %q", got, w)
		}
	}
}

// until reads until a frame, and fails when the connection ends before.
func (c *raw) until(want string) {
	c.t.Helper()
	for {
		got := c.next()
		if got == want {
			return
		}
		if got == "end" {
			c.t.Fatalf("connection ended before %q", want)
		}
	}
}

func http2PushParam(id uint32, block []byte) http2.PushPromiseParam {
	return http2.PushPromiseParam{StreamID: id, PromiseID: 2, BlockFragment: block, EndHeaders: true}
}

func headersParam(id uint32, block []byte) http2.HeadersFrameParam {
	return http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true, EndStream: true}
}
