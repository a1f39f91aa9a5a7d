package all_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/app"
)

// TestSpoofedTrailers has fields behind the body that only the gateway may set:
// some services read them as if they stood before it. Others go on.
func TestSpoofedTrailers(t *testing.T) {
	got := make(chan *http.Request, 1)
	service := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if body, err := io.ReadAll(r.Body); err != nil || string(body) != "hello" {
			t.Errorf("the service gets %q, %v", body, err)
		}
		got <- r
	}))
	service.Config.Protocols = new(http.Protocols)
	service.Config.Protocols.SetHTTP1(true)
	service.Config.Protocols.SetUnencryptedHTTP2(true)
	service.Start()
	defer service.Close()
	checker := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X-Role", "user") }))
	defer checker.Close()
	gate, err := app.New(app.Source{Name: "test.yaml", Data: []byte(`
admin: off
listeners: [ { name: web, address: "127.0.0.1:0" } ]
observe: { log: { level: error } }
consumers: [ { name: guest } ]
policies:
  - api_key: { anonymous: guest, headers: { X-Consumer: consumer } }
  - forward_auth: { url: "` + checker.URL + `", take: [ X-Role, X-Mail ], subject_field: X-Subject }
routes:
  - match: /h1
    upstream: ` + service.URL + `
  - match: /h2
    upstream: ` + strings.Replace(service.URL, "http:", "h2c:", 1) + `
`)}, "test", io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	defer gate.Close(context.Background())
	for _, path := range []string{"/h1", "/h2"} {
		c, err := net.Dial("tcp", gate.Status().Listeners[0].Address)
		if err != nil {
			t.Fatal(err)
		}
		trailers := "Sum: 1\r\nX-Consumer: admin\r\nx-role: admin\r\nX-MAIL: admin\r\nX-Subject: admin\r\nX-Key: 2\r\n"
		if _, err := io.WriteString(c, "POST "+path+" HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTE: trailers\r\nTrailer: Sum, X-Consumer, X-Role, X-Mail, X-Subject, X-Key\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n"+trailers+"\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Error(err)
		}
		_ = c.Close()
		r := <-got
		for name, v := range r.Trailer { // those that were announced are there, without values
			if strings.Contains(strings.Join(v, ""), "admin") {
				t.Errorf("%s: %s went on behind the body", path, name)
			}
		}
		if r.Trailer.Get("Sum") != "1" || r.Trailer.Get("X-Key") != "2" {
			t.Errorf("%s: the service gets the trailer %v", path, r.Trailer)
		}
		if r.Header.Get("X-Consumer") != "guest" || r.Header.Get("X-Role") != "user" || len(r.Header.Values("X-Mail")) != 0 {
			t.Errorf("%s: the service gets %v", path, r.Header)
		}
	}
}
