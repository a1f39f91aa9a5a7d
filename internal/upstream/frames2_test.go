package upstream

import (
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// framed is a connection to a service that writes frames itself.
type framed struct {
	*peer
	fr     *http2.Framer
	failed error
}

// newFrames starts a service of frames.
func newFrames(t testing.TB, serve func(*framed)) *service {
	t.Helper()
	return newService(t, func(p *peer) { serve(&framed{peer: p}) })
}

func (s *service) url2() string { return "h2c://" + s.ln.Addr().String() }

// begin reads the preface and sends settings.
func (c *framed) begin(settings ...http2.Setting) {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(c.Conn, preface); err != nil {
		c.failed = err
		return
	}
	c.fr = http2.NewFramer(c.Conn, c.Conn)
	c.fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	c.failed = c.fr.WriteSettings(settings...)
}

// next reads on to a request, and returns its stream, or 0 at the end. The
// request may still have a body.
func (c *framed) next() uint32 {
	for c.failed == nil {
		f, err := c.fr.ReadFrame()
		if err != nil {
			c.failed = err
			return 0
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				c.failed = c.fr.WriteSettingsAck()
			}
		case *http2.MetaHeadersFrame:
			return f.StreamID
		}
	}
	return 0
}

// ok answers 200.
func (c *framed) ok(id uint32) {
	err := c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, EndHeaders: true, BlockFragment: []byte{0x88}})
	c.failed = errors.Join(c.failed, err, c.fr.WriteData(id, true, []byte("hello")))
}

// answer answers the next request, if there is any.
func (c *framed) answer() bool {
	id := c.next()
	if id != 0 {
		c.ok(id)
	}
	return id != 0
}

const postABC = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"

// What a service says it did not act on is sent again, whatever the method.
func TestDeclinedRequestsAreSentAgain(t *testing.T) {
	for name, decline := range map[string]func(c *framed, id uint32){
		"by a reset": func(c *framed, id uint32) { c.failed = c.fr.WriteRSTStream(id, http2.ErrCodeRefusedStream) },
		"by the end": func(c *framed, _ uint32) { c.failed = c.fr.WriteGoAway(0, http2.ErrCodeNo, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int64
			s := newFrames(t, func(c *framed) {
				c.begin()
				for id := c.next(); id != 0; id = c.next() {
					if asked.Add(1) == 1 {
						decline(c, id)
					} else {
						c.ok(id)
					}
				}
			})
			r := newRig(t, settings(s.url2()))
			k := r.dial()
			k.send(postABC)
			k.wants(200, "hello")
			if u := <-r.seen; u.Attempts != 2 || asked.Load() != 2 {
				t.Errorf("%d attempts, %d requests", u.Attempts, asked.Load())
			}
			r.u.Retire()
			r.opens(0)
		})
	}
}

func TestServiceThatDeclinesEverything(t *testing.T) {
	var asked atomic.Int64
	s := newFrames(t, func(c *framed) {
		c.begin()
		for id := c.next(); id != 0; id = c.next() {
			asked.Add(1)
			c.failed = c.fr.WriteRSTStream(id, http2.ErrCodeRefusedStream)
		}
	})
	r := newRig(t, settings(s.url2()))
	k := r.dial()
	k.send(postABC)
	k.fails(503, "upstream_refused")
	if n := asked.Load(); n != 1+maxAgain {
		t.Errorf("%d requests", n)
	}
	r.u.Retire()
	r.opens(0)
	// Nothing was done, so another endpoint may have it.
	other := newWeb(t, helloWeb, nil)
	cfg := settings(s.url2(), other.url)
	r = newRig(t, cfg)
	k = r.dial()
	for range 4 {
		k.send(postABC)
		k.wants(200, "HTTP/2.0 abc")
	}
	r.u.Retire()
	r.opens(0)
}

func TestSharedConnectionsThatBreak(t *testing.T) {
	s := newFrames(t, func(c *framed) {
		c.begin()
		c.answer()
		c.next() // the second request ends the connection
	})
	r := newRig(t, settings(s.url2()))
	k := r.dial()
	k.send(get)
	k.wants(200, "hello")
	k.send(get) // the next connection serves it
	k.wants(200, "hello")
	k.send(postABC) // it may have been done
	k.fails(502, "upstream_reset")
	k.send(postABC)
	k.wants(200, "hello")
	r.u.Retire()
	r.opens(0)
}

func TestConnectionsThatAreDrained(t *testing.T) {
	drain := make(chan struct{})
	s := newFrames(t, func(c *framed) {
		c.begin()
		id := c.next()
		if c.number == 1 {
			c.failed = c.fr.WriteGoAway(id, http2.ErrCodeNo, nil) // this one is still served
			<-drain
		}
		c.ok(id)
		for c.answer() {
		}
	})
	r := newRig(t, settings(s.url2()))
	first, second := r.dial(), r.dial()
	first.send(get)
	r.opens(1)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		e := r.u.live.Load().members[0].e
		e.mu.Lock()
		n := len(e.shared)
		e.mu.Unlock()
		if n == 0 && s.connections() == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatal("the connection is still used")
		}
	}
	second.send(get)
	second.wants(200, "hello")
	close(drain)
	first.wants(200, "hello")
	r.opens(1)
	r.u.Retire()
	r.opens(0)
}

// The connection of one client must not carry what another one asks.
func TestSharedConnectionsAreOfOneClientWithAProxyHeader(t *testing.T) {
	s := newFrames(t, func(c *framed) {
		head := make([]byte, 12)
		if _, err := io.ReadFull(c.Conn, head); err != nil || string(head) != "PROXY UNKNOW" {
			t.Errorf("the connection begins with %q, %v", head, err)
			return
		}
		_, _ = io.ReadFull(c.Conn, head[:3])
		c.begin()
		for c.answer() {
		}
	})
	cfg := settings(s.url2())
	cfg.ProxyProtocol = "v1"
	r := newRig(t, cfg)
	k := r.dial()
	for range 2 {
		k.send(get)
		k.wants(200, "hello")
	}
	r.opens(0)
	if n := s.connections(); n != 2 {
		t.Errorf("%d connections", n)
	}
}
