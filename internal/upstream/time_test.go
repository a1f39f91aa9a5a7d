package upstream

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
)

const short = config.Duration(200 * time.Millisecond)

// hang answers nothing.
func hang(p *peer) { io.Copy(io.Discard, p.r) }

func TestTimeouts(t *testing.T) {
	head := ok + "Content-Length: 1000000\r\n\r\n"
	drip := func(p *peer) {
		p.request()
		p.send(head)
		for {
			if _, err := p.Write([]byte("x")); err != nil {
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
	unread := func(p *peer) {
		p.request()
		<-p.over
	}
	post := func(framing string) string {
		return "POST / HTTP/1.1\r\nHost: a.example\r\n" + framing + "\r\n\r\n"
	}
	long := strings.Repeat("x", 16<<20)
	for _, c := range []struct {
		name    string
		timeout config.Timeout
		serve   func(*peer)
		request string
		status  int // 200: the answer is cut
	}{
		{"no answer", config.Timeout{FirstByte: short}, hang, get, 504},
		{"no answer to a body", config.Timeout{FirstByte: short}, hang, post("Content-Length: 5") + "hello", 504},
		{"no answer to chunks", config.Timeout{FirstByte: short}, hang, post("Transfer-Encoding: chunked") + "0\r\n\r\n", 504},
		{"no answer at all in time", config.Timeout{Request: short}, hang, get, 504},
		{"half a head", config.Timeout{FirstByte: short}, func(p *peer) { p.request(); p.send(ok); hang(p) }, get, 504},
		{"interim answers only", config.Timeout{FirstByte: short}, func(p *peer) {
			p.request()
			for range 20 {
				p.send("HTTP/1.1 103 Early Hints\r\n\r\n")
				time.Sleep(20 * time.Millisecond)
			}
			hang(p)
		}, get, 504},
		{"body stalls", config.Timeout{Idle: short}, func(p *peer) { p.request(); p.send(head); hang(p) }, get, 200},
		{"body drips", config.Timeout{Request: short, Idle: config.Duration(time.Minute)}, drip, get, 200},
		{"nobody reads the request", config.Timeout{Idle: short}, unread, post("Content-Length: 16777216") + long, 504},
		{"nobody reads the chunks", config.Timeout{Idle: short}, unread, post("Transfer-Encoding: chunked") + "1000000\r\n" + long + "\r\n0\r\n\r\n", 504},
		{"request takes too long", config.Timeout{Request: short}, hang, post("Content-Length: 10") + "hello", 504},
		{"long request takes too long", config.Timeout{Request: short}, hang, post("Content-Length: 1000000") + "hello", 504},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newService(t, c.serve)
			cfg := settings(s.url())
			cfg.Timeout = c.timeout
			r := newRig(t, cfg)
			k := r.dial()
			go io.WriteString(k, c.request) // it may be refused in the middle
			if c.status == 504 {
				k.fails(504, "upstream_timeout")
			} else if res, _, err := k.answer("GET"); res.StatusCode != 200 || err == nil {
				t.Errorf("%d, %v", res.StatusCode, err)
			}
			if p := <-r.ended; p == nil || p.Side != exchange.SideUpstream {
				t.Errorf("problem %v", p)
			}
			r.opens(0)
		})
	}
}

// What is in time is not cut: each part may take its own time.
func TestProgressKeepsTimeoutsAway(t *testing.T) {
	const steps, step = 15, 100 * time.Millisecond
	for _, size := range []int{15, 150_000} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			s := newService(t, func(p *peer) {
				io.Copy(io.Discard, p.request().Body)
				p.send(fmt.Sprintf("%sContent-Length: %d\r\n\r\n", ok, size))
				for range steps {
					time.Sleep(step)
					p.send(strings.Repeat("x", size/steps))
				}
			})
			cfg := settings(s.url())
			cfg.Timeout = config.Timeout{FirstByte: config.Duration(time.Second), Idle: config.Duration(time.Second)}
			r := newRig(t, cfg)
			k := r.dial()
			k.send(fmt.Sprintf("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: %d\r\n\r\n", size))
			for range steps { // the first byte is due when all is sent
				time.Sleep(step)
				k.send(strings.Repeat("y", size/steps))
			}
			if _, body, err := k.answer("POST"); len(body) != size || err != nil {
				t.Fatalf("%d bytes, %v: %.300s", len(body), err, body)
			}
		})
	}
}

// A client that stalls is the one at fault, even when the upstream's patience
// is as long as its own.
func TestClientStalls(t *testing.T) {
	t.Parallel()
	for _, size := range []int{10, 1_000_000} {
		s := newService(t, hang)
		cfg := settings(s.url())
		cfg.Timeout = config.Timeout{Idle: short}
		r := newRig(t, cfg)
		l := *r.s.Limits.Load()
		l.IdleTimeout = short.D()
		r.s.Limits.Store(&l)
		k := r.dial()
		k.send(fmt.Sprintf("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: %d\r\n\r\nhello", size))
		k.fails(408, "body_timeout")
	}
}

func TestConnectTimeout(t *testing.T) {
	t.Parallel()
	// A listener whose queue is full does not answer to a SYN any more.
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	full := fillQueue(t, ln)
	defer full()
	cfg := settings("http://" + ln.Addr().String())
	cfg.Connections.ConnectTimeout = short
	r := newRig(t, cfg)
	k := r.dial()
	k.send(get)
	k.fails(504, "upstream_connect_timeout")
	if p := <-r.ended; p.Side != exchange.SideUpstream {
		t.Errorf("problem %v", p)
	}
	r.opens(0)

	// A client need not wait for that.
	cfg.Connections.ConnectTimeout = config.Duration(time.Minute)
	r = newRig(t, cfg)
	k = r.dial()
	k.send(get)
	time.Sleep(50 * time.Millisecond) // most likely it is connecting now; either way is right
	k.SetLinger(0)
	k.Close()
	if p := <-r.ended; p == nil || p.Status != exchange.StatusClientGone {
		t.Errorf("problem %v", p)
	}
}
