package upstream

import (
	"io"
	"net/http"
	"testing"

	"gatehouse.dev/gatehouse/internal/config"
)

const rpc = "POST /shop.Products/Get HTTP/1.1\r\nHost: shop.example\r\nContent-Type: application/grpc\r\nTE: trailers\r\nContent-Length: 5\r\n\r\n\x00\x00\x00\x00\x00"

// What a gRPC call came to is in its trailer, or in a head that is all there
// is. It is an error for the outlier ejection and the breaker alike.
func TestStatusOfCallsCounts(t *testing.T) {
	for _, c := range []struct {
		status string
		bad    bool
	}{
		{"0", false}, {"1", false}, {"4", false}, {"5", false}, {"8", false}, {"12", false}, {"16", false}, {"", false}, {"140", false},
		{"2", true}, {"13", true}, {"14", true}, {"15", true},
	} {
		for _, where := range []string{"trailer", "head"} {
			t.Run(c.status+" in the "+where, func(t *testing.T) {
				t.Parallel()
				s := newWeb(t, func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
					w.Header().Set("Content-Type", "application/grpc")
					if where == "head" {
						w.Header().Set("Grpc-Status", c.status)
						return
					}
					_, _ = io.WriteString(w, "\x00\x00\x00\x00\x00")
					w.Header().Set(http.TrailerPrefix+"Grpc-Status", c.status)
				}, nil)
				r := newRig(t, s.settings(func(u *config.Upstream) {
					outliers(func(o *config.Outlier) { o.ConsecutiveErrors, o.MaxEjected = 3, 1 })(u)
					u.Breaker = new(config.Breaker)
					u.Breaker.Defaults()
					u.Breaker.MinRequests = 3
				}))
				k := r.dial()
				for range 3 {
					k.send(rpc)
					if res, _, err := k.answer("POST"); err != nil || res.StatusCode != 200 {
						t.Fatalf("%v, %v", res, err)
					}
					<-r.seen
					<-r.ended
				}
				state, breaker := "healthy", "closed"
				if c.bad {
					state, breaker = "ejected", "open"
				}
				if st := r.u.Status(); st.Endpoints[0].State != state || st.Breaker != breaker {
					t.Errorf("the endpoint is %s, the breaker %s", st.Endpoints[0].State, st.Breaker)
				}
				if !c.bad {
					return
				}
				k.send(get)
				k.fails(503, "upstream_breaker_open")
			})
		}
	}
}
