package policy

import (
	"context"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// Wait blocks until ready is closed or has something, the time is over, or
// nobody waits for the answer any more. It reports whether ready came, and the
// reason when the exchange has been cancelled.
func Wait(x *exchange.Exchange, ready <-chan struct{}, d time.Duration) (ok bool, gone error) {
	w := waiting{make(chan struct{}, 1)}
	if gone = x.Bind(w); gone != nil {
		_ = x.Bind(nil)
		return false, gone
	}
	timer := time.NewTimer(d)
	select {
	case <-ready:
		ok = true
	case <-timer.C:
	case <-w.c:
	}
	timer.Stop()
	return ok, x.Bind(nil)
}

// Sleep blocks for a time, or until nobody waits for the answer any more, and
// then returns the reason.
func Sleep(x *exchange.Exchange, d time.Duration) error {
	_, gone := Wait(x, nil, d)
	return gone
}

type waiting struct{ c chan struct{} }

// Interrupt wakes the one who waits.
func (w waiting) Interrupt() {
	select {
	case w.c <- struct{}{}:
	default:
	}
}

// Context returns a context for what a policy asks of others. It ends after a
// time, or when nobody waits for the answer any more. The policy calls end when
// it has its answer, which returns the reason when the exchange was cancelled.
func Context(x *exchange.Exchange, d time.Duration) (ctx context.Context, end func() error) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	if x.Bind(canceler(cancel)) != nil {
		cancel()
	}
	return ctx, func() error {
		gone := x.Bind(nil)
		cancel()
		return gone
	}
}

type canceler context.CancelFunc

// Interrupt ends the context.
func (c canceler) Interrupt() { c() }

// ClientGone is the problem of an exchange that was cancelled while a policy
// waited.
func ClientGone(reason error) *exchange.Problem {
	return &exchange.Problem{
		Status: exchange.StatusClientGone, Code: "client_gone", Side: exchange.SideClient,
		Detail: "The client closed the connection.", Cause: reason,
	}
}
