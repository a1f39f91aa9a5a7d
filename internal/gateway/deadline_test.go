package gateway_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

func grpcFields(timeout ...string) []exchange.Field {
	fields := []exchange.Field{{Name: "Content-Type", Value: "application/grpc", Known: exchange.ContentType}}
	for _, v := range timeout {
		fields = append(fields, exchange.Field{Name: "grpc-timeout", Value: v})
	}
	return fields
}

const plainRoute = "routes: [ { name: one, match: /*, upstream: http://up } ]"

// A call whose time is over gets the status for that; others are not touched.
func TestDeadlineOfGRPC(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := newRig(t, plainRoute)
		r.Behave("http://up", policytest.Behaviour{After: 2 * time.Second, Status: 200, Chunked: true})
		for _, c := range []struct {
			fields []exchange.Field
			status string
			took   time.Duration
		}{
			{grpcFields("1S"), "4", time.Second},
			{grpcFields("3S"), "", 2 * time.Second},
			{grpcFields(), "", 2 * time.Second},
			{grpcFields("1S", "2S"), "13", 0},
			{grpcFields("1.5S"), "13", 0},
			{[]exchange.Field{{Name: "grpc-timeout", Value: "1S"}}, "", 2 * time.Second}, // not gRPC
		} {
			began := time.Now()
			a := r.Do(policytest.Request{Method: "POST", Target: "/pkg.Service/Call", Header: c.fields})
			if got := a.Header.Get("grpc-status"); a.Status != 200 || got != c.status || time.Since(began) != c.took {
				t.Errorf("%v: status %d, grpc-status %q after %v", c.fields, a.Status, got, time.Since(began))
			}
		}
	})
}

// What the gateway refuses is told in gRPC's own way.
func TestProblemsOfGRPC(t *testing.T) {
	r, _ := newRig(t, "routes: [ { name: one, match: /one, upstream: http://up } ]")
	a := r.Do(policytest.Request{Method: "POST", Target: "/pkg.Service/Call", Header: grpcFields()})
	if a.Status != 200 || a.Header.Get("grpc-status") != "12" || a.Header.Get("Content-Type") != "application/grpc" || len(a.Body) > 0 {
		t.Errorf("%d %v %q", a.Status, a.Header, a.Body)
	}
	r.Behave("http://up", policytest.Behaviour{Problem: &exchange.Problem{Status: 502, Code: "upstream_reset", Side: exchange.SideUpstream}})
	a = r.Do(policytest.Request{Method: "POST", Target: "/one", Header: grpcFields()})
	if a.Status != 200 || a.Header.Get("grpc-status") != "14" || a.Header.Get("grpc-message") != "upstream_reset: " {
		t.Errorf("%d %v %q", a.Status, a.Header, a.Body)
	}
}

// A stream that the deadline, or the service, ends before its time has the
// status in its trailer, where the protocol has trailers.
func TestStreamsOfGRPCThatBreak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, _ := newRig(t, plainRoute)
		for name, c := range map[string]struct {
			do     func(x *exchange.Exchange)
			status string
		}{
			"deadline": {func(x *exchange.Exchange) { x.Response.Body = &waits{x: x, piece: []byte("one")} }, "4"},
			"broken":   {func(x *exchange.Exchange) { x.Response.Body = &waits{piece: []byte("one")} }, "14"},
		} {
			r.Behave("http://up", policytest.Behaviour{Do: func(x *exchange.Exchange) {
				x.Request.Proto = exchange.HTTP2
				x.Response.Status, x.Response.Length = 200, exchange.Unknown
				c.do(x)
			}})
			a := r.Do(policytest.Request{Method: "POST", Target: "/pkg.Service/Watch", Header: grpcFields("1S")})
			if got := a.Trailer.Get("grpc-status"); got != c.status || a.Body != "one" || !a.Finished || a.Aborted {
				t.Errorf("%s: status %q, body %q, finished %v, aborted %v", name, got, a.Body, a.Finished, a.Aborted)
			}
		}
	})
}

// waits is a body of one piece, after which it waits for x to be cancelled, or
// breaks off.
type waits struct {
	x     *exchange.Exchange
	piece []byte
}

func (b *waits) Next() ([]byte, error) {
	if p := b.piece; p != nil {
		b.piece = nil
		return p, nil
	}
	if b.x == nil {
		return nil, errors.New("broke")
	}
	w := make(interrupted)
	if err := b.x.Bind(w); err != nil {
		return nil, err
	}
	<-w
	return nil, b.x.Bind(nil)
}

func (b *waits) Close() error { return nil }

type interrupted chan struct{}

func (w interrupted) Interrupt() { close(w) }
