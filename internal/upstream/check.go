package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1"
	"gatehouse.dev/gatehouse/internal/upstream/health"
)

// checking is how endpoints are asked whether they are well.
type checking struct {
	tcp, grpc          bool
	path, host, port   string
	service            string
	interval, timeout  time.Duration
	healthy, unhealthy int
	expect             [600]bool
}

func newChecking(c *config.Health) (*checking, error) {
	if c == nil {
		return nil, nil
	}
	h := &checking{
		tcp: c.Type == "tcp", grpc: c.Type == "grpc", path: c.Path, host: c.Host, service: c.Service,
		interval: c.Interval.D(), timeout: c.Timeout.D(), healthy: c.Healthy, unhealthy: c.Unhealthy,
	}
	if c.Port != 0 {
		h.port = strconv.Itoa(c.Port)
	}
	for _, e := range c.Expect {
		from, to, ok := config.StatusRange(e)
		if !ok {
			return nil, fmt.Errorf("expected status %q is neither a status nor a range", e)
		}
		for s := from; s <= to; s++ {
			h.expect[s] = true
		}
	}
	return h, nil
}

// check asks an endpoint whether it is well, again and again until ctx ends.
// The first time is at once, give or take a little so that a thousand
// endpoints are not asked at the same moment.
func (u *Upstream) check(ctx context.Context, e *endpoint) {
	h := u.health
	for wait := rand.N(h.interval/10 + 1); ; wait = h.interval*4/5 + rand.N(h.interval*2/5+1) {
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		reason, err := u.ask(ctx, e)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			reason = err.Error()
		}
		if e.record.health.Checked(health.Now(), err == nil, reason, h.healthy, h.unhealthy) {
			if err == nil {
				u.log.Info("an endpoint is healthy", "upstream", u.name, "endpoint", e.address, "reason", reason)
				u.meter.Event(GotWell)
			} else {
				u.log.Warn("an endpoint is not healthy", "upstream", u.name, "endpoint", e.address, "reason", reason)
				u.meter.Event(FellIll)
			}
			u.refresh()
		}
	}
}

// ask asks once. The reason says what was good about the answer.
func (u *Upstream) ask(ctx context.Context, e *endpoint) (reason string, err error) {
	defer func() {
		if v := recover(); v != nil {
			e.panicked(v)
			err = fmt.Errorf("panic: %v", v)
		}
	}()
	h := u.health
	ctx, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	nc, err := e.elsewhere(ctx, h.port)
	if err != nil {
		return "", plainDial(err)
	}
	defer nc.Close()
	// What reads or writes is woken when the time is over.
	stop := context.AfterFunc(ctx, func() { _ = nc.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	http2 := h.grpc || e.scheme == plainHTTP2 || e.scheme == plainGRPC
	if e.tls != nil {
		tc := tls.Client(nc, e.current(e.tls))
		if err := tc.HandshakeContext(ctx); err != nil {
			return "", fmt.Errorf("tls: %w", err)
		}
		nc = tc
		http2 = tc.ConnectionState().NegotiatedProtocol == alpnHTTP2
		if !http2 && (h.grpc || e.scheme == secureHTTP2) {
			return "", fmt.Errorf("tls: %w", errNotAgreed)
		}
	}
	if h.tcp {
		return "connected", nil
	}
	if reason, err = h.question(ctx, e, nc, http2); err != nil && ctx.Err() != nil {
		err = fmt.Errorf("no answer within %v", h.timeout)
	}
	return reason, err
}

// question asks over a connection that was established for it.
func (h *checking) question(ctx context.Context, e *endpoint, nc net.Conn, http2 bool) (reason string, err error) {
	status := 0
	switch {
	case h.grpc:
		return h.serving(ctx, e, nc)
	case http2:
		status, err = h.get2(ctx, e, nc)
	default:
		status, err = h.get(nc, e.host)
	}
	switch {
	case err != nil:
		return "", err
	case !h.expect[status]:
		return "", fmt.Errorf("status %d", status)
	}
	return fmt.Sprintf("status %d", status), nil
}

// get asks over a connection and returns the status. The answer's body is not
// looked at.
func (h *checking) get(nc net.Conn, host string) (int, error) {
	if h.host != "" {
		host = h.host
	}
	_, err := io.WriteString(nc, "GET "+h.path+" HTTP/1.1\r\nHost: "+host+"\r\nUser-Agent: gatehouse-health\r\nConnection: close\r\n\r\n")
	if err != nil {
		return 0, fmt.Errorf("ask: %w", err)
	}
	b := make([]byte, 0, 4096)
	var answer exchange.Response
	answer.Reset()
	for seen := 0; ; {
		size, err := h1.FindHead(b, seen)
		switch {
		case err != nil:
			return 0, fmt.Errorf("answer: %w", err)
		case size == 0 && len(b) == maxHeaderBytes:
			return 0, errors.New("answer: head is too large")
		case size == 0:
			seen = len(b)
			if b, err = more(nc, b); err == io.EOF {
				return 0, h1.ErrNoAnswer
			} else if err != nil {
				return 0, fmt.Errorf("answer: %w", err)
			}
			continue
		}
		if _, _, err := h1.ParseResponse(b[:size], &answer, "GET", maxHeaders); err != nil {
			return 0, fmt.Errorf("answer: %w", err)
		}
		if answer.Status >= 200 {
			return answer.Status, nil
		}
		b, seen = b[size:], 0 // an interim answer
		answer.Reset()
	}
}

// more reads more of a head.
func more(nc net.Conn, b []byte) ([]byte, error) {
	b = slices.Grow(b, 1)
	n, err := nc.Read(b[len(b):min(cap(b), maxHeaderBytes)])
	if n > 0 {
		err = nil
	}
	return b[:len(b)+n], err
}

// plainDial leaves out what everybody knows who knows the endpoint.
func plainDial(err error) error {
	var call *os.SyscallError
	var op *net.OpError
	switch {
	case errors.As(err, &call):
		return fmt.Errorf("connect: %w", call.Err)
	case errors.As(err, &op):
		return fmt.Errorf("connect: %w", op.Err)
	}
	return err
}
