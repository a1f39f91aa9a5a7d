package front

import (
	"io"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
)

// stalled begins an answer, reads a byte of it, and waits until the gateway has
// given it up; then it cannot be read to its end.
func stalled(t *testing.T, p *party, failed <-chan error) {
	t.Helper()
	res := p.begin(p.request("GET", "/", nil))
	if _, err := io.ReadFull(res.Body, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err == nil {
		t.Error("the answer was written without a reader")
	}
	if n, err := io.Copy(io.Discard, res.Body); err == nil {
		t.Errorf("the answer looked complete after %d bytes", n)
	}
}

// endless answers with more than is ever read, and tells how that ended.
func endless(failed chan<- error, due time.Duration) func(x *exchange.Exchange) {
	return func(x *exchange.Exchange) {
		if due > 0 {
			x.Times.Due = exchange.Now() + int64(due)
		}
		x.Response.Status = 200
		x.Response.Body, x.Response.Length = &sized{much}, much
		err := x.Down.WriteHead(x)
		if err == nil {
			_, err = x.Down.WriteFrom(x)
		}
		x.Down.Abort()
		failed <- err
	}
}

// An answer that must have passed through by a time ends then, whoever does not
// read it.
func TestWaysEndAnswersThatAreDue(t *testing.T) {
	failed := make(chan error, 1)
	eachWay(t, always(endless(failed, 200*time.Millisecond)), nil, func(t *testing.T, p *party) {
		stalled(t, p, failed)
	})
}

// So does one of which nothing is taken for the idle time.
func TestWaysEndReadersThatStop(t *testing.T) {
	failed := make(chan error, 1)
	eachWay(t, always(endless(failed, 0)), func(l *config.Limits) { l.IdleTimeout = config.Duration(200 * time.Millisecond) }, func(t *testing.T, p *party) {
		stalled(t, p, failed)
	})
}
