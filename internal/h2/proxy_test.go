package h2

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/net/http2"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// chain is a server that asks an upstream over HTTP/2, as the gateway does.
func chain(t testing.TB, back func(*exchange.Exchange)) (front *rig, c *Client) {
	l := tableLimits()
	l.Body = 1 << 30
	b := newRig(t, l, back)
	c, _ = dialClient(t, b.address, responseLimits())
	front = newRig(t, l, func(x *exchange.Exchange) { forward(x, c) })
	return front, c
}

// forward is what gateway and upstream do between them.
func forward(x *exchange.Exchange, c *Client) {
	if !c.Take() {
		x.Fail(&exchange.Problem{Status: 503, Code: "overloaded"})
		finish(x)
		return
	}
	if err := c.RoundTrip(x, x.Request.Authority); err != nil {
		x.Fail(&exchange.Problem{Status: 502, Code: "failed", Detail: err.Error()})
		if x.Canceled() != nil {
			x.Down.Abort()
			return
		}
		finish(x)
		return
	}
	body := x.Response.Body
	if t, ok := body.(exchange.Tunnel); ok && x.Response.Status == 101 {
		if s, err := x.Down.Upgrade(x); err != nil {
			x.Down.Abort()
			body.Close()
		} else {
			_ = t.Join(x, s)
		}
		return
	}
	finish(x)
	x.Response.Body = exchange.NoBody
	body.Close()
}

func TestChain(t *testing.T) {
	begun, gone := make(chan bool, 1), make(chan bool, 1)
	front, _ := chain(t, func(x *exchange.Exchange) {
		switch x.Request.Path {
		case "/stream":
			x.Response.Status, x.Response.Length = 200, exchange.Unknown
			x.Response.Body = x.Request.Body
			x.Response.Trailer.Add("X-Trailer", "t")
			finish(x)
		case "/early":
			x.Response.Status = 413
			x.Response.SetBody([]byte("too much"))
			finish(x)
		case "/hang":
			begun <- true
			guardedWait(x)
			gone <- true
		case "/cut":
			x.Response.Status, x.Response.Length = 200, exchange.Unknown
			x.Down.WriteHead(x)
			x.Down.WriteBody([]byte("half"))
			x.Down.Abort()
		default:
			if body, ok := readBody(x); ok {
				x.Response.Header.Add("X-Method", x.Request.Method)
				reply(x, body+fieldText(&x.Request.Trailer))
			}
		}
	})
	c := plainClient(t)
	url := "http://" + front.address
	t.Run("get", func(t *testing.T) {
		res, err := c.Get(url + "/a?b")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if res.StatusCode != 200 || res.Header.Get("X-Method") != "GET" || res.ContentLength != 0 {
			t.Error(res)
		}
	})
	t.Run("big both ways", func(t *testing.T) {
		sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<17)
		res, err := c.Post(url+"/stream", "", io.MultiReader(bytes.NewReader(sent)))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if got, err := io.ReadAll(res.Body); err != nil || !bytes.Equal(got, sent) || res.Trailer.Get("X-Trailer") != "t" {
			t.Errorf("%d bytes, %v %v", len(got), err, res.Trailer)
		}
	})
	t.Run("trailer", func(t *testing.T) {
		req, _ := http.NewRequest("PUT", url+"/", io.MultiReader(strings.NewReader("x")))
		req.Trailer = http.Header{"X-Sum": {"1"}}
		if got := fetch(t, c, req); got != "xx-sum: 1\n" {
			t.Errorf("%q", got)
		}
	})
	t.Run("early answer", func(t *testing.T) {
		pr, _ := io.Pipe()
		req, _ := http.NewRequest("POST", url+"/early", pr)
		if got := fetch(t, c, req); got != "too much" {
			t.Error(got)
		}
	})
	t.Run("client that goes away", func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		pr, _ := io.Pipe()
		req, _ := http.NewRequestWithContext(ctx, "POST", url+"/hang", pr)
		go func() {
			<-begun
			cancel()
		}()
		if _, err := c.Do(req); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		<-gone
	})
	t.Run("cut", func(t *testing.T) {
		res, err := c.Get(url + "/cut")
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		if got, err := io.ReadAll(res.Body); err == nil || string(got) != "half" {
			t.Errorf("%q %v", got, err)
		}
	})
}

// websocket is an upstream that takes tunnels and says everything twice.
func websocket(x *exchange.Exchange) {
	if x.Request.Upgrade != "websocket" || x.Request.Method != "GET" {
		reply(x, "no tunnel")
		return
	}
	r := &x.Response
	r.Status = 101
	r.Header.Add("Upgrade", "websocket")
	r.Header.Add("Sec-WebSocket-Protocol", x.Request.Header.Known(exchange.SecWebSocketProtocol))
	r.Header.Add(acceptField, acceptOf(x.Request.Header.Known(exchange.SecWebSocketKey)))
	if x.Request.Path == "/bad" {
		r.Header.Set(acceptField, acceptOf("something else"))
	}
	s, err := x.Down.Upgrade(x)
	if err != nil {
		return
	}
	defer s.Close()
	b := make([]byte, 1000)
	for {
		n, err := s.Read(b)
		if err == io.EOF {
			io.WriteString(s, "bye")
			s.CloseWrite()
			return
		}
		if err != nil {
			return
		}
		s.Write(append(b[:n:n], b[:n]...))
	}
}

func TestWebSocket(t *testing.T) {
	direct := newRig(t, tableLimits(), websocket)
	through, _ := chain(t, websocket)
	connect := func(path string) []string {
		return []string{
			":method", "CONNECT", ":protocol", "websocket", ":scheme", "http", ":authority", "a.example", ":path", path,
			"sec-websocket-version", "13", "sec-websocket-protocol", "chat",
		}
	}
	for name, r := range map[string]*rig{"direct": direct, "through": through} {
		t.Run(name, func(t *testing.T) {
			c := r.dial()
			c.request(1, false, connect("/")...)
			c.expect("headers 1 :status=200")
			for i := range 5 {
				c.fr.WriteData(1, false, make([]byte, 10+i))
				for n := 0; n < 2*(10+i); {
					var id, k int
					if _, err := fmt.Sscanf(c.next(), "data %d %d", &id, &k); err != nil || id != 1 {
						t.Fatal(id, k, err)
					}
					n += k
				}
			}
			c.fr.WriteData(1, true, nil)
			got := c.next()
			if got == "data 1 3" {
				got = strings.Replace(c.next(), "data 1 0", "data 1 3", 1)
			}
			if got != "data 1 3 end" {
				t.Error(got)
			}
			// A client that resets the stream is noticed.
			c.request(3, false, connect("/")...)
			c.expect("headers 3 :status=200")
			c.fr.WriteRSTStream(3, http2.ErrCodeCancel)
			// An answer that is none.
			c.request(5, false, connect("/bad")...)
			if got := c.next(); !strings.HasPrefix(got, "reset 5") && !strings.HasPrefix(got, "headers 5 :status=502") {
				t.Error(got)
			}
		})
	}
}

// An upstream that does not know tunnels is not asked for one.
func TestNoTunnel(t *testing.T) {
	k, _, _ := upstream(t, responseLimits(), http2.Setting{ID: http2.SettingEnableConnectProtocol, Val: 0})
	x := newExchange("GET", "/")
	x.Request.Upgrade = "websocket"
	done := trip(t, k, x)
	if err := <-done; !errors.Is(err, ErrNoTunnel) {
		t.Error(err)
	}
	if k.Take() {
		k.Drop()
	} else {
		t.Error("connection is of no use any more")
	}
}
