package policytest

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// Answer is what a client gets: a Downstream that keeps what is written.
type Answer struct {
	Status    int
	Header    exchange.Header
	Body      string
	Trailer   exchange.Header
	Length    int64 // as it was announced
	Aborted   bool
	Finished  bool
	Truncated bool
	Upgraded  bool
	Problem   *exchange.Problem // what the exchange ended with
	Route     string

	writes   error // when set, what writing to the client fails with
	head     bool
	bodiless bool
	body     strings.Builder
}

var _ exchange.Downstream = (*Answer)(nil)

// String returns the answer as text.
func (a *Answer) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d %s\n", a.Status, exchange.StatusText(a.Status))
	for name, value := range a.Header.All() {
		fmt.Fprintf(&b, "%s: %s\n", name, value)
	}
	if a.Body != "" {
		b.WriteString("\n" + a.Body)
	}
	return b.String()
}

var errOrder = errors.New("downstream was used out of order")

// Inform implements exchange.Downstream.
func (a *Answer) Inform(int, *exchange.Header) error { return a.writes }

// WriteHead implements exchange.Downstream.
func (a *Answer) WriteHead(x *exchange.Exchange) error {
	r := &x.Response
	if a.head || a.Aborted || r.Status < 200 {
		return errOrder
	}
	if a.writes != nil {
		return a.writes
	}
	a.head = true
	a.Header.CopyFrom(&r.Header)
	a.Length = r.Length
	a.bodiless = x.Request.Method == "HEAD" || r.Status == 204 || r.Status == 304
	return nil
}

// WriteBody implements exchange.Downstream.
func (a *Answer) WriteBody(p []byte) error {
	if !a.head || a.Finished {
		return errOrder
	}
	if !a.bodiless {
		a.body.Write(p)
	}
	return a.writes
}

// WriteFrom implements exchange.Downstream.
func (a *Answer) WriteFrom(x *exchange.Exchange) (readErr, writeErr error) {
	for !a.bodiless {
		p, err := x.Response.Body.Next()
		if len(p) > 0 {
			if err := a.WriteBody(p); err != nil {
				return nil, err
			}
			x.Response.Sent += int64(len(p))
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return err, nil
		}
	}
	return nil, nil
}

// Flush implements exchange.Downstream.
func (a *Answer) Flush() error { return a.writes }

// Finish implements exchange.Downstream.
func (a *Answer) Finish(x *exchange.Exchange) error {
	if !a.head || a.Finished || a.Aborted {
		return errOrder
	}
	a.Finished = true
	a.Trailer.CopyFrom(&x.Response.Trailer)
	a.Body = a.body.String()
	return a.writes
}

// Abort implements exchange.Downstream.
func (a *Answer) Abort() {
	a.Aborted = true
	a.Body = a.body.String()
}

// Upgrade implements exchange.Downstream.
func (a *Answer) Upgrade(x *exchange.Exchange) (exchange.Stream, error) {
	if a.head || a.Aborted || x.Request.Upgrade == "" {
		return nil, errOrder
	}
	a.head, a.Finished, a.Upgraded = true, true, true
	a.Header.CopyFrom(&x.Response.Header)
	return closed{}, a.writes
}

// closed is the stream of a client that says nothing.
type closed struct{}

func (closed) Read([]byte) (int, error)    { return 0, io.EOF }
func (closed) Write(p []byte) (int, error) { return len(p), nil }
func (closed) CloseWrite() error           { return nil }
func (closed) Close() error                { return nil }
