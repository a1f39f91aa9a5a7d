package app

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"
)

// ruled is one use of a policy, and what shows that it acts: the answer to a
// request, after earlier ones like it.
type ruled struct {
	kind, settings string
	before         int // requests like it that come first
	method         string
	fields         []string // names and values
	body           string
	status         int
	want           string // part of the answer, its head in front; "!" before it: no part
}

// byDoor makes what a policy counts a matter of one front door.
const byDoor = "by: 'header:X-Door'"

// rules has every kind of policy once or more.
func rules(service, token string) []ruled {
	return []ruled{
		{kind: "request_id", settings: "{}", status: 200, want: "\nX-Request-Id: "},
		{kind: "security_headers", settings: "{}", status: 200, want: "\nX-Content-Type-Options: nosniff"},
		{kind: "ip", settings: "{ deny: [127.0.0.0/8] }", status: 403, want: "address_refused"},
		{kind: "cors", settings: "{ origins: ['https://shop.example.com'] }", method: "OPTIONS", fields: []string{"Origin", "https://shop.example.com", "Access-Control-Request-Method", "GET"}, status: 204, want: "\nAccess-Control-Allow-Origin: https://shop.example.com"},
		{kind: "bot", settings: "{}", fields: []string{"User-Agent", "sqlmap/1.7"}, status: 403, want: "bot_refused"},
		{kind: "csrf", settings: "{}", method: "POST", fields: []string{"Sec-Fetch-Site", "cross-site", "Origin", "https://evil.example"}, status: 403, want: "cross_site_refused"},
		{kind: "body_limit", settings: "{ max: 4 }", method: "POST", body: "hello", status: 413, want: "body_too_large"},
		{kind: "body_limit", settings: "{ max: 5 }", method: "POST", body: "hello", status: 200, want: "hello"},
		{kind: "jwks", settings: "{ keys: [ { id: a, algorithm: ES256, key: { file: a.key } } ] }", status: 200, want: `"kty":"EC"`},
		{kind: "mtls", settings: "{}", status: 401, want: "credential_missing"},
		{kind: "api_key", settings: "{ headers: { X-Who: consumer } }", fields: []string{"X-API-Key", "foo", "X-Who", "me"}, status: 200, want: "X-Who=mobile"},
		{kind: "api_key", settings: "{}", fields: []string{"X-API-Key", "foo"}, status: 200, want: "!X-Api-Key"},
		{kind: "api_key", settings: "{}", fields: []string{"X-API-Key", "bar"}, status: 401, want: "credential_invalid"},
		{kind: "jwt", settings: "{ issuer: 'https://id.example.com', audience: shop, keys: [ { algorithm: HS256, secret: 0123456789abcdef0123456789abcdef } ], headers: { X-Who: subject } }", fields: []string{"Authorization", "Bearer " + token}, status: 200, want: "X-Who=ann"},
		{kind: "jwt", settings: "{ issuer: 'https://id.example.com', audience: other, keys: [ { algorithm: HS256, secret: 0123456789abcdef0123456789abcdef } ] }", fields: []string{"Authorization", "Bearer " + token}, status: 401, want: "\nWww-Authenticate: Bearer"},
		{kind: "signature", settings: "{}", status: 401, want: "credential_missing"},
		{kind: "introspect", settings: "{ url: '" + service + "/active', client_id: g, client_secret: s, audience: '*', http: { plain: true }, headers: { X-Who: subject } }", fields: []string{"Authorization", "Bearer opaque"}, status: 200, want: "X-Who=ann"},
		{kind: "forward_auth", settings: "{ url: '" + service + "/refuses', http: { plain: true } }", status: 403, want: "\nContent-Type: application/problem+json"},
		{kind: "basic", settings: "{}", status: 401, want: "\nWww-Authenticate: Basic"},
		{kind: "ldap", settings: "{ url: 'ldaps://127.0.0.1:1', base_dn: 'ou=people' }", status: 401, want: "\nWww-Authenticate: Basic"},
		{kind: "oidc", settings: "{ issuer: '" + service + "/down', client_id: a, client_secret: b, cookie_secret: 0123456789abcdef0123456789abcdef, http: { plain: true } }", fields: []string{"Accept", "application/json"}, status: 401, want: "credential_missing"},
		{kind: "all_of", settings: "{ policies: [ api_key: {}, basic: {} ] }", fields: []string{"X-API-Key", "foo"}, status: 401, want: "credential_invalid"},
		{kind: "any_of", settings: "{ policies: [ basic: {}, api_key: {} ] }", fields: []string{"X-API-Key", "foo"}, status: 200, want: "/any_of"},
		{kind: "authorize", settings: "{ groups: [partners] }", status: 403, want: "forbidden"},
		{kind: "opa", settings: "{ rego: { module: \"package a\\nallow if input.method == \\\"POST\\\"\", query: data.a.allow } }", status: 403, want: "application/problem+json"},
		{kind: "ext_authz", settings: "{ url: 'grpc://127.0.0.1:1' }", status: 503, want: "application/problem+json"},
		{kind: "rate_limit", settings: "{ limit: 1/d, " + byDoor + " }", before: 1, status: 429, want: "\nRetry-After: "},
		{kind: "quota", settings: "{ limit: 1, period: month, " + byDoor + " }", before: 1, status: 429, want: "quota_exceeded"},
		{kind: "idempotency", settings: "{}", before: 1, method: "POST", fields: []string{"Idempotency-Key", "DOOR"}, body: "order", status: 200, want: "\nIdempotency-Replayed: true"},
		{kind: "headers", settings: "{ request: { set: { X-Set: there } }, response: { set: { X-Back: here } } }", status: 200, want: "X-Set=there"},
		{kind: "headers", settings: "{ response: { set: { X-Back: here } } }", status: 200, want: "\nX-Back: here"},
		{kind: "fault", settings: "{ abort: 418 }", status: 418, want: "application/problem+json"},
		{kind: "upstream_auth", settings: "{ bearer: { token: ours } }", fields: []string{"Authorization", "Bearer theirs"}, status: 200, want: "Authorization=Bearer ours"},
		// These act under load or on other requests, where tests of their own
		// show it. Here they let pass: a place is free a moment after the answer.
		{kind: "concurrency", settings: "{ limit: 3, " + byDoor + " }", before: 2, status: 200, want: "/concurrency"},
		{kind: "spike", settings: "{ rate: 1000/s, " + byDoor + " }", before: 2, status: 200, want: "/spike"},
		{kind: "shed", settings: "{ cpu: 0%, memory: 0%, queue_delay: 10s }", status: 200, want: "/shed"},
		{kind: "websocket", settings: "{ max_message: 1KiB }", status: 200, want: "/websocket"},
		{kind: "grpc_web", settings: "{}", status: 200, want: "/grpc_web"},
		{kind: "access_log", settings: "{}", status: 200, want: "/access_log"},
	}
}

// door is one way in.
type door struct {
	name, listener, scheme, proto string
	transport                     func(*tls.Config) http.RoundTripper
}

func doors() []door {
	one := func(c *tls.Config) http.RoundTripper { return &http.Transport{TLSClientConfig: c} }
	two := func(c *tls.Config) http.RoundTripper {
		return &http.Transport{TLSClientConfig: c, ForceAttemptHTTP2: true}
	}
	prior := func(*tls.Config) http.RoundTripper {
		t := &http.Transport{Protocols: new(http.Protocols)}
		t.Protocols.SetUnencryptedHTTP2(true)
		return t
	}
	three := func(c *tls.Config) http.RoundTripper { return &http3.Transport{TLSClientConfig: c} }
	return []door{
		{"HTTP/1.1", "plain", "http", "HTTP/1.1", one},
		{"HTTP/2 without TLS", "plain", "http", "HTTP/2.0", prior},
		{"HTTP/1.1 over TLS", "secure", "https", "HTTP/1.1", one},
		{"HTTP/2", "secure", "https", "HTTP/2.0", two},
		{"HTTP/3", "secure", "https", "HTTP/3.0", three},
		{"engine std, HTTP/1.1", "std", "http", "HTTP/1.1", one},
		{"engine std, HTTP/1.1 over TLS", "secure-std", "https", "HTTP/1.1", one},
	}
}

// TestPoliciesAtEveryDoor shows that a request meets the same policies whatever
// protocol it comes by.
func TestPoliciesAtEveryDoor(t *testing.T) {
	service := httptest.NewServer(http.HandlerFunc(serveRules))
	t.Cleanup(service.Close)
	list := rules(service.URL, signed(`{"iss":"https://id.example.com","aud":"shop","sub":"ann","exp":9999999999}`))
	have := make(map[string]bool)
	text := fmt.Sprintf(doorSettings, service.Listener.Addr())
	for i, r := range list {
		have[r.kind] = true
		text += fmt.Sprintf("  - { match: '/%d/*', policies: [ %s: %s ], upstream: service }\n", i, r.kind, r.settings)
	}
	for _, k := range Catalog().Kinds() {
		if !have[k.Name] {
			t.Errorf("nothing shows that %s acts at every door", k.Name)
		}
	}
	dir := t.TempDir()
	writePair(t, dir)
	file, log := filepath.Join(dir, "gatehouse.yaml"), filepath.Join(dir, "access.log")
	write(t, file, fmt.Sprintf("data_folder: %q\nobserve: { access_log: { output: %q } }\n", dir, log)+text)
	a, err := New(Source{Path: file}, "test", io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	end := sync.OnceFunc(func() { a.Close(context.Background()) })
	t.Cleanup(end)
	var logged []string
	for _, d := range doors() {
		logged = append(logged, d.proto)
		t.Run(d.name, func(t *testing.T) {
			transport := d.transport(&tls.Config{ServerName: "shop.example.com", InsecureSkipVerify: true})
			t.Cleanup(func() {
				if c, ok := transport.(io.Closer); ok {
					c.Close()
				}
			})
			c := &http.Client{Transport: transport, Timeout: 30 * time.Second}
			for i, r := range list {
				url := fmt.Sprintf("%s://%s/%d/%s", d.scheme, address(t, a, d.listener), i, r.kind)
				for range r.before {
					if _, _, err := r.ask(c, url, d.name); err != nil {
						t.Fatal(err)
					}
				}
				res, answer, err := r.ask(c, url, d.name)
				if err != nil {
					t.Fatalf("%s: %v", r.kind, err)
				}
				unwanted, not := strings.CutPrefix(r.want, "!")
				if res.Proto != d.proto || res.StatusCode != r.status || strings.Contains(answer, unwanted) == not {
					t.Errorf("%s %s: %s %d, want %d with %q:\n%s", r.kind, r.settings, res.Proto, res.StatusCode, r.status, r.want, answer)
				}
			}
		})
	}
	end() // writes what has not been written
	lines, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var protos []string
	for _, m := range regexp.MustCompile(`"proto":"([^"]+)"`).FindAllSubmatch(lines, -1) {
		protos = append(protos, string(m[1]))
	}
	slices.Sort(protos) // lines are written from several places
	slices.Sort(logged)
	if !slices.Equal(protos, logged) {
		t.Errorf("the access log has requests by %q, want %q", protos, logged)
	}
}

const doorSettings = `
listeners:
  - { name: plain, address: '127.0.0.1:0', protocols: [http1, h2c] }
  - { name: secure, address: '127.0.0.1:0', protocols: [http1, http2, http3], tls: { certificates: [ { cert_file: a.crt, key_file: a.key } ] } }
  - { name: std, address: '127.0.0.1:0', engine: std }
  - { name: secure-std, address: '127.0.0.1:0', engine: std, tls: { certificates: [ { cert_file: a.crt, key_file: a.key } ] } }
admin: off
consumers:
  - name: mobile
    credentials: [ { api_key: { hash: "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae" } } ]
upstreams: { service: { endpoints: ["http://%s"] } }
routes:
`

// ask sends the request and returns the answer as text, too.
func (r *ruled) ask(c *http.Client, url, door string) (*http.Response, string, error) {
	method := r.method
	if method == "" {
		method = "GET"
	}
	req, err := http.NewRequest(method, url, strings.NewReader(r.body))
	if err != nil {
		return nil, "", err
	}
	req.Header.Set("User-Agent", "shop/1.0")
	req.Header.Set("X-Door", door)
	for i := 0; i < len(r.fields); i += 2 {
		req.Header.Set(r.fields[i], strings.ReplaceAll(r.fields[i+1], "DOOR", strings.ReplaceAll(door, " ", "-")))
	}
	res, err := c.Do(req)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return nil, "", err
	}
	var all strings.Builder
	all.WriteString(res.Status + "\n")
	for name, values := range res.Header {
		fmt.Fprintf(&all, "%s: %s\n", name, strings.Join(values, ", "))
	}
	return res, "\n" + all.String() + "\n" + string(body), nil
}

// serveRules is the service behind the gateway, which shows what it got, and
// those that policies ask.
func serveRules(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/active":
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprint(w, `{"active":true,"sub":"ann","aud":"shop"}`)
		return
	case "/refuses":
		w.WriteHeader(http.StatusForbidden)
		return
	}
	fmt.Fprintln(w, r.Method, r.URL.Path)
	for name, values := range r.Header {
		fmt.Fprintf(w, "%s=%s\n", name, strings.Join(values, ", "))
	}
	_, _ = io.Copy(w, r.Body) // a broken request has no answer
}

// signed returns a token with these claims.
func signed(claims string) string {
	text := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256"}`)) + "." + base64.RawURLEncoding.EncodeToString([]byte(claims))
	h := hmac.New(sha256.New, []byte("0123456789abcdef0123456789abcdef"))
	h.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}
