package h1

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1/h1test"
	"gatehouse.dev/gatehouse/internal/wire"
)

// The law that the fuzz targets hold the grammar to: a message that is taken
// means the same when it is written again, and net/http reads it in the same
// way or refuses it.

func parse(head []byte) (*exchange.Request, Framing, error) {
	r := &exchange.Request{Scheme: "http"}
	f, p := ParseRequest(head, r, 100)
	if p != nil {
		return nil, 0, p
	}
	return r, f, nil
}

// meaning is all that a request head says.
func meaning(r *exchange.Request, f Framing) string {
	var kept exchange.Header
	kept.CopyFrom(&r.Header)
	kept.DelSet(requestHopFields)
	return fmt.Sprintf("%q %q %q %q %v %q %q %v %d %q %v\n%q", r.Method, r.Authority, r.Host, r.Path, r.HasQuery, r.Query,
		r.RawPath, r.Asterisk, f, r.Upgrade, r.Expect, fieldText(&kept))
}

func FuzzRequestHead(f *testing.F) {
	for _, c := range h1test.MalformedRequests {
		f.Add([]byte(c.Bytes))
	}
	for _, c := range h1test.OddRequests {
		f.Add([]byte(c.Bytes))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		size, err := FindHead(b, 0)
		early := findBytewise(t, b, size, err)
		if err != nil || size == 0 {
			return
		}
		head := b[:size]
		r, framing, err := parse(head)
		if early != nil && err == nil {
			t.Fatalf("%q is taken as a whole, but not in pieces: %v", head, early)
		}
		if err != nil {
			return
		}
		if r.Authority != "" {
			again := AppendRequestHead(nil, r, r.Expect, false)
			if n, err := FindHead(again, 0); n != len(again) || err != nil {
				t.Fatalf("%q was written as %q: %d, %v", head, again, n, err)
			}
			r2, framing2, err := parse(again)
			if err != nil {
				t.Fatalf("%q was written as %q: %v", head, again, err)
			}
			if a, b := meaning(r, framing), meaning(r2, framing2); a != b {
				t.Fatalf("%q was written as %q\nmeant %s\nmeans %s", head, again, a, b)
			}
			compareRequest(t, again, r2, framing2)
		}
		compareRequest(t, head, r, framing)
	})
}

// findBytewise checks that it makes no difference in what pieces a head comes,
// but that what is malformed may be found early. It returns what was found.
func findBytewise(t *testing.T, b []byte, want int, wantErr error) (early error) {
	for i := 0; i <= len(b); i++ {
		size, err := FindHead(b[:i], max(i-1, 0))
		if err != nil {
			return err
		}
		if size > 0 {
			if size != want {
				t.Fatalf("%q: ends at %d after %d bytes, at %d for all", b, size, i, want)
			}
			return nil
		}
	}
	if want != 0 || wantErr != nil {
		t.Fatalf("%q: no end found, but %d %v for all", b, want, wantErr)
	}
	return nil
}

// compareRequest has net/http read a head.
func compareRequest(t *testing.T, head []byte, r *exchange.Request, f Framing) {
	std, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(head)))
	if err != nil {
		return
	}
	target := r.RawPath
	if r.HasQuery {
		target += "?" + r.Query
	}
	if r.Asterisk {
		target = "*"
	}
	stdTarget := std.RequestURI
	if i := strings.Index(stdTarget, "://"); i >= 0 && stdTarget[0] != '/' && stdTarget[0] != '*' {
		stdTarget = stdTarget[i+3:]
		if i = strings.IndexAny(stdTarget, "/?"); i < 0 {
			i = len(stdTarget)
		}
		stdTarget = stdTarget[i:]
		switch {
		case stdTarget == "" && r.Asterisk:
			stdTarget = "*"
		case stdTarget == "" || stdTarget[0] == '?':
			stdTarget = "/" + stdTarget
		}
	}
	if std.Method != r.Method || stdTarget != target || !strings.EqualFold(std.Host, r.Authority) || std.ContentLength != f.Length() {
		t.Fatalf("%q: net/http reads %s %q %q %d, we %s %q %q %d", head,
			std.Method, stdTarget, std.Host, std.ContentLength, r.Method, target, r.Authority, f.Length())
	}
	compareFields(t, head, std.Header, &r.Header, "Expect", "Upgrade", "Content-Length", "Transfer-Encoding")
}

// compareFields checks that net/http sees the same fields but those that either
// side keeps to itself.
func compareFields(t *testing.T, head []byte, std http.Header, h *exchange.Header, except ...string) {
	ours := make(http.Header)
	for name, value := range h.All() {
		key := textproto.CanonicalMIMEHeaderKey(name)
		ours[key] = append(ours[key], value)
	}
	except = append(except, "Trailer")
	if _, ok := std["Pragma"]; ok {
		except = append(except, "Cache-Control") // net/http derives one from the other
	}
	for _, name := range except {
		delete(ours, name)
		delete(std, name)
	}
	for name, values := range ours {
		if !slices.Equal(values, std[name]) {
			t.Fatalf("%q: net/http reads %s as %q, we as %q", head, name, std[name], values)
		}
	}
	for name, values := range std {
		if _, ok := ours[name]; !ok {
			t.Fatalf("%q: only net/http sees %s: %q", head, name, values)
		}
	}
}

func FuzzResponseHead(f *testing.F) {
	for _, c := range h1test.MalformedAnswers {
		f.Add([]byte(c.Bytes), false)
	}
	f.Add([]byte("HTTP/1.0 304 Not Modified\r\nContent-Length: 5\r\nConnection: keep-alive\r\n\r\n"), true)
	f.Fuzz(func(t *testing.T, b []byte, isHead bool) {
		size, err := FindHead(b, 0)
		if err != nil || size == 0 {
			return
		}
		head, method := b[:size], "GET"
		if isHead {
			method = "HEAD"
		}
		var r exchange.Response
		framing, closes, err := ParseResponse(head, &r, method, 100)
		if err != nil {
			return
		}
		std, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(head)), &http.Request{Method: method})
		if err != nil {
			return
		}
		if std.StatusCode != r.Status {
			t.Fatalf("%q: net/http reads status %d, we %d", head, std.StatusCode, r.Status)
		}
		// net/http gives 1xx and 204 a length when one is declared, and 304 one
		// when none is.
		if r.Status >= 200 && r.Status != 204 && r.Status != 304 && std.ContentLength != r.Length {
			t.Fatalf("%q for %s: net/http reads length %d, we %d", head, method, std.ContentLength, r.Length)
		}
		if std.Close && !closes {
			t.Fatalf("%q: only net/http sees that the connection ends; framing %d", head, framing)
		}
		compareFields(t, head, std.Header, &r.Header, "Content-Length", "Transfer-Encoding", "Connection")
		again := AppendResponseHead(nil, &ResponseHead{Status: r.Status, Framing: framing, Bodiless: framing == 0, Length: r.Length}, &r.Header)
		var r2 exchange.Response
		framing2, _, err := ParseResponse(again, &r2, method, 100)
		if err != nil || r2.Status != r.Status || framing2 != framing && r.Status >= 200 && r.Status != 204 {
			t.Fatalf("%q was written as %q: %d, framing %d for %d, %v", head, again, r2.Status, framing2, framing, err)
		}
	})
}

// decodeIn decodes a chunked body that comes in pieces of step bytes. It
// returns the body and how many bytes it took.
func decodeIn(b []byte, step int) (body string, trailer exchange.Header, taken int, err error) {
	d := ChunkedBody{MaxTrailers: 20}
	var all []byte
	for end := min(step, len(b)); ; end = min(end+step, len(b)) {
		for taken < end {
			p, n, err := d.Decode(b[taken:end], &trailer)
			all = append(all, p...)
			taken += n
			if err != nil {
				return string(all), trailer, taken, err
			}
			if n == 0 {
				break
			}
		}
		if end == len(b) {
			return string(all), trailer, taken, io.ErrUnexpectedEOF
		}
	}
}

func FuzzChunkedBody(f *testing.F) {
	for _, c := range h1test.MalformedRequests {
		if _, body, ok := strings.Cut(c.Bytes, "chunked\r\n\r\n"); ok {
			f.Add([]byte(body), 1)
		}
	}
	f.Add([]byte("5;a=\"b\r\nhello\r\n0005\r\n, hi!\r\n0\r\nA: b\r\nC_D: e\r\n\r\nGET"), 3)
	f.Fuzz(func(t *testing.T, b []byte, step int) {
		body, trailer, taken, err := decodeIn(b, len(b)+1)
		if step = step & 31; step > 0 {
			body2, trailer2, taken2, err2 := decodeIn(b, step)
			if (err == io.EOF) != (err2 == io.EOF) ||
				err == io.EOF && (body2 != body || taken2 != taken || fieldText(&trailer) != fieldText(&trailer2)) {
				t.Fatalf("%q: %q, %d bytes, %v; in steps of %d: %q, %d bytes, %v", b, body, taken, err, step, body2, taken2, err2)
			}
		}
		if err != io.EOF {
			return
		}
		stream := bufio.NewReader(io.MultiReader(strings.NewReader("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"), bytes.NewReader(b)))
		std, err := http.ReadRequest(stream)
		if err != nil {
			t.Fatal(err)
		}
		stdBody, err := io.ReadAll(std.Body)
		if err != nil {
			return
		}
		if rest, _ := io.ReadAll(stream); string(stdBody) != body || string(rest) != string(b[taken:]) {
			t.Fatalf("%q: net/http reads %q and leaves %q, we read %q and leave %q", b, stdBody, rest, body, b[taken:])
		}
		var again []byte
		if body != "" {
			again = AppendChunkHead(nil, len(body), true)
			again = append(again, body...)
		}
		again = AppendLastChunk(again, &trailer, body == "")
		body2, trailer2, taken2, err := decodeIn(again, len(again))
		if err != io.EOF || body2 != body || taken2 != len(again) || fieldText(&trailer2) != fieldText(&trailer) {
			t.Fatalf("%q was written as %q: %q, %d bytes, %v", b, again, body2, taken2, err)
		}
	})
}

// scripted is a connection on which the client sends b in pieces of step bytes
// and then ends it.
type scripted struct {
	b    []byte
	step int
}

func (s *scripted) Read(p []byte) (int, error) {
	if len(s.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), s.step)], s.b)
	s.b = s.b[n:]
	return n, nil
}

func (s *scripted) Write(p []byte) (int, error)      { return len(p), nil }
func (s *scripted) Close() error                     { return nil }
func (s *scripted) LocalAddr() net.Addr              { return &net.UnixAddr{} }
func (s *scripted) RemoteAddr() net.Addr             { return &net.UnixAddr{} }
func (s *scripted) SetDeadline(time.Time) error      { return nil }
func (s *scripted) SetReadDeadline(time.Time) error  { return nil }
func (s *scripted) SetWriteDeadline(time.Time) error { return nil }

// FuzzConnection holds a whole connection to the law: the requests that the
// handler sees are the ones that net/http finds in the same bytes, or net/http
// finds fewer.
func FuzzConnection(f *testing.F) {
	for _, c := range h1test.MalformedRequests {
		f.Add([]byte(c.Bytes+simple), 7)
	}
	for _, c := range h1test.OddRequests {
		f.Add([]byte(c.Bytes+simple+c.Bytes+simple), 1000)
	}
	sweeper := wire.NewSweeper()
	f.Cleanup(sweeper.Close)
	f.Fuzz(func(t *testing.T, b []byte, step int) {
		if len(b) > 4096 {
			return
		}
		var ours []string
		s := &Server{Handler: func(x *exchange.Exchange) {
			if body, ok := readBody(x); ok {
				ours = append(ours, fmt.Sprintf("%q %q %q", x.Request.Method, strings.ToLower(x.Request.Authority), body))
			}
			x.Response.Status = 200
			finish(x)
		}}
		s.Limits.Store(&Limits{HeaderBytes: 8192, Headers: 50, Body: 65536})
		s.Serve(wire.New(&scripted{bytes.Clone(b), step&1023 + 1}, sweeper), &exchange.Client{})
		stream := bufio.NewReader(bytes.NewReader(b))
		for i, want := range ours {
			skipEmptyLine(stream)
			std, err := http.ReadRequest(stream)
			if err != nil {
				return
			}
			body, err := io.ReadAll(std.Body)
			if err != nil {
				return
			}
			if got := fmt.Sprintf("%q %q %q", std.Method, strings.ToLower(std.Host), body); got != want {
				t.Fatalf("%q: request %d is %s for us, %s for net/http", b, i, want, got)
			}
		}
	})
}

func skipEmptyLine(r *bufio.Reader) {
	if p, _ := r.Peek(2); string(p) == "\r\n" {
		_, _ = r.Discard(2)
	}
}
