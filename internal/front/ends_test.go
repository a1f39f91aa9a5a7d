package front

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
)

// waiter is what an exchange waits on until it is cancelled.
type waiter struct{ woken chan struct{} }

func (w waiter) Interrupt() { close(w.woken) }

// waitCanceled returns the reason for which the exchange is cancelled.
func waitCanceled(x *exchange.Exchange) error {
	w := waiter{make(chan struct{})}
	if err := x.Bind(w); err != nil {
		return err
	}
	<-w.woken
	_ = x.Bind(nil)
	return x.Canceled()
}

func TestHalfClosedClientsAreAnswered(t *testing.T) {
	each(t, func(t *testing.T, door string) {
		answer := make(chan struct{})
		k := newRig(t, listenerOf(door), func(x *exchange.Exchange) {
			if x.Request.Path == "/b" {
				<-answer
			}
			reply(x, x.Request.Path)
		}).dial(t)
		k.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /b HTTP/1.1\r\nHost: a\r\n\r\n")
		k.closeWrite()
		k.expect(200, "/a")
		close(answer)
		k.expect(200, "/b")
		k.expectEnd()
	})
}

func TestClientsThatGoCancel(t *testing.T) {
	for name, leave := range map[string]func(k *client){
		"by a reset": func(k *client) {
			if err := k.tcp().SetLinger(0); err != nil {
				k.t.Error(err)
			}
			k.tcp().Close()
		},
		"by half-closing for too long": func(k *client) { k.closeWrite() },
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, door string) {
				cfg := listenerOf(door)
				cfg.Limits.HalfCloseTimeout = config.Duration(100 * time.Millisecond)
				begun, reason := make(chan struct{}), make(chan error)
				k := newRig(t, cfg, func(x *exchange.Exchange) {
					readBody(x)
					close(begun)
					reason <- waitCanceled(x)
				}).dial(t)
				k.send(post("1\r\na\r\n0\r\n\r\n"))
				<-begun
				leave(k)
				if err := <-reason; !errors.Is(err, exchange.ErrClientGone) {
					t.Errorf("cancelled for %v", err)
				}
			})
		})
	}
}

func TestClientsThatGoWithinABody(t *testing.T) {
	for name, c := range map[string]struct {
		leave func(k *client)
		code  string
	}{
		"by a reset": {func(k *client) {
			if err := k.tcp().SetLinger(0); err != nil {
				k.t.Error(err)
			}
			k.tcp().Close()
		}, ""},
		"by half-closing": {func(k *client) { k.closeWrite() }, "body_cut"},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, door string) {
				begun, failed := make(chan struct{}), make(chan error, 1)
				canceled := make(chan error, 1)
				k := newRig(t, listenerOf(door), func(x *exchange.Exchange) {
					if _, err := x.Request.Body.Next(); err != nil {
						t.Error(err)
					}
					close(begun)
					var err error
					for err == nil {
						_, err = x.Request.Body.Next()
					}
					failed <- err
					canceled <- x.Canceled()
					x.Fail(&exchange.Problem{Status: 400})
					finish(x)
				}).dial(t)
				k.send(post("5\r\nhello\r\n5\r\nhe"))
				<-begun
				c.leave(k)
				err := <-failed
				var p *exchange.Problem
				if errors.As(err, &p) != (c.code != "") || p != nil && p.Code != c.code {
					t.Errorf("body ended with %v", err)
				}
				if err := <-canceled; (err != nil) != (c.code == "") {
					t.Errorf("cancelled: %v", err)
				}
			})
		})
	}
}

func TestBodyReaderCanBeStopped(t *testing.T) {
	each(t, func(t *testing.T, door string) {
		k := newRig(t, listenerOf(door), func(x *exchange.Exchange) {
			x.Request.Lent = true
			begun, stopped := make(chan struct{}), make(chan error)
			go func() {
				_, err := x.Request.Body.Next()
				close(begun)
				for err == nil {
					_, err = x.Request.Body.Next()
				}
				stopped <- err
			}()
			<-begun
			x.Request.Body.(exchange.Interrupter).Interrupt()
			err := <-stopped
			var p *exchange.Problem
			if errors.As(err, &p) || errors.Is(err, io.EOF) {
				t.Errorf("body ended with %v", err)
			}
			_ = x.Request.Body.Close()
			if err := x.Canceled(); err != nil {
				t.Error(err)
			}
			reply(x, "enough")
		}).dial(t)
		k.send(post("5\r\nhello\r\n"))
		if res := k.expect(200, "enough"); !res.Close {
			t.Error("connection stays")
		}
		k.send("5\r\nhello\r\n0\r\n\r\n" + simple)
		k.expectEnd()
	})
}

func TestSlowClientsAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		set    func(*config.Limits)
		sent   string
		status int
	}{
		"head":         {func(l *config.Limits) { l.HeaderTimeout = config.Duration(100 * time.Millisecond) }, "GET / HT", 408},
		"body":         {func(l *config.Limits) { l.IdleTimeout = config.Duration(100 * time.Millisecond) }, post("5\r\nhe"), 408},
		"counted body": {func(l *config.Limits) { l.IdleTimeout = config.Duration(100 * time.Millisecond) }, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhe", 408},
		"nothing":      {func(l *config.Limits) { l.IdleTimeout = config.Duration(100 * time.Millisecond) }, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, door string) {
				cfg := listenerOf(door)
				c.set(&cfg.Limits)
				k := newRig(t, cfg, echo).dial(t)
				k.send(c.sent)
				if c.status != 0 {
					if res, body := k.answer("GET"); res.StatusCode != c.status || !res.Close {
						t.Errorf("answer %d %q, close %v", res.StatusCode, body, res.Close)
					}
				}
				k.expectEnd()
			})
		})
	}
}

func TestIdleConnectionsEnd(t *testing.T) {
	each(t, func(t *testing.T, door string) {
		cfg := listenerOf(door)
		cfg.Limits.IdleTimeout = config.Duration(100 * time.Millisecond)
		k := newRig(t, cfg, echo).dial(t)
		for range 2 {
			k.send(simple)
			k.expect(200, "")
		}
		k.expectEnd()
	})
}

func TestReadersThatStopAreGone(t *testing.T) {
	each(t, func(t *testing.T, door string) {
		cfg := listenerOf(door)
		cfg.Limits.IdleTimeout = config.Duration(100 * time.Millisecond)
		failed := make(chan error, 1)
		k := newRig(t, cfg, func(x *exchange.Exchange) {
			x.Response.Status = 200
			x.Response.Body, x.Response.Length = &sized{large}, large
			err := x.Down.WriteHead(x)
			if err == nil {
				_, err = x.Down.WriteFrom(x)
			}
			failed <- err
		}).dial(t)
		k.send(simple)
		if err := <-failed; err == nil {
			t.Error("the answer was written without a reader")
		}
	})
}

func TestRefusalsAreReported(t *testing.T) {
	each(t, func(t *testing.T, door string) {
		r := newRig(t, listenerOf(door), echo)
		k := r.dial(t)
		k.send("GET / HTTP/1.1\r\n\r\n")
		k.answer("GET")
		k.expectEnd()
		if got := r.refusals(); !slices.Equal(got, []string{"malformed_request"}) {
			t.Errorf("refused %q", got)
		}
	})
}

func TestDrain(t *testing.T) {
	each(t, func(t *testing.T, door string) {
		begun, answer := make(chan struct{}), make(chan struct{})
		r := newRig(t, listenerOf(door), func(x *exchange.Exchange) {
			if x.Request.Path == "/slow" {
				close(begun)
				<-answer
			}
			reply(x, x.Request.Path)
		})
		idle, slow := r.dial(t), r.dial(t)
		idle.send(simple)
		idle.expect(200, "/")
		slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
		<-begun
		cut := make(chan int)
		go func() { cut <- r.f.Drain(context.Background()) }()
		idle.expectEnd()
		close(answer)
		if res := slow.expect(200, "/slow"); !res.Close {
			t.Error("answer does not say that the connection ends")
		}
		slow.expectEnd()
		if n := <-cut; n != 0 {
			t.Errorf("%d connections were cut", n)
		}
		if _, err := net.Dial(r.network, r.address); err == nil {
			t.Error("the listener is open")
		}
	})
}

func TestCut(t *testing.T) {
	each(t, func(t *testing.T, door string) {
		begun, reasons := make(chan struct{}, 2), make(chan error, 2)
		r := newRig(t, listenerOf(door), func(x *exchange.Exchange) {
			begun <- struct{}{}
			reasons <- waitCanceled(x)
		})
		reading, sending := r.dial(t), r.dial(t)
		reading.send(simple)
		sending.send(post("")) // its body is never read
		<-begun
		<-begun
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if n := r.f.Drain(ctx); n != 2 {
			t.Errorf("%d connections were cut", n)
		}
		for range 2 {
			if err := <-reasons; !errors.Is(err, exchange.ErrClientGone) {
				t.Errorf("cancelled for %v", err)
			}
		}
		for _, k := range []*client{reading, sending} {
			if rest, err := io.ReadAll(k.r); err == nil && len(rest) > 0 {
				t.Errorf("an answer came: %q", rest)
			}
		}
	})
}
