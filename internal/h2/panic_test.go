package h2

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// A panic in reading frames ends its connection, with what is in flight on it,
// and no other.
func TestPanicOfReaderEndsItsConnection(t *testing.T) {
	told := make(chan any, 1)
	cancelled := make(chan error, 1)
	s := &Server{
		Handler: func(x *exchange.Exchange) {
			if x.Request.Path == "/wait" {
				w := make(chanInterrupter, 1)
				if x.Bind(w) == nil {
					<-w
				}
				x.Bind(nil)
				cancelled <- x.Canceled()
				return
			}
			reply(x, "")
		},
		Panicked: func(v any) { told <- v },
	}
	s.Limits.Store(tableLimits())
	r := rigOf(t, s)
	bad := r.dial()
	waits := append(slices.Clone(simple[:len(simple)-1]), "/wait")
	bad.request(1, true, waits...)
	bad.request(3, true, simple...)
	bad.expect("headers 3 :status=200 end")
	s.mu.Lock()
	for k := range s.conns {
		k.mu.Lock()
		k.client = nil // which the next head is asked about
		k.mu.Unlock()
	}
	s.mu.Unlock()
	other := r.dial()
	bad.request(5, true, simple...)
	if v := <-told; !strings.Contains(v.(error).Error(), "nil pointer") {
		t.Errorf("told of %v", v)
	}
	if err := <-cancelled; !errors.Is(err, exchange.ErrClientGone) {
		t.Errorf("what was in flight ended with %v", err)
	}
	bad.until("goaway 5 INTERNAL_ERROR")
	<-r.ended
	other.request(1, true, simple...)
	other.expect("headers 1 :status=200 end")
}

// A panic in reading answers fails the exchanges of that connection.
func TestPanicOfClientsReader(t *testing.T) {
	c, o, u := upstream(t, responseLimits())
	done := trip(t, c, newExchange("GET", "/"))
	u.until("headers 1 end")
	c.mu.Lock()
	c.limits = nil
	c.mu.Unlock()
	u.request(1, true, ok...)
	if err := <-done; !isUnsent(err) || !strings.Contains(err.Error(), "panic") {
		t.Errorf("the exchange failed with %v", err)
	}
	<-o.panicked
	if c.Alive() {
		t.Error("the connection takes further exchanges")
	}
}
