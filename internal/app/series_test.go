package app

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// scraped returns the series of the gateway's metrics, without their values.
func scraped(t *testing.T, a *App) map[string]bool {
	t.Helper()
	w := httptest.NewRecorder()
	a.metrics.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("the metrics answer %d: %s", w.Code, w.Body)
	}
	all := make(map[string]bool)
	for line := range strings.Lines(w.Body.String()) {
		if name, _, ok := strings.Cut(strings.TrimSpace(line), "} "); ok && strings.HasPrefix(name, "gatehouse_") {
			all[name] = true
		}
	}
	return all
}

// Nothing that a client or a service chooses becomes a label, whatever they
// send.
func TestClientsMakeNoSeries(t *testing.T) {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		status, err := strconv.Atoi(r.URL.Query().Get("status"))
		if err != nil {
			status = 200
		}
		w.Header().Set("X-Problem", r.URL.Path)
		w.WriteHeader(status)
	}))
	defer service.Close()
	dir := t.TempDir()
	writePair(t, dir)
	a, _ := running(t, fmt.Sprintf(`
listeners:
  - { name: web, address: "127.0.0.1:0", trusted_proxies: [127.0.0.1] }
  - { name: secure, address: "127.0.0.1:0", tls: { certificates: [{ cert_file: %q, key_file: %q }] } }
admin: off
consumers: [{ name: ann, credentials: [{ basic: { username: ann, password_hash: "$2a$04$zVHmKQtGGQob.b/Nc7l9NO8UlrYcW05FiuCj/SxsFO/ZtiN9.mNzy" } }] }]
policies: [ request_id: {}, rate_limit: { limit: 10000/s, by: "header:X-Who" } ]
routes:
  - { name: shop, match: { path: "/shop/{x}" }, upstream: %q }
  - { name: keys, match: /keys/*, policies: [ api_key: {} ], respond: {} }
  - { name: tried, match: /tried/*, policies: [ authorize: { groups: [a], dry_run: true } ], respond: {} }
`, filepath.Join(dir, "a.crt"), filepath.Join(dir, "a.key"), service.URL))

	send := func(c net.Conn, head string) {
		t.Helper()
		defer c.Close()
		if _, err := io.WriteString(c, strings.ReplaceAll(head, "\n", "\r\n")+"\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		method, _, _ := strings.Cut(head, " ")
		res, err := http.ReadResponse(bufio.NewReader(c), &http.Request{Method: method})
		if err != nil {
			return // refused without a word
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
	}
	round := func(mark string) {
		t.Helper()
		for _, head := range []string{
			"GET /shop/" + mark + " HTTP/1.1\nHost: " + mark + ".example",
			mark + " /shop/a HTTP/1.1\nHost: a",
			mark + " /tried/a HTTP/1.1\nHost: a",
			"GET /none/" + mark + "?" + mark + " HTTP/1.1\nHost: a",
			"GET /tried/" + mark + " HTTP/1.1\nHost: a\nX-Who: " + mark + "\nX-Request-Id: " + mark + "\nTraceparent: 00-" + mark,
			"GET /keys/" + mark + " HTTP/1.1\nHost: a\nX-API-Key: " + mark,
			"GET /shop/a HTTP/1.1\nHost: a\nUpgrade: " + mark + "\nConnection: upgrade," + mark,
			"GET /shop/a HTTP/1.1\nHost: a\nX-Forwarded-For: " + mark + "\nForwarded: for=" + mark + "\nUser-Agent: " + mark,
			"GET /%zz/" + mark + " HTTP/1.1\nHost: a",
			"GET " + mark + " HTTP/1.1\nHost: a",
			"GET / " + mark + "\nHost: a",
			mark,
			"GET /shop/a HTTP/1.1\nHost: " + mark + "@a",
			"POST /shop/a HTTP/1.1\nHost: a\nContent-Length: " + mark,
			"POST /shop/a HTTP/1.1\nHost: a\nTransfer-Encoding: " + mark,
			"OPTIONS * HTTP/1.1\nHost: " + mark,
			"CONNECT " + mark + ":80 HTTP/1.1\nHost: " + mark + ":80",
		} {
			send(dial(t, address(t, a, "web")), head)
		}
		for status := 200; status < 1000; status += 2 {
			send(dial(t, address(t, a, "web")), fmt.Sprintf("GET /shop/a?status=%d HTTP/1.1\nHost: a", status))
		}
		c := tls.Client(dial(t, address(t, a, "secure")), &tls.Config{ServerName: mark + ".example", InsecureSkipVerify: true})
		send(c, "GET /shop/"+mark+" HTTP/1.1\nHost: a")
		// Neither is the name of a failed handshake.
		tls.Client(dial(t, address(t, a, "secure")), &tls.Config{ServerName: mark + ".example"}).Handshake()
	}
	round("marked")
	if err := a.Drain(context.Background()); err != nil { // then all is counted
		t.Error(err)
	}
	codes := 0
	for name := range scraped(t, a) {
		if strings.Contains(strings.ToLower(name), "marked") {
			t.Errorf("a client has made %s", name)
		}
		if strings.HasPrefix(name, `gatehouse_requests_total{`) && strings.Contains(name, `route="shop"`) {
			codes++
		}
	}
	if codes > 60 || codes < 20 { // the usual ones, and one for the others of each class
		t.Errorf("%d statuses have a series", codes)
	}
}

// When certificates expire is told by status page and metrics.
func TestCertificatesAreShown(t *testing.T) {
	dir := t.TempDir()
	writePair(t, dir)
	file := filepath.Join(dir, "a.crt")
	a, _ := running(t, fmt.Sprintf(`
listeners: [{ name: secure, address: "127.0.0.1:0", tls: { certificates: [{ cert_file: %q, key_file: %q }] } }]
admin: off
routes: []
`, file, filepath.Join(dir, "a.key")))
	defer a.Close(context.Background())
	if name := fmt.Sprintf(`gatehouse_certificate_expiry_timestamp_seconds{name="shop.example.com",source=%q`, file); !scraped(t, a)[name] {
		t.Errorf("no series %s", name)
	}
	write(t, file, "broken")
	a.certs.Recheck()
	shown, err := json.Marshal(a.Status().Certificates)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"names":["shop.example.com"]`, `"source":"` + file, `"expires":"20`, `holds no certificate`} {
		if !strings.Contains(string(shown), want) {
			t.Errorf("the status has no %s: %s", want, shown)
		}
	}
}
