package concurrency_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
	"gatehouse.dev/gatehouse/internal/replay"
)

// tunnel is an upgraded connection that lasts for a time.
type tunnel struct {
	exchange.Body
	lasts time.Duration
	err   error
}

func (t tunnel) Join(*exchange.Exchange, exchange.Stream) error {
	time.Sleep(t.lasts)
	return t.err
}

// TestEveryEnd: however a request ends, its place is free afterwards, and not
// before.
func TestEveryEnd(t *testing.T) {
	const second = time.Second
	upgrade := []exchange.Field{{Name: "Upgrade", Value: "websocket", Known: exchange.Upgrade}}
	call := []exchange.Field{{Name: "Content-Type", Value: "application/grpc", Known: exchange.ContentType}, {Name: "Grpc-Timeout", Value: "1S"}}
	join := func(err error) policytest.Behaviour {
		return policytest.Behaviour{Do: func(x *exchange.Exchange) {
			x.Response.Status, x.Response.Length = 101, exchange.Unknown
			x.Response.Body = tunnel{exchange.NoBody, second, err}
		}}
	}
	for name, c := range map[string]struct {
		behaviour policytest.Behaviour
		request   policytest.Request
		at        time.Duration // when it is in flight; 0: it never is
	}{
		"whole":              {behaviour: policytest.Behaviour{Status: 200, After: second}, at: second / 2},
		"reset":              {behaviour: policytest.Behaviour{After: second, Problem: &exchange.Problem{Status: 502, Code: "upstream_reset"}}, at: second / 2},
		"cut":                {behaviour: policytest.Behaviour{Status: 200, After: second, Pieces: []string{"half"}, Cut: true}, at: second / 2},
		"the client leaves":  {behaviour: policytest.Behaviour{Status: 200, After: time.Hour}, request: policytest.Request{Leave: second}, at: second / 2},
		"panic":              {behaviour: policytest.Behaviour{Do: func(*exchange.Exchange) { time.Sleep(second); panic("on purpose") }}, at: second / 2},
		"deadline":           {behaviour: policytest.Behaviour{Status: 200, After: time.Hour}, request: policytest.Request{Header: call}, at: second / 2},
		"tunnel":             {behaviour: join(nil), request: policytest.Request{Header: upgrade}, at: second / 2},
		"tunnel that breaks": {behaviour: join(errors.New("reset")), request: policytest.Request{Header: upgrade}, at: second / 2},
		"refused later":      {request: policytest.Request{Target: "/refused"}},
		"body too large":     {request: policytest.Request{Method: "POST", Target: "/held", Body: "too much", Chunked: true, Header: []exchange.Field{{Name: "Idempotency-Key", Value: "k"}}}},
		"body cut":           {request: policytest.Request{Method: "POST", Target: "/held", Body: "tool", Cut: true, Header: []exchange.Field{{Name: "Idempotency-Key", Value: "k"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := policytest.NewRig(t, all.Catalog(), `
policies: [ concurrency: { limit: 1 } ]
routes:
  - { match: /, upstream: http://up }
  - { match: /refused, upstream: http://up, policies: [ fault: { abort: 503 } ] }
  - { match: /held, upstream: http://up, policies: [ idempotency: { max_body: 5 } ] }
  - { match: /other, respond: {} }
`, policytest.Services("durable", struct{ replay.Store }{}))
				defer r.Close()
				if c.request.Target == "" {
					c.request.Target = "/"
				}
				other := policytest.Request{Target: "/other"}
				for range 3 {
					r.Behave("http://up", c.behaviour)
					done := make(chan struct{})
					go func() {
						defer close(done)
						r.Do(c.request)
					}()
					if c.at > 0 {
						time.Sleep(c.at)
						if a := r.Do(other); a.Status != 429 {
							t.Errorf("while it is in flight another is answered %d", a.Status)
						}
					}
					<-done
					synctest.Wait()
					if a := r.Do(other); a.Status != 200 {
						t.Errorf("after it another is answered %d", a.Status)
					}
				}
				r.Errors() // one tells of the panic
			})
		})
	}
}
