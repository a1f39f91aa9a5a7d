package h2

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

// timed is the client's end of a connection under virtual time.
type timed struct {
	*raw
	frames chan string // what came
	doing  sync.WaitGroup
}

// background does something that may have to wait.
func (c *timed) background(f func()) { c.doing.Go(f) }

// read reads what comes in the background.
func (c *timed) read() {
	c.background(func() {
		for {
			s := c.next()
			c.frames <- s
			if s == "end" {
				return
			}
		}
	})
}

func (c *timed) wants(t *testing.T, want ...string) {
	t.Helper()
	expect(t, func() string { return <-c.frames }, want...)
}

// inTime runs a test under virtual time, with one connection to a server.
func inTime(t *testing.T, l *Limits, handler func(*exchange.Exchange), f func(t *testing.T, c *timed, s *Server)) {
	inTimeOver(t, func(c net.Conn) net.Conn { return c }, l, handler, f)
}

// inTimeOver is inTime with a hand in the server's end of the connection.
func inTimeOver(t *testing.T, end func(net.Conn) net.Conn, l *Limits, handler func(*exchange.Exchange), f func(t *testing.T, c *timed, s *Server)) {
	synctest.Test(t, func(t *testing.T) {
		sweeper := wire.NewSweeper()
		s := &Server{Handler: handler}
		s.Limits.Store(l)
		here, there := net.Pipe()
		served := make(chan struct{})
		go func() {
			defer close(served)
			wc := wire.New(end(there), sweeper)
			wc.SetTimeout(time.Second) // of whoever had it before
			s.Serve(wc, &exchange.Client{})
		}()
		c := &timed{raw: newRaw(t, here), frames: make(chan string, 10000)}
		f(t, c, s)
		here.Close()
		<-served
		c.doing.Wait()
		sweeper.Close()
	})
}

// halfPipe is the end of a pipe that can be closed by half, of which the other
// end learns nothing.
type halfPipe struct{ net.Conn }

func (halfPipe) CloseWrite() error { return nil }

// greet sends preface and settings.
func (c *timed) greet(settings ...http2.Setting) {
	c.background(func() {
		io.WriteString(c.nc, preface)
		c.fr.WriteSettings(settings...)
		c.fr.WriteSettingsAck()
	})
	synctest.Wait()
}

func within(t *testing.T, since time.Time, want time.Duration) {
	t.Helper()
	if d := time.Since(since); d < want || d > want+3*wire.Tick {
		t.Errorf("it took %v, want %v", d, want)
	}
}

func TestIdleConnectionEnds(t *testing.T) {
	l := tableLimits()
	l.IdleTimeout = 30 * time.Second
	inTime(t, l, echo, func(t *testing.T, c *timed, _ *Server) {
		start := time.Now()
		c.read()
		c.greet()
		c.wants(t, "goaway 0 NO_ERROR", "end")
		within(t, start, l.IdleTimeout)
	})
}

func TestSlowStart(t *testing.T) {
	l := tableLimits()
	l.HeaderTimeout = 10 * time.Second
	for _, first := range []string{"", "PRI * HT", preface, preface + "\x00\x00\x06\x04\x00"} {
		inTime(t, l, echo, func(t *testing.T, c *timed, _ *Server) {
			start := time.Now()
			c.read()
			if first != "" {
				io.WriteString(c.nc, first)
			}
			c.wants(t, "end")
			within(t, start, l.HeaderTimeout)
		})
	}
}

func TestSlowHead(t *testing.T) {
	l := tableLimits()
	l.HeaderTimeout = 10 * time.Second
	for _, how := range []string{"drip", "continuation"} {
		inTime(t, l, echo, func(t *testing.T, c *timed, _ *Server) {
			c.read()
			c.greet()
			start := time.Now()
			block := append([]byte(nil), c.fields(with("x-a", strings.Repeat("b", 1000))...)...)
			c.background(func() {
				frame := appendFrame(nil, len(block), http2.FrameHeaders, http2.FlagHeadersEndStream, 1)
				if how == "drip" {
					for _, b := range append(frame, block...) {
						if _, err := c.nc.Write([]byte{b}); err != nil {
							return
						}
						time.Sleep(time.Second)
					}
					return
				}
				c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndStream: true})
				for range 10 {
					time.Sleep(3 * time.Second)
					if c.fr.WriteContinuation(1, false, c.fields("x-a", "b")) != nil {
						return
					}
				}
			})
			c.wants(t, "end")
			within(t, start, l.HeaderTimeout)
		})
	}
}

func TestSlowBody(t *testing.T) {
	for _, c := range []struct {
		name  string
		limit func(*Limits)
		every time.Duration
		want  time.Duration
	}{
		{"no progress", func(l *Limits) { l.IdleTimeout = 20 * time.Second }, time.Hour, 20 * time.Second},
		{"too slow", func(l *Limits) { l.BodyMinRate = 100 }, time.Second, rateGrace},
		{"fast enough", func(l *Limits) { l.BodyMinRate, l.IdleTimeout = 1, 2*time.Second }, time.Second, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := tableLimits()
			c.limit(l)
			inTime(t, l, echo, func(t *testing.T, h *timed, _ *Server) {
				h.read()
				h.greet()
				start := time.Now()
				h.background(func() {
					h.request(1, false, with(":method", "POST")...)
					for i := range 60 {
						h.fr.WriteData(1, i == 59, []byte("xx"))
						if i < 59 {
							time.Sleep(c.every)
						}
						if c.every == time.Hour {
							return
						}
					}
				})
				if c.want == 0 {
					h.wants(t, "headers 1 :status=200", "data 1 120 end")
					return
				}
				h.wants(t, "headers 1 :status=408")
				within(t, start, c.want)
			})
		})
	}
}

// A client that lets the answer wait, by its window or by not reading, is
// given up. One that waits for an answer is not.
func TestStalledReader(t *testing.T) {
	l := tableLimits()
	l.IdleTimeout = 20 * time.Second
	var broken chan error // made where time is virtual
	handler := func(x *exchange.Exchange) {
		x.Response.Status = 200
		x.Response.SetBody(make([]byte, 1<<20))
		if err := x.Down.WriteHead(x); err != nil {
			broken <- err
			return
		}
		_, err := x.Down.WriteFrom(x)
		x.Down.Abort()
		broken <- err
	}
	t.Run("no window", func(t *testing.T) {
		inTime(t, l, handler, func(t *testing.T, c *timed, _ *Server) {
			broken = make(chan error, 1)
			c.read()
			c.greet(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
			start := time.Now()
			c.request(1, true, simple...)
			c.wants(t, "headers 1 :status=200", "reset 1 INTERNAL_ERROR")
			within(t, start, l.IdleTimeout)
			if err := <-broken; !errors.Is(err, wire.ErrTimeout) {
				t.Error(err)
			}
		})
	})
	t.Run("a byte at a time", func(t *testing.T) {
		inTime(t, l, handler, func(t *testing.T, c *timed, _ *Server) {
			broken = make(chan error, 1)
			c.read()
			c.greet(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
			start := time.Now()
			c.request(1, true, simple...)
			stop := make(chan bool)
			c.background(func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(3 * time.Second):
						c.fr.WriteWindowUpdate(1, 1)
					}
				}
			})
			if err := <-broken; !errors.Is(err, wire.ErrTimeout) {
				t.Error(err)
			}
			close(stop)
			within(t, start, l.IdleTimeout)
		})
	})
	t.Run("not reading", func(t *testing.T) {
		inTime(t, l, handler, func(t *testing.T, c *timed, _ *Server) {
			broken = make(chan error, 1)
			go func() {
				b := make([]byte, 51+13+9+100) // what a server begins with
				c.nc.Read(b)
			}()
			c.greet(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 30})
			start := time.Now()
			c.background(func() { c.request(1, true, simple...) })
			if err := <-broken; err == nil {
				t.Error("no error")
			}
			within(t, start, l.IdleTimeout)
		})
	})
	t.Run("waiting", func(t *testing.T) {
		inTime(t, l, func(x *exchange.Exchange) {
			time.Sleep(time.Hour)
			reply(x, "late")
		}, func(t *testing.T, c *timed, _ *Server) {
			c.read()
			c.greet()
			c.request(1, true, simple...)
			c.wants(t, "headers 1 :status=200", "data 1 4 end")
		})
	})
}

// Clients that do not answer the PING are told the end of it all the same.
func TestDrainWithoutPong(t *testing.T) {
	var let chan bool // made where time is virtual
	inTime(t, tableLimits(), func(x *exchange.Exchange) { <-let; reply(x, "done") }, func(t *testing.T, c *timed, s *Server) {
		let = make(chan bool)
		c.read()
		c.greet()
		c.request(1, true, simple...)
		synctest.Wait()
		start := time.Now()
		s.Drain()
		c.wants(t, "goaway 2147483647 NO_ERROR")
		c.request(3, true, simple...) // it was on its way
		c.wants(t, "goaway 3 NO_ERROR")
		within(t, start, drainTime)
		// These are ignored, with all that belongs to them.
		c.request(5, true, simple...)
		c.request(7, false, with(":method", "POST")...)
		c.fr.WriteData(7, false, []byte("body"))
		c.fr.WriteWindowUpdate(7, 1)
		c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 7, BlockFragment: c.fields("x-trailer", "a"), EndHeaders: true, EndStream: true})
		c.request(9, false, with(":method", "POST")...)
		c.fr.WriteRSTStream(9, http2.ErrCodeCancel)
		synctest.Wait()
		let <- true
		let <- true
		for ended := 0; ended < 2; { // an answer's end may have a frame of its own
			got := <-c.frames
			if !strings.HasPrefix(got, "headers") && !strings.HasPrefix(got, "data") {
				t.Fatal(got)
			}
			if strings.HasSuffix(got, " end") {
				ended++
			}
		}
		c.wants(t, "end")
	})
}

// Who has misused the connection is not read from any more. His bytes wait
// until he is cut off, and so does he.
func TestOffenderIsHeld(t *testing.T) {
	half := func(c net.Conn) net.Conn { return halfPipe{c} }
	for _, c := range []struct {
		name string
		held int32 // others that are
		want time.Duration
	}{
		{"alone", 0, holdTime},
		{"the last one", mostHeld - 1, holdTime},
		{"one too many", mostHeld, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			inTimeOver(t, half, tableLimits(), echo, func(t *testing.T, h *timed, s *Server) {
				s.held.Store(c.held)
				h.read()
				h.greet()
				for range chatBurst + 1 {
					h.fr.WritePing(false, [8]byte{})
				}
				h.wants(t, "goaway 0 ENHANCE_YOUR_CALM")
				start := time.Now()
				if n, err := h.nc.Write([]byte{0}); err == nil {
					t.Errorf("%d bytes were read after the end", n)
				}
				within(t, start, c.want)
				synctest.Wait()
				if got := s.held.Load(); got != c.held {
					t.Errorf("%d are held, want %d", got, c.held)
				}
			})
		})
	}
	t.Run("cut", func(t *testing.T) {
		inTimeOver(t, half, tableLimits(), echo, func(t *testing.T, h *timed, s *Server) {
			h.read()
			h.greet()
			for range chatBurst + 1 {
				h.fr.WritePing(false, [8]byte{})
			}
			h.wants(t, "goaway 0 ENHANCE_YOUR_CALM")
			synctest.Wait()
			start := time.Now()
			s.Cut()
			h.wants(t, "end")
			within(t, start, 0)
		})
	})
}

// The upstream's limit for the whole exchange ends writing too, however patient
// the server is and whatever the client takes now and then. It is no limit of
// what comes after.
func TestDueAnswer(t *testing.T) {
	const limit = 10 * time.Second
	l := tableLimits()
	l.IdleTimeout = time.Hour
	var failed chan error // made where time is virtual
	inTime(t, l, func(x *exchange.Exchange) {
		x.Times.Due = exchange.Now() + int64(limit)
		if x.Request.Path == "/" {
			reply(x, "done")
			return
		}
		x.Response.Status, x.Response.Length = 200, exchange.Unknown
		err := x.Down.WriteHead(x)
		for err == nil {
			if err = x.Down.WriteBody(make([]byte, 4<<10)); err == nil {
				err = x.Down.Flush()
			}
		}
		x.Down.Abort()
		failed <- err
	}, func(t *testing.T, c *timed, _ *Server) {
		failed = make(chan error, 1)
		c.read()
		c.greet(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 8 << 10})
		start := time.Now()
		c.request(1, true, ":method", "GET", ":scheme", "http", ":authority", "a.example", ":path", "/long")
		for range 9 {
			time.Sleep(time.Second)
			c.fr.WriteWindowUpdate(1, 4<<10) // progress
		}
		if err := <-failed; !errors.Is(err, wire.ErrTimeout) {
			t.Error(err)
		}
		within(t, start, limit)
		for {
			got := <-c.frames
			if got == "reset 1 INTERNAL_ERROR" {
				break
			}
			if strings.HasPrefix(got, "data 1 ") && !strings.HasSuffix(got, "end") || got == "headers 1 :status=200" {
				continue
			}
			t.Fatal(got)
		}
		time.Sleep(10 * limit)
		c.request(3, true, simple...)
		c.wants(t, "headers 3 :status=200", "data 3 4 end")
	})
}

// An answer that waits behind a more urgent one is not given up while the
// client takes what it gets: it is not the client that stalls.
func TestWaitingBehindOthers(t *testing.T) {
	l := tableLimits()
	l.IdleTimeout = 20 * time.Second
	var failed chan error // made where time is virtual
	inTime(t, l, func(x *exchange.Exchange) {
		x.Response.Status, x.Response.Length = 200, exchange.Unknown
		err := x.Down.WriteHead(x)
		for err == nil {
			err = x.Down.WriteBody(make([]byte, 16<<10))
		}
		x.Down.Abort()
		failed <- err
	}, func(t *testing.T, c *timed, s *Server) {
		failed = make(chan error, 2)
		over := make(chan bool)
		start := time.Now()
		c.background(func() {
			p := make([]byte, 16<<10)
			for time.Since(start) < 5*l.IdleTimeout {
				if _, err := io.ReadFull(c.nc, p); err != nil {
					break
				}
				time.Sleep(time.Second)
			}
			close(over)
		})
		c.greet(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
		c.fr.WriteWindowUpdate(0, 1<<30)
		c.request(1, true, append(simple, "priority", "u=0")...)
		c.request(3, true, append(simple, "priority", "u=7")...)
		select {
		case err := <-failed:
			t.Errorf("after %v: %v", time.Since(start), err)
		case <-over:
		}
	})
}

// A tunnel is no answer: nothing of it is due.
func TestTunnelIsNotDue(t *testing.T) {
	const limit = 10 * time.Second
	inTime(t, tableLimits(), func(x *exchange.Exchange) {
		x.Times.Due = exchange.Now() + int64(limit)
		x.Response.Status = 101
		x.Response.Header.Set(acceptField, acceptOf(x.Request.Header.Known(exchange.SecWebSocketKey)))
		s, err := x.Down.Upgrade(x)
		if err != nil {
			t.Error(err)
			return
		}
		if _, err := s.Write([]byte("late")); err != nil {
			t.Error(err)
		}
	}, func(t *testing.T, c *timed, _ *Server) {
		c.read()
		c.greet(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		c.request(1, false, with(":method", "CONNECT", ":protocol", "websocket")...)
		c.wants(t, "headers 1 :status=200")
		time.Sleep(2 * limit)
		c.fr.WriteWindowUpdate(1, 10)
		c.wants(t, "data 1 4", "reset 1 CANCEL")
	})
}

// Requests that come after the end of a connection was announced are ignored,
// and still cost.
func TestFloodAfterTheEnd(t *testing.T) {
	inTime(t, tableLimits(), guardedWait, func(t *testing.T, c *timed, s *Server) {
		c.read()
		c.greet()
		c.request(1, true, simple...)
		synctest.Wait()
		s.Drain()
		c.wants(t, "goaway 2147483647 NO_ERROR", "goaway 1 NO_ERROR")
		for i := range resetBurst + 2*resetRate {
			if c.request(uint32(2*i+3), true, simple...) != nil {
				break
			}
		}
		c.wants(t, "goaway 1 ENHANCE_YOUR_CALM", "end")
	})
}
