package h2

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/http2"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// plainClient is net/http's client speaking HTTP/2 without TLS.
func plainClient(t testing.TB) *http.Client {
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// TestServer has net/http's client as oracle.
func TestServer(t *testing.T) {
	noise := make([]byte, 3<<20)
	rand.Read(noise)
	canceled := make(chan error, 1)
	l := tableLimits()
	l.Body = 8 << 20
	r := newRig(t, l, func(x *exchange.Exchange) {
		switch x.Request.Path {
		case "/echo":
			h := &x.Response.Header
			h.Add("X-Seen", fmt.Sprint(x.Request.Method, " ", x.Request.Authority, " ", x.Request.Host, " ", x.Request.Query, " ", x.Request.Length))
			h.Add("Set-Cookie", "a=1")
			h.Add("Set-Cookie", "b=2")
			echo(x)
		case "/stream":
			x.Response.Status, x.Response.Length = 200, exchange.Unknown
			x.Response.Body = x.Request.Body
			x.Response.Trailer.Add("X-Trailer", "t")
			finish(x)
		case "/noise":
			x.Response.Status = 200
			x.Response.SetBody(noise)
			finish(x)
		case "/hints":
			var h exchange.Header
			h.Add("Link", "</style.css>")
			if err := x.Down.Inform(103, &h); err != nil {
				t.Error(err)
			}
			reply(x, "done")
		case "/wait":
			w := make(chanInterrupter, 1)
			if err := x.Bind(w); err == nil {
				<-w
			}
			x.Bind(nil)
			canceled <- x.Canceled()
			x.Down.Abort()
		case "/cut":
			x.Response.Status, x.Response.Length = 200, exchange.Unknown
			x.Down.WriteHead(x)
			x.Down.WriteBody([]byte("half"))
			x.Down.Abort()
		case "/trailer":
			if _, ok := readBody(x); ok {
				reply(x, fieldText(&x.Request.Trailer))
			}
		default:
			reply(x, fieldText(&x.Request.Header))
		}
	})
	c := plainClient(t)
	url := "http://" + r.address

	t.Run("fields", func(t *testing.T) {
		req, _ := http.NewRequest("GET", url+"/?q", nil)
		req.Header["Cookie"] = []string{"a=1; b=2", "c=3"}
		req.Header.Set("X-Empty", "")
		got := fetch(t, c, req)
		for _, want := range []string{"cookie: a=1; b=2; c=3\n", "x-empty: \n", "user-agent: Go-http-client/2.0\n"} {
			if !strings.Contains(strings.ToLower(got), strings.ToLower(want)) {
				t.Errorf("no %q in %q", want, got)
			}
		}
	})
	t.Run("echo", func(t *testing.T) {
		req, _ := http.NewRequest("POST", url+"/echo?a=b", strings.NewReader("hello"))
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if string(body) != "hello" || res.ContentLength != 5 || len(res.Header["Set-Cookie"]) != 2 || res.Header.Get("Date") == "" {
			t.Errorf("%q %d %v", body, res.ContentLength, res.Header)
		}
		if got, want := res.Header.Get("X-Seen"), "POST "+r.address+" 127.0.0.1 a=b 5"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
	})
	t.Run("head", func(t *testing.T) {
		res, err := c.Head(url + "/noise")
		if err != nil || res.ContentLength != int64(len(noise)) {
			t.Fatal(res, err)
		}
		res.Body.Close()
	})
	t.Run("noise", func(t *testing.T) {
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				res, err := c.Get(url + "/noise")
				if err != nil {
					t.Error(err)
					return
				}
				defer res.Body.Close()
				if body, err := io.ReadAll(res.Body); err != nil || !bytes.Equal(body, noise) {
					t.Errorf("%d bytes, %v", len(body), err)
				}
			})
		}
		all.Wait()
	})
	t.Run("both ways", func(t *testing.T) {
		pr, pw := io.Pipe()
		req, _ := http.NewRequest("POST", url+"/stream", pr)
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b := make([]byte, 64)
		for i := range 20 {
			want := fmt.Sprint("message ", i)
			io.WriteString(pw, want)
			if _, err := io.ReadFull(res.Body, b[:len(want)]); err != nil || string(b[:len(want)]) != want {
				t.Fatalf("%q %v", b, err)
			}
		}
		pw.Close()
		if rest, err := io.ReadAll(res.Body); err != nil || len(rest) > 0 || res.Trailer.Get("X-Trailer") != "t" {
			t.Errorf("%q %v %v", rest, err, res.Trailer)
		}
	})
	t.Run("big both ways", func(t *testing.T) {
		res, err := c.Post(url+"/stream", "", bytes.NewReader(noise))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if body, err := io.ReadAll(res.Body); err != nil || !bytes.Equal(body, noise) {
			t.Errorf("%d bytes, %v", len(body), err)
		}
	})
	t.Run("trailer", func(t *testing.T) {
		req, _ := http.NewRequest("POST", url+"/trailer", io.MultiReader(strings.NewReader("x")))
		req.Trailer = http.Header{"X-Sum": {"1"}, "Authorization": {"no"}}
		if got := fetch(t, c, req); got != "x-sum: 1\n" {
			t.Errorf("%q", got)
		}
	})
	t.Run("interim", func(t *testing.T) {
		var links []string
		ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
				links = append(links, fmt.Sprint(code, h.Get("Link")))
				return nil
			},
		})
		req, _ := http.NewRequestWithContext(ctx, "GET", url+"/hints", nil)
		if got := fetch(t, c, req); got != "done" || len(links) != 1 || links[0] != "103</style.css>" {
			t.Errorf("%q %v", got, links)
		}
	})
	t.Run("cut", func(t *testing.T) {
		res, err := c.Get(url + "/cut")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if body, err := io.ReadAll(res.Body); err == nil || string(body) != "half" {
			t.Errorf("%q %v", body, err)
		}
	})
	t.Run("cancel", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		req, _ := http.NewRequestWithContext(ctx, "GET", url+"/wait", nil)
		go func() { cancel() }()
		if _, err := c.Do(req); err == nil {
			t.Error("no error")
		}
		// It may have been cancelled before it was sent.
		ctx, cancel = context.WithCancel(context.Background())
		pr, pw := io.Pipe()
		req, _ = http.NewRequestWithContext(ctx, "POST", url+"/wait", pr)
		go func() {
			io.WriteString(pw, "x") // the stream is there once a window's worth could be written
			cancel()
		}()
		if _, err := c.Do(req); err == nil {
			t.Error("no error")
		}
		if err := <-canceled; err != exchange.ErrClientGone {
			t.Error(err)
		}
	})
	t.Run("too large", func(t *testing.T) {
		res, err := c.Post(url+"/echo", "", bytes.NewReader(make([]byte, 9<<20)))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != 413 {
			t.Error(res.Status)
		}
	})
	t.Run("large head", func(t *testing.T) {
		req, _ := http.NewRequest("GET", url+"/", nil)
		for i := range 60 {
			req.Header.Set(fmt.Sprint("X-", i), "v")
		}
		res, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != 431 {
			t.Error(res.Status)
		}
	})
}

type chanInterrupter chan struct{}

func (c chanInterrupter) Interrupt() {
	select {
	case c <- struct{}{}:
	default:
	}
}

func fetch(t *testing.T, c *http.Client, req *http.Request) string {
	t.Helper()
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(body)
}

// TestDrain lets a client finish what it has begun, and no more.
func TestDrain(t *testing.T) {
	begun, let := make(chan bool), make(chan bool)
	r := newRig(t, tableLimits(), func(x *exchange.Exchange) {
		if x.Request.Path == "/slow" {
			begun <- true
			<-let
		}
		reply(x, "done")
	})
	c := plainClient(t)
	res := make(chan string)
	go func() {
		req, _ := http.NewRequest("GET", "http://"+r.address+"/slow", nil)
		res <- fetch(t, c, req)
	}()
	<-begun
	r.s.Drain()
	close(let)
	if got := <-res; got != "done" {
		t.Error(got)
	}
	<-r.ended

	nc, err := net.Dial("tcp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := io.Copy(io.Discard, nc); err != nil {
		t.Error(err)
	}
}

// TestBodyCut never takes a body for whole whose client has gone.
func TestBodyCut(t *testing.T) {
	got := make(chan error, 1)
	r := newRig(t, tableLimits(), func(x *exchange.Exchange) {
		for {
			if _, err := x.Request.Body.Next(); err != nil {
				got <- err
				x.Down.Abort()
				return
			}
		}
	})
	for _, how := range []string{"end", "reset", "connection error"} {
		c := r.dial()
		c.request(1, false, with(":method", "POST")...)
		c.fr.WriteData(1, false, []byte("half"))
		switch how {
		case "end":
			c.nc.(*net.TCPConn).CloseWrite()
		case "reset":
			c.fr.WriteRSTStream(1, http2.ErrCodeCancel)
		default:
			c.fr.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1})
		}
		if err := <-got; err == io.EOF || !errors.Is(err, exchange.ErrClientGone) {
			t.Error(how, err)
		}
	}
}
