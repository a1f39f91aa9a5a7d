package h2

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

func responseLimits() *ResponseLimits {
	return &ResponseLimits{HeaderBytes: 16384, Headers: 100, FirstByte: 20 * time.Second, Request: time.Minute, Idle: 20 * time.Second}
}

// plainServer is net/http's server speaking HTTP/2 without TLS.
func plainServer(t testing.TB, h http.Handler) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, Protocols: new(http.Protocols), ReadHeaderTimeout: time.Minute}
	s.Protocols.SetUnencryptedHTTP2(true)
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(ln) }()
	t.Cleanup(func() { s.Close(); <-done })
	return ln.Addr().String()
}

type owner struct {
	mu       sync.Mutex
	freed    int
	gone     chan struct{}
	panicked chan any
}

func newOwner() *owner { return &owner{gone: make(chan struct{}), panicked: make(chan any, 1)} }

func (o *owner) Free(*Client) { o.mu.Lock(); o.freed++; o.mu.Unlock() }
func (o *owner) Gone(*Client) { close(o.gone) }

func (o *owner) Panicked(v any) { o.panicked <- v }

func dialClient(t testing.TB, address string, l *ResponseLimits) (*Client, *owner) {
	t.Helper()
	s := wire.NewSweeper()
	nc, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	o := newOwner()
	c := NewClient(wire.New(nc, s), "http", l, o)
	t.Cleanup(func() {
		c.Cut()
		<-o.gone
		s.Close()
	})
	return c, o
}

// down is a Downstream that takes interim answers only.
type down struct {
	exchange.Downstream
	mu       sync.Mutex
	statuses []int
}

func (d *down) Inform(status int, _ *exchange.Header) error {
	d.mu.Lock()
	d.statuses = append(d.statuses, status)
	d.mu.Unlock()
	return nil
}

func newExchange(method, path string) *exchange.Exchange {
	x := exchange.Get()
	x.Down = &down{}
	x.Request.Proto, x.Request.Method = exchange.HTTP2, method
	x.Request.Path, x.Request.RawPath = path, path
	x.Request.Header.Add("User-Agent", "test")
	return x
}

func readAnswer(x *exchange.Exchange) (string, error) {
	var all []byte
	for {
		p, err := x.Response.Body.Next()
		all = append(all, p...)
		if err == io.EOF {
			return string(all), nil
		}
		if err != nil {
			return string(all), err
		}
	}
}

// stream is a body that a test feeds.
type fed struct {
	c    chan []byte
	stop chan struct{}
	once sync.Once
}

func newFed() *fed { return &fed{c: make(chan []byte), stop: make(chan struct{})} }

func (f *fed) Next() ([]byte, error) {
	select {
	case p, ok := <-f.c:
		if !ok {
			return nil, io.EOF
		}
		return p, nil
	case <-f.stop:
		return nil, errors.New("interrupted")
	}
}
func (f *fed) Close() error { return nil }
func (f *fed) Interrupt()   { f.once.Do(func() { close(f.stop) }) }

// long is an answer that no window holds.
var long = strings.Repeat("0123456789abcdef", 1<<16)

// answers is what an upstream does that is written with net/http.
func answers() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/hello", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Got", fmt.Sprint(r.Method, " ", r.Host, " ", r.URL, " ", r.Header["User-Agent"]))
		io.WriteString(w, "hello")
	})
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		w.WriteHeader(201)
		rc := http.NewResponseController(w)
		rc.Flush()
		b := make([]byte, 8192)
		n := 0
		for {
			k, err := r.Body.Read(b)
			n += k
			w.Write(b[:k])
			rc.Flush()
			if err != nil {
				break
			}
		}
		w.Header().Set("X-Sum", strings.TrimSpace(fmt.Sprint(n, " ", r.Trailer.Get("X-Client"))))
	})
	mux.HandleFunc("/count", func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	})
	mux.HandleFunc("/big", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, long) })
	mux.HandleFunc("/none", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204) })
	mux.HandleFunc("/early", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(413) })
	mux.HandleFunc("/hints", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</a>")
		w.WriteHeader(103)
		w.WriteHeader(200)
	})
	return mux
}

func TestRoundTrip(t *testing.T) {
	c, _ := dialClient(t, plainServer(t, answers()), responseLimits())
	t.Run("get", func(t *testing.T) {
		x := newExchange("GET", "/hello")
		x.Request.Query, x.Request.HasQuery = "a=b", true
		mustTrip(t, c, x)
		body, err := readAnswer(x)
		if err != nil || body != "hello" || x.Response.Status != 200 || x.Response.Length != 5 {
			t.Errorf("%q %v %d %d", body, err, x.Response.Status, x.Response.Length)
		}
		if got := x.Response.Header.Get("X-Got"); got != "GET up.example /hello?a=b [test]" {
			t.Errorf("%q", got)
		}
		x.Response.Body.Close()
	})
	t.Run("head", func(t *testing.T) {
		x := newExchange("HEAD", "/hello")
		mustTrip(t, c, x)
		body, err := readAnswer(x)
		if err != nil || body != "" || x.Response.Length != 5 {
			t.Errorf("%q %v %d", body, err, x.Response.Length)
		}
		x.Response.Body.Close()
	})
	t.Run("none", func(t *testing.T) {
		x := newExchange("DELETE", "/none")
		mustTrip(t, c, x)
		if body, err := readAnswer(x); err != nil || body != "" || x.Response.Status != 204 {
			t.Errorf("%q %v", body, err)
		}
		x.Response.Body.Close()
	})
	t.Run("short body", func(t *testing.T) {
		x := newExchange("POST", "/echo")
		x.Request.Body, x.Request.Length = exchange.Bytes([]byte("abc")), 3
		mustTrip(t, c, x)
		body, err := readAnswer(x)
		if err != nil || body != "abc" || x.Response.Status != 201 || x.Response.Trailer.Get("X-Sum") != "3" {
			t.Errorf("%q %v %d %q", body, err, x.Response.Status, fieldText(&x.Response.Trailer))
		}
		x.Response.Body.Close()
	})
	if !c.Alive() || c.taken != 0 {
		t.Errorf("alive %v, %d places taken", c.Alive(), c.taken)
	}
}

func TestRoundTripBodies(t *testing.T) {
	c, _ := dialClient(t, plainServer(t, answers()), responseLimits())
	t.Run("big answer", func(t *testing.T) {
		x := newExchange("GET", "/big")
		mustTrip(t, c, x)
		body, err := readAnswer(x)
		if err != nil || body != long {
			t.Errorf("%d %v", len(body), err)
		}
		x.Response.Body.Close()
	})
	t.Run("big answer given up", func(t *testing.T) {
		x := newExchange("GET", "/big")
		mustTrip(t, c, x)
		if _, err := x.Response.Body.Next(); err != nil {
			t.Error(err)
		}
		x.Response.Body.Close()
	})
	t.Run("big body", func(t *testing.T) {
		x := newExchange("POST", "/echo")
		x.Request.Body, x.Request.Length = exchange.Bytes([]byte(long)), int64(len(long))
		mustTrip(t, c, x)
		body, err := readAnswer(x)
		if err != nil || body != long {
			t.Errorf("%d %v", len(body), err)
		}
		x.Response.Body.Close()
	})
	t.Run("both ways", func(t *testing.T) {
		x := newExchange("POST", "/echo")
		f := newFed()
		x.Request.Body, x.Request.Length = f, exchange.Unknown
		x.Request.Header.Add("Trailer", "X-Client")
		x.Request.Trailer.Add("X-Client", "done")
		mustTrip(t, c, x)
		if !x.Request.Lent {
			t.Error("body is not lent")
		}
		for i := range 10 {
			want := fmt.Sprint("message ", i)
			f.c <- []byte(want)
			if p, err := x.Response.Body.Next(); string(p) != want || err != nil {
				t.Fatalf("%q %v", p, err)
			}
		}
		close(f.c)
		if body, err := readAnswer(x); err != nil || body != "" || x.Response.Trailer.Get("X-Sum") != "90 done" {
			t.Errorf("%q %v %q", body, err, fieldText(&x.Response.Trailer))
		}
		x.Response.Body.Close()
	})
	if !c.Alive() || c.taken != 0 {
		t.Errorf("alive %v, %d places taken", c.Alive(), c.taken)
	}
}

func TestRoundTripInParts(t *testing.T) {
	c, _ := dialClient(t, plainServer(t, answers()), responseLimits())
	t.Run("early answer", func(t *testing.T) {
		x := newExchange("POST", "/early")
		f := newFed()
		x.Request.Body, x.Request.Length = f, exchange.Unknown
		mustTrip(t, c, x)
		if x.Response.Status != 413 {
			t.Error(x.Response.Status)
		}
		x.Response.Body.Close()
	})
	t.Run("interim", func(t *testing.T) {
		x := newExchange("GET", "/hints")
		mustTrip(t, c, x)
		if d := x.Down.(*down); len(d.statuses) != 1 || d.statuses[0] != 103 {
			t.Error(d.statuses)
		}
		x.Response.Body.Close()
	})
	t.Run("continue", func(t *testing.T) {
		x := newExchange("POST", "/count")
		x.Request.Expect = true
		f := newFed()
		x.Request.Body, x.Request.Length = f, exchange.Unknown
		close(f.c)
		mustTrip(t, c, x)
		if d := x.Down.(*down); len(d.statuses) != 1 || d.statuses[0] != 100 {
			t.Error(d.statuses)
		}
		x.Response.Body.Close()
	})
	t.Run("all at once", func(t *testing.T) {
		var all sync.WaitGroup
		for range 50 {
			all.Go(func() {
				x := newExchange("GET", "/big")
				mustTrip(t, c, x)
				if body, err := readAnswer(x); err != nil || body != long {
					t.Errorf("%d %v", len(body), err)
				}
				x.Response.Body.Close()
			})
		}
		all.Wait()
	})
	if !c.Alive() || c.taken != 0 {
		t.Errorf("alive %v, %d places taken", c.Alive(), c.taken)
	}
}

// An upstream that gives windows back in small portions is no flood.
func TestLongUpload(t *testing.T) {
	c, _ := dialClient(t, plainServer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, b := 0, make([]byte, 4096)
		for {
			k, err := r.Body.Read(b)
			if n += k; err != nil {
				break
			}
		}
		fmt.Fprint(w, n)
	})), responseLimits())
	x := newExchange("POST", "/")
	x.Request.Body, x.Request.Length = exchange.Bytes(make([]byte, 64<<20)), 64<<20
	mustTrip(t, c, x)
	if body, err := readAnswer(x); err != nil || body != fmt.Sprint(64<<20) {
		t.Errorf("%q %v", body, err)
	}
	x.Response.Body.Close()
}

func mustTrip(t *testing.T, c *Client, x *exchange.Exchange) {
	t.Helper()
	if !c.Take() {
		t.Fatal("no place")
	}
	if err := c.RoundTrip(x, "up.example"); err != nil {
		t.Fatal(err)
	}
}

// The exchange says when its answer is due, as long as the upstream is at it.
func TestDue(t *testing.T) {
	for _, limit := range []time.Duration{0, time.Minute} {
		l := responseLimits()
		l.Request = limit
		c, _ := dialClient(t, plainServer(t, answers()), l)
		x := newExchange("GET", "/hello")
		before := exchange.Now()
		mustTrip(t, c, x)
		if due := x.Times.Due; (due != 0) != (limit != 0) || due != 0 && due < before+int64(limit) {
			t.Errorf("due %d, began at %d, limit %v", due, before, limit)
		}
		if _, err := readAnswer(x); err != nil {
			t.Error(err)
		}
		x.Response.Body.Close()
		if x.Times.Due != 0 {
			t.Error("due after the end")
		}
	}
	k, _, u := upstream(t, &ResponseLimits{HeaderBytes: 8192, Headers: 50, Request: time.Minute})
	x := newExchange("GET", "/")
	done := trip(t, k, x)
	u.next()
	u.fr.WriteRSTStream(1, http2.ErrCodeInternal)
	if err := <-done; err == nil || x.Times.Due != 0 {
		t.Errorf("%v, due %d after the end", err, x.Times.Due)
	}
}
