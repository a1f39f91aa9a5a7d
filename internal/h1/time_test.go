package h1

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

// slack is how much later than asked a timeout may come.
const slack = 3 * wire.Tick

// timedClient is the client's end of a connection.
type timedClient struct {
	net.Conn
	writers sync.WaitGroup
}

// drip writes a byte at a time until the other side has had enough.
func (c *timedClient) drip(s string, every time.Duration) {
	c.writers.Go(func() {
		for i := range len(s) {
			if _, err := io.WriteString(c, s[i:i+1]); err != nil {
				return
			}
			time.Sleep(every)
		}
	})
}

// send writes without waiting for the other side to read.
func (c *timedClient) send(s string) {
	c.writers.Go(func() {
		// The other side may have had enough before all is written.
		_, _ = io.WriteString(c, s)
	})
}

// inTime runs a test under virtual time, with one connection to a server.
func inTime(t *testing.T, l *Limits, handler func(*exchange.Exchange), f func(t *testing.T, nc *timedClient)) {
	synctest.Test(t, func(t *testing.T) {
		sweeper := wire.NewSweeper()
		s := &Server{Handler: handler}
		s.Limits.Store(l)
		here, there := net.Pipe()
		served := make(chan struct{})
		go func() {
			defer close(served)
			s.Serve(wire.New(there, sweeper), &exchange.Client{})
		}()
		c := &timedClient{Conn: here}
		f(t, c)
		here.Close()
		<-served
		c.writers.Wait()
		sweeper.Close()
	})
}

func within(t *testing.T, since time.Time, want time.Duration) {
	t.Helper()
	if d := time.Since(since); d < want || d > want+slack {
		t.Errorf("it took %v, want %v", d, want)
	}
}

func TestSlowHead(t *testing.T) {
	l := tableLimits()
	l.HeaderTimeout = 10 * time.Second
	inTime(t, l, echo, func(t *testing.T, nc *timedClient) {
		start := time.Now()
		nc.drip("GET / HTTP/1.1\r\nHost: "+strings.Repeat("a", 1000), time.Second)
		res, err := http.ReadResponse(bufio.NewReader(nc), nil)
		if err != nil || res.StatusCode != 408 {
			t.Fatalf("%v %v", res, err)
		}
		within(t, start, l.HeaderTimeout)
	})
}

func TestIdleConnectionEndsWithoutAWord(t *testing.T) {
	l := tableLimits()
	l.IdleTimeout = 30 * time.Second
	for _, first := range []string{"", "\r\n", "\r"} {
		inTime(t, l, echo, func(t *testing.T, nc *timedClient) {
			start := time.Now()
			want := l.IdleTimeout
			if first != "" {
				if _, err := io.WriteString(nc, first); err != nil {
					t.Fatal(err)
				}
				want = l.HeaderTimeout
			}
			if got, err := io.ReadAll(nc); len(got) > 0 || err != nil {
				t.Fatalf("%q: %q %v", first, got, err)
			}
			within(t, start, want)
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
		{"at pace for a while", func(l *Limits) { l.BodyMinRate = 100 }, 0, 10 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := tableLimits()
			c.limit(l)
			for _, framing := range []string{"Content-Length: 60000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\nea60\r\n"} {
				inTime(t, l, echo, func(t *testing.T, nc *timedClient) {
					start := time.Now()
					if _, err := io.WriteString(nc, "POST / HTTP/1.1\r\nHost: a\r\n"+framing); err != nil {
						t.Fatal(err)
					}
					if c.every == 0 {
						nc.send(strings.Repeat("x", 1000)) // ten seconds' worth at once
					} else {
						nc.drip(strings.Repeat("x", 60000), c.every)
					}
					res, err := http.ReadResponse(bufio.NewReader(nc), nil)
					if err != nil || res.StatusCode != 408 {
						t.Fatalf("%v %v", res, err)
					}
					within(t, start, c.want)
				})
			}
		})
	}
}

// A body that waits because nobody reads it is not the client's fault.
func TestSlowReaderOfABodyIsNotTheClientsFault(t *testing.T) {
	l := tableLimits()
	l.BodyMinRate = 100
	inTime(t, l, func(x *exchange.Exchange) {
		time.Sleep(time.Hour)
		echo(x)
	}, func(t *testing.T, nc *timedClient) {
		nc.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20000\r\n\r\n" + strings.Repeat("x", 20000))
		res, err := http.ReadResponse(bufio.NewReader(nc), nil)
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("%v %v", res, err)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			t.Fatal(err)
		}
	})
}

func TestStalledReaderOfAnAnswer(t *testing.T) {
	l := tableLimits()
	l.IdleTimeout = 30 * time.Second
	var failed atomic.Value
	inTime(t, l, func(x *exchange.Exchange) {
		x.Response.Status, x.Response.Length = 200, 1<<20
		err := x.Down.WriteHead(x)
		for err == nil {
			err = x.Down.WriteBody(make([]byte, 4096))
		}
		failed.Store(err)
		x.Down.Abort()
	}, func(t *testing.T, nc *timedClient) {
		if _, err := io.WriteString(nc, simple); err != nil {
			t.Fatal(err)
		}
		time.Sleep(l.IdleTimeout - time.Second)
		if err := failed.Load(); err != nil {
			t.Fatalf("too early: %v", err)
		}
		time.Sleep(time.Second + slack)
		if err, ok := failed.Load().(error); !ok || !errors.Is(err, wire.ErrTimeout) {
			t.Fatal(err)
		}
	})
}

// The upstream's limit for the whole exchange ends writing too, however patient
// the listener is and whatever the client takes now and then.
func TestDueAnswer(t *testing.T) {
	const limit = 10 * time.Second
	l := tableLimits()
	l.IdleTimeout = time.Hour
	var failed atomic.Value
	var took atomic.Int64
	inTime(t, l, func(x *exchange.Exchange) {
		if x.Request.Path == "/quick" {
			x.Times.Due = exchange.Now() + int64(limit)
			reply(x, "done")
			return
		}
		if x.Request.Path == "/late" {
			x.Times.Due = exchange.Now() + int64(limit)
		}
		start := time.Now()
		x.Response.Status, x.Response.Length = 200, 1<<20
		err := x.Down.WriteHead(x)
		for err == nil {
			err = x.Down.WriteBody(make([]byte, 4096))
		}
		took.Store(int64(time.Since(start)))
		failed.Store(err)
		x.Down.Abort()
	}, func(t *testing.T, nc *timedClient) {
		r := bufio.NewReader(nc)
		ask := func(path string) {
			if _, err := io.WriteString(nc, "GET "+path+" HTTP/1.1\r\nHost: a\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
		}
		ask("/quick")
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			t.Fatal(err)
		}
		// The limit of one answer is not that of what comes after it.
		time.Sleep(10 * limit)
		ask("/late")
		p := make([]byte, 100)
		for range 9 {
			if _, err := nc.Read(p); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
		}
		if err := failed.Load(); err != nil {
			t.Fatalf("too early: %v", err)
		}
		if _, err := io.Copy(io.Discard, &pausing{nc, 2 * time.Second}); err != nil {
			t.Fatal(err)
		}
		if err, ok := failed.Load().(error); !ok || !errors.Is(err, wire.ErrTimeout) {
			t.Fatal(err)
		}
		if d := time.Duration(took.Load()); d < limit || d > limit+slack {
			t.Errorf("it took %v, want %v", d, limit)
		}
	})
}

// pausing reads a little, and then rests.
type pausing struct {
	net.Conn
	rest time.Duration
}

func (p *pausing) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b[:min(len(b), 100)])
	time.Sleep(p.rest)
	return n, err
}

func TestSlowReaderOfAnAnswerIsServed(t *testing.T) {
	l := tableLimits()
	l.IdleTimeout = 30 * time.Second
	inTime(t, l, func(x *exchange.Exchange) { reply(x, strings.Repeat("x", 100000)) }, func(t *testing.T, nc *timedClient) {
		nc.send(simple)
		n := 0
		for p := make([]byte, 1000); n < 100000; time.Sleep(20 * time.Second) {
			k, err := nc.Read(p)
			if err != nil {
				t.Fatal(err)
			}
			n += k
		}
	})
}

func TestUnreadBodyIsDrainedForALimitedTime(t *testing.T) {
	l := tableLimits()
	inTime(t, l, func(x *exchange.Exchange) { reply(x, "") }, func(t *testing.T, nc *timedClient) {
		r := bufio.NewReader(nc)
		if _, err := io.WriteString(nc, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := http.ReadResponse(r, nil); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		nc.drip(strings.Repeat("x", 1000), 100*time.Millisecond)
		if _, err := r.ReadByte(); err != io.EOF {
			t.Fatal(err)
		}
		within(t, start, drainTime)
	})
}

func TestDateFollowsTheClock(t *testing.T) {
	inTime(t, tableLimits(), echo, func(t *testing.T, nc *timedClient) {
		r := bufio.NewReader(nc)
		for range 5 {
			if _, err := io.WriteString(nc, simple); err != nil {
				t.Fatal(err)
			}
			res, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			at, err := http.ParseTime(res.Header.Get("Date"))
			if err != nil {
				t.Fatal(err)
			}
			if d := time.Since(at); d < 0 || d > 2500*time.Millisecond {
				t.Fatalf("Date is %v behind", d)
			}
			time.Sleep(7 * time.Second)
		}
	})
}
