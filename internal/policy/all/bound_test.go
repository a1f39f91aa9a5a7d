package all_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

// boundTokens are the policies that take bound tokens, each with a token that is
// bound to what cnf says and what else the policy is set to.
func (l *lab) boundTokens(cnf map[string]any) map[string]struct{ token, settings string } {
	issuer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{"active": true, "sub": "ann", "aud": "shop", "exp": time.Now().Unix() + 300, "cnf": cnf})
	}))
	l.t.Cleanup(issuer.Close)
	return map[string]struct{ token, settings string }{
		"jwt":        {l.sign(l.rsa, nil, l.claims("cnf", cnf)), `issuer: "https://id", keys: [ { id: rsa, public_key: "` + strings.ReplaceAll(l.pem, "\n", `\n`) + `" } ]`},
		"introspect": {"opaque", `url: "` + issuer.URL + `", client_id: me, client_secret: s`},
	}
}

// gateway is another gateway with one policy.
func (l *lab) gateway(kind, settings string) *lab {
	other := *l
	other.rig = policytest.NewRig(l.t, all.Catalog(), "routes: [ { match: /*, upstream: http://up, policies: [ "+kind+": { audience: shop, attempts: { client: 0 }, "+settings+" } ] } ]\n", nil)
	l.t.Cleanup(other.rig.Close)
	return &other
}

// TestNonces has two gateways, or one and what became of it, give out nonces
// and take those of each other.
func TestNonces(t *testing.T) {
	const one, two, three = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210", "00000000000000000000000000000000"
	l := newLab(t)
	secrets := func(list ...string) string { return ", nonce_secrets: [ " + strings.Join(list, ", ") + " ]" }
	for kind, p := range l.boundTokens(map[string]any{"jkt": l.device.Key().Thumb}) {
		for _, c := range []struct {
			name, gives, takes string
			want               int
		}{
			{"one secret", secrets(one), secrets(one), 200},
			{"different secrets", secrets(one), secrets(two), 401},
			{"no secret", "", "", 401},
			{"a secret and none", secrets(one), "", 401},
			{"the next secret is known already", secrets(one), secrets(one, two), 200},
			{"the next secret makes them", secrets(two, one), secrets(one, two), 200},
			{"the last secret is known still", secrets(one, two), secrets(two, one), 200},
			{"the last secret is gone", secrets(one), secrets(two, three), 401},
		} {
			t.Run(kind+"/"+c.name, func(t *testing.T) {
				settings := func(more string) string { return p.settings + ", bound: { to: dpop, nonce: true" + more + " }" }
				giver, taker := l.gateway(kind, settings(c.gives)), l.gateway(kind, settings(c.takes))
				ask := func(l *lab, nonce string) *policytest.Answer {
					proof := []any{"htu", "http://gateway.test/a"}
					if nonce != "" {
						proof = append(proof, "nonce", nonce)
					}
					return l.do(attack{"", "/a", []string{"Authorization", "DPoP " + p.token, "DPoP", l.proof(p.token, l.device, nil, proof...)}, ""})
				}
				a := ask(giver, "")
				nonce := a.Header.Get("DPoP-Nonce")
				if a.Status != 401 || nonce == "" || a.Problem.Code != "credential_nonce" || a.Header.Get("Cache-Control") != "no-store" ||
					!strings.HasPrefix(a.Header.Get("WWW-Authenticate"), `DPoP error="use_dpop_nonce", algs="ES256 `) {
					t.Fatalf("without a nonce: %v, %v", a, a.Header)
				}
				if a := ask(giver, nonce); a.Status != 200 {
					t.Errorf("the gateway does not take its own nonce: %v", a.Problem)
				}
				if a := ask(taker, nonce); a.Status != c.want || (a.Header.Get("DPoP-Nonce") != "") != (c.want == 401) {
					t.Errorf("the other gateway answers %d: %v", a.Status, a.Problem)
				}
			})
		}
	}
}

// TestNonceSecrets has secrets that are no good. None of them is shown.
func TestNonceSecrets(t *testing.T) {
	for settings, want := range map[string]string{
		`nonce: true, nonce_secrets: [ 0123456789abcdef0123456789abcde ]`:                                      "jwt.bound.nonce_secrets[0]: the secret has less than 32 bytes",
		`nonce: true, nonce_secrets: [ 0123456789abcdef0123456789abcdef, short ]`:                              "jwt.bound.nonce_secrets[1]: the secret has less than 32 bytes",
		`nonce_secrets: [ 0123456789abcdef0123456789abcdef ]`:                                                  "jwt.bound.nonce_secrets: nonce_secrets say nothing",
		`nonce: true, nonce_secrets: [ ` + strings.Repeat("0123456789abcdef0123456789abcdef, ", 4) + `short ]`: "jwt.bound.nonce_secrets: there are 5 secrets",
	} {
		r := policytest.NewRig(t, all.Catalog(), "routes: []\n", nil)
		faults := r.Apply(`routes: [ { match: /*, upstream: http://up, policies: [ jwt: { issuer: "https://id", audience: a, bound: { ` + settings + ` } } ] } ]`)
		if got := faults.Error(); !strings.Contains(got, want) || strings.Contains(strings.Split(got, "\n")[0], "0123456789abcdef") {
			t.Errorf("%s:\n%s\nwant %s", settings, got, want)
		}
		r.Close()
	}
}

// TestCertificateBound has tokens that are bound to a certificate come with it,
// with another one and with none (RFC 8705, section 3).
func TestCertificateBound(t *testing.T) {
	l := newLab(t)
	certificate := func() *exchange.Certificate {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "client"}, NotAfter: time.Now().Add(time.Hour)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
		if err != nil {
			t.Fatal(err)
		}
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return exchange.NewCertificate([]*x509.Certificate{cert})
	}
	own, other := certificate(), certificate()
	sum := sha256.Sum256(own.Leaf().Raw)
	for kind, p := range l.boundTokens(map[string]any{"x5t#S256": b64(sum[:])}) {
		for _, settings := range []string{"", ", bound: { to: certificate }", ", bound: { to: [ certificate, dpop ] }"} {
			g := l.gateway(kind, p.settings+settings)
			for _, c := range []struct {
				name string
				tls  *exchange.TLS
				want int
			}{
				{"its certificate", &exchange.TLS{Peer: own}, 200},
				{"another certificate", &exchange.TLS{Peer: other}, 401},
				{"no certificate", &exchange.TLS{}, 401},
				{"no TLS", nil, 401},
				{"its certificate, again", &exchange.TLS{Peer: own}, 200},
			} {
				client := *g.rig.DefaultClient()
				client.TLS = c.tls
				a := g.rig.Do(policytest.Request{Target: "/a", Client: &client, Header: []exchange.Field{{Name: "Authorization", Value: "Bearer " + p.token}}})
				if a.Status != c.want {
					t.Errorf("%s%s: %s: %d, %v", kind, settings, c.name, a.Status, a.Problem)
				}
			}
		}
	}
}
