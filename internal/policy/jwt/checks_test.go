package jwt_test

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse.dev/gatehouse/internal/jose"
	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

const (
	secret  = "0123456789abcdef0123456789abcdef"
	secret2 = "fedcba9876543210fedcba9876543210"
)

// status is that of a request with a token.
func status(r *policytest.Rig, token string) int {
	return r.Do(policytest.Request{Target: "/", Header: bearer(token)}).Status
}

// TestLeeway has tokens at the ends of their times, with clocks that may be ten
// seconds apart (RFC 7519, sections 4.1.4 to 4.1.6).
func TestLeeway(t *testing.T) {
	s := sign(t, []byte(secret), "HS256", "")
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, route(`{ issuer: me, audience: shop, leeway: 10s, attempts: { client: 0 }, keys: [ { algorithm: HS256, secret: `+secret+` } ] }`))
		now := time.Now().Unix()
		for _, c := range []struct {
			claim string
			after any
			want  int
		}{
			{"exp", -9, 200},
			{"exp", -10, 401},
			{"exp", -9.5, 401},
			{"exp", -8.5, 200},
			{"exp", nil, 401},
			{"nbf", 10, 200},
			{"nbf", 11, 401},
			{"nbf", -1000, 200},
			{"nbf", nil, 200},
			{"iat", 10, 200},
			{"iat", 11, 401},
			{"iat", -1000, 200},
			{"iat", nil, 200},
		} {
			claims := map[string]any{"iss": "me", "aud": "shop", "sub": "a", "exp": now + 100}
			switch after := c.after.(type) {
			case int:
				claims[c.claim] = now + int64(after)
			case float64:
				claims[c.claim] = float64(now) + after
			default:
				delete(claims, c.claim)
			}
			if got := status(r, token(t, s, nil, claims)); got != c.want {
				t.Errorf("%s in %v s: %d", c.claim, c.after, got)
			}
		}
		for _, claim := range []string{"exp", "nbf", "iat"} {
			for _, v := range []any{nil, "1", true, -1, 0, 0.5, 1e300, []any{1}, map[string]any{}} {
				claims := map[string]any{"iss": "me", "aud": "shop", "sub": "a", "exp": now + 100, claim: v}
				if got := status(r, token(t, s, nil, claims)); got != 401 {
					t.Errorf("%s is %v: %d", claim, v, got)
				}
			}
		}
		// A token that comes too early is taken when its time has come.
		early := token(t, s, nil, map[string]any{"iss": "me", "aud": "shop", "sub": "a", "exp": now + 100, "nbf": now + 15})
		for _, want := range []int{401, 401, 200} {
			if got := status(r, early); got != want {
				t.Errorf("early, at %v: %d", time.Now(), got)
			}
			time.Sleep(2500 * time.Millisecond)
		}
	})
}

// TestChanges has a token that is remembered when the settings change: what they
// say now holds.
func TestChanges(t *testing.T) {
	keys := func(list ...string) string { return "keys: [ " + strings.Join(list, ", ") + " ]" }
	one, two := "{ algorithm: HS256, secret: "+secret+" }", "{ id: two, algorithm: HS256, secret: "+secret2+" }"
	text := token(t, sign(t, []byte(secret), "HS256", ""), nil, map[string]any{"iss": "me", "aud": "shop", "sub": "ann", "exp": time.Now().Unix() + 300})
	base := "issuer: me, audience: shop, attempts: { client: 0 }, "
	r := newRig(t, route("{ "+base+keys(one)+" }"))
	for _, c := range []struct {
		name, settings string
		want           int
	}{
		{"at first", base + keys(one), 200},
		{"another key beside", base + keys(one, two), 200},
		{"the key is gone", base + keys(two), 401},
		{"the key is another one", base + keys(strings.Replace(one, secret, secret2, 1)), 401},
		{"the key is back", base + keys(one), 200},
		{"another algorithm of the key", base + keys(strings.Replace(one, "HS256", "HS512", 1)), 401},
		{"algorithms without it", base + "algorithms: HS512, " + keys(one), 401},
		{"another audience", strings.Replace(base, "shop", "bank", 1) + keys(one), 401},
		{"another issuer", strings.Replace(base, "issuer: me", "issuer: you", 1) + keys(one), 401},
		{"another subject", base + "subject_claim: user, " + keys(one), 401},
		{"consumers only", base + "consumers_only: true, " + keys(one), 401},
		{"bound", base + "bound: { to: certificate }, " + keys(one), 401},
		{"as at first", base + keys(one), 200},
	} {
		if faults := r.Apply(route("{ " + c.settings + " }")); faults.Fatal() {
			t.Fatalf("%s: %v", c.name, faults)
		}
		for range 2 {
			if got := status(r, text); got != c.want {
				t.Errorf("%s: %d", c.name, got)
			}
		}
	}
}

// TestIssuers has two issuers whose keys have the same ids: each is believed
// about itself only, with its own audience and algorithms.
func TestIssuers(t *testing.T) {
	a, b := newProvider(t), newProvider(t)
	r := newRig(t, route(`{ attempts: { client: 0 }, issuers: [ { issuer: "`+a.URL+`", audience: shop }, { issuer: "`+b.URL+`", audience: bank, algorithms: [ ES256, EdDSA ] } ] }`))
	for _, c := range []struct {
		name string
		key  *jose.Signer
		p    *provider // who the token says has made it
		aud  string
		want int
	}{
		{"one", a.rsa, a, "shop", 200},
		{"the other", b.ec, b, "bank", 200},
		{"the audience of the other", a.rsa, a, "bank", 401},
		{"the audience of the one", b.ec, b, "shop", 401},
		{"an algorithm that the other does not use", b.rsa, b, "bank", 401},
		{"the one signs for the other", a.ec, b, "bank", 401},
		{"the other signs for the one", b.ec, a, "shop", 401},
	} {
		for range 2 {
			if got := status(r, token(t, c.key, nil, c.p.claims(map[string]any{"aud": c.aud}))); got != c.want {
				t.Errorf("%s: %d", c.name, got)
			}
		}
	}
	if got := status(r, token(t, a.rsa, nil, a.claims(map[string]any{"iss": "https://evil.example"}))); got != 401 {
		t.Errorf("nobody's token: %d", got)
	}
}

// TestPinned has a key that could be used with several algorithms and is said to
// be of one: by the settings, by the key itself, or for the whole issuer.
func TestPinned(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := jose.JWK(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	write := func(alg string) string {
		if jwk["alg"] = alg; alg == "" {
			delete(jwk, "alg")
		}
		data, err := json.Marshal(jwk)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	algs := []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}
	for name, c := range map[string]struct{ settings, takes string }{
		"nothing":     {`keys: [ { public_key: '` + write("") + `' } ]`, strings.Join(algs, " ")},
		"settings":    {`keys: [ { algorithm: PS256, public_key: '` + write("") + `' } ]`, "PS256"},
		"the key":     {`keys: [ { public_key: '` + write("RS384") + `' } ]`, "RS384"},
		"both":        {`keys: [ { algorithm: RS384, public_key: '` + write("RS384") + `' } ]`, "RS384"},
		"the issuer":  {`algorithms: [ PS512, ES256 ], keys: [ { public_key: '` + write("") + `' } ]`, "PS512"},
		"not the key": {`algorithms: [ PS512 ], keys: [ { public_key: '` + write("RS384") + `' } ]`, ""},
	} {
		r := newRig(t, route(`{ issuer: me, audience: shop, attempts: { client: 0 }, `+c.settings+` }`))
		for _, alg := range algs {
			text := token(t, sign(t, key, alg, ""), nil, map[string]any{"iss": "me", "aud": "shop", "sub": "a", "exp": time.Now().Unix() + 300})
			want := 401
			if strings.Contains(c.takes, alg) {
				want = 200
			}
			if got := status(r, text); got != want {
				t.Errorf("%s: a token of %s: %d", name, alg, got)
			}
		}
	}
	r := policytest.NewRig(t, all.Catalog(), "routes: []\n", nil)
	defer r.Close()
	if faults := r.Apply(route(`{ issuer: me, audience: shop, keys: [ { algorithm: RS256, public_key: '` + write("RS384") + `' } ] }`)); !strings.Contains(faults.Error(), "jwt.keys[0].algorithm: the key is not one of RS256") {
		t.Errorf("the settings and the key disagree: %v", faults)
	}
}

// TestTypes has tokens for other purposes (RFC 8725, section 3.11).
func TestTypes(t *testing.T) {
	s := sign(t, []byte(secret), "HS256", "")
	for settings, taken := range map[string][]string{
		"":                           {"", "JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt"},
		"types: at+jwt, ":            {"", "at+jwt", "AT+JWT", "application/at+jwt"},
		"types: application/X+jwt, ": {"", "x+jwt"},
	} {
		r := newRig(t, route(`{ issuer: me, audience: shop, attempts: { client: 0 }, `+settings+`keys: [ { algorithm: HS256, secret: `+secret+` } ] }`))
		for _, typ := range []string{"", "JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt", "x+jwt", "dpop+jwt", "logout+jwt", "id_token", "JOSE", "application/application/jwt", "at+jwt "} {
			header := map[string]any{}
			if typ != "" {
				header["typ"] = typ
			}
			want := 401
			for _, one := range taken {
				if one == typ {
					want = 200
				}
			}
			if got := status(r, token(t, s, header, map[string]any{"iss": "me", "aud": "shop", "sub": "a", "exp": time.Now().Unix() + 300})); got != want {
				t.Errorf("%q: a token of type %q: %d", settings, typ, got)
			}
		}
	}
}

// TestDiscovery has documents that lead nowhere: no key is believed, and nobody
// is let in.
func TestDiscovery(t *testing.T) {
	p := newProvider(t)
	for name, document := range map[string]string{
		"another issuer":   `{"issuer":"https://evil.example","jwks_uri":"%[2]s/jwks"}`,
		"no issuer":        `{"jwks_uri":"%[2]s/jwks"}`,
		"an issuer twice":  `{"issuer":"https://evil.example","issuer":"%[1]s","jwks_uri":"%[2]s/jwks"}`,
		"no keys":          `{"issuer":"%[1]s"}`,
		"keys in a list":   `{"issuer":"%[1]s","jwks_uri":["%[2]s/jwks"]}`,
		"keys in a file":   `{"issuer":"%[1]s","jwks_uri":"file:///etc/passwd"}`,
		"keys in the open": `{"issuer":"%[1]s","jwks_uri":"http://192.0.2.1/jwks"}`,
		"keys of a cloud":  `{"issuer":"%[1]s","jwks_uri":"https://169.254.169.254/jwks"}`,
		"a user":           `{"issuer":"%[1]s","jwks_uri":"https://u:p@192.0.2.1/jwks"}`,
		"no JSON":          `<html>`,
	} {
		t.Run(name, func(t *testing.T) {
			var url string
			s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintf(w, document, url, p.URL) }))
			defer s.Close()
			url = s.URL
			r := newRig(t, route(`{ issuer: "`+url+`", audience: shop }`))
			if got := status(r, token(t, p.ec, nil, p.claims(map[string]any{"iss": url}))); got != 503 {
				t.Errorf("answered %d", got)
			}
		})
	}
}
