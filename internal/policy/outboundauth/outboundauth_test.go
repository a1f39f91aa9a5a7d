package outboundauth_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/jose"
	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

func Test(t *testing.T) {
	policytest.Run(t, policytest.Suite{Catalog: all.Catalog(), Kind: "outbound_auth", Settings: "{ bearer: { file: testdata/secret } }"})
}

// issuer gives out tokens, and counts them.
type issuer struct {
	*httptest.Server
	asked   atomic.Int64
	down    atomic.Bool
	seconds atomic.Int64
	mu      sync.Mutex
	form    map[string]string
}

func newIssuer(t *testing.T) *issuer {
	t.Helper()
	i := new(issuer)
	i.seconds.Store(300)
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := i.asked.Add(1)
		user, pass, _ := r.BasicAuth()
		if i.down.Load() || user != "gate" || pass != "s%2Bcret" || r.ParseForm() != nil {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		i.mu.Lock()
		i.form = make(map[string]string)
		for name := range r.PostForm {
			i.form[name] = r.PostForm.Get(name)
		}
		i.mu.Unlock()
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": "token-" + string(rune('0'+n)), "token_type": "bearer", "expires_in": i.seconds.Load()})
	}))
	t.Cleanup(i.Close)
	return i
}

func newRig(t *testing.T, policies string) *policytest.Rig {
	t.Helper()
	r := policytest.NewRig(t, all.Catalog(), "routes:\n  - match: /*\n    upstream: http://up\n    policies: [ "+policies+" ]\n", nil)
	t.Cleanup(r.Close)
	return r
}

// get returns what the service got in a field.
func get(t *testing.T, r *policytest.Rig, name string, fields ...exchange.Field) (value string, a *policytest.Answer) {
	t.Helper()
	a = r.Do(policytest.Request{Target: "/", Header: fields})
	if got := r.Received(); len(got) == 1 {
		n := 0
		for range got[0].Header.Values(name) {
			n++
		}
		if n > 1 {
			t.Errorf("%s goes on %d times", name, n)
		}
		return got[0].Header.Get(name), a
	}
	return "", a
}

func TestFixed(t *testing.T) {
	client := exchange.Field{Name: "authorization", Value: "Bearer of the client"}
	for policies, want := range map[string][2]string{
		`outbound_auth: { basic: { username: a, password: "b:c" } }`:       {"Authorization", "Basic YTpiOmM="},
		`outbound_auth: { bearer: abc }`:                                   {"Authorization", "Bearer abc"},
		`outbound_auth: { header: { name: X-Service-Key, value: "k k" } }`: {"X-Service-Key", "k k"},
	} {
		r := newRig(t, policies)
		if got, _ := get(t, r, want[0], client, exchange.Field{Name: "x-service-key", Value: "mine"}); got != want[1] {
			t.Errorf("%s: %q", policies, got)
		}
	}
	r := newRig(t, `headers: {}`)
	for settings, want := range map[string]string{
		`{}`: "0 ways stand where one is wanted",
		`{ bearer: a, header: { name: X, value: b } }`:                                                   "2 ways",
		`{ basic: { username: "a:b", password: c } }`:                                                    "outbound_auth.basic.username",
		`{ header: { name: Host, value: x } }`:                                                           "outbound_auth.header.name",
		`{ bearer: "a\nb" }`:                                                                             "outbound_auth.bearer: the secret cannot stand in a field",
		`{ jwt: { key: x, issuer: i, audience: a, claims: { exp: subject, a: b } } }`:                    "outbound_auth.jwt.claims.exp",
		`{ client_credentials: { token_url: "http://id.example.com", client_id: a, client_secret: b } }`: "outbound_auth.client_credentials.token_url",
	} {
		if got := r.Apply("routes:\n  - match: /*\n    upstream: http://up\n    policies: [ outbound_auth: " + settings + " ]\n").Error(); !strings.Contains(got, want) || strings.Contains(got, "a\\nb") {
			t.Errorf("%s: %s", settings, got)
		}
	}
}

func TestClientCredentials(t *testing.T) {
	i := newIssuer(t)
	r := newRig(t, `outbound_auth: { client_credentials: { token_url: "`+i.URL+`", client_id: gate, client_secret: s+cret, scopes: [read, write], audience: up } }`)
	for range 5 {
		if got, a := get(t, r, "Authorization", exchange.Field{Name: "Authorization", Value: "Bearer mine"}); got != "Bearer token-1" {
			t.Fatalf("%q: %v", got, a.Problem)
		}
	}
	if i.asked.Load() != 1 || i.form["grant_type"] != "client_credentials" || i.form["scope"] != "read write" || i.form["audience"] != "up" {
		t.Errorf("asked %d times, the last for %v", i.asked.Load(), i.form)
	}

	// Many at once ask once. A token that is about to expire is renewed while
	// requests go on with it, also when the issuer does not answer.
	i = newIssuer(t)
	i.seconds.Store(5)
	r = newRig(t, `outbound_auth: { client_credentials: { token_url: "`+i.URL+`", client_id: gate, client_secret: s+cret } }`)
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if a := r.Do(policytest.Request{Target: "/"}); a.Status != 200 {
				t.Errorf("%v", a.Problem)
			}
		})
	}
	all.Wait()
	if n := i.asked.Load(); n != 1 {
		t.Errorf("the issuer was asked %d times", n)
	}
	i.down.Store(true)
	deadline := time.Now().Add(30 * time.Second)
	sawGood := false
	for i.asked.Load() == 1 { // from four seconds on
		a := r.Do(policytest.Request{Target: "/"})
		sawGood = sawGood || a.Status == 200
		if a.Status != 200 || time.Now().After(deadline) {
			t.Fatalf("before the token expired: %d, %v", a.Status, a.Problem)
		}
		time.Sleep(10 * time.Millisecond)
	}
	for {
		a := r.Do(policytest.Request{Target: "/"})
		if a.Status == 503 && a.Problem.Code == "outbound_credential" {
			break // it has expired, and there is no other
		}
		if a.Status != 200 || time.Now().After(deadline) {
			t.Fatalf("after the issuer is down: %d, %v", a.Status, a.Problem)
		}
		time.Sleep(10 * time.Millisecond)
	}
	i.down.Store(false)
	for {
		if a := r.Do(policytest.Request{Target: "/"}); a.Status == 200 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("it never comes back")
		}
		time.Sleep(10 * time.Millisecond)
	}
}

const key = "-----BEGIN PRIVATE KEY-----\\nMC4CAQAwBQYDK2VwBCIEIJ+DYvh6SEqVTm50DFtMDoQikTmiCqirVv9mWG9qfSnF\\n-----END PRIVATE KEY-----"

func TestMintedAndExchanged(t *testing.T) {
	i := newIssuer(t)
	secret := []byte("0123456789abcdef0123456789abcdef")
	s, err := jose.NewSigner(secret, "HS256", "")
	if err != nil {
		t.Fatal(err)
	}
	token, err := s.Sign(nil, map[string]any{"iss": "me", "aud": "a", "sub": "ann", "exp": time.Now().Unix() + 60, "roles": []string{"x", "y"}})
	if err != nil {
		t.Fatal(err)
	}
	jwt := `jwt: { issuer: me, audience: a, groups_claim: roles, optional: true, keys: [ { algorithm: HS256, secret: ` + string(secret) + ` } ] }, `
	bearer := exchange.Field{Name: "Authorization", Value: "Bearer " + token}

	r := newRig(t, jwt+`outbound_auth: { token_exchange: { token_url: "`+i.URL+`", client_id: gate, client_secret: s+cret, audience: up } }`)
	for range 2 {
		if got, a := get(t, r, "Authorization", bearer); got != "Bearer token-1" {
			t.Fatalf("%q: %v", got, a.Problem)
		}
	}
	if i.form["subject_token"] != token || i.form["audience"] != "up" || i.asked.Load() != 1 {
		t.Errorf("asked %d times for %v", i.asked.Load(), i.form)
	}
	if _, a := get(t, r, "Authorization"); a.Status != 403 {
		t.Errorf("without a token: %d", a.Status)
	}

	r = newRig(t, jwt+`outbound_auth: { jwt: { key: "`+key+`", issuer: "https://gateway", audience: up, claims: { groups: groups, who: subject } } }`)
	got, a := get(t, r, "Authorization", bearer)
	minted, err := jose.Parse(strings.TrimPrefix(got, "Bearer "))
	if err != nil {
		t.Fatalf("%q: %v, %v", got, err, a.Problem)
	}
	show := newRig(t, `jwks: { keys: [ { key: "`+key+`" } ] }`)
	keys := show.Do(policytest.Request{Target: "/"})
	set, err := jose.ParseSet([]byte(keys.Body))
	if err != nil || strings.Contains(keys.Body, `"d"`) {
		t.Fatalf("%v: %s", err, keys.Body)
	}
	if _, err := minted.Verify(set.Find(minted.Kid, minted.Alg)); err != nil {
		t.Errorf("the key that is shown does not verify the token: %v", err)
	}
	if minted.Text("sub") != "ann" || minted.Text("iss") != "https://gateway" || minted.Text("aud") != "up" || minted.Text("who") != "ann" || len(minted.Claims["groups"].([]any)) != 2 {
		t.Errorf("the token says %v", minted.Claims)
	}
}
