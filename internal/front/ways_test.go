package front

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
)

// way is a way into a listener for a client of another make. Where what
// matters are not the bytes of HTTP/1.1, behaviours are tested over each of
// them.
type way struct {
	name, door string
	protocols  config.StringList
	transport  func() http.RoundTripper
}

func ways() []way {
	return []way{
		{"HTTP/1.1", "native", nil, netHTTP(nil)},
		{"HTTP/1.1 over TLS", "native-tls", nil, netHTTP(nil)},
		{"HTTP/1.1, std", "std", nil, netHTTP(nil)},
		{"HTTP/2", "native", config.StringList{"http1", "h2c"}, netHTTP((*http.Protocols).SetUnencryptedHTTP2)},
		{"HTTP/2 over TLS", "native-tls", config.StringList{"http1", "http2"}, netHTTP((*http.Protocols).SetHTTP2)},
		{"HTTP/3", "native-tls", config.StringList{"http1", "http3"}, quicHTTP},
	}
}

// netHTTP returns a client of net/http that speaks one protocol, HTTP/1.1 when
// nothing is said.
func netHTTP(protocol func(*http.Protocols, bool)) func() http.RoundTripper {
	if protocol == nil {
		protocol = (*http.Protocols).SetHTTP1
	}
	return func() http.RoundTripper {
		t := &http.Transport{Protocols: new(http.Protocols), TLSClientConfig: trusting(), DisableCompression: true, ExpectContinueTimeout: time.Minute}
		protocol(t.Protocols, true)
		return t
	}
}

func quicHTTP() http.RoundTripper {
	return &http3.Transport{TLSClientConfig: trusting(), DisableCompression: true}
}

// party is a client and the listener that it goes to.
type party struct {
	*rig
	t      testing.TB
	client http.Client
	url    string
}

// eachWay runs a test over every way.
func eachWay(t *testing.T, handler func(t *testing.T) func(*exchange.Exchange), change func(*config.Limits), f func(t *testing.T, p *party)) {
	for _, w := range ways() {
		t.Run(w.name, func(t *testing.T) {
			cfg := listenerOf(w.door)
			if w.protocols != nil {
				cfg.Protocols = w.protocols
			}
			if change != nil {
				change(&cfg.Limits)
			}
			p := &party{rig: newRig(t, cfg, handler(t)), t: t}
			p.url = "http://" + p.address
			if cfg.TLS != nil {
				p.url = "https://" + p.address
			}
			p.client.Transport = w.transport()
			t.Cleanup(func() {
				if c, ok := p.client.Transport.(io.Closer); ok {
					c.Close()
				} else {
					p.client.CloseIdleConnections()
				}
			})
			f(t, p)
		})
	}
}

// always is a handler that needs no test.
func always(h func(*exchange.Exchange)) func(*testing.T) func(*exchange.Exchange) {
	return func(*testing.T) func(*exchange.Exchange) { return h }
}

// request makes a request that ends in time.
func (p *party) request(method, path string, body io.Reader) *http.Request {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	p.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, method, p.url+path, body)
	if err != nil {
		p.t.Fatal(err)
	}
	req.Host = "a.example"
	return req
}

// begin sends a request and returns the head of its answer.
func (p *party) begin(req *http.Request) *http.Response {
	p.t.Helper()
	res, err := p.client.Do(req)
	if err != nil {
		p.t.Fatalf("%s %s: %v", req.Method, req.URL.Path, err)
	}
	p.t.Cleanup(func() { res.Body.Close() })
	return res
}

// do sends a request and reads its answer.
func (p *party) do(req *http.Request) (*http.Response, string) {
	p.t.Helper()
	res := p.begin(req)
	body, err := io.ReadAll(res.Body)
	if err != nil {
		p.t.Fatalf("%s %s: body of %d: %v", req.Method, req.URL.Path, res.StatusCode, err)
	}
	return res, string(body)
}

func TestWaysShowTheSameExchange(t *testing.T) {
	type seen struct {
		method, authority, host, path, query, fields, body, trailer string
		length                                                      int64
		secure                                                      bool
	}
	got := make(chan seen, 1)
	show := func(x *exchange.Exchange) {
		q := &x.Request
		fields := make(map[string]string)
		for name, value := range q.Header.All() {
			fields[http.CanonicalHeaderKey(name)] += value + ";"
		}
		delete(fields, "Trailer")    // a hint that HTTP/3's client does not send
		delete(fields, "Connection") // of this hop
		delete(fields, "Te")
		s := seen{method: q.Method, authority: q.Authority, host: q.Host, path: q.Path, query: q.Query, length: q.Length, secure: q.Scheme == "https"}
		for _, name := range slices.Sorted(maps.Keys(fields)) {
			s.fields += name + ": " + fields[name] + "\n"
		}
		s.body, _ = readBody(x)
		s.trailer = q.Trailer.Get("x-sum")
		if s.secure != (x.Client.TLS != nil) {
			t.Errorf("scheme %q, TLS %v", q.Scheme, x.Client.TLS)
		}
		got <- s
		reply(x, "")
	}
	eachWay(t, always(show), nil, func(t *testing.T, p *party) {
		for name, c := range map[string]struct {
			method, path string
			body         io.Reader
			trailer      bool
			want         seen
		}{
			"GET":     {"GET", "/a/b%2Fc?x=1&y", nil, false, seen{method: "GET", path: "/a/b%2Fc", query: "x=1&y"}},
			"counted": {"PUT", "/", strings.NewReader("hello"), false, seen{method: "PUT", path: "/", body: "hello", length: 5}},
			"stream":  {"POST", "/", struct{ io.Reader }{strings.NewReader("hello")}, true, seen{method: "POST", path: "/", body: "hello", length: exchange.Unknown, trailer: "7"}},
			"DELETE":  {"DELETE", "/", nil, false, seen{method: "DELETE", path: "/"}},
			"OPTIONS": {"OPTIONS", "/", nil, false, seen{method: "OPTIONS", path: "/"}},
		} {
			req := p.request(c.method, c.path, c.body)
			req.Header = http.Header{"X-Twice": {"1", "2"}, "User-Agent": {"me"}, "X-Empty": {""}, "Cookie": {"a=1; b=2"}}
			if c.trailer {
				req.Trailer = http.Header{"X-Sum": {"7"}}
			}
			p.do(req)
			c.want.authority, c.want.host = "a.example", "a.example"
			c.want.secure = strings.HasPrefix(p.url, "https:")
			c.want.fields = "Cookie: a=1; b=2;\nUser-Agent: me;\nX-Empty: ;\nX-Twice: 1;2;\n"
			if s := <-got; s != c.want {
				t.Errorf("%s: have %+v\nwant %+v", name, s, c.want)
			}
		}
	})
}

func TestWaysStreamBothWays(t *testing.T) {
	eachWay(t, always(func(x *exchange.Exchange) {
		x.Response.Status, x.Response.Length = 200, exchange.Unknown
		if err := x.Down.WriteHead(x); err != nil {
			return
		}
		if err := x.Down.Flush(); err != nil {
			return
		}
		for {
			p, err := x.Request.Body.Next()
			if err == io.EOF {
				break
			}
			if err != nil || x.Down.WriteBody(p) != nil || x.Down.Flush() != nil {
				x.Down.Abort()
				return
			}
		}
		x.Response.Trailer.Add("X-After", x.Request.Trailer.Get("x-sum"))
		_ = x.Down.Finish(x)
	}), nil, func(t *testing.T, p *party) {
		body, w := io.Pipe()
		req := p.request("POST", "/", body)
		req.Trailer = http.Header{"X-Sum": nil}
		res := p.begin(req) // before a byte of the body was sent
		for i := range 20 {
			piece := fmt.Sprintf("piece %d", i)
			if _, err := io.WriteString(w, piece); err != nil {
				t.Fatal(err)
			}
			back := make([]byte, len(piece))
			if _, err := io.ReadFull(res.Body, back); err != nil || string(back) != piece {
				t.Fatalf("%q came back, %v", back, err)
			}
		}
		req.Trailer.Set("X-Sum", "7")
		w.Close()
		if rest, err := io.ReadAll(res.Body); len(rest) > 0 || err != nil || res.Trailer.Get("X-After") != "7" {
			t.Errorf("at the end %q, %v, trailer %v", rest, err, res.Trailer)
		}
	})
}

// much is more than all the buffers on a way hold.
const much = 16 << 20

func TestWaysWaitForSlowReaders(t *testing.T) {
	written := make(chan struct{}, 1)
	eachWay(t, always(func(x *exchange.Exchange) {
		x.Response.Status = 200
		x.Response.Body, x.Response.Length = &sized{much}, much
		finish(x)
		written <- struct{}{}
	}), nil, func(t *testing.T, p *party) {
		res := p.begin(p.request("GET", "/", nil))
		one := make([]byte, 1)
		if _, err := io.ReadFull(res.Body, one); err != nil {
			t.Fatal(err)
		}
		select {
		case <-written:
			t.Error("the answer was taken in without a reader")
		default:
		}
		if n, err := io.Copy(io.Discard, res.Body); n != much-1 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		<-written
	})
}

func TestWaysMakeSendersWait(t *testing.T) {
	begun, read := make(chan struct{}), make(chan struct{})
	eachWay(t, always(func(x *exchange.Exchange) {
		begun <- struct{}{}
		<-read
		n := 0
		for {
			p, err := x.Request.Body.Next()
			n += len(p)
			if err != nil {
				break
			}
		}
		reply(x, fmt.Sprint(n))
	}), func(l *config.Limits) { l.Body = 0 }, func(t *testing.T, p *party) {
		taken := make(chan struct{})
		body := io.MultiReader(bytes.NewReader(make([]byte, much)), readerFunc(func([]byte) (int, error) {
			close(taken)
			return 0, io.EOF
		}))
		var all sync.WaitGroup
		all.Go(func() {
			if _, got := p.do(p.request("POST", "/", body)); got != fmt.Sprint(much) {
				t.Errorf("%s bytes", got)
			}
		})
		<-begun
		select {
		case <-taken:
			t.Error("the body was taken in without a reader")
		default:
		}
		read <- struct{}{}
		all.Wait()
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestWaysPassInterimAnswers(t *testing.T) {
	eachWay(t, always(func(x *exchange.Exchange) {
		var h exchange.Header
		h.Add("Link", "</a.css>")
		if err := x.Down.Inform(103, &h); err != nil {
			return
		}
		reply(x, "done")
	}), nil, func(t *testing.T, p *party) {
		var got []string
		req := p.request("GET", "/", nil)
		req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				got = append(got, fmt.Sprint(code, " ", h.Get("Link")))
				return nil
			},
		}))
		res, body := p.do(req)
		if body != "done" || res.Header.Get("Link") != "" || !slices.Equal(got, []string{"103 </a.css>"}) {
			t.Errorf("interim answers %q, then %q %v", got, body, res.Header)
		}
	})
}

// A client that waits for 100 Continue gets it when the body is wanted, and
// the answer at once when it is not.
func TestWaysContinue(t *testing.T) {
	eachWay(t, always(func(x *exchange.Exchange) {
		if x.Request.Path == "/refuse" {
			x.Fail(&exchange.Problem{Status: 403, Code: "no"})
			finish(x)
			return
		}
		echo(x)
	}), nil, func(t *testing.T, p *party) {
		if _, ok := p.client.Transport.(*http3.Transport); ok {
			t.Skip("this client does not wait")
		}
		for path, want := range map[string]int{"/": 200, "/refuse": 403} {
			var read bool
			req := p.request("POST", path, nil)
			req.ContentLength = 5
			body := strings.NewReader("hello")
			req.Body = io.NopCloser(readerFunc(func(b []byte) (int, error) {
				read = true
				return body.Read(b)
			}))
			req.Header.Set("Expect", "100-continue")
			if res, _ := p.do(req); res.StatusCode != want || read != (want == 200) {
				t.Errorf("%s: status %d, the body was sent: %v", path, res.StatusCode, read)
			}
		}
	})
}

func TestWaysOfAnswersWithoutBody(t *testing.T) {
	eachWay(t, always(func(x *exchange.Exchange) {
		x.Response.Status = 200
		if s := x.Request.Path[1:]; s != "" {
			_, _ = fmt.Sscan(s, &x.Response.Status)
		}
		x.Response.Body, x.Response.Length = exchange.Bytes([]byte("hello")), 5
		finish(x)
	}), nil, func(t *testing.T, p *party) {
		for _, c := range []struct {
			method, path string
			status       int
			body, length string
		}{{"GET", "/", 200, "hello", "5"}, {"HEAD", "/", 200, "", "5"}, {"GET", "/204", 204, "", ""}, {"GET", "/304", 304, "", "5"}, {"GET", "/", 200, "hello", "5"}} {
			res, body := p.do(p.request(c.method, c.path, nil))
			got := res.Header.Get("Content-Length")
			if c.status == 304 && got == "" {
				got = c.length // it may be left out, and is where clients are known to misunderstand it
			}
			if res.StatusCode != c.status || body != c.body || got != c.length {
				t.Errorf("%s %s: %d %q %v", c.method, c.path, res.StatusCode, body, res.Header)
			}
		}
	})
}

func TestWaysOfEarlyAnswers(t *testing.T) {
	eachWay(t, always(func(x *exchange.Exchange) { reply(x, "enough") }), func(l *config.Limits) { l.Body = 0 }, func(t *testing.T, p *party) {
		body, w := io.Pipe() // nothing is ever sent
		t.Cleanup(func() { w.Close() })
		if res, got := p.do(p.request("POST", "/", body)); res.StatusCode != 200 || got != "enough" {
			t.Errorf("%d %q", res.StatusCode, got)
		}
		if _, got := p.do(p.request("GET", "/", nil)); got != "enough" {
			t.Errorf("%q afterwards", got)
		}
	})
}

func TestWaysOfGoing(t *testing.T) {
	begun, reason := make(chan struct{}), make(chan error)
	eachWay(t, always(func(x *exchange.Exchange) {
		if x.Request.Path == "/" {
			reply(x, "here")
			return
		}
		begun <- struct{}{}
		reason <- waitCanceled(x)
		x.Fail(&exchange.Problem{Status: exchange.StatusClientGone})
		x.Down.Abort()
	}), func(l *config.Limits) { l.HalfCloseTimeout = config.Duration(50 * time.Millisecond) }, func(t *testing.T, p *party) {
		req := p.request("GET", "/wait", nil)
		ctx, cancel := context.WithCancel(req.Context())
		over := make(chan error, 1)
		go func() {
			_, err := p.client.Do(req.WithContext(ctx))
			over <- err
		}()
		<-begun
		cancel()
		if err := <-reason; !errors.Is(err, exchange.ErrClientGone) {
			t.Errorf("cancelled for %v", err)
		}
		if err := <-over; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if _, body := p.do(p.request("GET", "/", nil)); body != "here" {
			t.Errorf("%q afterwards", body)
		}
	})
}

func TestWaysShowThatAnswersAreCut(t *testing.T) {
	lengths := map[string]int64{"/counted": 10, "/unknown": exchange.Unknown}
	eachWay(t, always(func(x *exchange.Exchange) {
		x.Response.Status = 200
		x.Response.Body, x.Response.Length = &stream{[]string{"hello"}, io.ErrUnexpectedEOF}, lengths[x.Request.Path]
		finish(x)
	}), nil, func(t *testing.T, p *party) {
		for path := range lengths {
			res, err := p.client.Do(p.request("GET", path, nil))
			if err != nil {
				continue // a reset may overtake even the head
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err == nil || len(body) > 5 {
				t.Errorf("%s: %q looks complete", path, body)
			}
		}
	})
}

func TestWaysRefuseWhatIsTooLarge(t *testing.T) {
	eachWay(t, always(echo), nil, func(t *testing.T, p *party) {
		over := strings.Repeat("a", 65537)
		many := make(http.Header)
		for i := range 60 {
			many.Set(fmt.Sprintf("X-%d", i), "1")
		}
		for name, c := range map[string]struct {
			req    *http.Request
			status int
		}{
			"counted body": {p.request("POST", "/", strings.NewReader(over)), 413},
			"stream":       {p.request("POST", "/", struct{ io.Reader }{strings.NewReader(over)}), 413},
			"fields":       {p.request("GET", "/", nil), 431},
		} {
			if c.status == 431 {
				c.req.Header = many
			}
			if res, body := p.do(c.req); res.StatusCode != c.status || !strings.Contains(body, `"code":`) {
				t.Errorf("%s: %d %q", name, res.StatusCode, body)
			}
		}
		if _, body := p.do(p.request("POST", "/", strings.NewReader(over[1:]))); len(body) != 65536 {
			t.Errorf("%d bytes of the most that may be", len(body))
		}
	})
}

func TestWaysAreDrained(t *testing.T) {
	begun, answer := make(chan struct{}), make(chan struct{})
	eachWay(t, always(func(x *exchange.Exchange) {
		x.Response.Status, x.Response.Length = 200, exchange.Unknown
		if err := errors.Join(x.Down.WriteHead(x), x.Down.WriteBody([]byte("begun ")), x.Down.Flush()); err != nil {
			return
		}
		begun <- struct{}{}
		<-answer
		_ = errors.Join(x.Down.WriteBody([]byte("and ended")), x.Down.Finish(x))
	}), nil, func(t *testing.T, p *party) {
		var streams []*http.Response
		for range 3 {
			streams = append(streams, p.begin(p.request("GET", "/", nil)))
			<-begun
		}
		cut := make(chan int)
		go func() { cut <- p.f.Drain(context.Background()) }()
		for range streams {
			answer <- struct{}{}
		}
		for _, s := range streams {
			if body, err := io.ReadAll(s.Body); string(body) != "begun and ended" || err != nil {
				t.Errorf("%q, %v", body, err)
			}
		}
		p.client.CloseIdleConnections()
		if n := <-cut; n != 0 {
			t.Errorf("%d connections were cut", n)
		}
		if res, err := p.client.Do(p.request("GET", "/", nil)); err == nil {
			t.Errorf("an answer %d after the end", res.StatusCode)
		}
	})
}
