package jwt_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/jose"
	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

// provider is an issuer with a discovery document and a key set.
type provider struct {
	*httptest.Server
	rsa, ec, ed *jose.Signer
	keys        atomic.Value // []byte; empty: it does not answer
	asked       atomic.Int64
}

func sign(t testing.TB, key any, alg, id string) *jose.Signer {
	t.Helper()
	s, err := jose.NewSigner(key, alg, id)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newProvider(t testing.TB) *provider {
	t.Helper()
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	e, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, d, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := &provider{rsa: sign(t, r, "RS256", "rsa"), ec: sign(t, e, "ES256", "ec"), ed: sign(t, d, "EdDSA", "ed")}
	p.publish(t, p.rsa, p.ec, p.ed)
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]string{"issuer": p.URL, "jwks_uri": p.URL + "/jwks"})
	})
	mux.HandleFunc("/jwks", func(w http.ResponseWriter, _ *http.Request) {
		p.asked.Add(1)
		data := p.keys.Load().([]byte)
		if len(data) == 0 {
			w.WriteHeader(http.StatusInternalServerError)
		}
		_, _ = w.Write(data)
	})
	mux.HandleFunc("/large", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(append(p.keys.Load().([]byte), bytes.Repeat([]byte(" "), 1024)...))
	})
	mux.HandleFunc("/moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/jwks", http.StatusFound) })
	p.Server = httptest.NewServer(mux)
	t.Cleanup(p.Close)
	return p
}

func (p *provider) publish(t testing.TB, signers ...*jose.Signer) {
	t.Helper()
	data, err := jose.Publish(signers...)
	if err != nil {
		t.Fatal(err)
	}
	p.keys.Store(data)
}

// claims are those of a valid token, with changes; a nil value removes one.
func (p *provider) claims(changes map[string]any) map[string]any {
	now := time.Now().Unix()
	c := map[string]any{
		"iss": p.URL, "aud": "shop", "sub": "ann", "iat": now, "nbf": now, "exp": now + 300,
		"scope": "read write", "roles": []any{"admin", "dev"}, "tenant": "acme",
	}
	for name, v := range changes {
		if c[name] = v; v == nil {
			delete(c, name)
		}
	}
	return c
}

func token(t testing.TB, s *jose.Signer, header, claims map[string]any) string {
	t.Helper()
	text, err := s.Sign(header, claims)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// unnamed is a token that names no key.
func unnamed(t testing.TB, s *jose.Signer, claims map[string]any) string {
	t.Helper()
	body, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	text := b64([]byte(`{"alg":"`+s.Alg()+`"}`)) + "." + b64(body)
	sig, err := s.Raw([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + b64(sig)
}

func route(settings string) string {
	return "routes:\n  - match: /*\n    upstream: http://up\n    policies: [ jwt: " + settings + " ]\n"
}

func bearer(token string) []exchange.Field {
	return []exchange.Field{{Name: "Authorization", Value: "Bearer " + token}}
}

func newRig(t testing.TB, text string) *policytest.Rig {
	t.Helper()
	r := policytest.NewRig(t, all.Catalog(), text, nil)
	t.Cleanup(r.Close)
	return r
}
