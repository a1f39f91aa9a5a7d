package app

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"gatehouse.dev/gatehouse/internal/redis/redistest"
)

// TestPlacesComeBack: a request in flight, or a WebSocket, takes the one place
// of its route, and gives it back however its client goes away.
func TestPlacesComeBack(t *testing.T) {
	service := httptest.NewServer(http.HandlerFunc(chatOrSlow))
	t.Cleanup(service.Close)
	a, _ := running(t, fmt.Sprintf(`
listeners: [ { name: web, address: "127.0.0.1:0", protocols: [http1, h2c] } ]
admin: off
observe: { log: { level: error } }
policies: [ concurrency: { limit: 1 } ]
routes: [ { name: all, match: /*, upstream: "%s" } ]
`, service.URL))
	t.Cleanup(func() { a.Close(context.Background()) })
	at := address(t, a, "web")
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	h1, h2 := &http.Client{Transport: new(http.Transport)}, &http.Client{Transport: &http.Transport{Protocols: &protocols}}
	t.Cleanup(h1.CloseIdleConnections)
	t.Cleanup(h2.CloseIdleConnections)
	status := func() int {
		answer, err := h1.Get("http://" + at + "/")
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		_ = answer.Body.Close()
		return answer.StatusCode
	}
	// An answer is read a moment before its place is free.
	quiet := func() bool { return shown(a, "gatehouse_requests_in_flight{route=\"all\"}") == "0" }
	leaves := func(c *http.Client) func() func() {
		return func() func() {
			ctx, cancel := context.WithCancel(t.Context())
			q, err := http.NewRequestWithContext(ctx, "GET", "http://"+at+"/slow", nil)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := c.Do(q)
			if err != nil || answer.StatusCode != 200 {
				t.Fatalf("%+v, %v", answer, err)
			}
			return func() {
				cancel()
				_ = answer.Body.Close()
			}
		}
	}
	socket := func(open func(*testing.T, string) io.ReadWriteCloser) func() func() {
		return func() func() {
			s := open(t, at)
			heard := make([]byte, 5)
			if _, err := io.WriteString(s, "hello"); err != nil {
				t.Fatal(err)
			} else if _, err := io.ReadFull(s, heard); err != nil || string(heard) != "hello" {
				t.Fatalf("%q, %v", heard, err)
			}
			return func() { _ = s.Close() }
		}
	}
	for name, begin := range map[string]func() func(){
		"a connection that closes":  leaves(h1),
		"a stream that is reset":    leaves(h2),
		"a WebSocket":               socket(socket1),
		"a WebSocket over a stream": socket(socket2),
	} {
		end := begin()
		if got := status(); got != 429 {
			t.Errorf("%s: beside it another is answered %d", name, got)
		}
		end()
		redistest.Until(t, name+" has ended", quiet)
		if got := status(); got != 200 {
			t.Errorf("%s: after it another is answered %d", name, got)
		}
		redistest.Until(t, "all is quiet", quiet)
	}
}

// chatOrSlow takes WebSockets at /chat, begins and never ends at /slow, and
// answers elsewhere.
func chatOrSlow(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/chat" {
		c, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept(r.Header.Get("Sec-WebSocket-Key")))
		_, _ = io.Copy(c, buf)
		return
	}
	_, _ = io.WriteString(w, "begun")
	_ = http.NewResponseController(w).Flush()
	if r.URL.Path == "/slow" {
		<-r.Context().Done()
	}
}
