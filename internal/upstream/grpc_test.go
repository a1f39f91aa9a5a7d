package upstream

import (
	"io"
	"net/http"
	"slices"
	"testing"

	"gatehouse.dev/gatehouse/internal/config"
)

const rpc = "POST /shop.Products/Get HTTP/1.1\r\nHost: shop.example\r\nContent-Type: application/grpc\r\nTE: trailers\r\nContent-Length: 5\r\n\r\n\x00\x00\x00\x00\x00"

// What a gRPC call came to is in its trailer, or in a head that is all there
// is. It is an error for the outlier ejection and the breaker alike.
func TestStatusOfCallsCounts(t *testing.T) {
	bad := []string{"2", "13", "14", "15"}
	for _, status := range append([]string{"0", "1", "4", "5", "8", "12", "16", "", "140"}, bad...) {
		for _, where := range []string{"trailer", "head"} {
			t.Run(status+" in the "+where, func(t *testing.T) {
				t.Parallel()
				s := newWeb(t, func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
					w.Header().Set("Content-Type", "application/grpc")
					if where == "head" {
						w.Header().Set("Grpc-Status", status)
						return
					}
					_, _ = io.WriteString(w, "\x00\x00\x00\x00\x00")
					w.Header().Set(http.TrailerPrefix+"Grpc-Status", status)
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
				if slices.Contains(bad, status) {
					state, breaker = "ejected", "open"
				}
				if st := r.u.Status(); st.Endpoints[0].State != state || st.Breaker != breaker {
					t.Errorf("the endpoint is %s, the breaker %s", st.Endpoints[0].State, st.Breaker)
				}
				if !slices.Contains(bad, status) {
					return
				}
				k.send(get)
				k.fails(503, "upstream_breaker_open")
			})
		}
	}
}
