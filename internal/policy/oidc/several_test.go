package oidc_test

import (
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

// several is one client with policies that differ, so that each takes sessions
// which another one began. ISSUER and MORE, which is for all, are filled in.
const several = `
routes:
  - match: /*
    upstream: http://up
    policies: [ oidc: { COMMON, headers: { X-User: subject } } ]
  - match: /mail
    upstream: http://up
    policies: [ oidc: { COMMON, subject_claim: email, headers: { X-User: subject } } ]
  - match: /token
    upstream: http://up
    policies: [ oidc: { COMMON, forward: access_token } ]
  - match: /id
    upstream: http://up
    policies: [ oidc: { COMMON, forward: id_token, optional: true } ]
  - match: /any
    upstream: http://up
    policies: [ any_of: { policies: [ basic: {}, oidc: { COMMON, forward: access_token }, jwt: { issuer: id, audience: shop, forward: true, keys: [ { id: k, algorithm: HS256, secret: 0123456789abcdef0123456789abcdef } ] } ] } ]
  - match: /both
    upstream: http://up
    policies: [ all_of: { policies: [ oidc: { COMMON, forward: access_token }, api_key: { header: Authorization, scheme: Key } ] } ]
  - match: /mirrored
    upstream: http://up
    mirror: { upstream: http://mirror }
    policies: [ oidc: { COMMON, forward: id_token } ]
consumers:
  - name: mobile
    credentials:
      - api_key: { hash: "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae" }
      - basic: { username: ann, password_hash: "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4" }
`

func severalVisit(t *testing.T, d *desk, more string) *visit {
	t.Helper()
	return visitWith(t, severalText(d, more), nil)
}

func severalText(d *desk, more string) string {
	return strings.ReplaceAll(several, "COMMON", `issuer: "`+d.URL+`", client_id: web, cookie_secret: 0123456789abcdef0123456789abcdef`+more)
}

// sent asks for a page and returns what the service gets of a field, and how
// the client was answered.
func (v *visit) sent(target, name string, fields ...exchange.Field) (value string, status int) {
	v.t.Helper()
	v.r.Received()
	q := policytest.Request{Target: target, Header: fields}
	for name, value := range v.cookies {
		q.Header = append(q.Header, exchange.Field{Name: "Cookie", Value: name + "=" + value})
	}
	a := v.r.Do(q)
	for _, got := range v.r.Received() {
		if got.Upstream == "http://up" {
			value = strings.Join(collect(got.Header.Values(name)), "|")
		}
	}
	return value, a.Status
}

func collect(values func(func(string) bool)) (all []string) {
	values(func(s string) bool { all = append(all, s); return true })
	return all
}

// TestSubjectOfPolicy: who somebody is follows from the claim of the policy that
// is asked, whichever policy had them sign in.
func TestSubjectOfPolicy(t *testing.T) {
	d := newDesk(t)
	v := severalVisit(t, d, "")
	v.login(d, map[string]any{"email": "ann@example.com"})
	for target, want := range map[string]string{"/page": "ann", "/mail": "ann@example.com"} {
		if got, status := v.sent(target, "X-User"); got != want || status != 200 {
			t.Errorf("%s: %d, the service is told %q, want %q", target, status, got, want)
		}
	}
	clear(v.cookies)
	v.login(d, map[string]any{"email": nil})
	if got, status := v.sent("/mail", "X-User"); status != 401 {
		t.Errorf("without the claim: %d, the service is told %q", status, got)
	}
}

// TestForwardedToken has a token forwarded for a session that another policy
// began, in spite of what the client sends in its place.
func TestForwardedToken(t *testing.T) {
	d := newDesk(t)
	v := severalVisit(t, d, "")
	v.login(d, nil)
	// The session has no access token: nobody had a use for one.
	if got, status := v.sent("/token", "Authorization"); status != 401 {
		t.Errorf("a script: %d with %q", status, got)
	}
	if a := v.loginAt(d, "/token", nil); a.Status != 303 {
		t.Fatalf("%d: %v", a.Status, a.Problem)
	}
	id := v.idToken()
	evil := exchange.Field{Name: "authorization", Value: "Bearer evil"}
	for _, c := range []struct {
		target string
		fields []exchange.Field
		status int
		want   string
	}{
		{"/page", nil, 200, ""},
		{"/token", nil, 200, "Bearer a"},
		{"/token", []exchange.Field{evil}, 200, "Bearer a"},
		{"/id", []exchange.Field{evil, evil}, 200, "Bearer " + id},
		{"/any", nil, 200, "Bearer a"},
		{"/both", []exchange.Field{{Name: "Authorization", Value: "Key foo"}}, 200, "Bearer a"},
		{"/both", []exchange.Field{evil}, 401, ""},
	} {
		if got, status := v.sent(c.target, "Authorization", c.fields...); got != c.want || status != c.status {
			t.Errorf("%s with %v: %d, the service gets %q, want %q", c.target, c.fields, status, got, c.want)
		}
	}
	nobody := &visit{t: v.t, r: v.r}
	if got, status := nobody.sent("/id", "Authorization", evil); got != "" || status != 200 {
		t.Errorf("without a session: %d, the service gets %q", status, got)
	}
	if got, status := nobody.sent("/any", "Authorization", exchange.Field{Name: "Authorization", Value: "Basic YW5uOnBhc3N3b3Jk"}); got != "" || status != 200 {
		t.Errorf("by a password: %d, the service gets %q", status, got)
	}
	mirrored(t, v)
}

// mirrored has a copy of a request go to a mirror without the token.
func mirrored(t *testing.T, v *visit) {
	t.Helper()
	if a := v.do("GET", "/mirrored", ""); a.Status != 200 {
		t.Fatalf("%d: %v", a.Status, a.Problem)
	}
	got := v.r.Received()
	if len(got) != 2 {
		t.Fatalf("received %v", got)
	}
	for _, r := range got {
		if has := r.Header.Get("Authorization") != ""; has != (r.Upstream == "http://up") {
			t.Errorf("%s: Authorization is %q", r.Upstream, r.Header.Get("Authorization"))
		}
	}
}

// idToken is the one of the session, as a service gets it.
func (v *visit) idToken() string {
	v.t.Helper()
	got, _ := v.sent("/id", "Authorization")
	return strings.TrimPrefix(got, "Bearer ")
}

// TestEndedEverywhere: what has ended has for every policy, and after a reload.
func TestEndedEverywhere(t *testing.T) {
	d := newDesk(t)
	v := severalVisit(t, d, "")
	v.loginAt(d, "/token", nil)
	thief := v.copied()
	v.do("GET", "/_oidc/logout", "")
	ended := func(when string) {
		t.Helper()
		for _, target := range []string{"/page", "/token", "/any"} {
			if _, status := thief.sent(target, "X-User"); status != 401 {
				t.Errorf("%s: a copy is answered %d at %s", when, status, target)
			}
		}
	}
	ended("after signing out")
	for _, change := range []string{", refresh: 16m", ", http: { timeout: 4s }"} {
		if f := v.r.Apply(severalText(d, change)); f != nil {
			t.Fatal(f)
		}
		ended("after a reload with" + change)
	}
}

// TestOverWhereItIsOptional: a session that is over is none where none is needed,
// and the browser is rid of it. What was made up is refused there too.
func TestOverWhereItIsOptional(t *testing.T) {
	d := newDesk(t)
	v := severalVisit(t, d, "")
	v.loginAt(d, "/token", nil)
	thief := v.copied()
	v.do("GET", "/_oidc/logout", "")
	if a := thief.do("GET", "/id", ""); a.Status != 200 || len(thief.cookies) != 0 {
		t.Errorf("%d, with the cookies %v: %v", a.Status, thief.cookies, a.Problem)
	}
	if got := v.r.Received(); len(got) != 1 || got[0].Header.Get("Authorization") != "" {
		t.Errorf("the service gets %v", got)
	}
	forger := &visit{t: t, r: v.r, cookies: map[string]string{"gh_session": "1.AAAA"}}
	if a := forger.do("GET", "/id", ""); a.Status != 401 {
		t.Errorf("made up: %d", a.Status)
	}
}

// TestNewSecret changes the secret under a session.
func TestNewSecret(t *testing.T) {
	d := newDesk(t)
	const old = "0123456789abcdef0123456789abcdef"
	with := func(secret, more string) string {
		return strings.ReplaceAll(severalText(d, more), "cookie_secret: "+old, "cookie_secret: "+secret)
	}
	another := strings.ToUpper(old)
	v := visitWith(t, with(old, ""), nil)
	v.login(d, nil)
	for _, c := range []struct {
		name, text string
		status     int
	}{
		{"another", with(another, ""), 401},
		{"another, and the old one kept", with(another, ", former_secrets: [ "+old+" ]"), 200},
		{"the old one as the second", with(another, ", former_secrets: [ "+another+", "+old+" ]"), 200},
		{"the old one", with(old, ""), 200},
	} {
		if f := v.r.Apply(c.text); f != nil {
			t.Fatalf("%s: %v", c.name, f)
		}
		if _, status := v.copied().sent("/page", "X-User"); status != c.status {
			t.Errorf("%s: %d, want %d", c.name, status, c.status)
		}
	}
	// What is sealed now is with the new one.
	if f := v.r.Apply(with(another, ", former_secrets: [ "+old+" ]")); f != nil {
		t.Fatal(f)
	}
	clear(v.cookies)
	v.login(d, nil)
	if f := v.r.Apply(with(another, "")); f != nil {
		t.Fatal(f)
	}
	v.want("a new session without the old secret", 200)
	if f := v.r.Apply(with(another, ", former_secrets: [ short ]")); f == nil || !strings.Contains(f.Error(), "former_secrets[0]") {
		t.Errorf("a short one: %v", f)
	}
}

// TestEndedWithoutName has a provider that names sessions in logout tokens, and
// not in ID tokens.
func TestEndedWithoutName(t *testing.T) {
	d := newDesk(t)
	one, two := newVisit(t, d), newVisit(t, d)
	two.r = one.r
	one.login(d, map[string]any{"sid": nil})
	two.login(d, map[string]any{"sid": "s2"})
	token, err := d.signer.Sign(map[string]any{"typ": "logout+jwt"}, map[string]any{
		"iss": d.URL, "aud": "web", "iat": time.Now().Unix(), "jti": "1", "sid": "s1", "sub": "ann",
		"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if a := one.r.Do(policytest.Request{Method: "POST", Target: "/_oidc/backchannel", Body: "logout_token=" + token}); a.Status != 200 {
		t.Fatalf("%d: %v", a.Status, a.Problem)
	}
	one.want("a session without a name", 303)
	two.want("another session", 200)
}
