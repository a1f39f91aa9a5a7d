package app

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// TestSentOnce: a request with a key that a service may have carried out, which
// then could not be reached for another attempt, is not carried out again.
func TestSentOnce(t *testing.T) {
	ln := listenTCP(t)
	service := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_ = ln.Close()
		panic(http.ErrAbortHandler) // it did its work, and nobody hears of it
	})}
	t.Cleanup(func() { _ = service.Close() })
	go func() { _ = service.Serve(ln) }()
	dead := listenTCP(t)
	_ = dead.Close()
	a, _ := running(t, fmt.Sprintf(`
listeners: [ { name: web, address: "127.0.0.1:0" } ]
admin: off
data_folder: %q
observe: { log: { level: error } }
upstreams:
  one: { endpoints: ["http://%s"], retry: { attempts: 2, methods: [POST], on: [connect, reset], budget: 100%% } }
  none: { endpoints: ["http://%s"] }
routes:
  - { match: /one, upstream: one, policies: [ idempotency: {} ] }
  - { match: /none, upstream: none, policies: [ idempotency: {} ] }
`, t.TempDir(), ln.Addr(), dead.Addr()))
	t.Cleanup(func() { a.Close(context.Background()) })
	order := func(path, key string) (status int, body string) {
		q, err := http.NewRequest("POST", "http://"+address(t, a, "web")+path, strings.NewReader("order"))
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Idempotency-Key", key)
		answer, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		p, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer.StatusCode, string(p)
	}
	if status, body := order("/one", "k"); status != 502 || !strings.Contains(body, "upstream_connect_failed") {
		t.Errorf("%d: %s", status, body)
	}
	if status, body := order("/one", "k"); status != 409 || !strings.Contains(body, "idempotency_unknown") {
		t.Errorf("again: %d: %s", status, body)
	}
	// What no service has seen may be sent again.
	for range 2 {
		if status, body := order("/none", "k"); status != 502 {
			t.Errorf("%d: %s", status, body)
		}
	}
}
