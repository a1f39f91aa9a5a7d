package gateway

import (
	"errors"
	"sync"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// The deadline of a gRPC call, which its client tells in grpc-timeout.

var (
	badTimeout = exchange.Problem{
		Status: 400, Code: "bad_grpc_timeout", Side: exchange.SideClient,
		Detail: "The field grpc-timeout is not valid.",
	}
	deadlineExceeded = exchange.Problem{
		Status: 504, Code: "deadline_exceeded", Side: exchange.SideClient,
		Detail: "The time that the client gave for the call is over.",
	}
)

const grpcTimeout = "grpc-timeout"

// parseTimeout reads a timeout: at most eight digits and a unit.
func parseTimeout(s string) (time.Duration, bool) {
	if len(s) < 2 || len(s) > 9 {
		return 0, false
	}
	var unit time.Duration
	switch s[len(s)-1] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	default:
		return 0, false
	}
	var n time.Duration
	for _, c := range []byte(s[:len(s)-1]) {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + time.Duration(c-'0')
	}
	if most := time.Duration(1<<63 - 1); n > most/unit {
		return most, true // it is beyond what anybody waits for
	}
	return n * unit, true
}

// deadline cancels an exchange when its time is over.
type deadline struct {
	timer *time.Timer

	mu sync.Mutex
	x  *exchange.Exchange // nil when it is not to be cancelled any more
}

// keepDeadline starts the time of a gRPC call. It returns nil where there is
// none, and fails x where nobody can tell what is meant.
func keepDeadline(x *exchange.Exchange) *deadline {
	if !x.Request.GRPC() {
		return nil
	}
	h := &x.Request.Header
	value, lines := "", 0
	for v := range h.Values(grpcTimeout) {
		value = v
		lines++
	}
	if lines == 0 {
		return nil
	}
	d, ok := parseTimeout(value)
	if !ok || lines > 1 {
		x.Fail(&badTimeout)
		return nil
	}
	k := &deadline{x: x}
	k.timer = time.AfterFunc(d-time.Duration(exchange.Now()-x.Times.Start), k.over)
	return k
}

func (k *deadline) over() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.x != nil {
		k.x.Cancel(&deadlineExceeded)
	}
}

// stop ends the time. The exchange is not touched afterwards.
func (k *deadline) stop() {
	if k == nil {
		return
	}
	k.timer.Stop()
	k.mu.Lock()
	k.x = nil
	k.mu.Unlock()
}

// expired puts the deadline in the place of a problem that it caused: whoever
// waits for an exchange that is cancelled takes its client to have gone.
func expired(x *exchange.Exchange) {
	if x.Problem == nil || x.Problem.Status != exchange.StatusClientGone {
		return
	}
	var own *exchange.Problem
	if errors.As(x.Canceled(), &own) {
		x.Problem = own
	}
}
