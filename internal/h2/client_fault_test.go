package h2

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

// upstream is the other end of a Client, that does as a test says.
func upstream(t *testing.T, l *ResponseLimits, settings ...http2.Setting) (*Client, *owner, *raw) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, o := dialClient(t, ln.Addr().String(), l)
	nc, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	u := newRaw(t, nc)
	got := make([]byte, len(preface))
	if _, err := io.ReadFull(nc, got); err != nil || string(got) != preface {
		t.Fatalf("%q %v", got, err)
	}
	u.fr.WriteSettings(settings...)
	u.fr.WriteSettingsAck()
	return c, o, u
}

// trip sends a request and tells what becomes of it.
func trip(t *testing.T, c *Client, x *exchange.Exchange) <-chan error {
	t.Helper()
	done := make(chan error, 1)
	if !c.Take() {
		t.Fatal("no place")
	}
	go func() { done <- c.RoundTrip(x, "up.example") }()
	return done
}

var ok = []string{":status", "200"}

func isMalformed(err error) bool { var m Malformed; return errors.As(err, &m) }
func isLost(err error) bool      { return errors.Is(err, ErrNoAnswer) && !Unsent(err) }
func isUnsent(err error) bool {
	return Unsent(err) && !Refused(err) && errors.Is(err, ErrNoAnswer)
}
func isRefused(err error) bool { return Unsent(err) && Refused(err) }
func isCut(err error) bool     { return errors.Is(err, ErrCut) }

var upstreamFaults = []struct {
	name string
	do   func(u *raw)
	head func(error) bool // of RoundTrip's error, nil for none
	body func(error) bool // of the body's, nil for none
}{
	{"no status", func(u *raw) { u.request(1, true, "x-a", "b") }, isMalformed, nil},
	{"status of four digits", func(u *raw) { u.request(1, true, ":status", "2000") }, isMalformed, nil},
	{"status 101", func(u *raw) { u.request(1, false, ":status", "101") }, isMalformed, nil},
	{"interim answer that ends", func(u *raw) { u.request(1, true, ":status", "103") }, isMalformed, nil},
	{"method of an answer", func(u *raw) { u.request(1, true, ":method", "GET", ":status", "200") }, isMalformed, nil},
	{"name in upper case", func(u *raw) { u.request(1, true, ":status", "200", "X-A", "b") }, isMalformed, nil},
	{"value with CRLF", func(u *raw) { u.request(1, true, ":status", "200", "x-a", "b\r\nc: d") }, isMalformed, nil},
	{"connection field", func(u *raw) { u.request(1, true, ":status", "200", "connection", "close") }, isMalformed, nil},
	{"length twice", func(u *raw) { u.request(1, false, ":status", "200", "content-length", "1", "content-length", "1") }, isMalformed, nil},
	{"fields in number", func(u *raw) {
		u.request(1, true, append(ok, strings.Fields(strings.Repeat("x-a b ", 200))...)...)
	}, isMalformed, nil},
	{"interim answers without end", func(u *raw) {
		for range 1000 {
			if u.request(1, false, ":status", "103") != nil {
				return
			}
		}
	}, isMalformed, nil},
	{"body before the head", func(u *raw) { u.fr.WriteData(1, true, []byte("x")) }, isMalformed, nil},
	{"reset", func(u *raw) { u.fr.WriteRSTStream(1, http2.ErrCodeInternal) }, isLost, nil},
	{"refused", func(u *raw) { u.fr.WriteRSTStream(1, http2.ErrCodeRefusedStream) }, isRefused, nil},
	{"going away before it", func(u *raw) { u.fr.WriteGoAway(0, http2.ErrCodeNo, nil) }, isRefused, nil},
	{"closed", func(u *raw) { u.nc.Close() }, isUnsent, nil},
	{"nonsense", func(u *raw) { io.WriteString(u.nc, "HTTP/1.1 400 Bad Request\r\n\r\n") }, isUnsent, nil},
	{"push", func(u *raw) { u.fr.WritePushPromise(http2PushParam(1, u.fields(simple...))) }, isUnsent, nil},
	{"going away after it", func(u *raw) {
		u.fr.WriteGoAway(1, http2.ErrCodeNo, nil)
		u.request(1, false, ok...)
		u.fr.WriteData(1, true, []byte("whole"))
	}, nil, nil},
	{"cut by a reset", func(u *raw) {
		u.request(1, false, ok...)
		u.fr.WriteData(1, false, []byte("half"))
		u.fr.WriteRSTStream(1, http2.ErrCodeInternal)
	}, nil, isCut},
	{"cut by the end", func(u *raw) {
		u.request(1, false, ok...)
		u.fr.WriteData(1, false, []byte("half"))
		u.nc.Close()
	}, nil, isCut},
	{"shorter than it says", func(u *raw) {
		u.request(1, false, ":status", "200", "content-length", "10")
		u.fr.WriteData(1, true, []byte("half"))
	}, nil, isMalformed},
	{"longer than it says", func(u *raw) {
		u.request(1, false, ":status", "200", "content-length", "2")
		u.fr.WriteData(1, true, []byte("half"))
	}, nil, isMalformed},
	{"body of status 204", func(u *raw) {
		u.request(1, false, ":status", "204")
		u.fr.WriteData(1, true, []byte("half"))
	}, nil, isMalformed},
	{"trailer without end", func(u *raw) {
		u.request(1, false, ok...)
		u.request(1, false, "x-a", "b")
	}, nil, isMalformed},
	{"status as a trailer", func(u *raw) {
		u.request(1, false, ok...)
		u.request(1, true, ":status", "200")
	}, nil, isMalformed},
	{"more than the window", func(u *raw) {
		u.request(1, false, ok...)
		for range 8 {
			u.fr.WriteData(1, false, make([]byte, maxFrame))
		}
		// Now nothing comes any more that could be wrong.
		u.until("reset 1 FLOW_CONTROL_ERROR")
	}, nil, isMalformed},
}

func TestUpstreamFaults(t *testing.T) {
	for _, c := range upstreamFaults {
		t.Run(c.name, func(t *testing.T) {
			k, o, u := upstream(t, responseLimits())
			x := newExchange("GET", "/")
			done := trip(t, k, x)
			if got := u.next(); !strings.HasPrefix(got, "headers 1") {
				t.Fatal(got)
			}
			c.do(u)
			err := <-done
			if c.head != nil {
				if !c.head(err) {
					t.Errorf("%v", err)
				}
			} else if err != nil {
				t.Fatal(err)
			} else {
				if c.name != "more than the window" {
					_, err = readAnswer(x)
				} else {
					err = drainAnswer(x)
				}
				if c.body == nil && err != nil || c.body != nil && !c.body(err) {
					t.Errorf("%v", err)
				}
				x.Response.Body.Close()
			}
			o.mu.Lock()
			defer o.mu.Unlock()
			if k.taken != 0 || o.freed != 1 {
				t.Errorf("%d places taken, %d freed", k.taken, o.freed)
			}
		})
	}
}

func drainAnswer(x *exchange.Exchange) error {
	for {
		if _, err := x.Response.Body.Next(); err != nil {
			return err
		}
	}
}

// What an upstream refused is still there to be sent again.
func TestRefusedBodyIsGivenBack(t *testing.T) {
	k, _, u := upstream(t, responseLimits())
	x := newExchange("POST", "/")
	x.Request.Body, x.Request.Length = exchange.Bytes([]byte("hello")), 5
	done := trip(t, k, x)
	u.until("data 1 5 end")
	u.fr.WriteRSTStream(1, http2.ErrCodeRefusedStream)
	if err := <-done; !Refused(err) {
		t.Fatal(err)
	}
	if p, err := x.Request.Body.Next(); string(p) != "hello" || err != nil {
		t.Errorf("%q %v", p, err)
	}

	// One that is streamed is not.
	x = newExchange("POST", "/")
	f := newFed()
	x.Request.Body, x.Request.Length = f, exchange.Unknown
	done = trip(t, k, x)
	f.c <- []byte("hello")
	u.until("data 3 5")
	u.fr.WriteRSTStream(3, http2.ErrCodeRefusedStream)
	if err := <-done; Unsent(err) || !errors.Is(err, ErrNoAnswer) {
		t.Fatal(err)
	}
}

func TestUpstreamTimeouts(t *testing.T) {
	t.Run("first byte", func(t *testing.T) {
		l := responseLimits()
		l.FirstByte = 50 * time.Millisecond
		k, _, u := upstream(t, l)
		x := newExchange("GET", "/")
		if err := <-trip(t, k, x); !errors.Is(err, wire.ErrTimeout) {
			t.Error(err)
		}
		u.until("reset 1 CANCEL")
		// It is asked whether anybody is there before it gets another request.
		if k.Take() {
			t.Error("place on a connection in doubt")
		}
	})
	t.Run("request", func(t *testing.T) {
		l := responseLimits()
		l.Request = 50 * time.Millisecond
		k, _, u := upstream(t, l)
		x := newExchange("GET", "/")
		done := trip(t, k, x)
		u.next()
		u.request(1, false, ":status", "200")
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if _, err := readAnswer(x); !errors.Is(err, wire.ErrTimeout) {
			t.Error(err)
		}
		x.Response.Body.Close()
		u.until("reset 1 CANCEL")
	})
	t.Run("idle", func(t *testing.T) {
		l := responseLimits()
		l.Idle = 50 * time.Millisecond
		k, _, u := upstream(t, l)
		x := newExchange("GET", "/")
		done := trip(t, k, x)
		u.next()
		u.request(1, false, ":status", "200")
		u.fr.WriteData(1, false, []byte("half"))
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if got, err := readAnswer(x); !errors.Is(err, wire.ErrTimeout) || got != "half" {
			t.Error(got, err)
		}
		x.Response.Body.Close()
	})
	t.Run("body that is not read", func(t *testing.T) {
		l := responseLimits()
		l.Idle = 50 * time.Millisecond
		k, _, _ := upstream(t, l, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10})
		x := newExchange("POST", "/")
		x.Request.Body, x.Request.Length = exchange.Bytes(make([]byte, 1<<20)), 1<<20
		if err := <-trip(t, k, x); !errors.Is(err, wire.ErrTimeout) {
			t.Error(err)
		}
	})
}

func TestCancel(t *testing.T) {
	k, _, u := upstream(t, responseLimits())
	for i, when := range []string{"before", "waiting", "reading", "sending"} {
		x := newExchange("GET", "/")
		if when == "before" {
			x.Cancel(exchange.ErrClientGone)
			if err := <-trip(t, k, x); !errors.Is(err, exchange.ErrClientGone) {
				t.Error(when, err)
			}
			continue
		}
		if when == "sending" {
			x.Request.Body, x.Request.Length = exchange.Bytes(make([]byte, 1<<20)), 1<<20
		}
		done := trip(t, k, x)
		for {
			if got := u.next(); when != "sending" || strings.HasPrefix(got, "data") {
				break
			}
		}
		if when == "reading" {
			u.request(uint32(2*i-1), false, ":status", "200")
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			read := make(chan error)
			go func() { _, err := x.Response.Body.Next(); read <- err }()
			x.Cancel(exchange.ErrClientGone)
			if err := <-read; !errors.Is(err, exchange.ErrClientGone) {
				t.Error(when, err)
			}
			x.Response.Body.Close()
		} else {
			x.Cancel(exchange.ErrClientGone)
			if err := <-done; !errors.Is(err, exchange.ErrClientGone) {
				t.Error(when, err)
			}
		}
		for {
			if got := u.next(); strings.HasSuffix(got, "CANCEL") {
				break
			}
		}
		exchange.Put(x)
	}
}

func TestPlaces(t *testing.T) {
	k, o, u := upstream(t, responseLimits(), http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 2})
	u.fr.WritePing(false, [8]byte{1})
	for {
		f, err := u.fr.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if p, ok := f.(*http2.PingFrame); ok && p.IsAck() {
			break // the settings have been read
		}
	}
	if !k.Take() || k.Full() || !k.Take() || k.Take() || !k.Full() {
		t.Error("two places are not two places")
	}
	k.Drop()
	if k.Full() || !k.Take() {
		t.Error("place was not given back")
	}
	if k.Idle() != 0 {
		t.Error("idle")
	}
	k.Drop()
	k.Drop()
	k.Shut()
	if k.Take() || k.Alive() {
		t.Error("place on a connection that was shut")
	}
	<-o.gone
	u.until("goaway 0 NO_ERROR")
	u.until("end")
	o.gone = make(chan struct{})
	close(o.gone)
}

// TestUpstreamFloods trusts an upstream no more than a client.
func TestUpstreamFloods(t *testing.T) {
	for name, flood := range map[string]func(u *raw, i int) error{
		"pings":    func(u *raw, _ int) error { return u.fr.WritePing(false, [8]byte{}) },
		"settings": func(u *raw, _ int) error { return u.fr.WriteSettings() },
		"updates":  func(u *raw, _ int) error { return u.fr.WriteWindowUpdate(0, 1) },
		"unknown":  func(u *raw, _ int) error { return u.fr.WriteRawFrame(0xbb, 0, 0, nil) },
		"empty data": func(u *raw, i int) error {
			if i == 0 {
				return u.request(1, false, ok...)
			}
			return u.fr.WriteData(1, false, nil)
		},
		"continuation": func(u *raw, i int) error {
			if i == 0 {
				return u.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: u.fields(ok...)})
			}
			return u.fr.WriteContinuation(1, false, nil)
		},
		"references": func(u *raw, i int) error {
			if i == 0 {
				return u.request(1, false, append(ok, "x-big", strings.Repeat("z", 3900))...)
			}
			block := []byte{}
			for range 12000 {
				block = append(block, 0x80|62) // the newest entry of the table
			}
			return u.fr.WriteHeaders(headersParam(uint32(2*i+1), block))
		},
	} {
		t.Run(name, func(t *testing.T) {
			k, o, u := upstream(t, responseLimits())
			x := newExchange("GET", "/")
			done := trip(t, k, x)
			u.until("headers 1 end")
			reading := make(chan bool)
			go func() {
				defer close(reading)
				for {
					if got := u.next(); got == "end" || strings.HasPrefix(got, "goaway") {
						u.nc.Close()
						return
					}
				}
			}()
			before, i := heap(), 0
			for ; i < 300000 && flood(u, i) == nil; i++ {
				if i == 5000 {
					if grown := heap() - before; grown > 4<<20 {
						t.Errorf("%d bytes more", grown)
					}
				}
			}
			if i == 300000 {
				t.Error("was not stopped")
			}
			<-reading
			if err := <-done; err == nil {
				if _, err := readAnswer(x); err == nil {
					t.Error("answer is whole")
				}
				x.Response.Body.Close()
			}
			<-o.gone
			o.gone = make(chan struct{})
			close(o.gone)
		})
	}
}
