package upstream

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
)

// When the time for an answer has passed it is the endpoint's fault if it was
// the endpoint that was waited for, and not if it was the client; whichever of
// the two connections notices it first.
func TestWhoseFaultALateAnswerIs(t *testing.T) {
	const long = 64 << 20
	// So much that how busy this machine is does not matter beside it.
	const dripping = 50 * ms
	counted := "HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n"
	chunked := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	drip := func(head, piece string) func(*peer) {
		return func(p *peer) {
			p.request()
			p.send(head)
			for {
				if _, err := io.WriteString(p, piece); err != nil {
					return
				}
				select {
				case <-p.over:
					return
				case <-time.After(dripping):
				}
			}
		}
	}
	// It sends more than all buffers on the way take.
	flood := func(p *peer) {
		p.request()
		p.send(counted)
		block := strings.Repeat("x", 1<<20)
		for n := 0; n < long; n += len(block) {
			if _, err := io.WriteString(p, block); err != nil {
				return
			}
		}
	}
	web := func(w http.ResponseWriter, r *http.Request) {
		for {
			if _, err := io.WriteString(w, "x"); err != nil || http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-r.Context().Done():
				return
			case <-time.After(dripping):
			}
		}
	}
	for _, c := range []struct {
		name  string
		serve func(*peer) // nil: it speaks HTTP/2
		within,
		requests int
		state string
	}{
		{"a service that drips", drip(counted, "x"), 500, 3, "ejected"},
		{"a service that drips chunks", drip(chunked, "1\r\nx\r\n"), 500, 3, "ejected"},
		{"a service that drips over HTTP/2", nil, 500, 3, "ejected"},
		{"a client that does not read", flood, 3000, 1, "healthy"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			url := ""
			if c.serve == nil {
				url = newWeb(t, web, nil).url
			} else {
				url = newService(t, c.serve).url()
			}
			cfg := settings(url)
			cfg.Timeout.Request = dur(time.Duration(c.within) * ms)
			outliers(func(o *config.Outlier) { o.ConsecutiveErrors, o.MaxEjected = c.requests, 1 })(cfg)
			r := newRig(t, cfg)
			for range c.requests {
				k := r.dial()
				k.send(get)
				if c.state == "ejected" {
					if _, err := io.Copy(io.Discard, k); err != nil {
						t.Log(err) // the answer is cut
					}
				}
				<-r.seen
				<-r.ended
				k.Close()
			}
			if e := r.u.Status().Endpoints[0]; e.State != c.state {
				t.Errorf("the endpoint is %s, %s", e.State, e.Reason)
			}
		})
	}
}

// The same under virtual time, for clients that read slowly rather than not at
// all, and for both kinds of bodies.
func TestWhoseFaultALateAnswerIsBySpeed(t *testing.T) {
	for _, c := range []struct {
		name            string
		service, client time.Duration // each piece takes
		state           string
	}{
		{"a slow service", 100 * ms, 0, "ejected"},
		{"a slow client", 0, 100 * ms, "healthy"},
		{"the service is slower", 100 * ms, 50 * ms, "ejected"},
		{"the client is slower", 50 * ms, 100 * ms, "healthy"},
	} {
		cfg := func(u *config.Upstream) {
			u.Timeout.Request = dur(2 * time.Second)
			outliers(func(o *config.Outlier) { o.ConsecutiveErrors, o.MaxEjected = 1, 1 })(u)
		}
		take := func(l *lab, x *exchange.Exchange) {
			for exchange.Now() < x.Times.Due {
				if _, err := x.Response.Body.Next(); err != nil {
					break
				}
				time.Sleep(c.client)
			}
			if err := x.Response.Body.Close(); err != nil {
				t.Error(err)
			}
			if e := l.u.Status().Endpoints[0]; e.State != c.state {
				t.Errorf("the endpoint is %s, %s", e.State, e.Reason)
			}
		}
		t.Run(c.name, func(t *testing.T) {
			inLab(t, cfg, 1, func(l *lab) {
				l.set(1, func(h *host) {
					h.answer = func(*http.Request) reply {
						return reply{raw: "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", piece: "x", each: c.service}
					}
				})
				x := exchange.Get()
				defer exchange.Put(x)
				x.Client, x.Down = &exchange.Client{}, silent{}
				x.Request.Method, x.Request.Authority, x.Request.Path, x.Request.Scheme = "GET", "shop.example", "/", "http"
				l.u.Serve(x)
				if x.Problem != nil {
					t.Fatal(x.Problem)
				}
				take(l, x)
			})
		})
		t.Run(c.name+", shared", func(t *testing.T) {
			inLab(t, cfg, 1, func(l *lab) {
				x := exchange.Get()
				defer exchange.Put(x)
				x.Client = &exchange.Client{}
				x.Times.Sent = exchange.Now()
				x.Times.FirstByte = x.Times.Sent
				x.Times.Due = x.Times.Sent + int64(2*time.Second)
				x.Response.Status, x.Response.Body = 200, &steady{x, c.service}
				e := l.u.live.Load().members[0].e
				if !e.begin() {
					t.Fatal("there is no place")
				}
				leased(e, x)
				take(l, x)
			})
		})
	}
}

// steady is a body without an end, each piece of which takes a while. As that of
// HTTP/2 it takes back, when it is closed, when the answer is due.
type steady struct {
	x    *exchange.Exchange
	each time.Duration
}

func (s *steady) Next() ([]byte, error) {
	time.Sleep(s.each)
	return []byte("x"), nil
}

func (s *steady) Close() error {
	s.x.Times.Due = 0
	return nil
}
