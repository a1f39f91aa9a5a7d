package grpcweb

import (
	"bytes"
	"encoding/base64"
	"errors"
	"io"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// parts is a body that comes in pieces.
type parts struct{ list [][]byte }

func (p *parts) Next() ([]byte, error) {
	if len(p.list) == 0 {
		return nil, io.EOF
	}
	first := p.list[0]
	p.list = p.list[1:]
	return first, nil
}

func (p *parts) Close() error { return nil }

// cut cuts a text into pieces of so many bytes.
func cut(s string, size int) *parts {
	p := &parts{}
	for len(s) > 0 {
		n := min(size, len(s))
		p.list = append(p.list, []byte(s[:n]))
		s = s[n:]
	}
	return p
}

func all(b exchange.Body) (string, error) {
	var out []byte
	for {
		p, err := b.Next()
		if err == io.EOF {
			return string(out), nil
		}
		if err != nil {
			return string(out), err
		}
		out = append(out, p...)
	}
}

func translate(t *testing.T) *translator {
	t.Helper()
	p, err := new(Config).Compile(&policy.Env{Slots: new(policy.Slots)})
	if err != nil {
		t.Fatal(err)
	}
	return p.(*translator)
}

const (
	message = "\x00\x00\x00\x00\x05hello"
	status  = "\x80\x00\x00\x00\x20grpc-status: 0\r\ngrpc-message: \r\n"
)

func TestBothForms(t *testing.T) {
	encode := base64.StdEncoding.EncodeToString
	for _, c := range []struct{ kind, back, in, out string }{
		{"application/grpc-web+proto", "application/grpc-web+proto", message, message + status},
		{"Application/gRPC-Web", "application/grpc-web+proto", message, message + status},
		{"application/grpc-web-text+proto; charset=utf-8", "application/grpc-web-text+proto", encode([]byte(message)), message + status},
		{"application/grpc-web-text", "application/grpc-web-text+proto", encode([]byte(message[:4])) + encode([]byte(message[4:])), message + status},
	} {
		for size := 1; size < 9; size++ {
			p := translate(t)
			x := exchange.Get()
			x.Request.Header.Set("Content-Type", c.kind)
			x.Request.Header.Set("X-Grpc-Web", "1")
			x.Request.Body, x.Request.Length = cut(c.in, size), int64(len(c.in))
			p.Request(x)
			h := &x.Request.Header
			if got := h.Get("Content-Type"); got != "application/grpc" && got != "application/grpc+proto" || h.Get("TE") != "trailers" || h.Get("X-Grpc-Web") != "" {
				t.Errorf("%s: %v", c.kind, h)
			}
			if got, err := all(x.Request.Body); got != message || err != nil {
				t.Errorf("%s in pieces of %d: %q, %v", c.kind, size, got, err)
			}
			x.Response.Status, x.Response.Length = 200, exchange.Unknown
			x.Response.Header.Set("Content-Type", "application/grpc+proto")
			x.Response.Body = cut(message, size)
			p.Response(x)
			x.Response.Trailer.Add("Grpc-Status", "0")
			x.Response.Trailer.Add("grpc-message", "")
			if got := x.Response.Header.Get("Content-Type"); got != c.back {
				t.Errorf("%s: the answer is %q", c.kind, got)
			}
			got, err := all(x.Response.Body)
			if parse(c.kind).text {
				d := &decoder{body: cut(got, 5)}
				got, err = all(d)
			}
			if got != c.out || err != nil || x.Response.Trailer.Len() > 0 {
				t.Errorf("%s: %q, %v", c.kind, got, err)
			}
			exchange.Put(x)
		}
	}
}

// What is no gRPC-Web passes, both ways; so does a status in the head.
func TestOthersPass(t *testing.T) {
	p := translate(t)
	for _, kind := range []string{"", "application/grpc", "application/json", "application/grpc-website"} {
		x := exchange.Get()
		body := cut("x", 1)
		x.Request.Header.Set("Content-Type", kind)
		x.Request.Body = body
		p.Request(x)
		x.Response.Body = body
		x.Response.Header.Set("Content-Type", "application/grpc")
		p.Response(x)
		if x.Request.Body != exchange.Body(body) || x.Response.Body != exchange.Body(body) || x.Response.Header.Get("Content-Type") != "application/grpc" {
			t.Errorf("%q was touched", kind)
		}
		exchange.Put(x)
	}
	x := exchange.Get()
	defer exchange.Put(x)
	x.Request.Header.Set("Content-Type", "application/grpc-web")
	p.Request(x)
	x.Fail(&exchange.Problem{Status: 404, Code: "no_route"})
	x.Render()
	p.Response(x)
	if h := &x.Response.Header; h.Get("Content-Type") != "application/grpc-web" || h.Get("grpc-status") != "12" || x.Response.Length != 0 {
		t.Errorf("%v", h)
	}
}

func TestMalformedText(t *testing.T) {
	for _, in := range []string{"AAA", "A", "A===", "AA=A", "AAA\n", "AAAA\r\n==", "AA A", "=AAA", "AB=="} {
		for size := 1; size < 6; size++ {
			if got, err := all(&decoder{body: cut(in, size)}); err == nil {
				t.Errorf("%q became %q", in, got)
			}
		}
	}
}

// However it is cut, text is decoded to the same, or refused.
func FuzzText(f *testing.F) {
	f.Add([]byte("aGVsbG8="), 3)
	f.Add([]byte("aGU=bGxv"), 1)
	f.Fuzz(func(t *testing.T, p []byte, size int) {
		want, err := all(&decoder{body: cut(string(p), len(p)+1)})
		got, again := all(&decoder{body: cut(string(p), max(1, size%9))})
		if (err == nil) != (again == nil) || err == nil && got != want {
			t.Errorf("%q: %q, %v; in pieces %q, %v", p, want, err, got, again)
		}
		if whole, bad := base64.StdEncoding.Strict().DecodeString(string(p)); bad == nil && !bytes.ContainsAny(p, "\r\n") && (err != nil || want != string(whole)) {
			t.Errorf("%q: %q, %v", p, want, err)
		}
	})
}

// broken is a body that breaks off after its pieces.
type broken struct{ parts }

func (b *broken) Next() ([]byte, error) {
	p, err := b.parts.Next()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return p, err
}

// TestBrokenBodies: what breaks off is no whole body, either way, and has no
// trailer.
func TestBrokenBodies(t *testing.T) {
	if got, err := all(&decoder{body: &broken{*cut("AAAA", 2)}}); !errors.Is(err, io.ErrUnexpectedEOF) || got != "\x00\x00\x00" {
		t.Errorf("%q, %v", got, err)
	}
	for _, text := range []bool{false, true} {
		x := exchange.Get()
		x.Response.Trailer.Add("grpc-status", "0")
		got, err := all(&encoder{body: &broken{*cut(message, 100)}, x: x, text: text})
		if want := map[bool]string{false: message, true: base64.StdEncoding.EncodeToString([]byte(message))}[text]; !errors.Is(err, io.ErrUnexpectedEOF) || got != want {
			t.Errorf("text %v: %q, %v", text, got, err)
		}
		exchange.Put(x)
	}
}
