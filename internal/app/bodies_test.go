package app

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
)

// TestBodyLimitOnTheWire: however a body is framed, no more than the limit
// reaches the service, and nobody is asked to send what will be refused.
func TestBodyLimitOnTheWire(t *testing.T) {
	var longest atomic.Int64
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		longest.Store(max(longest.Load(), n))
		fmt.Fprint(w, n)
	}))
	t.Cleanup(service.Close)
	a, _ := running(t, fmt.Sprintf(`
listeners: [ { name: web, address: "127.0.0.1:0", protocols: [http1, h2c] } ]
admin: off
observe: { log: { level: error } }
policies: [ body_limit: { max: 8 } ]
routes: [ { match: /*, upstream: "%s" } ]
`, service.URL))
	t.Cleanup(func() { a.Close(context.Background()) })
	at := address(t, a, "web")
	for _, c := range []struct{ name, head, want string }{
		{"expected and announced", "Content-Length: 9\r\nExpect: 100-continue\r\n\r\n", "413"},
		{"expected and short", "Content-Length: 2\r\nExpect: 100-continue\r\n\r\nok", "200"},
		{"expected and chunked", "Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n9\r\n123456789\r\n0\r\n\r\n", "413"},
		{"announced", "Content-Length: 9\r\n\r\n123456789", "413"},
		{"chunked", "Transfer-Encoding: chunked\r\n\r\n4\r\n1234\r\n5\r\n56789\r\n0\r\n\r\n", "413"},
		{"chunked without end", "Transfer-Encoding: chunked\r\n\r\n4\r\n1234\r\n5\r\n56789\r\n", "413"},
		{"chunked and short", "Transfer-Encoding: chunked\r\n\r\n4\r\n1234\r\n4\r\n5678\r\n0\r\n\r\n", "200"},
	} {
		conn := dial(t, at)
		fmt.Fprint(conn, "POST / HTTP/1.1\r\nHost: a.example\r\n"+c.head)
		r := bufio.NewReader(conn)
		line, err := r.ReadString('\n')
		if strings.HasPrefix(line, "HTTP/1.1 100 ") && c.name != "expected and announced" {
			_, _ = r.ReadString('\n')
			line, err = r.ReadString('\n')
		}
		if err != nil || !strings.HasPrefix(line, "HTTP/1.1 "+c.want+" ") {
			t.Errorf("%s: %q, %v, want %s", c.name, line, err, c.want)
		}
		_ = conn.Close()
	}
	var protocols http.Protocols
	protocols.SetUnencryptedHTTP2(true)
	h2 := &http.Client{Transport: &http.Transport{Protocols: &protocols}}
	defer h2.CloseIdleConnections()
	for body, want := range map[string]int{"12345678": 200, "123456789": 413, strings.Repeat("x", 1<<20): 413} {
		for _, announced := range []bool{true, false} {
			q, err := http.NewRequest("POST", "http://"+at+"/", struct{ io.Reader }{strings.NewReader(body)})
			if err != nil {
				t.Fatal(err)
			}
			if q.ContentLength = -1; announced {
				q.ContentLength = int64(len(body))
			}
			answer, err := h2.Do(q)
			if err != nil {
				t.Errorf("%d bytes over HTTP/2, announced %v: %v", len(body), announced, err)
				continue
			}
			_ = answer.Body.Close()
			if answer.StatusCode != want {
				t.Errorf("%d bytes over HTTP/2, announced %v: %d", len(body), announced, answer.StatusCode)
			}
		}
	}
	if n := longest.Load(); n > 8 {
		t.Errorf("%d bytes of a body reached the service", n)
	}
}
