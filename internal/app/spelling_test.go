package app

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// What was matched is what is sent, on both engines: a path that a service
// could read as another one than the router did is refused, and every other is
// sent in the spelling that was matched.
func TestWhatIsMatchedIsSent(t *testing.T) {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s", r.RequestURI, r.Host)
	}))
	defer service.Close()
	a, _ := running(t, fmt.Sprintf(`
listeners:
  - { name: native, address: "127.0.0.1:0" }
  - { name: std, address: "127.0.0.1:0", engine: std }
admin: off
routes:
  - { name: secret, match: "/secret/*", respond: { status: 403, body: secret } }
  - { name: slash, match: "/exact/", respond: { body: slash } }
  - { name: exact, match: "/exact", respond: { body: exact } }
  - { name: host, match: "shop.example/*", respond: { body: host } }
  - { name: wild, match: "*.shop.example/*", respond: { body: wild } }
  - { name: rest, match: "/*", upstream: %q }
`, service.URL))
	defer a.Close(context.Background())
	for _, c := range spellings() {
		for _, door := range []string{"native", "std"} {
			nc := dial(t, address(t, a, door))
			if _, err := io.WriteString(nc, "GET "+c.target+" HTTP/1.1\r\nHost: "+c.host+"\r\nConnection: close\r\n\r\n"); err != nil {
				t.Fatal(err)
			}
			res, err := http.ReadResponse(bufio.NewReader(nc), nil)
			if err != nil {
				t.Errorf("%s: %.60s of %.30s: %v", door, c.target, c.host, err)
				continue
			}
			body, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if res.StatusCode != c.status || c.body != "" && string(body) != c.body {
				t.Errorf("%s: %.60s of %.30s: %d %.80q, not %d %.80q", door, c.target, c.host, res.StatusCode, body, c.status, c.body)
			}
		}
	}
}

// spelling is a target and a Host field, and what is answered.
type spelling struct {
	target, host string
	status       int
	body         string // "" where any will do
}

func spellings() []spelling {
	long := "/" + strings.Repeat("a/", 5000)
	return []spelling{
		{"/secret/a", "h", 403, "secret"},
		{"/secret", "h", 403, "secret"},
		{"/%73ecret/a", "h", 403, "secret"},
		{"/%73%65cret", "h", 403, "secret"},
		{"/a/../secret/a", "h", 403, "secret"},
		{"/a/%2e%2E/secret/a", "h", 403, "secret"},
		{"/./secret/", "h", 403, "secret"},
		{"/secret/../a", "h", 200, "/a h"},
		{"/../secret", "h", 403, "secret"},
		{"http://h/secret", "h", 403, "secret"},
		{"http://h/a/../secret?x", "h", 403, "secret"},
		// Another segment than secret, and sent as such.
		{"/Secret/a", "h", 200, "/Secret/a h"},
		{"//secret/a", "h", 200, "//secret/a h"},
		{"/secret%2Fa", "h", 200, "/secret%2Fa h"},
		{"/secret%2fa", "h", 200, "/secret%2Fa h"},
		{"/secret;v=1/a", "h", 200, "/secret;v=1/a h"},
		{"/secret%3Bv/a", "h", 200, "/secret%3Bv/a h"},
		{"/secret%20/a", "h", 200, "/secret%20/a h"},
		{"/secretly", "h", 200, "/secretly h"},
		{"/%2573ecret/a", "h", 200, "/%2573ecret/a h"},
		// What two readers could take differently.
		{"/a/..;/secret", "h", 400, ""},
		{"/a/..%2Fsecret", "h", 400, ""},
		{"/a%2F..%2Fsecret", "h", 400, ""},
		{"/a/..%3B/secret", "h", 400, ""},
		{"/a/..%5Csecret", "h", 400, ""},
		{"/a\\..\\secret", "h", 400, ""},
		{"/secret%00", "h", 400, ""},
		{"/secret%0A", "h", 400, ""},
		{"/secret%", "h", 400, ""},
		{"/secret%zz", "h", 400, ""},
		{"/a#secret", "h", 400, ""},
		{"secret", "h", 400, ""},
		{"http://h:x/secret", "h", 400, ""},
		{"http://other/secret", "h", 400, ""},
		{"ftp://h/secret", "h", 400, ""},
		// The final slash, and the query, which is no part of the path.
		{"/exact", "h", 200, "exact"},
		{"/exact/", "h", 200, "slash"},
		{"/exact//", "h", 200, "/exact// h"},
		{"/exact?/../secret", "h", 200, "exact"},
		{"/x?a=/secret/..;/&b=%00", "h", 200, "/x?a=/secret/..;/&b=%00 h"},
		{"/x?", "h", 200, "/x? h"},
		{long, "h", 200, long + " h"},
		{"/" + strings.Repeat("a", 40000), "h", 414, ""},
		// One host, however it is written.
		{"/x", "shop.example", 200, "host"},
		{"/x", "SHOP.Example:8080", 200, "host"},
		{"/x", "shop.example.", 200, "host"},
		{"/x", "a.b.shop.example", 200, "wild"},
		{"/x", "xshop.example", 200, "/x xshop.example"},
		{"/x", ".shop.example", 400, ""},
		{"/x", "shop.example..", 400, ""},
		{"/x", "shop.example:80:80", 400, ""},
		{"/x", "shop.example:http", 400, ""},
		{"/x", "me@shop.example", 400, ""},
		{"/x", "shop.example/x", 400, ""},
		{"/x", "bücher.example", 400, ""},
		{"/x", "xn--bcher-kva.example", 200, "/x xn--bcher-kva.example"},
		{"/x", strings.Repeat("a.", 5000) + "a", 400, ""},
	}
}
