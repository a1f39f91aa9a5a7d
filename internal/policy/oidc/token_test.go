package oidc_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
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

// desk is a provider that signs whatever it is told to.
type desk struct {
	*httptest.Server
	signer *jose.Signer
	id     map[string]any // of the next ID token
	info   map[string]any // what it says of people, nil: as in the ID token

	short   bool         // access tokens last a second, and can be renewed, each once
	renewed atomic.Int64 // how often that was
}

func newSigner(t *testing.T) *jose.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := jose.NewSigner(key, "EdDSA", "k")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{signer: newSigner(t)}
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(w).Encode(map[string]any{
			"issuer": d.URL, "authorization_endpoint": d.URL + "/authorize", "token_endpoint": d.URL + "/token", "jwks_uri": d.URL + "/jwks",
			"userinfo_endpoint": d.URL + "/info", "authorization_response_iss_parameter_supported": true,
		})
	})
	keys := d.signer
	mux.HandleFunc("/jwks", func(w http.ResponseWriter, _ *http.Request) {
		data, _ := jose.Publish(keys)
		_, _ = w.Write(data)
	})
	var mu sync.Mutex
	used := make(map[string]bool)
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if old := r.FormValue("refresh_token"); old != "" {
			d.renewed.Add(1)
			if used[old] {
				w.WriteHeader(http.StatusBadRequest)
				_, _ = io.WriteString(w, `{"error":"invalid_grant"}`)
				return
			}
			used[old] = true
		}
		id, _ := d.signer.Sign(nil, d.id)
		if d.short {
			_ = json.NewEncoder(w).Encode(map[string]any{"access_token": "a", "token_type": "Bearer", "id_token": id, "expires_in": 1, "refresh_token": fmt.Sprint("r", len(used))})
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"access_token": "a", "token_type": "Bearer", "id_token": id, "expires_in": 300})
	})
	mux.HandleFunc("/info", func(w http.ResponseWriter, _ *http.Request) {
		if d.info == nil {
			d.info = map[string]any{"sub": d.id["sub"]}
		}
		_ = json.NewEncoder(w).Encode(d.info)
	})
	d.Server = httptest.NewServer(mux)
	t.Cleanup(d.Close)
	return d
}

// visit is one browser at a gateway.
type visit struct {
	t       *testing.T
	r       *policytest.Rig
	cookies map[string]string
	from    string           // address of the client, "" for any
	fields  []exchange.Field // beside cookies
	lines   []string         // every Set-Cookie
}

func newVisit(t *testing.T, d *desk) *visit {
	t.Helper()
	return visitAt(t, d, "", nil)
}

// visitAt is a visit at a gateway of its own, with further settings.
func visitAt(t *testing.T, d *desk, settings string, services func(string) any) *visit {
	t.Helper()
	return visitWith(t, `
routes:
  - match: /*
    upstream: http://up
    policies: [ oidc: { issuer: "`+d.URL+`", client_id: web, cookie_secret: 0123456789abcdef0123456789abcdef, headers: { X-User: subject, X-Big: claims.big, X-Mail: claims.email }`+settings+` } ]
`, services)
}

// visitWith is a visit at a gateway with this configuration.
func visitWith(t *testing.T, text string, services func(string) any) *visit {
	t.Helper()
	r := policytest.NewRig(t, all.Catalog(), text, services)
	t.Cleanup(r.Close)
	return &visit{t: t, r: r, cookies: make(map[string]string)}
}

func (v *visit) do(method, target, body string) *policytest.Answer {
	v.t.Helper()
	q := policytest.Request{Method: method, Target: target, Body: body, Header: []exchange.Field{{Name: "Accept", Value: "text/html"}}}
	for name, value := range v.cookies {
		q.Header = append(q.Header, exchange.Field{Name: "Cookie", Value: name + "=" + value})
	}
	q.Header = append(q.Header, v.fields...)
	if v.from != "" {
		q.Client = v.r.Client(v.from+":1000", v.r.Config.Listeners[0])
	}
	a := v.r.Do(q)
	for line := range a.Header.Values("Set-Cookie") {
		v.lines = append(v.lines, line)
		pair, rest, _ := strings.Cut(line, ";")
		name, value, _ := strings.Cut(pair, "=")
		if v.cookies[name] = value; strings.Contains(rest, "Max-Age=0") {
			delete(v.cookies, name)
		}
		if len(line) > 4096 {
			v.t.Errorf("a cookie of %d bytes", len(line))
		}
	}
	return a
}

// login goes to the provider and comes back with an ID token of these claims.
func (v *visit) login(d *desk, changes map[string]any) *policytest.Answer {
	v.t.Helper()
	return v.loginAt(d, "/page", changes)
}

// loginAt is login for a page.
func (v *visit) loginAt(d *desk, page string, changes map[string]any) *policytest.Answer {
	v.t.Helper()
	a := v.do("GET", page, "")
	to, err := url.Parse(a.Header.Get("Location"))
	if err != nil || a.Status != 303 {
		v.t.Fatalf("%d to %q", a.Status, to)
	}
	now := time.Now().Unix()
	d.id = map[string]any{"iss": d.URL, "aud": "web", "sub": "ann", "sid": "s1", "iat": now, "exp": now + 300, "nonce": to.Query().Get("nonce")}
	for name, c := range changes {
		if d.id[name] = c; c == nil {
			delete(d.id, name)
		}
	}
	return v.do("GET", "/_oidc/callback?code=c&state="+to.Query().Get("state")+"&iss="+url.QueryEscape(d.URL), "")
}

func TestIDTokens(t *testing.T) {
	now := time.Now().Unix()
	for name, c := range map[string]struct {
		changes map[string]any
		status  int
	}{
		"right":                      {nil, 303},
		"for two, made for us":       {map[string]any{"aud": []string{"web", "x"}, "azp": "web"}, 303},
		"for two":                    {map[string]any{"aud": []string{"web", "x"}}, 400},
		"made for another":           {map[string]any{"azp": "x"}, 400},
		"for another":                {map[string]any{"aud": "x"}, 400},
		"of another issuer":          {map[string]any{"iss": "https://evil"}, 400},
		"of another login":           {map[string]any{"nonce": "x"}, 400},
		"of no login":                {map[string]any{"nonce": nil}, 400},
		"expired":                    {map[string]any{"exp": now - 100}, 400},
		"without an end":             {map[string]any{"exp": nil}, 400},
		"without a beginning":        {map[string]any{"iat": nil}, 400},
		"from the future":            {map[string]any{"iat": now + 100}, 400},
		"of nobody":                  {map[string]any{"sub": nil}, 400},
		"of nobody, with an empty s": {map[string]any{"sub": ""}, 400},
	} {
		d := newDesk(t)
		v := newVisit(t, d)
		a := v.login(d, c.changes)
		if a.Status != c.status {
			t.Errorf("%s: %d, %v", name, a.Status, a.Problem)
		}
		if b := v.do("GET", "/page", ""); (b.Status == 200) != (c.status == 303) {
			t.Errorf("%s: then %d", name, b.Status)
		}
	}
	d := newDesk(t)
	v := newVisit(t, d)
	v.do("GET", "/", "") // its keys are known now
	d.signer = newSigner(t)
	if a := v.login(d, nil); a.Status != 400 {
		t.Errorf("with another key of the same id: %d", a.Status)
	}
	d = newDesk(t)
	v = newVisit(t, d)
	d.info = map[string]any{"sub": "eve"}
	if a := v.login(d, nil); a.Status != 400 {
		t.Errorf("with user info of somebody else: %d", a.Status)
	}
	d = newDesk(t)
	v = newVisit(t, d)
	d.info = map[string]any{"sub": "ann", "email": "a@b", "nonce": "x"}
	if a := v.login(d, nil); a.Status != 303 {
		t.Fatalf("with user info: %d, %v", a.Status, a.Problem)
	}
	v.do("GET", "/page", "")
	if got := v.r.Received(); len(got) != 1 || got[0].Header.Get("X-Mail") != "a@b" || got[0].Header.Get("X-User") != "ann" {
		t.Errorf("the service is told %v", got)
	}
}

// TestLargeSession has claims that need several cookies, and a cookie missing.
func TestLargeSession(t *testing.T) {
	d := newDesk(t)
	v := newVisit(t, d)
	big := strings.Repeat("0123456789", 600)
	if a := v.login(d, map[string]any{"big": big}); a.Status != 303 {
		t.Fatalf("%d: %v", a.Status, a.Problem)
	}
	if a := v.do("GET", "/page", ""); a.Status != 200 || v.r.Received()[0].Header.Get("X-Big") != big || len(v.cookies) < 3 {
		t.Errorf("%d with %d cookies", a.Status, len(v.cookies))
	}
	delete(v.cookies, "gh_session.1")
	if a := v.do("GET", "/page", ""); a.Status != 303 {
		t.Errorf("with a piece missing: %d", a.Status)
	}
	if a := v.login(d, map[string]any{"big": strings.Repeat(big, 10)}); a.Status != 400 {
		t.Errorf("with more than cookies hold: %d", a.Status)
	}
}

// TestBackChannel has the provider end sessions.
func TestBackChannel(t *testing.T) {
	d := newDesk(t)
	v := newVisit(t, d)
	if a := v.login(d, nil); a.Status != 303 {
		t.Fatalf("%d: %v", a.Status, a.Problem)
	}
	now := time.Now().Unix()
	events := map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}}
	end := func(changes map[string]any) int {
		c := map[string]any{"iss": d.URL, "aud": "web", "iat": now, "exp": now + 60, "jti": "1", "sid": "s1", "events": events}
		for name, x := range changes {
			if c[name] = x; x == nil {
				delete(c, name)
			}
		}
		token, err := d.signer.Sign(map[string]any{"typ": "logout+jwt"}, c)
		if err != nil {
			t.Fatal(err)
		}
		return v.r.Do(policytest.Request{Method: "POST", Target: "/_oidc/backchannel", Body: "logout_token=" + token}).Status
	}
	for name, changes := range map[string]map[string]any{
		"an ID token": {"events": nil, "nonce": "x"}, "a nonce": {"nonce": "x"}, "another event": {"events": map[string]any{"x": map[string]any{}}},
		"another audience": {"aud": "x"}, "another issuer": {"iss": "x"}, "no session": {"sid": nil}, "no id": {"jti": nil}, "expired": {"exp": now - 100},
	} {
		if got := end(changes); got != 400 {
			t.Errorf("%s: %d", name, got)
		}
	}
	if got := end(map[string]any{"sid": "s2"}); got != 200 {
		t.Errorf("another session: %d", got)
	}
	if a := v.do("GET", "/page", ""); a.Status != 200 {
		t.Errorf("before the session is ended: %d", a.Status)
	}
	if got := end(nil); got != 200 {
		t.Errorf("the session: %d", got)
	}
	if a := v.do("GET", "/page", ""); a.Status != 303 {
		t.Errorf("after the session was ended: %d", a.Status)
	}
	if got := v.r.Do(policytest.Request{Method: "POST", Target: "/_oidc/backchannel", Body: strings.Repeat("a", 1<<17)}).Status; got != 400 {
		t.Errorf("a large body: %d", got)
	}
}
