package h1

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

// The limit of one try ends with the answer's head; what is left of the whole
// holds for the body.
func TestLimitOfATry(t *testing.T) {
	const short = 200 * time.Millisecond
	half := func(nc net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			io.WriteString(nc, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe")
		}
		io.Copy(io.Discard, r)
	}
	silent := func(_ net.Conn, r *bufio.Reader) { io.Copy(io.Discard, r) }
	for _, c := range []struct {
		name   string
		serve  func(net.Conn, *bufio.Reader)
		limits ResponseLimits
		head   bool // it comes
	}{
		{"no head", silent, ResponseLimits{Try: short}, false},
		{"no head, and a longer whole", silent, ResponseLimits{Try: short, Request: time.Hour}, false},
		{"no head, and a shorter whole", silent, ResponseLimits{Try: time.Hour, Request: short}, false},
		{"a head, and the whole is over", half, ResponseLimits{Try: time.Hour, Request: short}, true},
		{"a head, and the body stands still", half, ResponseLimits{Try: time.Hour, Idle: short}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			client, _ := newClient(t, c.serve)
			c.limits.HeaderBytes, c.limits.Headers = 8192, 50
			client.SetLimits(&c.limits)
			x := request(t, "GET", 0, exchange.NoBody)
			err := client.RoundTrip(x, "a.example", false)
			if !c.head {
				if !errors.Is(err, wire.ErrTimeout) {
					t.Error(err)
				}
				client.Close()
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			for err == nil {
				_, err = x.Response.Body.Next()
			}
			if !errors.Is(err, wire.ErrTimeout) || !errors.Is(client.BodyError(), wire.ErrTimeout) {
				t.Errorf("the body ended with %v, known as %v", err, client.BodyError())
			}
			x.Response.Body.Close()
		})
	}
}

// The owner can tell a body that broke off from a whole one.
func TestBodyError(t *testing.T) {
	for _, c := range []struct {
		answer string
		want   error
	}{
		{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", nil},
		{"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe", ErrCut},
		{"HTTP/1.1 204 No Content\r\n\r\n", nil},
	} {
		client, _ := newClient(t, func(nc net.Conn, r *bufio.Reader) {
			if _, err := http.ReadRequest(r); err == nil {
				io.WriteString(nc, c.answer)
			}
		})
		x := request(t, "GET", 0, exchange.NoBody)
		if err := client.RoundTrip(x, "a.example", false); err != nil {
			t.Fatal(err)
		}
		for {
			if _, err := x.Response.Body.Next(); err != nil {
				break
			}
		}
		if got := client.BodyError(); !errors.Is(got, c.want) {
			t.Errorf("%q: %v, want %v", c.answer, got, c.want)
		}
		x.Response.Body.Close()
	}
}
