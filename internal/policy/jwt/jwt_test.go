package jwt_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/jose"
	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

const inline = `{ issuer: me, audience: shop, optional: true, keys: [ { public_key: { file: testdata/key.json } } ] }`

func Test(t *testing.T) {
	policytest.Run(t, policytest.Suite{Catalog: all.Catalog(), Kind: "jwt", Settings: inline})
}

func TestIdentify(t *testing.T) {
	p := newProvider(t)
	r := newRig(t, `
consumers:
  - name: mobile
    groups: [partners]
    labels: { plan: gold }
    credentials:
      - jwt: { issuer: `+p.URL+`, subject: ann }
  - name: gone
    disabled: true
    credentials:
      - jwt: { issuer: `+p.URL+`, subject: bob }
`+route(`{ issuer: "`+p.URL+`", audience: [other, shop], groups_claim: roles, headers: { X-Who: consumer, X-Sub: subject, X-Groups: groups, X-Scopes: scopes, X-Tenant: claims.tenant, X-Plan: labels.plan } }`))
	for _, s := range []struct {
		name  string
		token string
	}{
		{"rsa", token(t, p.rsa, nil, p.claims(nil))},
		{"ec", token(t, p.ec, map[string]any{"typ": "at+jwt"}, p.claims(nil))},
		{"ed", token(t, p.ed, map[string]any{"typ": "application/AT+JWT"}, p.claims(map[string]any{"aud": []any{"x", "shop"}}))},
	} {
		for range 2 { // verified, and then remembered
			a := r.Do(policytest.Request{Target: "/", Header: append(bearer(s.token), exchange.Field{Name: "x-tenant", Value: "evil"})})
			if a.Status != 200 {
				t.Fatalf("%s: %v: %v", s.name, a, a.Problem)
			}
			got := r.Received()
			h := &got[0].Header
			for name, want := range map[string]string{
				"X-Who": "mobile", "X-Sub": "ann", "X-Groups": "partners,admin,dev", "X-Scopes": "read write",
				"X-Tenant": "acme", "X-Plan": "gold", "Authorization": "Bearer " + s.token,
			} {
				if h.Get(name) != want {
					t.Errorf("%s: %s is %q", s.name, name, h.Get(name))
				}
			}
		}
	}
	if a := r.Do(policytest.Request{Target: "/", Header: bearer(token(t, p.rsa, nil, p.claims(map[string]any{"sub": "bob"})))}); a.Status != 401 {
		t.Errorf("a disabled consumer: %v", a)
	}
	a := r.Do(policytest.Request{Target: "/", Header: bearer(token(t, p.rsa, nil, p.claims(map[string]any{"sub": "eve", "tenant": nil})))})
	if got := r.Received(); a.Status != 200 || got[0].Header.Get("X-Who") != "" || got[0].Header.Get("X-Sub") != "eve" {
		t.Errorf("a subject without a consumer: %v", a)
	}
	if a := r.Do(policytest.Request{Target: "/"}); a.Status != 401 || a.Header.Get("WWW-Authenticate") != `Bearer realm="gatehouse"` || a.Problem.Code != "credential_missing" {
		t.Errorf("without a token: %v", a)
	}
	if a := r.Do(policytest.Request{Target: "/", Header: bearer("x")}); a.Status != 401 || a.Header.Get("WWW-Authenticate") != `Bearer realm="gatehouse", error="invalid_token"` {
		t.Errorf("with a wrong one: %v", a)
	}
}

// TestClaimsInFields has claims that cannot be the value of a field as they are:
// the service gets no field then, and never the one that the client sent.
func TestClaimsInFields(t *testing.T) {
	p := newProvider(t)
	r := newRig(t, route(`{ issuer: "`+p.URL+`", audience: shop, groups_claim: roles, headers: { X-Tenant: claims.tenant, X-Scopes: scopes, X-Groups: groups } }`))
	for _, c := range []struct {
		claims                 map[string]any
		tenant, scopes, groups string
	}{
		{nil, "acme", "read write", "admin,dev"},
		{map[string]any{"tenant": nil, "scope": nil, "roles": nil}, "", "", ""},
		{map[string]any{"tenant": "", "scope": "", "roles": []any{}}, "", "", ""},
		{map[string]any{"tenant": "a\r\nX-Admin: yes", "scope": "a\r\nb", "roles": []any{"a\nb"}}, "", "", ""},
		{map[string]any{"tenant": "a\x00", "scope": "a\x00", "roles": []any{"a\x7f"}}, "", "", ""},
		{map[string]any{"tenant": " a", "roles": []any{"a "}}, "", "read write", ""},
		{map[string]any{"tenant": strings.Repeat("a", 9000)}, "", "read write", "admin,dev"},
		{map[string]any{"tenant": "Zürich ✓", "scope": "é", "roles": []any{"ä"}}, "Zürich ✓", "é", "ä"},
		{map[string]any{"tenant": map[string]any{"a": "b"}}, "", "read write", "admin,dev"},
		{map[string]any{"tenant": []any{"a", "b,c"}, "roles": []any{"a,admin"}}, "", "read write", ""},
		{map[string]any{"tenant": []any{"a", "b"}}, "a,b", "read write", "admin,dev"},
		{map[string]any{"tenant": true}, "true", "read write", "admin,dev"},
		{map[string]any{"scope": []any{"a"}, "roles": 1}, "acme", "", ""},
		// What is one scope for the issuer is not two for the service.
		{map[string]any{"scope": nil, "scp": []any{"read", "write"}}, "acme", "read write", "admin,dev"},
		{map[string]any{"scope": nil, "scp": []any{"read admin"}}, "acme", "", "admin,dev"},
		{map[string]any{"scope": nil, "scp": []any{"read", "x\tadmin"}}, "acme", "read", "admin,dev"},
		{map[string]any{"scope": "read\u00a0admin\u2003x"}, "acme", "read\u00a0admin\u2003x", "admin,dev"},
	} {
		sent := append(bearer(token(t, p.ec, nil, p.claims(c.claims))),
			exchange.Field{Name: "x-tenant", Value: "evil"}, exchange.Field{Name: "X-SCOPES", Value: "evil"}, exchange.Field{Name: "X-Groups", Value: "evil"})
		for range 2 { // verified, and then remembered
			if a := r.Do(policytest.Request{Target: "/", Header: sent}); a.Status != 200 {
				t.Fatalf("%v: %v", c.claims, a.Problem)
			}
			h := &r.Received()[0].Header
			for name, want := range map[string]string{"X-Tenant": c.tenant, "X-Scopes": c.scopes, "X-Groups": c.groups} {
				var have []string
				for v := range h.Values(name) {
					have = append(have, v)
				}
				if len(have) > 1 || strings.Join(have, "") != want || h.Get("X-Admin") != "" {
					t.Errorf("%v: %s is %q, want %q", c.claims, name, have, want)
				}
			}
		}
	}
}

// TestKeys rotates keys, and lets the issuer fail.
func TestKeys(t *testing.T) {
	p := newProvider(t)
	p.publish(t, p.rsa)
	r := newRig(t, route(`{ issuer: "`+p.URL+`", audience: shop, jwks_url: "`+p.URL+`/jwks", cooldown: 1s, attempts: { client: 0 } }`))
	do := func(token string) int { return r.Do(policytest.Request{Target: "/", Header: bearer(token)}).Status }
	old, next := token(t, p.rsa, nil, p.claims(nil)), token(t, p.ec, nil, p.claims(nil))
	if got := do(old); got != 200 {
		t.Fatalf("the first key: %d", got)
	}
	if got := do(next); got != 401 {
		t.Errorf("a key that is not published: %d", got)
	}
	// The issuer publishes another key: a token with it has the keys loaded.
	p.publish(t, p.ec)
	deadline := time.Now().Add(20 * time.Second)
	for do(next) != 200 {
		if time.Now().After(deadline) {
			t.Fatal("the new key is never loaded")
		}
	}
	if got := do(old); got != 401 {
		t.Errorf("a remembered token of a key that was withdrawn: %d", got)
	}
	p.keys.Store([]byte{})
	if got := do(token(t, p.ec, nil, p.claims(map[string]any{"sub": "bob"}))); got != 200 {
		t.Errorf("while the issuer is down: %d", got)
	}
}

// TestKnownAndLoaded has an issuer some of whose keys are given beforehand, with
// and without an id, while others are loaded: tokens of all of them are taken,
// with an id or without one, and also those of a key given beforehand while the
// issuer is down.
func TestKnownAndLoaded(t *testing.T) {
	key := func() *jose.Signer {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return sign(t, k, "ES256", "given")
	}
	given, stranger := key(), key()
	data, err := jose.Publish(given)
	if err != nil {
		t.Fatal(err)
	}
	var set struct{ Keys []map[string]string }
	if err := json.Unmarshal(data, &set); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"", "given"} {
		if set.Keys[0]["kid"] = id; id == "" {
			delete(set.Keys[0], "kid")
		}
		jwk, err := json.Marshal(set.Keys[0])
		if err != nil {
			t.Fatal(err)
		}
		for _, up := range []bool{true, false} {
			p := newProvider(t)
			if !up {
				p.keys.Store([]byte{})
			}
			r := newRig(t, route(`{ issuer: "`+p.URL+`", audience: shop, attempts: { client: 0 }, jwks_url: "`+p.URL+`/jwks", keys: [ { public_key: '`+string(jwk)+`' } ] }`))
			loaded := map[bool]int{true: 200, false: 503}[up]
			for _, c := range []struct {
				name string
				s    *jose.Signer
				kid  any
				want int
			}{
				{"given", given, "given", 200},
				{"given, without an id", given, nil, 200},
				{"loaded", p.ec, "ec", loaded},
				{"loaded, without an id", p.ec, nil, loaded},
				{"stranger", stranger, "ec", map[bool]int{true: 401, false: 503}[up]},
				{"stranger, without an id", stranger, nil, map[bool]int{true: 401, false: 503}[up]},
			} {
				text := token(t, c.s, map[string]any{"kid": c.kid}, p.claims(nil))
				if c.kid == nil {
					text = unnamed(t, c.s, p.claims(nil))
				}
				if a := r.Do(policytest.Request{Target: "/", Header: bearer(text)}); a.Status != c.want {
					t.Errorf("the id %q, issuer up %v: %s: %d, %v", id, up, c.name, a.Status, a.Problem)
				}
			}
		}
	}
}

// TestUnavailable has issuers that never give a usable key.
func TestUnavailable(t *testing.T) {
	p := newProvider(t)
	for name, settings := range map[string]string{
		"redirect":         `{ issuer: "` + p.URL + `", audience: shop, jwks_url: "` + p.URL + `/moved" }`,
		"not found":        `{ issuer: "` + p.URL + `", audience: shop, jwks_url: "` + p.URL + `/none" }`,
		"large":            `{ issuer: "` + p.URL + `", audience: shop, http: { max_body: 1KiB }, jwks_url: "` + p.URL + `/large" }`,
		"link-local":       `{ issuer: "` + p.URL + `", audience: shop, http: { plain: true }, jwks_url: "http://169.254.169.254/latest" }`,
		"nobody there":     `{ issuer: "` + p.URL + `", audience: shop, jwks_url: "http://127.0.0.1:1/jwks" }`,
		"another's by URL": `{ issuer: "` + p.URL + `/", audience: shop }`,
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, route(settings))
			claims := p.claims(nil)
			if name == "another's by URL" {
				claims["iss"] = p.URL + "/"
			}
			a := r.Do(policytest.Request{Target: "/", Header: bearer(token(t, p.rsa, nil, claims))})
			if a.Status != 503 || a.Problem.Code != "identity_unavailable" || a.Header.Get("Retry-After") == "" {
				t.Errorf("%v: %v", a, a.Problem)
			}
			if got := r.Received(); len(got) != 0 {
				t.Errorf("the service was asked: %v", got)
			}
		})
	}
}

func TestFaults(t *testing.T) {
	for settings, want := range map[string]string{
		`{}`:                                   "jwt.issuer: the issuer is missing",
		`{ issuer: "https://id.example.com" }`: "jwt.audience: the audience is missing",
		`{ issuer: me, audience: a }`:          `jwt.issuer: "me/.well-known/openid-configuration" is not a URL`,
		`{ issuer: "https://i", audience: a, jwks_url: "http://id.example.com/k" }`:    `plain: true`,
		`{ issuer: "https://i", audience: a, jwks_url: "https://u:p@id.example.com" }`: "must not hold a user name",
		`{ issuer: i, audience: a, keys: [ {} ] }`:                                     "jwt.keys[0]: a key is either",
		`{ issuer: i, audience: a, keys: [ { secret: short, algorithm: HS256 } ] }`:    "jwt.keys[0].secret: a secret has at least 32 bytes",
		`{ issuer: i, audience: a, keys: [ { algorithm: HS256, secret: "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=\n-----END PUBLIC KEY-----" } ] }`: "jwt.keys[0].secret: this is a key in PEM",
		`{ issuer: i, audience: a, keys: [ { algorithm: HS256, secret: ' {"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T"}' } ] }`:                                                  "jwt.keys[0].secret: this is a key in JSON",
		`{ issuer: i, audience: a, keys: [ { secret: x } ] }`:                                     "jwt.keys[0].algorithm: a secret needs its algorithm",
		`{ issuer: i, audience: a, keys: [ { public_key: x } ] }`:                                 "jwt.keys[0].public_key: this is neither",
		`{ audience: a, issuers: [ { issuer: i, audience: a } ] }`:                                "belong to an issuer",
		`{ issuers: [ { issuer: "https://i" } ] }`:                                                "jwt.issuers[0].audience: the audience is missing",
		`{ issuer: "https://i", audience: a, issuers: [ { issuer: "https://i", audience: a } ] }`: "stands twice",
		`{ issuer: "https://i", audience: a, http: { ca_file: /none } }`:                          "jwt.http.ca_file: open /none",
		`{ issuer: "https://i", audience: a, query: q, bound: { to: dpop } }`:                     "jwt.bound.to: a token with a proof",
		`{ issuer: "https://i", audience: a, bound: { origin: "https://i/path" } }`:               "jwt.bound.origin",
	} {
		r := policytest.NewRig(t, all.Catalog(), "routes: []\n", nil)
		if got := r.Apply(route(settings)).Error(); !strings.Contains(got, want) {
			t.Errorf("%s:\n%s\nwant %s", settings, got, want)
		}
		r.Close()
	}
}

// TestExpiry lets time pass over a token that is remembered.
func TestExpiry(t *testing.T) {
	secret := sign(t, []byte("0123456789abcdef0123456789abcdef"), "HS256", "")
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, route(`{ issuer: me, audience: shop, leeway: 0, keys: [ { algorithm: HS256, secret: 0123456789abcdef0123456789abcdef } ] }`))
		text := token(t, secret, nil, map[string]any{"iss": "me", "aud": "shop", "sub": "a", "exp": time.Now().Unix() + 2})
		for _, after := range []time.Duration{0, 2*time.Second - 1} {
			time.Sleep(after)
			if a := r.Do(policytest.Request{Target: "/", Header: bearer(text)}); a.Status != 200 {
				t.Fatalf("%v: %v", a, a.Problem)
			}
		}
		time.Sleep(time.Nanosecond)
		if a := r.Do(policytest.Request{Target: "/", Header: bearer(text)}); a.Status != 401 || !strings.Contains(a.Problem.Error(), "expired") {
			t.Errorf("after it expired: %v", a)
		}
	})
}

func TestPlainPathAllocates(t *testing.T) {
	if raced {
		t.Skip("the race detector allocates")
	}
	serve, without := plain(t, true), plain(t, false)
	if more := testing.AllocsPerRun(200, serve) - testing.AllocsPerRun(200, without); more > 0 {
		t.Errorf("%v allocations a request", more)
	}
}

// plain serves a request with a token that is remembered.
func plain(t testing.TB, with bool) func() {
	p := newProvider(t)
	text := "routes:\n  - match: /*\n    upstream: http://up\n"
	if with {
		text = route(`{ issuer: "` + p.URL + `", audience: shop, headers: { X-Tenant: claims.tenant } }`)
	}
	serve := policytest.PlainWith(t, all.Catalog(), text, nil, bearer(token(t, p.rsa, nil, p.claims(nil)))...)
	serve()
	return serve
}

// BenchmarkRequest shows what the policy adds to a request whose token is
// remembered.
func BenchmarkRequest(b *testing.B) { policytest.Added(b, plain(b, true), plain(b, false)) }

// BenchmarkVerify shows what a token costs that is seen for the first time.
func BenchmarkVerify(b *testing.B) {
	p := newProvider(b)
	for name, s := range map[string]string{"RS256": token(b, p.rsa, nil, p.claims(nil)), "ES256": token(b, p.ec, nil, p.claims(nil)), "EdDSA": token(b, p.ed, nil, p.claims(nil))} {
		b.Run(name, func(b *testing.B) {
			serve := policytest.PlainWith(b, all.Catalog(), route(`{ cache: 0, issuer: "`+p.URL+`", audience: shop }`), nil, bearer(s)...)
			b.ReportAllocs()
			for b.Loop() {
				serve()
			}
		})
	}
}
