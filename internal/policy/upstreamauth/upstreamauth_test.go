package upstreamauth_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/jose"
	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

func Test(t *testing.T) {
	for _, settings := range []string{
		"{ basic: { username: ann, password: { file: testdata/secret } } }",
		"{ jwt: { keys: [ { key: { file: testdata/secret }, algorithm: HS256 } ], issuer: a, audience: b, anonymous: guest } }",
	} {
		policytest.Run(t, policytest.Suite{Catalog: all.Catalog(), Kind: "upstream_auth", Settings: settings})
	}
	t.Run("client_credentials", func(t *testing.T) {
		policytest.Run(t, policytest.Suite{Catalog: all.Catalog(), Kind: "upstream_auth", Settings: "{ client_credentials: " + newIssuer(t).settings("") + " }"})
	})
	t.Run("sigv4", func(t *testing.T) {
		policytest.Run(t, policytest.Suite{
			Catalog: all.Catalog(), Kind: "upstream_auth", Allocs: 60, // hashes and texts of every request
			Settings: "{ sigv4: { region: eu-central-1, service: s3, access_key: { file: testdata/client }, secret_key: { file: testdata/secret } } }",
		})
	})
}

func BenchmarkPlain(b *testing.B) {
	serve := policytest.Plain(b, all.Catalog(), route("{ bearer: { token: abc } }"), nil)
	b.ReportAllocs()
	for b.Loop() {
		serve()
	}
}

func BenchmarkSigV4(b *testing.B) {
	serve := policytest.Plain(b, all.Catalog(), route("{ sigv4: { region: eu-central-1, service: s3, access_key: AKID, secret_key: secret } }"), nil)
	b.ReportAllocs()
	for b.Loop() {
		serve()
	}
}

func route(settings string) string {
	return "routes:\n  - match: /*\n    upstream: http://up\n    policies: [ upstream_auth: " + settings + " ]\n"
}

// tokenEndpoint is a strict token endpoint: it knows one client and answers by what it is
// asked for.
type tokenEndpoint struct {
	*httptest.Server

	mu    sync.Mutex
	forms []url.Values
	down  bool
	key   *jose.Key // of private_key_jwt
}

func newIssuer(t testing.TB) *tokenEndpoint {
	t.Helper()
	i := new(tokenEndpoint)
	i.Server = httptest.NewServer(http.HandlerFunc(i.serve))
	t.Cleanup(i.Close)
	return i
}

func (i *tokenEndpoint) serve(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	fail := func(status int, code string) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string]string{"error": code, "error_description": "s3cret details"})
	}
	if err := r.ParseForm(); err != nil || r.Method != http.MethodPost || len(r.URL.RawQuery) > 0 || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
		fail(400, "invalid_request")
		return
	}
	i.forms = append(i.forms, r.PostForm)
	if i.down {
		w.WriteHeader(http.StatusBadGateway)
		return
	}
	if !i.proved(r) {
		fail(401, "invalid_client")
		return
	}
	n := len(i.forms)
	m := map[string]any{"access_token": fmt.Sprint("token-", n), "token_type": "Bearer", "expires_in": 3600}
	if r.PostForm.Get("grant_type") == "urn:ietf:params:oauth:grant-type:token-exchange" {
		m["issued_token_type"] = "urn:ietf:params:oauth:token-type:access_token"
	}
	switch r.PostForm.Get("scope") {
	case "unknown":
		fail(400, "invalid_scope")
		return
	case "refused":
		fail(400, "invalid_request")
		return
	case "mac":
		m["token_type"] = "mac"
	case "odd":
		m["access_token"] = "a\r\nX-Admin: 1"
	case "never":
		m["expires_in"] = -1
	case "text":
		m["expires_in"] = "3600"
	case "endless":
		delete(m, "expires_in")
	case "untold":
		delete(m, "issued_token_type")
	case "moved":
		http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		return
	case "twice":
		_, _ = fmt.Fprint(w, `{"access_token":"a","access_token":"b","token_type":"Bearer"}`)
		return
	case "large":
		m["x"] = strings.Repeat("x", 4096)
	}
	_ = json.NewEncoder(w).Encode(m)
}

// proved tells whether the client is the one that is known.
func (i *tokenEndpoint) proved(r *http.Request) bool {
	user, pass, basic := r.BasicAuth()
	f := r.PostForm
	switch {
	case basic:
		return user == "gate%3Ahouse" && pass == "s%2Bcret" && !f.Has("client_id") && !f.Has("client_secret")
	case f.Has("client_assertion"):
		token, err := jose.Parse(f.Get("client_assertion"))
		if err != nil || f.Get("client_assertion_type") != "urn:ietf:params:oauth:client-assertion-type:jwt-bearer" {
			return false
		}
		_, err = token.Verify([]*jose.Key{i.key})
		exp, _ := token.Claims["exp"].(int64)
		return err == nil && token.Text("iss") == "gate:house" && token.Text("sub") == "gate:house" &&
			token.Text("aud") == "http://"+r.Host && token.Text("jti") != "" && exp > time.Now().Unix()
	}
	return f.Get("client_id") == "gate:house" && f.Get("client_secret") == "s+cret"
}

// asked returns, and forgets, what the endpoint was asked.
func (i *tokenEndpoint) asked() []url.Values {
	i.mu.Lock()
	defer i.mu.Unlock()
	out := i.forms
	i.forms = nil
	return out
}

func (i *tokenEndpoint) settings(more string) string {
	return `{ token_url: "` + i.URL + `", client_id: "gate:house", client_secret: { file: testdata/client } ` + more + ` }`
}

func newRig(t testing.TB, text string) *policytest.Rig {
	t.Helper()
	r := policytest.NewRig(t, all.Catalog(), text, nil)
	t.Cleanup(r.Close)
	return r
}

// sent returns the field that the upstream got, and fails unless there is one
// line of it.
func sent(t *testing.T, r *policytest.Rig, name string) string {
	t.Helper()
	got := r.Received()
	if len(got) != 1 {
		t.Fatalf("the upstream was asked %d times", len(got))
	}
	var lines []string
	for v := range got[0].Header.Values(name) {
		lines = append(lines, v)
	}
	if len(lines) != 1 {
		t.Fatalf("the upstream got %s: %q", name, lines)
	}
	return lines[0]
}

func TestClientCredentials(t *testing.T) {
	i := newIssuer(t)
	text := route("{ client_credentials: " + i.settings(`, scopes: [a, b], audience: [orders, stock], resource: "https://orders.test/"`) + " }")
	r := newRig(t, text)
	for range 3 {
		if a := r.Do(policytest.Request{Target: "/", Header: []exchange.Field{{Name: "Authorization", Value: "Bearer mine"}, {Name: "authorization", Value: "Basic bWluZQ=="}, {Name: "DPoP", Value: "x"}}}); a.Status != 200 {
			t.Fatalf("%d: %v", a.Status, a.Problem)
		}
		if got := sent(t, r, "Authorization"); got != "Bearer token-1" {
			t.Errorf("the upstream got %q", got)
		}
	}
	forms := i.asked()
	want := url.Values{"grant_type": {"client_credentials"}, "scope": {"a b"}, "audience": {"orders", "stock"}, "resource": {"https://orders.test/"}}
	if len(forms) != 1 || forms[0].Encode() != want.Encode() {
		t.Errorf("the issuer was asked %v, want %v", forms, want)
	}
	// A reload keeps the token; the issuer may be gone.
	i.Close()
	if faults := r.Apply(text + "  - match: /other\n    respond: {}\n"); faults.Fatal() {
		t.Fatal(faults)
	}
	if a := r.Do(policytest.Request{Target: "/"}); a.Status != 200 {
		t.Errorf("with the issuer gone: %d, %v", a.Status, a.Problem)
	}
}

func TestHowTheGatewayProvesItself(t *testing.T) {
	i := newIssuer(t)
	file, key := newKey(t)
	signer, err := jose.NewSigner(key, "", "")
	if err != nil {
		t.Fatal(err)
	}
	i.key = signer.Key()
	for settings, want := range map[string]int{
		i.settings(""): 200,
		i.settings(", auth_method: client_secret_post"):                                                                             200,
		strings.Replace(i.settings(""), "testdata/client", "testdata/secret", 1):                                                    503,
		strings.Replace(i.settings(""), "gate:house", "evil", 1):                                                                    503,
		`{ token_url: "` + i.URL + `", client_id: "gate:house", auth_method: private_key_jwt, client_key: { file: ` + file + ` } }`: 200,
	} {
		r := newRig(t, route("{ client_credentials: "+settings+" }"))
		if a := r.Do(policytest.Request{Target: "/"}); a.Status != want {
			t.Errorf("%s: %d, %v", settings, a.Status, a.Problem)
		}
	}
}

// A token in a field of its own stands there alone, and nothing of the caller's
// beside it, in any spelling.
func TestTokensInOtherFields(t *testing.T) {
	i := newIssuer(t)
	r := newRig(t, route("{ client_credentials: "+i.settings(", header: X-Service-Token")+" }"))
	a := r.Do(policytest.Request{Target: "/", Header: []exchange.Field{
		{Name: "Authorization", Value: "Bearer mine"}, {Name: "DPoP", Value: "mine"}, {Name: "x-service-token", Value: "mine"}, {Name: "X-SERVICE-TOKEN", Value: "mine"}, {Name: "X_Service_Token", Value: "mine"},
	}})
	got := r.Received()
	if a.Status != 200 || len(got) != 1 {
		t.Fatalf("%d: %v", a.Status, a.Problem)
	}
	if text := got[0].String(); strings.Contains(text, "mine") || got[0].Header.Get("X-Service-Token") != "token-1" {
		t.Errorf("the upstream got %s", text)
	}
}

// What an issuer says that is odd is no token, and the request does not go on.
func TestOddAnswers(t *testing.T) {
	i := newIssuer(t)
	for scope, want := range map[string]string{
		"unknown": "unavailable", "refused": "unavailable", "mac": "unavailable", "odd": "unavailable", "never": "unavailable", "text": "unavailable",
		"moved": "unavailable", "twice": "unavailable", "large": "unavailable", "endless": "",
	} {
		r := newRig(t, route("{ client_credentials: "+i.settings(", scopes: "+scope+", http: { max_body: 1KiB }")+" }"))
		a := r.Do(policytest.Request{Target: "/", Header: []exchange.Field{{Name: "Authorization", Value: "Bearer mine"}}})
		switch {
		case want == "":
			if a.Status != 200 {
				t.Errorf("%s: %d, %v", scope, a.Status, a.Problem)
			}
		case a.Status != 503 || a.Problem.Code != "upstream_credential_"+want || a.Problem.Retry <= 0 || len(r.Received()) != 0:
			t.Errorf("%s: %d, %v", scope, a.Status, a.Problem)
		case strings.Contains(a.Problem.Error(), "s3cret"):
			t.Errorf("%s: %v", scope, a.Problem)
		}
	}
}

func TestTokenExchange(t *testing.T) {
	i := newIssuer(t)
	secret := strings.Repeat("k", 32)
	signer, err := jose.NewSigner([]byte(secret), "HS256", "")
	if err != nil {
		t.Fatal(err)
	}
	token := func(subject string) string {
		text, err := signer.Sign(nil, map[string]any{"iss": "id", "aud": "shop", "sub": subject, "exp": time.Now().Unix() + 300})
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	text := func(more string) string {
		return `
routes:
  - match: /*
    upstream: http://up
    policies:
      - jwt: { issuer: id, audience: shop, keys: [ { secret: ` + secret + `, algorithm: HS256 } ], forward: false, optional: true }
      - upstream_auth: { token_exchange: ` + i.settings(more) + ` }
`
	}
	do := func(r *policytest.Rig, token string) *policytest.Answer {
		return r.Do(policytest.Request{Target: "/", Header: []exchange.Field{{Name: "Authorization", Value: "Bearer " + token}}})
	}
	r := newRig(t, text(`, audience: orders, requested_token_type: access_token, scopes: [a, b]`))
	ann, bob := token("ann"), token("bob")
	for _, c := range []struct{ token, want string }{{ann, "token-1"}, {bob, "token-2"}, {ann, "token-1"}, {bob, "token-2"}} {
		if a := do(r, c.token); a.Status != 200 {
			t.Fatalf("%d: %v", a.Status, a.Problem)
		}
		if got := sent(t, r, "Authorization"); got != "Bearer "+c.want {
			t.Errorf("the upstream got %q, want %q", got, c.want)
		}
	}
	forms := i.asked()
	want := url.Values{
		"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "subject_token": {ann},
		"subject_token_type":   {"urn:ietf:params:oauth:token-type:access_token"},
		"requested_token_type": {"urn:ietf:params:oauth:token-type:access_token"}, "audience": {"orders"}, "scope": {"a b"},
	}
	if len(forms) != 2 || forms[0].Encode() != want.Encode() || forms[1].Get("subject_token") != bob {
		t.Errorf("the issuer was asked %v", forms)
	}
	// Nobody's token is exchanged, and nothing that was not verified.
	for _, header := range [][]exchange.Field{nil, {{Name: "X-Token", Value: ann}}} {
		if a := r.Do(policytest.Request{Target: "/", Header: header}); a.Status != 403 || a.Problem.Code != "upstream_credential_refused" {
			t.Errorf("nobody: %d, %v", a.Status, a.Problem)
		}
	}
	if a := do(r, ann+"x"); a.Status != 401 {
		t.Errorf("a token that is not valid: %d, %v", a.Status, a.Problem)
	}
	for more, code := range map[string]string{
		", scopes: refused":           "upstream_credential_refused",
		", scopes: unknown":           "upstream_credential_unavailable",
		", scopes: untold":            "upstream_credential_unavailable",
		", scopes: odd":               "upstream_credential_unavailable",
		", requested_token_type: jwt": "upstream_credential_unavailable", // and the answer is another
	} {
		r := newRig(t, text(more))
		i.asked()
		for range 2 {
			if a := do(r, ann); a.Problem == nil || a.Problem.Code != code {
				t.Errorf("%s: %d, %v", more, a.Status, a.Problem)
			}
		}
		if n := len(i.asked()); code == "upstream_credential_refused" && n != 1 {
			t.Errorf("%s: asked %d times", more, n)
		}
		if len(r.Received()) != 0 {
			t.Errorf("%s: the upstream was asked", more)
		}
	}
}

func newKey(t testing.TB) (file string, key *ecdsa.PrivateKey) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	file = filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file, key
}

// A service that knows the gateway by its published keys takes its tokens, while
// and after keys change.
func TestMintedTokens(t *testing.T) {
	first, _ := newKey(t)
	second, _ := newKey(t)
	text := func(keys string) string {
		return `
consumers:
  - name: mobile
    groups: [partners, beta]
    labels: { plan: gold }
    credentials: [ api_key: { hash: "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae" } ]
routes:
  - match: /keys
    policies: [ jwks: { keys: &keys [` + keys + `] } ]
    respond: { status: 404 }
  - match: /*
    upstream: http://up
    policies:
      - api_key: { optional: true }
      - upstream_auth:
          jwt: { keys: *keys, issuer: gateway, audience: orders, subject: consumer, claims: { plan: labels.plan, groups: groups, tenant: claims.tenant }, set: { env: test } }
`
	}
	one, two := "{ id: one, key: { file: "+first+" } }", "{ id: two, key: { file: "+second+" } }"
	r := newRig(t, text(one))
	set := func() *jose.Set {
		a := r.Do(policytest.Request{Target: "/keys"})
		s, err := jose.ParseSet([]byte(a.Body))
		if err != nil || a.Status != 200 || strings.Contains(a.Body, `"d"`) {
			t.Fatalf("%d, %s: %v", a.Status, a.Body, err)
		}
		return s
	}
	ask := func() *jose.Token {
		if a := r.Do(policytest.Request{Target: "/", Header: []exchange.Field{{Name: "X-API-Key", Value: "foo"}, {Name: "Authorization", Value: "Bearer mine"}}}); a.Status != 200 {
			t.Fatalf("%d: %v", a.Status, a.Problem)
		}
		text, ok := strings.CutPrefix(sent(t, r, "Authorization"), "Bearer ")
		token, err := jose.Parse(text)
		if err != nil || !ok {
			t.Fatalf("%q: %v", text, err)
		}
		return token
	}
	known := set()
	token := ask()
	if _, err := token.Verify(known.Find(token.Kid, token.Alg)); err != nil || token.Kid != "one" {
		t.Errorf("key %q: %v", token.Kid, err)
	}
	exp, _ := token.Claims["exp"].(int64)
	iat, _ := token.Claims["iat"].(int64)
	groups, _ := json.Marshal(token.Claims["groups"])
	if token.Text("iss") != "gateway" || token.Text("aud") != "orders" || token.Text("sub") != "mobile" || token.Text("plan") != "gold" ||
		token.Text("env") != "test" || exp-iat != 300 || string(groups) != `["partners","beta"]` || token.Text("jti") == "" {
		t.Errorf("the token says %v", token.Claims)
	}
	if _, there := token.Claims["tenant"]; there {
		t.Errorf("the token says what is not known: %v", token.Claims)
	}
	if again := ask(); again.Text("jti") != token.Text("jti") {
		t.Error("a token is made for every request")
	}
	for _, step := range []struct{ keys, signs string }{{one + ", " + two, "one"}, {two + ", " + one, "two"}, {two, "two"}} {
		if faults := r.Apply(text(step.keys)); faults.Fatal() {
			t.Fatal(faults)
		}
		token := ask()
		published := set()
		if _, err := token.Verify(known.Find(token.Kid, token.Alg)); token.Kid != step.signs || err != nil {
			t.Errorf("with keys %s: signed by %q, which was not published before: %v", step.keys, token.Kid, err)
		}
		known = published
	}
	if a := r.Do(policytest.Request{Target: "/"}); a.Status != 403 || a.Problem.Code != "upstream_credential_refused" {
		t.Errorf("nobody: %d, %v", a.Status, a.Problem)
	}
}

// The signature is over what is sent: after rewrite, and with the body.
func TestSignedRequests(t *testing.T) {
	text := `
routes:
  - match: /files/*
    upstream: http://up
    rewrite: { strip_prefix: /files, host: bucket.test }
    policies:
      - headers: { request: { set: { Content-Type: text/plain } } }
      - upstream_auth: { sigv4: { region: eu-central-1, service: dynamodb, access_key: AKID, secret_key: secret, session_token: "t/=", fields: [X-Amz-Target, "X-Amz-Meta-*"], max_body: 1KiB } }
`
	r := newRig(t, text)
	a := r.Do(policytest.Request{Method: "POST", Target: "/files/a%20b?q=x+y&b&X-Amz-Credential=mine", Body: "hello", Header: []exchange.Field{
		{Name: "Authorization", Value: "AWS4-HMAC-SHA256 mine"},
		{Name: "x-amz-security-token", Value: "mine"},
		{Name: "X-Amz-Target", Value: "T"},
		{Name: "X-Amz-Copy-Source", Value: "/other/secret"},
		{Name: "X-Amz-Meta-A", Value: "1"},
		{Name: "X-AMZ-DATE", Value: "20000101T000000Z"},
		{Name: "Content-Type", Value: "x/y"},
	}})
	got := r.Received()
	if a.Status != 200 || len(got) != 1 {
		t.Fatalf("%d: %v", a.Status, a.Problem)
	}
	q := got[0]
	if q.Target != "/a%20b?q=x%20y&b=" || q.Host != "bucket.test" || q.Body != "hello" {
		t.Errorf("the upstream got %s of %s", q.Target, q.Host)
	}
	for name, want := range map[string]string{
		"X-Amz-Content-Sha256": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
		"X-Amz-Security-Token": "t/=", "X-Amz-Target": "T", "X-Amz-Copy-Source": "", "X-Amz-Meta-A": "1", "Content-Type": "text/plain",
	} {
		if v := q.Header.Get(name); v != want {
			t.Errorf("%s is %q, want %q", name, v, want)
		}
	}
	auth := q.Header.Get("Authorization")
	if !strings.HasPrefix(auth, "AWS4-HMAC-SHA256 Credential=AKID/"+time.Now().UTC().Format("20060102")+"/eu-central-1/dynamodb/aws4_request, "+
		"SignedHeaders=content-type;host;x-amz-content-sha256;x-amz-date;x-amz-meta-a;x-amz-security-token;x-amz-target, Signature=") || strings.Contains(auth, "mine") {
		t.Errorf("the upstream got %q", auth)
	}
	if a := r.Do(policytest.Request{Method: "POST", Target: "/files/", Body: strings.Repeat("x", 2000), Chunked: true}); a.Status != 413 {
		t.Errorf("a body over the cap: %d, %v", a.Status, a.Problem)
	}
	r = newRig(t, route("{ sigv4: { region: eu-central-1, service: s3, access_key: AKID, secret_key: secret, host: b.test } }"))
	r.Do(policytest.Request{Method: "PUT", Target: "/a+b", Body: "hello", Chunked: true})
	if got := r.Received(); len(got) != 1 || got[0].Header.Get("X-Amz-Content-Sha256") != "UNSIGNED-PAYLOAD" || got[0].Target != "/a%2Bb" || got[0].Host != "b.test" {
		t.Errorf("the upstream got %v", got)
	}
}
