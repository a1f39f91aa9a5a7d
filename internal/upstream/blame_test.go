package upstream

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
)

// When the time for an answer has passed it is the endpoint's fault if it was
// the endpoint that was waited for, and not if it was the client; whichever of
// the two connections notices it first.
func TestWhoseFaultALateAnswerIs(t *testing.T) {
	const long = 64 << 20
	counted := "HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n"
	chunked := "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	drip := func(head, piece string) func(*peer) {
		return func(p *peer) {
			p.request()
			p.send(head)
			for {
				if _, err := io.WriteString(p, piece); err != nil {
					return
				}
				select {
				case <-p.over:
					return
				case <-time.After(5 * ms):
				}
			}
		}
	}
	flood := func(head, piece string) func(*peer) {
		return func(p *peer) {
			p.request()
			p.send(head)
			for n := 0; n < long; n += len(piece) {
				if _, err := io.WriteString(p, piece); err != nil {
					return
				}
			}
		}
	}
	block := strings.Repeat("x", 1<<14)
	webs := func(after time.Duration, piece string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			for n := 0; n < long; n += len(piece) {
				if _, err := io.WriteString(w, piece); err != nil || http.NewResponseController(w).Flush() != nil {
					return
				}
				if after > 0 {
					select {
					case <-r.Context().Done():
						return
					case <-time.After(after):
					}
				}
			}
		}
	}
	for _, c := range []struct {
		name  string
		serve func(*peer)
		web   http.HandlerFunc
		reads bool // the client does
		state string
	}{
		{"a service that drips", drip(counted, "x"), nil, true, "ejected"},
		{"a service that drips chunks", drip(chunked, "1\r\nx\r\n"), nil, true, "ejected"},
		{"a service that drips over HTTP/2", nil, webs(5*ms, "x"), true, "ejected"},
		{"a client that does not read", flood(counted, block), nil, false, "healthy"},
		{"a client that does not read chunks", flood(chunked, "4000\r\n"+block+"\r\n"), nil, false, "healthy"},
		{"a client that does not read, over HTTP/2", nil, webs(0, block), false, "healthy"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			url := ""
			if c.web != nil {
				url = newWeb(t, c.web, nil).url
			} else {
				url = newService(t, c.serve).url()
			}
			cfg := settings(url)
			cfg.Timeout.Request = dur(600 * ms)
			outliers(func(o *config.Outlier) { o.ConsecutiveErrors, o.MaxEjected = 3, 1 })(cfg)
			r := newRig(t, cfg)
			for range 3 {
				k := r.dial()
				k.send(get)
				if c.reads {
					if _, err := io.Copy(io.Discard, k); err != nil {
						t.Log(err) // the answer is cut
					}
				}
				<-r.seen
				<-r.ended
				k.Close()
			}
			if e := r.u.Status().Endpoints[0]; e.State != c.state {
				t.Errorf("the endpoint is %s, %s", e.State, e.Reason)
			}
		})
	}
}
