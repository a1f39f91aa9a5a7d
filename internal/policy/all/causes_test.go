package all_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/observe"
	"gatehouse.dev/gatehouse/internal/policy"
	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

// asked is a service that policies ask. It refuses whatever it is asked.
func asked(t *testing.T) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/introspect" {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"active":false}`)
			return
		}
		w.WriteHeader(http.StatusForbidden)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

const causesText = `
listeners: [ { address: ":1", trusted_proxies: [ 10.0.0.0/8 ] } ]
consumers:
  - name: gone
    disabled: true
    credentials: [ { api_key: { hash: "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae" } } ]
  - name: late
    credentials: [ { expires: 2020-01-01T00:00:00Z, api_key: { hash: "sha256:fcde2b2edba56bf408601fb721fe9b5c338d10ee429ea04fae5511b68fbf8fb9" } } ]
  - name: early
    credentials: [ { not_before: 2120-01-01T00:00:00Z, api_key: { hash: "sha256:baa5a0964d3320fbc0c6a922140453c8513ea24ab8fd0577034804a967248096" } } ]
policies: [ access_log: {} ]
routes:
  - { match: /api_key, upstream: http://up, policies: [ api_key: { attempts: { client: 0 } } ] }
  - { match: /limited, upstream: http://up, policies: [ api_key: { attempts: { client: 1/h } } ] }
  - { match: /basic, upstream: http://up, policies: [ basic: {} ] }
  - { match: /jwt, upstream: http://up, policies: [ jwt: { issuer: id, audience: shop, keys: [ { algorithm: HS256, secret: 0123456789abcdef0123456789abcdef } ] } ] }
  - { match: /mtls, upstream: http://up, policies: [ mtls: { forwarded: true } ] }
  - { match: /signature, upstream: http://up, policies: [ signature: {} ] }
  - { match: /introspect, upstream: http://up, policies: [ introspect: { url: "URL/introspect", client_id: a, client_secret: b, audience: shop, http: { plain: true } } ] }
  - { match: /introspect-gone, upstream: http://up, policies: [ introspect: { url: "http://127.0.0.1:1/", client_id: a, client_secret: b, audience: shop, http: { plain: true } } ] }
  - { match: /forward_auth, upstream: http://up, policies: [ forward_auth: { url: "URL/auth", http: { plain: true } } ] }
  - { match: /ldap, upstream: http://up, policies: [ ldap: { url: "ldap://127.0.0.1:1", base_dn: "dc=example", connection: { plain: true } } ] }
  - { match: /oidc/*, upstream: http://up, policies: [ oidc: { issuer: "URL", client_id: a, cookie_secret: 0123456789abcdef0123456789abcdef, callback: /oidc/callback, http: { plain: true } } ] }
  - { match: /any_of, upstream: http://up, policies: [ any_of: { policies: [ api_key: { attempts: { client: 0 } }, basic: {} ] } ] }
  - { match: /all_of, upstream: http://up, policies: [ all_of: { policies: [ api_key: { attempts: { client: 0 } }, basic: {} ] } ] }
`

// TestCauses has requests refused by every policy that tells who asks. The
// access log says why, and the client does not hear of it.
func TestCauses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "access.log")
	log, err := observe.NewAccessLog(config.AccessLog{Format: "json", Output: file, Sample: 1}, observe.NewMetrics(config.Metrics{MaxRoutes: 100}))
	if err != nil {
		t.Fatal(err)
	}
	rig := policytest.NewRig(t, all.Catalog(), strings.ReplaceAll(causesText, "URL", asked(t)), func(name string) any {
		if name == "access_log" {
			return log
		}
		return nil
	})
	defer rig.Close()
	key := func(v string) exchange.Field { return exchange.Field{Name: "X-API-Key", Value: v} }
	authorization := func(v string) exchange.Field { return exchange.Field{Name: "Authorization", Value: v} }
	proxy := rig.DefaultClient()
	proxy.Trusted = true
	cases := []struct {
		target string
		field  exchange.Field
		status int
		code   string
		cause  string // part of it
	}{
		{"/api_key", key("mistaken"), 401, "credential_invalid", "no consumer has this credential"},
		{"/api_key", key("foo"), 401, "credential_invalid", "is disabled"},
		{"/api_key", key("bar"), 401, "credential_invalid", "has expired"},
		{"/api_key", key("baz"), 401, "credential_invalid", "not valid yet"},
		{"/api_key", key(strings.Repeat("x", 600)), 401, "credential_invalid", "too long"},
		{"/api_key", exchange.Field{Name: "X-Other", Value: "x"}, 401, "credential_missing", "there is no credential (header x-api-key)"},
		{"/limited", key("mistaken"), 401, "credential_invalid", "no consumer has this credential"},
		{"/limited", key("mistaken"), 429, "too_many_attempts", "the client had too many wrong attempts"},
		{"/basic", authorization("Basic YW5uOnB3"), 401, "credential_invalid", "no consumer has this credential"},
		{"/jwt", authorization("Bearer a.b.c"), 401, "credential_invalid", "header: this is not base64url"},
		{"/mtls", exchange.Field{Name: "X-Forwarded-Client-Cert", Value: "Subject=CN=eve"}, 401, "credential_invalid", `no consumer has the certificate of "CN=eve"`},
		{"/signature", exchange.Field{Name: "Signature", Value: "sig=:YQ==:"}, 401, "credential_invalid", ""},
		{"/introspect", authorization("Bearer t"), 401, "credential_invalid", "active"},
		{"/introspect-gone", authorization("Bearer t"), 503, "identity_unavailable", "introspection: "},
		{"/forward_auth", authorization("Bearer t"), 403, "access_refused", "the service answers with status 403"},
		{"/ldap", authorization("Basic YW5uOnB3"), 503, "identity_unavailable", "directory: "},
		{"/oidc/callback?state=x&code=y", exchange.Field{Name: "Accept", Value: "text/html"}, 400, "login_failed", ""},
		{"/any_of", key("mistaken"), 401, "credential_invalid", "no consumer has this credential"},
		{"/all_of", key("mistaken"), 401, "credential_invalid", "no consumer has this credential"},
	}
	kinds := make(map[string]bool)
	for _, c := range cases {
		a := rig.Do(policytest.Request{Target: c.target, Header: []exchange.Field{c.field}, Client: proxy})
		if a.Status != c.status || a.Problem == nil || a.Problem.Code != c.code {
			t.Errorf("%s %v: %v: %v", c.target, c.field, a, a.Problem)
		}
		if a.Problem != nil && a.Problem.Cause != nil && strings.Contains(a.Body+a.Header.Get("WWW-Authenticate"), a.Problem.Cause.Error()) {
			t.Errorf("%s: the client is told why: %v", c.target, a)
		}
		kind := strings.FieldsFunc(c.target, func(r rune) bool { return r == '/' || r == '?' })[0]
		kinds[kind] = true
	}
	for _, k := range all.Catalog().Kinds() {
		if k.Stage == policy.Identify && !kinds[k.Name] {
			t.Errorf("no refusal by %s is tried", k.Name)
		}
	}
	log.Close()
	checkCauses(t, file, func(i int, line map[string]any) {
		c := cases[i]
		cause, _ := line["cause"].(string)
		path, _, _ := strings.Cut(c.target, "?")
		if line["path"] != path || line["code"] != c.code || cause == "" || !strings.Contains(cause, c.cause) {
			t.Errorf("%s %s: the log has %v", c.target, c.code, line)
		}
		if secret := c.field.Value; slices.Contains([]string{"mistaken", "foo", "bar", "baz"}, secret) && strings.Contains(cause, secret) {
			t.Errorf("%s: the log has the credential", c.target)
		}
	}, len(cases))
}

// checkCauses has a look at every line of an access log.
func checkCauses(t *testing.T, file string, look func(i int, line map[string]any), want int) {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for s := bufio.NewScanner(bytes.NewReader(data)); s.Scan(); n++ {
		var line map[string]any
		if err := json.Unmarshal(s.Bytes(), &line); err != nil {
			t.Fatal(err)
		}
		if n < want {
			look(n, line)
		}
	}
	if n != want {
		t.Errorf("the log has %d lines, want %d", n, want)
	}
}
