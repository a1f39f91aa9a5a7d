package observe

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
)

func TestMain(m *testing.M) {
	if os.Getenv("GATEHOUSE_BROKEN_PIPE") != "" {
		os.Exit(writeToBrokenPipe())
	}
	goleak.VerifyTestMain(m)
}

// sample returns an exchange as it is when it has ended well.
func sample() *exchange.Exchange {
	x := exchange.Get()
	x.Client = &exchange.Client{IP: "203.0.113.7", Listener: "public"}
	x.SetRequestID("4f1d2c3b4a59687706152433425160ff")
	r := &x.Request
	r.Proto, r.Method, r.Scheme = exchange.HTTP11, "GET", "https"
	r.Authority, r.Host = "shop.example.com:8443", "shop.example.com"
	r.RawPath, r.Path, r.Query, r.HasQuery = "/products/%41", "/products/A", "token=s3cret", true
	r.Header.AddKnown(exchange.UserAgent, "Mozilla/5.0 (X11; Linux x86_64) Gecko/20100101 Firefox/140.0")
	r.Header.AddKnown(exchange.Referer, "https://shop.example.com/cart?session=s3cret#s3cret")
	r.Header.AddKnown(exchange.Authorization, "Bearer s3cret")
	r.Header.AddKnown(exchange.Cookie, "session=s3cret")
	r.Received = 17
	x.Response.Status, x.Response.Sent = 200, 488
	x.Route.Name, x.Who.Consumer = "products", "mobile-app"
	x.Upstream = exchange.Upstream{Name: "products", Endpoint: "10.0.0.11:8080", Attempts: 1}
	end := exchange.Now()
	x.Times = exchange.Times{Start: end - int64(12345*time.Microsecond), End: end}
	x.Times.Sent = x.Times.Start + int64(time.Millisecond)
	x.Times.FirstByte = x.Times.Sent + int64(7*time.Millisecond)
	return x
}

func failing(status int, side exchange.Side) *exchange.Exchange {
	x := sample()
	x.Response.Status = status
	x.Problem = &exchange.Problem{Status: status, Code: "upstream_reset", Side: side, Cause: errors.New("read: connection reset\x1b[31m")}
	return x
}

func newMetrics(limit int) *Metrics { return NewMetrics(config.Metrics{MaxRoutes: limit}) }

// series returns what a scrape shows, without comments, by series. The test keeps
// what it counts with alive until then.
func series(t *testing.T, m *Metrics) map[string]string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("the metrics answer %d: %s", w.Code, w.Body)
	}
	out := make(map[string]string)
	for line := range strings.Lines(w.Body.String()) {
		line = strings.TrimSpace(line)
		if i := strings.LastIndexByte(line, ' '); i > 0 && line[0] != '#' {
			out[line[:i]] = line[i+1:]
		}
	}
	return out
}

func expect(t *testing.T, m *Metrics, want map[string]string) {
	t.Helper()
	got := series(t, m)
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s is %q, want %q", name, got[name], value)
		}
	}
}

// with returns the names of the series that contain a text.
func with(all map[string]string, text string) (names []string) {
	for name := range all {
		if strings.Contains(name, text) {
			names = append(names, name)
		}
	}
	return names
}
