package h2

import (
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// with returns the fields of a simple request, some replaced or removed (by
// the value "-"), and others added.
func with(pairs ...string) []string {
	out := append([]string(nil), simple...)
next:
	for i := 0; i < len(pairs); i += 2 {
		for j := 0; j < len(simple); j += 2 {
			if out[j] == pairs[i] {
				out[j+1] = pairs[i+1]
				continue next
			}
		}
		out = append(out, pairs[i], pairs[i+1])
	}
	var kept []string
	for i := 0; i < len(out); i += 2 {
		if out[i+1] != "-" {
			kept = append(kept, out[i], out[i+1])
		}
	}
	return kept
}

// refusals are requests that break a rule, with the status of the answer, or
// "" for a reset.
var refusals = []struct {
	name   string
	fields []string
	want   string // the answer, or "" for a reset
}{
	{"no method", with(":method", "-"), ""},
	{"method with a space", with(":method", "GET /"), ""},
	{"method with CRLF", with(":method", "GET\r\n"), ""},
	{"empty method", with(":method", ""), ""},
	{"method twice", append([]string{":method", "GET"}, simple...), ""},
	{"no scheme", with(":scheme", "-"), ""},
	{"strange scheme", with(":scheme", "ftp"), ""},
	{"scheme with CRLF", with(":scheme", "http\r\nx: y"), ""},
	{"scheme in upper case", with(":scheme", "HTTP"), ""},
	{"no path", with(":path", "-"), ""},
	{"empty path", with(":path", ""), ""},
	{"path without slash", with(":path", "a"), ""},
	{"path that is a URL", with(":path", "http://b.example/"), ""},
	{"path with a space", with(":path", "/ HTTP/1.1"), ""},
	{"path with CRLF", with(":path", "/\r\nhost: b"), ""},
	{"path with NUL", with(":path", "/\x00"), ""},
	{"path with a fragment", with(":path", "/#a"), ""},
	{"path with a high byte", with(":path", "/\xff"), ""},
	{"asterisk of GET", with(":path", "*"), ""},
	{"no authority", with(":authority", "-"), ""},
	{"empty authority", with(":authority", ""), ""},
	{"authority with userinfo", with(":authority", "u@a.example"), ""},
	{"authority with a space", with(":authority", "a.example b"), ""},
	{"authority with a slash", with(":authority", "a.example/b"), ""},
	{"authority with a hash", with(":authority", "a.example#b"), ""},
	{"authority with a strange port", with(":authority", "a.example:8x"), ""},
	{"authority with a large port", with(":authority", "a.example:65536"), ""},
	{"authority with two colons", with(":authority", "a:b:80"), ""},
	{"authority with CRLF", with(":authority", "a\r\nb: c"), ""},
	{"authority with a comma", with(":authority", "a.example,b.example"), ""},
	{"authority with an open bracket", with(":authority", "[::1"), ""},
	{"authority with a zone", with(":authority", "[fe80::1%25eth0]"), ""},
	{"other host", with("host", "b.example"), ""},
	{"host with another port", with("host", "a.example:81"), ""},
	{"host twice", with("host", "a.example", "host", "a.example"), ""},
	{"empty authority and host", with(":authority", "", "host", "a.example"), ""},
	{"pseudo-header field at the end", with("x-a", "b", ":path", "/")[2:], ""},
	{"unknown pseudo-header field", append([]string{":x", "y"}, simple...), ""},
	{"status of a request", append([]string{":status", "200"}, simple...), ""},
	{"protocol without connect", append([]string{":protocol", "websocket"}, simple...), ""},
	{"name in upper case", with("X-a", "b"), ""},
	{"name with a space", with("x a", "b"), ""},
	{"name with a space at its end", with("x-a ", "b"), ""},
	{"name with a colon", with("x-a:", "b"), ""},
	{"name with CR", with("x-a\r", "b"), ""},
	{"name with LF", with("x\na", "b"), ""},
	{"name with NUL", with("x\x00a", "b"), ""},
	{"name with a high byte", with("x\xc3\xa4", "b"), ""},
	{"empty name", with("", "b"), ""},
	{"value with CR", with("x-a", "b\rc"), ""},
	{"value with LF", with("x-a", "b\nc"), ""},
	{"value with CRLF", with("x-a", "b\r\nc: d"), ""},
	{"value with NUL", with("x-a", "b\x00"), ""},
	{"value with a control character", with("x-a", "b\x01"), ""},
	{"value with DEL", with("x-a", "b\x7f"), ""},
	{"value with a space before", with("x-a", " b"), ""},
	{"value with a space behind", with("x-a", "b "), ""},
	{"value with a tab before", with("x-a", "\tb"), ""},
	{"connection", with("connection", "close"), ""},
	{"keep-alive", with("keep-alive", "timeout=5"), ""},
	{"proxy-connection", with("proxy-connection", "close"), ""},
	{"transfer-encoding", with("transfer-encoding", "chunked"), ""},
	{"upgrade", with("upgrade", "websocket"), ""},
	{"http2-settings", with("http2-settings", "AAMAAABkAAQAAP__"), ""},
	{"te of gzip", with("te", "gzip"), ""},
	{"te of both", with("te", "trailers, gzip"), ""},
	{"length without a body", with("content-length", "1"), ""},
	{"length twice", with("content-length", "0", "content-length", "0"), ""},
	{"lengths that differ", with("content-length", "0", "content-length", "1"), ""},
	{"length as a list", with("content-length", "0, 0"), ""},
	{"length with a sign", with("content-length", "+0"), ""},
	{"empty length", with("content-length", ""), ""},
	{"length of a letter", with("content-length", "a"), ""},
	{"connect with a path", with(":method", "CONNECT"), ""},
	{"tunnel with a length", append([]string{":protocol", "websocket"}, with(":method", "CONNECT", "content-length", "0")...), ""},
	{"connect", []string{":method", "CONNECT", ":authority", "a.example:443"}, "501"},
	{"tunnel for something else", append([]string{":protocol", "connect-udp"}, with(":method", "CONNECT")...), "501"},
	{"trace", with(":method", "TRACE"), "405"},
	{"trace in lower case", with(":method", "trace"), "405"},
	{"expectation", with("expect", "magic"), "417"},
	{"fields in number", with(strings.Fields(strings.Repeat("x-a b ", 60))...), "431"},
	{"crumbs in number", with(strings.Fields(strings.Repeat("cookie a=b ", 60))...), "431"},
	{"fields in size", with("x-a", strings.Repeat("b", 8100)), "431"},
}

func TestRefused(t *testing.T) {
	for _, c := range refusals {
		t.Run(c.name, func(t *testing.T) {
			refused := make(chan *exchange.Problem, 1)
			s := &Server{Handler: func(x *exchange.Exchange) {
				t.Error("was served")
				finish(x)
			}}
			s.Refused = func(x *exchange.Exchange) { refused <- x.Problem }
			s.Limits.Store(tableLimits())
			r := rigOf(t, s)
			h := r.dial()
			if err := h.request(1, true, c.fields...); err != nil {
				t.Fatal(err)
			}
			if c.want == "" {
				h.expect("reset 1 PROTOCOL_ERROR")
			} else {
				h.expect("headers 1 :status=" + c.want)
			}
			if p := <-refused; c.want == "" && p.Status != 400 {
				t.Error(p)
			}
		})
	}
}

func TestAccepted(t *testing.T) {
	for _, c := range []struct {
		name   string
		fields []string
		want   string
	}{
		{"simple", simple, "GET a.example a.example / \n"},
		{"query", with(":path", "/a?b=c?d"), "GET a.example a.example /a b=c?d\n"},
		{"asterisk", with(":method", "OPTIONS", ":path", "*"), "OPTIONS a.example a.example * \n"},
		{"host only", with(":authority", "-", "host", "A.Example."), "GET A.Example. a.example / \n"},
		{"host as well", with("host", "a.EXAMPLE"), "GET a.example a.example / \n"},
		{"port", with(":authority", "a.example:8080"), "GET a.example:8080 a.example / \n"},
		{"IPv6", with(":authority", "[2001:DB8::1]:80"), "GET [2001:DB8::1]:80 [2001:db8::1] / \n"},
		{"cookie crumbs", with("cookie", "a=1", "x-a", "b", "cookie", "c=2"), "GET a.example a.example / \nCookie: a=1; c=2\nx-a: b\n"},
		{"te", with("te", "trailers"), "GET a.example a.example / \nte: trailers\n"},
		{"length of nothing", with("content-length", "0"), "GET a.example a.example / \n"},
		{"empty value", with("x-a", ""), "GET a.example a.example / \nx-a: \n"},
		{"tab and high bytes", with("x-a", "b\tc\xff"), "GET a.example a.example / \nx-a: b\tc\xff\n"},
		{"other scheme", with(":scheme", "https"), "GET a.example a.example / \n"},
		{"method of one's own", with(":method", "PURGE"), "PURGE a.example a.example / \n"},
		{"underscores", with("x_a", "b"), "GET a.example a.example / \nx_a: b\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := make(chan string, 1)
			r := newRig(t, tableLimits(), func(x *exchange.Exchange) {
				q := &x.Request
				if q.Scheme != "http" || q.Proto != exchange.HTTP2 || q.Length != 0 {
					t.Error(q.Scheme, q.Proto, q.Length)
				}
				got <- q.Method + " " + q.Authority + " " + q.Host + " " + q.Path + " " + q.Query + "\n" + fieldText(&q.Header)
				reply(x, "ok")
			})
			h := r.dial()
			if err := h.request(1, true, c.fields...); err != nil {
				t.Fatal(err)
			}
			h.expect("headers 1 :status=200", "data 1 2 end")
			if g := <-got; g != c.want {
				t.Errorf("%q, want %q", g, c.want)
			}
		})
	}
}

// TestBodies are bodies and trailers that break the rules.
func TestBodies(t *testing.T) {
	post := func(more ...string) []string { return with(append([]string{":method", "POST"}, more...)...) }
	for _, c := range []struct {
		name string
		do   func(c *raw)
		want []string
	}{
		{"as long as it says", func(c *raw) {
			c.request(1, false, post("content-length", "2")...)
			c.fr.WriteData(1, false, []byte("a"))
			c.fr.WriteData(1, true, []byte("b"))
		}, []string{"headers 1 :status=200", "data 1 2 end"}},
		{"ended by a trailer section", func(c *raw) {
			c.request(1, false, post()...)
			c.fr.WriteDataPadded(1, false, []byte("ab"), make([]byte, 20))
			c.request(1, true, "x-sum", "1")
		}, []string{"headers 1 :status=200", "data 1 2 end"}},
		{"longer than it says", func(c *raw) {
			c.request(1, false, post("content-length", "1")...)
			c.fr.WriteData(1, false, []byte("ab"))
		}, []string{"reset 1 PROTOCOL_ERROR"}},
		{"shorter than it says", func(c *raw) {
			c.request(1, false, post("content-length", "3")...)
			c.fr.WriteData(1, true, []byte("ab"))
		}, []string{"reset 1 PROTOCOL_ERROR"}},
		{"shorter, with a trailer section", func(c *raw) {
			c.request(1, false, post("content-length", "3")...)
			c.request(1, true, "x-sum", "1")
		}, []string{"reset 1 PROTOCOL_ERROR"}},
		{"trailer section without end", func(c *raw) {
			c.request(1, false, post()...)
			c.request(1, false, "x-sum", "1")
		}, []string{"reset 1 PROTOCOL_ERROR"}},
		{"pseudo-header field in a trailer section", func(c *raw) {
			c.request(1, false, post()...)
			c.request(1, true, ":path", "/other")
		}, []string{"reset 1 PROTOCOL_ERROR"}},
		{"connection field in a trailer section", func(c *raw) {
			c.request(1, false, post()...)
			c.request(1, true, "transfer-encoding", "chunked")
		}, []string{"reset 1 PROTOCOL_ERROR"}},
		{"more than the window", func(c *raw) {
			c.request(1, false, post(":path", "/hang")...)
			for range 5 {
				c.fr.WriteData(1, false, make([]byte, maxFrame))
			}
		}, []string{"reset 1 FLOW_CONTROL_ERROR"}},
		{"a stream that client has not opened", func(c *raw) {
			c.fr.WriteData(1, true, []byte("a"))
		}, []string{"goaway 0 PROTOCOL_ERROR"}},
		{"a stream with an even number", func(c *raw) {
			c.request(2, true, simple...)
		}, []string{"goaway 0 PROTOCOL_ERROR"}},
		{"push", func(c *raw) {
			c.fr.WritePushPromise(http2PushParam(1, c.fields(simple...)))
		}, []string{"goaway 0 PROTOCOL_ERROR"}},
		{"frame that is too large", func(c *raw) {
			c.fr.WriteRawFrame(0, 0, 1, make([]byte, maxFrame+1))
		}, []string{"goaway 0 FRAME_SIZE_ERROR"}},
		{"index of nothing", func(c *raw) {
			c.fr.WriteHeaders(headersParam(1, []byte{0xff, 0x20}))
		}, []string{"goaway 1 COMPRESSION_ERROR"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, tableLimits(), func(x *exchange.Exchange) {
				if x.Request.Path == "/hang" {
					guardedWait(x)
					return
				}
				echo(x)
			})
			h := r.dial()
			c.do(h)
			h.expect(c.want...)
		})
	}
}
