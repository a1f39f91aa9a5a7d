package all_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/jose"
	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

// lab is a gateway to attack, and what a client may have got hold of.
type lab struct {
	t       *testing.T
	rig     *policytest.Rig
	rsa, ec *jose.Signer // of the issuer
	evil    *jose.Signer // of the attacker, with the issuer's key id
	device  *jose.Signer // of the client, for proofs
	pem     string       // the issuer's public key, which everybody knows
}

func b64(v any) string {
	data, ok := v.([]byte)
	if !ok {
		data, _ = json.Marshal(v)
	}
	return base64.RawURLEncoding.EncodeToString(data)
}

func signer(t *testing.T, key any, alg, id string) *jose.Signer {
	t.Helper()
	s, err := jose.NewSigner(key, alg, id)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newLab(t *testing.T) *lab {
	t.Helper()
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	ec := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	e := ec()
	der, err := x509.MarshalPKIXPublicKey(&r.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	l := &lab{t: t, rsa: signer(t, r, "RS256", "rsa"), ec: signer(t, e, "ES256", "ec"), evil: signer(t, ec(), "ES256", "ec"), device: signer(t, ec(), "ES256", "")}
	l.pem = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	ecDER, err := x509.MarshalPKIXPublicKey(&e.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	ecPEM := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: ecDER}))
	quote := func(s string) string { return `"` + strings.ReplaceAll(s, "\n", `\n`) + `"` }
	keys := `keys: [ { id: rsa, algorithm: RS256, public_key: ` + quote(l.pem) + ` }, { id: ec, public_key: ` + quote(ecPEM) + ` } ]`
	token := func(more string) string {
		return `jwt: { issuer: "https://id", audience: shop, attempts: { client: 0 }, ` + keys + more + ` }`
	}
	l.rig = policytest.NewRig(t, all.Catalog(), `
listeners: [ { address: ":1", trusted_proxies: [ 10.0.0.0/8 ] } ]
consumers:
  - name: mobile
    groups: [partners]
    credentials:
      - api_key: { hash: "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae" }
      - certificate: { subject: CN=mobile }
      - basic: { username: ann, password_hash: "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4" }
  - name: guest
routes:
  - { match: /key/*, upstream: http://up, policies: [ api_key: { attempts: { client: 0 } } ] }
  - { match: /open/*, upstream: http://up, policies: [ api_key: { anonymous: guest, attempts: { client: 0 }, headers: { X-Consumer-Id: consumer, X-Groups: groups } } ] }
  - { match: /query/*, upstream: http://up, policies: [ api_key: { query: key, attempts: { client: 0 } } ] }
  - { match: /cookie/*, upstream: http://up, policies: [ api_key: { cookie: key, attempts: { client: 0 } } ] }
  - { match: /jwt/*, upstream: http://up, policies: [ `+token("")+` ] }
  - { match: /dpop/*, upstream: http://up, policies: [ `+token(`, bound: { to: dpop }`)+` ] }
  - { match: /nonce/*, upstream: http://up, policies: [ `+token(`, bound: { to: dpop, nonce: true }`)+` ] }
  - { match: /cert/*, upstream: http://up, policies: [ mtls: { forwarded: true } ] }
  - { match: /basic/*, upstream: http://up, policies: [ basic: { attempts: { client: 0 } } ] }
  - { match: /any/*, upstream: http://up, policies: [ any_of: { policies: [ api_key: {}, `+token("")+` ] } ] }
`, nil)
	t.Cleanup(l.rig.Close)
	return l
}

func (l *lab) claims(changes ...any) map[string]any {
	now := time.Now().Unix()
	c := map[string]any{"iss": "https://id", "aud": "shop", "sub": "ann", "iat": now, "exp": now + 300}
	for i := 0; i < len(changes); i += 2 {
		if c[changes[i].(string)] = changes[i+1]; changes[i+1] == nil {
			delete(c, changes[i].(string))
		}
	}
	return c
}

func (l *lab) sign(s *jose.Signer, header, claims map[string]any) string {
	text, err := s.Sign(header, claims)
	if err != nil {
		l.t.Fatal(err)
	}
	return text
}

// raw makes a token of two pieces of JSON as they are, signed by the issuer.
func (l *lab) raw(head, body string) string {
	text := b64([]byte(head)) + "." + b64([]byte(body))
	sig, err := l.ec.Raw([]byte(text))
	if err != nil {
		l.t.Fatal(err)
	}
	return text + "." + b64(sig)
}

// bound is a token that is bound to the device.
func (l *lab) bound() string {
	return l.sign(l.ec, nil, l.claims("cnf", map[string]any{"jkt": l.device.Key().Thumb}))
}

// jwk is the public key of a signer.
func (l *lab) jwk(s *jose.Signer) map[string]any {
	data, err := jose.Publish(s)
	if err != nil {
		l.t.Fatal(err)
	}
	var set struct{ Keys []map[string]any }
	if err := json.Unmarshal(data, &set); err != nil {
		l.t.Fatal(err)
	}
	return set.Keys[0]
}

// proof is a proof of the device for a request to GET /dpop/a.
func (l *lab) proof(token string, s *jose.Signer, header map[string]any, changes ...any) string {
	sum := sha256.Sum256([]byte(token))
	jti := make([]byte, 16)
	rand.Read(jti)
	c := map[string]any{"htm": "GET", "htu": "http://gateway.test/dpop/a", "iat": time.Now().Unix(), "jti": b64(jti), "ath": b64(sum[:])}
	for i := 0; i < len(changes); i += 2 {
		if c[changes[i].(string)] = changes[i+1]; changes[i+1] == nil {
			delete(c, changes[i].(string))
		}
	}
	h := map[string]any{"typ": "dpop+jwt", "jwk": l.jwk(s)}
	for name, v := range header {
		if h[name] = v; v == nil {
			delete(h, name)
		}
	}
	return l.sign(s, h, c)
}

// attack is one request and the least that has to become of it.
type attack struct {
	name   string
	target string
	fields []string // name, value, name, value
	from   string   // address of the client
}

func (l *lab) do(a attack) *policytest.Answer {
	q := policytest.Request{Target: a.target}
	for i := 0; i < len(a.fields); i += 2 {
		q.Header = append(q.Header, exchange.Field{Name: a.fields[i], Value: a.fields[i+1]})
	}
	if a.from != "" {
		q.Client = l.rig.Client(a.from+":1000", l.rig.Config.Listeners[0])
	}
	return l.rig.Do(q)
}

// TestFriends shows that the lab lets in who may come in: the attacks below
// fail for what they are, and not because everything does.
func TestFriends(t *testing.T) {
	l := newLab(t)
	bound := l.bound()
	for _, a := range []attack{
		{"key", "/key/a", []string{"X-API-Key", "foo"}, ""},
		{"query", "/query/a?key=foo", nil, ""},
		{"cookie", "/cookie/a", []string{"Cookie", "a=b; key=foo"}, ""},
		{"rsa", "/jwt/a", []string{"Authorization", "Bearer " + l.sign(l.rsa, nil, l.claims())}, ""},
		{"ec", "/jwt/a", []string{"Authorization", "Bearer " + l.sign(l.ec, map[string]any{"typ": "JWT"}, l.claims())}, ""},
		{"raw", "/jwt/a", []string{"Authorization", "Bearer " + l.raw(`{"alg":"ES256","kid":"ec"}`, `{"iss":"https://id","aud":"shop","sub":"a","exp":`+fmt.Sprint(time.Now().Unix()+60)+`}`)}, ""},
		{"proof", "/dpop/a", []string{"Authorization", "DPoP " + bound, "DPoP", l.proof(bound, l.device, nil)}, ""},
		{"proof, where it need not be", "/jwt/a", []string{"Authorization", "dpop " + bound, "DPoP", l.proof(bound, l.device, nil, "htu", "http://GATEWAY.test:80/jwt/a?x=y#z")}, ""},
		{"certificate", "/cert/a", []string{"X-Forwarded-Client-Cert", "Subject=CN=mobile"}, "10.0.0.1"},
		{"password", "/basic/a", []string{"Authorization", "Basic YW5uOnBhc3N3b3Jk"}, ""},
		{"any", "/any/a", []string{"X-API-Key", "foo"}, ""},
		{"guest", "/open/a", nil, ""},
	} {
		if got := l.do(a); got.Status != 200 {
			t.Errorf("%s: %d, %v", a.name, got.Status, got.Problem)
		}
	}
	// A proof with a nonce, which the gateway has to be asked for.
	fields := []string{"Authorization", "DPoP " + bound, "DPoP", l.proof(bound, l.device, nil, "htu", "http://gateway.test/nonce/a")}
	a := l.do(attack{"", "/nonce/a", fields, ""})
	nonce := a.Header.Get("DPoP-Nonce")
	if a.Status != 401 || nonce == "" || !strings.HasPrefix(a.Header.Get("WWW-Authenticate"), `DPoP error="use_dpop_nonce"`) {
		t.Fatalf("without a nonce: %v", a)
	}
	fields[3] = l.proof(bound, l.device, nil, "htu", "http://gateway.test/nonce/a", "nonce", nonce)
	if a := l.do(attack{"", "/nonce/a", fields, ""}); a.Status != 200 {
		t.Errorf("with the nonce: %v", a.Problem)
	}
}

func (l *lab) tokens() []attack {
	now := time.Now().Unix()
	valid := l.sign(l.ec, nil, l.claims())
	head, rest, _ := strings.Cut(valid, ".")
	body, sig, _ := strings.Cut(rest, ".")
	hs := signer(l.t, []byte(l.pem), "HS256", "rsa")
	none := func(alg string) string {
		return b64(map[string]any{"alg": alg, "kid": "ec"}) + "." + b64(l.claims()) + "."
	}
	good := fmt.Sprintf(`"iss":"https://id","aud":"shop","sub":"ann","exp":%d`, now+300)
	var out []attack
	for name, token := range map[string]string{
		"alg none":                          none("none"),
		"alg None":                          none("None"),
		"alg nOnE with a signature":         none("nOnE") + sig,
		"alg empty":                         none(""),
		"the signature cut off":             head + "." + body + ".",
		"the signature of another token":    head + "." + b64(l.claims("sub", "root")) + "." + sig,
		"zeros for a signature":             head + "." + body + "." + b64(make([]byte, 64)),
		"HMAC with the public key":          l.sign(hs, nil, l.claims()),
		"HMAC with the key trimmed":         l.sign(signer(l.t, []byte(strings.TrimSpace(l.pem)), "HS256", "rsa"), nil, l.claims()),
		"RSA-PSS with a key for RS256":      l.sign(signer(l.t, l.rsaKey(), "PS256", "rsa"), nil, l.claims()),
		"another key with the same id":      l.sign(l.evil, nil, l.claims()),
		"the key of another id":             l.sign(l.evil, map[string]any{"kid": "rsa"}, l.claims()),
		"kid of a file":                     l.sign(l.evil, map[string]any{"kid": "../../../dev/null"}, l.claims()),
		"kid of a query":                    l.sign(l.evil, map[string]any{"kid": "' UNION SELECT 'secret"}, l.claims()),
		"kid of a URL":                      l.sign(l.evil, map[string]any{"kid": "http://169.254.169.254/"}, l.claims()),
		"kid that is no text":               l.sign(l.evil, map[string]any{"kid": 1}, l.claims()),
		"kid without end":                   l.sign(l.evil, map[string]any{"kid": strings.Repeat("k", 4096)}, l.claims()),
		"an embedded key":                   l.sign(l.evil, map[string]any{"jwk": l.jwk(l.evil)}, l.claims()),
		"jku of the attacker":               l.sign(l.evil, map[string]any{"jku": "http://127.0.0.1:1/jwks"}, l.claims()),
		"x5u of the attacker":               l.sign(l.evil, map[string]any{"x5u": "http://127.0.0.1:1/cert"}, l.claims()),
		"x5c of the attacker":               l.sign(l.evil, map[string]any{"x5c": []string{"MIIB"}}, l.claims()),
		"crit":                              l.sign(l.ec, map[string]any{"crit": []string{"exp"}}, l.claims()),
		"an unencoded payload":              l.sign(l.ec, map[string]any{"b64": false}, l.claims()),
		"an ID token's twin":                l.sign(l.ec, map[string]any{"typ": "logout+jwt"}, l.claims()),
		"a proof as a token":                l.sign(l.ec, map[string]any{"typ": "dpop+jwt"}, l.claims()),
		"expired":                           l.sign(l.ec, nil, l.claims("exp", now-31)),
		"expired long ago":                  l.sign(l.ec, nil, l.claims("exp", 1)),
		"no expiry":                         l.sign(l.ec, nil, l.claims("exp", nil)),
		"an expiry in words":                l.sign(l.ec, nil, l.claims("exp", "9999999999")),
		"a negative expiry":                 l.sign(l.ec, nil, l.claims("exp", -1)),
		"an expiry beyond all time":         l.raw(`{"alg":"ES256","kid":"ec"}`, `{"iss":"https://id","aud":"shop","sub":"ann","exp":1e300}`),
		"not yet valid":                     l.sign(l.ec, nil, l.claims("nbf", now+60)),
		"issued in the future":              l.sign(l.ec, nil, l.claims("iat", now+60)),
		"another audience":                  l.sign(l.ec, nil, l.claims("aud", "bank")),
		"an audience that begins the same":  l.sign(l.ec, nil, l.claims("aud", "shop.evil")),
		"no audience":                       l.sign(l.ec, nil, l.claims("aud", nil)),
		"an audience in an object":          l.sign(l.ec, nil, l.claims("aud", map[string]any{"shop": "shop"})),
		"another issuer":                    l.sign(l.ec, nil, l.claims("iss", "https://evil")),
		"an issuer with a slash":            l.sign(l.ec, nil, l.claims("iss", "https://id/")),
		"an issuer in a list":               l.sign(l.ec, nil, l.claims("iss", []string{"https://id"})),
		"no subject":                        l.sign(l.ec, nil, l.claims("sub", "")),
		"a subject that is no text":         l.sign(l.ec, nil, l.claims("sub", 1)),
		"a claim that stands twice":         l.raw(`{"alg":"ES256","kid":"ec"}`, `{`+good+`,"sub":"root"}`),
		"a header that stands twice":        l.raw(`{"alg":"none","alg":"ES256","kid":"ec"}`, `{`+good+`}`),
		"a claim twice by an escape":        l.raw(`{"alg":"ES256","kid":"ec"}`, `{`+good+`,"\u0073ub":"root"}`),
		"text after the claims":             l.raw(`{"alg":"ES256","kid":"ec"}`, `{`+good+`}{}`),
		"claims that are not UTF-8":         l.raw(`{"alg":"ES256","kid":"ec"}`, `{`+good+`,"x":"`+"\xff"+`"}`),
		"padding":                           valid + "=",
		"padding of the header":             head + "=." + body + "." + sig,
		"another spelling of the signature": head + "." + body + "." + respelled(sig),
		"plus and slash":                    head + "." + body + "." + strings.NewReplacer("-", "+", "_", "/").Replace(sig) + "+",
		"a fourth part":                     valid + ".AAAA",
		"JSON instead":                      `{"protected":"` + head + `","payload":"` + body + `","signature":"` + sig + `"}`,
		"an encrypted token":                b64([]byte(`{"alg":"dir","enc":"A128GCM"}`)) + "....",
		"a token without end":               valid + strings.Repeat("A", 1<<15),
		"deeply nested claims":              l.raw(`{"alg":"ES256","kid":"ec"}`, `{`+good+`,"x":`+strings.Repeat("[", 200)+strings.Repeat("]", 200)+`}`),
		"bound to a key, as a bearer":       l.bound(),
		"bound to a certificate, without":   l.sign(l.ec, nil, l.claims("cnf", map[string]any{"x5t#S256": "AAAA"})),
		"bound to something else":           l.sign(l.ec, nil, l.claims("cnf", map[string]any{"kid": "x"})),
		"bound to nothing":                  l.sign(l.ec, nil, l.claims("cnf", map[string]any{})),
	} {
		out = append(out, attack{"token: " + name, "/jwt/a", []string{"Authorization", "Bearer " + token}, ""})
	}
	return append(out,
		attack{"token: two fields", "/jwt/a", []string{"Authorization", "Bearer " + valid, "authorization", "Bearer " + valid}, ""},
		attack{"token: two schemes", "/jwt/a", []string{"Authorization", "Bearer " + valid, "Authorization", "Basic YW5uOnBhc3N3b3Jk"}, ""},
		attack{"token: in the query", "/jwt/a?access_token=" + valid, nil, ""},
		attack{"token: in a cookie", "/jwt/a", []string{"Cookie", "token=" + valid}, ""},
		attack{"token: another scheme", "/jwt/a", []string{"Authorization", "Token " + valid}, ""},
		attack{"token: without a scheme", "/jwt/a", []string{"Authorization", valid}, ""},
		attack{"token: a space within", "/jwt/a", []string{"Authorization", "Bearer " + valid + " x"}, ""},
		attack{"token: with an underscore", "/jwt/a", []string{"Author_ization", "Bearer " + valid}, ""},
		attack{"token: as a proof without one", "/jwt/a", []string{"Authorization", "DPoP " + valid}, ""},
	)
}

// respelled writes the same bytes with other left-over bits.
func respelled(sig string) string {
	table := "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return sig[:len(sig)-1] + string(table[strings.IndexByte(table, sig[len(sig)-1])^1])
}

// rsaKey is a key of the attacker.
func (l *lab) rsaKey() any {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		l.t.Fatal(err)
	}
	return k
}

func (l *lab) proofs() (out []attack) {
	bound, other := l.bound(), l.sign(l.ec, nil, l.claims("sub", "bob", "cnf", map[string]any{"jkt": l.device.Key().Thumb}))
	now := time.Now().Unix()
	jwk := func(name string, v any) map[string]any {
		k := l.jwk(l.device)
		k[name] = v
		return map[string]any{"jwk": k}
	}
	for name, proof := range map[string]string{
		"with its private key":    l.proof(bound, l.device, jwk("d", "AAAA")),
		"with a key to encrypt":   l.proof(bound, l.device, jwk("use", "enc")),
		"with a key of another":   l.proof(bound, l.device, jwk("alg", "ES384")),
		"with an id without end":  l.proof(bound, l.device, nil, "jti", strings.Repeat("a", 257)),
		"with a number for an id": l.proof(bound, l.device, nil, "jti", 1),
		"with an empty id":        l.proof(bound, l.device, nil, "jti", ""),
		"of a method in lower":    l.proof(bound, l.device, nil, "htm", "get"),
		"with crit":               l.proof(bound, l.device, map[string]any{"crit": []string{"exp"}}),
		"for another method":      l.proof(bound, l.device, nil, "htm", "POST"),
		"for another target":      l.proof(bound, l.device, nil, "htu", "http://gateway.test/dpop/b"),
		"for another host":        l.proof(bound, l.device, nil, "htu", "http://evil.test/dpop/a"),
		"for another scheme":      l.proof(bound, l.device, nil, "htu", "https://gateway.test/dpop/a"),
		"for a host with a user":  l.proof(bound, l.device, nil, "htu", "http://x@gateway.test/dpop/a"),
		"for nothing":             l.proof(bound, l.device, nil, "htu", nil, "htm", nil),
		"for another token":       l.proof(other, l.device, nil),
		"for no token":            l.proof(bound, l.device, nil, "ath", nil),
		"too old":                 l.proof(bound, l.device, nil, "iat", now-61),
		"from the future":         l.proof(bound, l.device, nil, "iat", now+120),
		"without a time":          l.proof(bound, l.device, nil, "iat", nil),
		"without an id":           l.proof(bound, l.device, nil, "jti", nil),
		"of another key":          l.proof(bound, l.evil, nil),
		"of another type":         l.proof(bound, l.device, map[string]any{"typ": "JWT"}),
		"without its key":         l.proof(bound, l.device, map[string]any{"jwk": nil}),
		"with another key in it":  l.proof(bound, l.evil, map[string]any{"jwk": map[string]any{"kty": "oct", "k": b64(make([]byte, 32))}}),
		"with a private key":      l.proof(bound, l.device, map[string]any{"jwk": map[string]any{"kty": "EC", "d": "AAAA"}}),
		"that is not signed":      b64(map[string]any{"typ": "dpop+jwt", "alg": "none"}) + "." + b64(map[string]any{}) + ".",
		"that is the token":       bound,
		"that is empty":           "",
		"that is two in one line": l.proof(bound, l.device, nil) + ", " + l.proof(bound, l.device, nil),
	} {
		out = append(out, attack{"proof: " + name, "/dpop/a", []string{"Authorization", "DPoP " + bound, "DPoP", proof}, ""})
	}
	used := l.proof(bound, l.device, nil)
	if a := l.do(attack{"", "/dpop/a", []string{"Authorization", "DPoP " + bound, "DPoP", used}, ""}); a.Status != 200 {
		l.t.Errorf("a proof that is to be used again: %v", a.Problem)
	}
	return append(out,
		attack{"proof: none", "/dpop/a", []string{"Authorization", "DPoP " + bound}, ""},
		attack{"proof: two", "/dpop/a", []string{"Authorization", "DPoP " + bound, "DPoP", l.proof(bound, l.device, nil), "dpop", l.proof(bound, l.device, nil)}, ""},
		attack{"proof: two, one of them empty", "/dpop/a", []string{"Authorization", "DPoP " + bound, "DPoP", "", "dpop", l.proof(bound, l.device, nil)}, ""},
		attack{"proof: for a host that the client makes up", "/dpop/a", []string{"Authorization", "DPoP " + bound, "DPoP", l.proof(bound, l.device, nil, "htu", "http://evil.test/dpop/a"), "X-Forwarded-Host", "evil.test", "Forwarded", "host=evil.test"}, ""},
		attack{"proof: for a scheme that the client makes up", "/dpop/a", []string{"Authorization", "DPoP " + bound, "DPoP", l.proof(bound, l.device, nil, "htu", "https://gateway.test/dpop/a"), "X-Forwarded-Proto", "https"}, ""},
		attack{"proof: used before", "/dpop/a", []string{"Authorization", "DPoP " + bound, "DPoP", used}, ""},
		attack{"proof: of a token that is bound to nothing", "/dpop/a", []string{"Authorization", "DPoP " + l.sign(l.ec, nil, l.claims()), "DPoP", used}, ""},
		attack{"proof: a token that is bound to nothing", "/dpop/a", []string{"Authorization", "Bearer " + l.sign(l.ec, nil, l.claims())}, ""},
		attack{"proof: a nonce of its own", "/nonce/a", []string{"Authorization", "DPoP " + bound, "DPoP", l.proof(bound, l.device, nil, "htu", "http://gateway.test/nonce/a", "nonce", "mine")}, ""},
	)
}

func (l *lab) others() []attack {
	return []attack{
		{"key: wrong where guests may come in", "/open/a", []string{"X-API-Key", "wrong"}, ""},
		{"key: empty and right", "/key/a", []string{"X-API-Key", "", "X-API-Key", "foo"}, ""},
		{"key: twice in other cases", "/key/a", []string{"X-API-Key", "foo", "x-api-key", "bar"}, ""},
		{"key: with an underscore", "/key/a", []string{"X_API_Key", "foo"}, ""},
		{"key: its hash", "/key/a", []string{"X-API-Key", "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"}, ""},
		{"key: its hash as it is configured", "/key/a", []string{"X-API-Key", "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae"}, ""},
		{"key: with space around", "/key/a", []string{"X-API-Key", "foo "}, ""},
		{"key: joined", "/key/a", []string{"X-API-Key", "foo, foo"}, ""},
		{"key: without end", "/key/a", []string{"X-API-Key", strings.Repeat("f", 1<<14)}, ""},
		{"key: in the wrong place", "/key/a?key=foo", []string{"Cookie", "key=foo"}, ""},
		{"key: two parameters", "/query/a?key=foo&key=foo", nil, ""},
		{"key: two parameters, one encoded", "/query/a?key=foo&k%65y=bar", nil, ""},
		{"key: a parameter after a semicolon", "/query/a?x=1;key=foo", nil, ""},
		{"key: in another case", "/query/a?KEY=foo", nil, ""},
		{"cookie: tossed by a neighbour", "/cookie/a", []string{"Cookie", "key=foo; key=bar"}, ""},
		{"cookie: tossed in another line", "/cookie/a", []string{"Cookie", "key=bar", "Cookie", "key=foo"}, ""},
		{"cookie: within another one", "/cookie/a", []string{"Cookie", `a="x; key`, "X", "foo"}, ""},
		{"certificate: by anybody", "/cert/a", []string{"X-Forwarded-Client-Cert", "Subject=CN=mobile"}, "192.0.2.1"},
		{"certificate: before the proxy's", "/cert/a", []string{"X-Forwarded-Client-Cert", "Subject=CN=mobile,Subject=CN=eve"}, "10.0.0.1"},
		{"certificate: in a line of its own", "/cert/a", []string{"X-Forwarded-Client-Cert", "Subject=CN=mobile", "X-Forwarded-Client-Cert", "Subject=CN=eve"}, "10.0.0.1"},
		{"certificate: named away", "/cert/a", []string{"X-Forwarded-Client-Cert", "Subject=CN=eve", "Connection", "X-Forwarded-Client-Cert", "X-Client-Cert", "Subject=CN=mobile"}, "10.0.0.1"},
		{"password: a name without one", "/basic/a", []string{"Authorization", "Basic YW5u"}, ""},
		{"password: its hash", "/basic/a", []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("ann:$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4"))}, ""},
		{"password: with a NUL", "/basic/a", []string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("ann:password\x00"))}, ""},
		{"password: of nobody", "/basic/a", []string{"Authorization", "Basic Og=="}, ""},
		{"password: two lines", "/basic/a", []string{"Authorization", "Basic YW5uOnBhc3N3b3Jk", "Authorization", "Bearer x"}, ""},
		{"field: named away by Connection", "/key/a", []string{"Connection", "X-API-Key", "X-API-Key", "foo"}, ""},
		{"several: a wrong key and a right token", "/any/a", []string{"X-API-Key", "wrong", "Authorization", "Bearer " + l.sign(l.ec, nil, l.claims())}, ""},
	}
}

// TestAttacks has requests that must not get through. Each of them fails, and
// no service is asked.
func TestAttacks(t *testing.T) {
	l := newLab(t)
	attacks := append(append(l.tokens(), l.proofs()...), l.others()...)
	l.rig.Received()
	if len(attacks) < 60 {
		t.Errorf("%d attacks, want at least 60", len(attacks))
	}
	for _, a := range attacks {
		got := l.do(a)
		if got.Status != 401 && got.Status != 400 || got.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: answered %d: %v", a.name, got.Status, got.Problem)
		}
		if asked := l.rig.Received(); len(asked) != 0 {
			t.Errorf("%s: the service was asked: %v", a.name, asked)
		}
		if got.Problem != nil && got.Problem.Cause != nil && strings.Contains(got.Problem.Detail, got.Problem.Cause.Error()) {
			t.Errorf("%s: the client is told why: %s", a.name, got.Problem.Detail)
		}
	}
}

// TestSpoofedFields has requests that get through, with fields that only the
// gateway may set.
func TestSpoofedFields(t *testing.T) {
	l := newLab(t)
	for _, name := range []string{"X-Consumer-Id", "x-consumer-id", "X-CONSUMER-ID", "X_Consumer_Id", "X-Consumer_Id", "X-Groups", "x-groups", "X_Groups"} {
		for _, key := range []string{"", "foo"} {
			fields := []string{name, "admin", name, "admin"}
			want := "guest"
			if key != "" {
				fields, want = append(fields, "X-API-Key", key), "mobile"
			}
			if a := l.do(attack{"", "/open/a", fields, ""}); a.Status != 200 {
				t.Fatalf("%s: %d", name, a.Status)
			}
			h := &l.rig.Received()[0].Header
			for n, v := range h.All() {
				if v == "admin" {
					t.Errorf("%s went on as %s", name, n)
				}
			}
			if h.Get("X-Consumer-Id") != want {
				t.Errorf("%s: the service is told %q", name, h.Get("X-Consumer-Id"))
			}
		}
	}
}
