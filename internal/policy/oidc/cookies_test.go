package oidc_test

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

// TestCookieNames has browsers that came by https and by http: where it can be
// had, the name keeps neighbours from setting the cookie.
func TestCookieNames(t *testing.T) {
	d := newDesk(t)
	text := strings.Replace(severalText(d, ""), "routes:", `listeners: [ { address: ":1", trusted_proxies: [ 10.0.0.0/8 ] } ]
routes:`, 1)
	for _, c := range []struct {
		name, text, from, proto string
		secure                  bool
	}{
		{"plain", text, "192.0.2.1", "", false},
		{"an origin with https", severalText(d, `, origin: "https://shop.example"`), "192.0.2.1", "", true},
		{"an origin with http", severalText(d, `, origin: "http://127.0.0.1:1"`), "192.0.2.1", "https", false},
		{"a trusted proxy's word", text, "10.0.0.1", "https", true},
		{"anybody's word", text, "192.0.2.1", "https", false},
	} {
		v := visitWith(t, c.text, nil)
		v.from, v.fields = c.from, []exchange.Field{{Name: "X-Forwarded-Proto", Value: c.proto}}
		if a := v.login(d, nil); a.Status != 303 {
			t.Fatalf("%s: %d, %v", c.name, a.Status, a.Problem)
		}
		v.want(c.name, 200)
		for name := range v.cookies {
			if strings.HasPrefix(name, "__Host-") != c.secure {
				t.Errorf("%s: a cookie %q", c.name, name)
			}
		}
		if len(v.lines) < 3 {
			t.Errorf("%s: the cookies set are %q", c.name, v.lines)
		}
		for _, line := range v.lines {
			parts := strings.Split(line, "; ")[1:]
			for _, want := range []string{"Path=/", "HttpOnly", "SameSite=Lax"} {
				if !slices.Contains(parts, want) {
					t.Errorf("%s: a cookie without %s: %s", c.name, want, line)
				}
			}
			if slices.Contains(parts, "Secure") != c.secure || strings.Contains(line, "Domain") {
				t.Errorf("%s: a cookie %s", c.name, line)
			}
		}
	}
}

// TestTossed has cookies that a neighbouring domain set, which it cannot with the
// right name.
func TestTossed(t *testing.T) {
	d := newDesk(t)
	evil, v := newVisit(t, d), visitAt(t, d, `, origin: "https://shop.example"`, nil)
	evil.login(d, map[string]any{"sub": "eve", "sid": nil})
	tossed := evil.cookies["gh_session"]
	if tossed == "" {
		t.Fatal("there is nothing to toss")
	}
	d.info = nil
	v.cookies["gh_session"] = tossed
	v.want("only the tossed one", 303)
	v.login(d, nil)
	v.cookies["gh_session"] = tossed
	v.r.Received()
	if who, status := v.sent("/page", "X-User"); who != "ann" || status != 200 {
		t.Errorf("beside the tossed one: %d, %q", status, who)
	}
	if got, _ := v.sent("/page", "Cookie", exchange.Field{Name: "Cookie", Value: "other=1"}); got != "other=1" {
		t.Errorf("the service gets the cookies %q", got)
	}
	// A login that somebody else began in this browser is not finished.
	one := newVisit(t, d)
	a := one.do("GET", "/page", "")
	to, err := url.Parse(a.Header.Get("Location"))
	if err != nil {
		t.Fatal(err)
	}
	q := policytest.Request{Target: "/_oidc/callback?code=c&state=" + to.Query().Get("state") + "&iss=" + url.QueryEscape(d.URL)}
	for name, value := range one.cookies {
		q.Header = []exchange.Field{{Name: "Cookie", Value: name + "=" + value}, {Name: "Cookie", Value: name + "=x"}}
	}
	if a := one.r.Do(q); a.Status != 400 || a.Header.Get("Set-Cookie") != "" {
		t.Errorf("two logins of one name: %d", a.Status)
	}
}

// TestAccessTokenHash has ID tokens that say which access token belongs to them.
func TestAccessTokenHash(t *testing.T) {
	half := func(sum []byte) string { return base64.RawURLEncoding.EncodeToString(sum[:len(sum)/2]) }
	long, short := sha512.Sum512([]byte("a")), sha256.Sum256([]byte("a")) // the desk signs with Ed25519, and gives out "a"
	other := sha512.Sum512([]byte("b"))
	for name, c := range map[string]struct {
		hash   any
		status int
	}{
		"none": {nil, 303}, "the right one": {half(long[:]), 303}, "another token's": {half(other[:]), 400}, "by another algorithm": {half(short[:]), 400},
		"the whole of it": {base64.RawURLEncoding.EncodeToString(long[:]), 400}, "empty": {"", 400}, "no text": {1, 400},
	} {
		d := newDesk(t)
		v := newVisit(t, d)
		if a := v.login(d, map[string]any{"at_hash": c.hash}); a.Status != c.status {
			t.Errorf("%s: %d, %v", name, a.Status, a.Problem)
		}
	}
}

// TestRenewedForAnother has a provider whose new ID token is of somebody else.
func TestRenewedForAnother(t *testing.T) {
	desks, visits := make(map[string]*desk), make(map[string]*visit)
	for name, change := range map[string]func(d *desk){
		"another person": func(d *desk) { d.id["sub"] = "eve" },
		"another client": func(d *desk) { d.id["aud"] = "x" },
		"another issuer": func(d *desk) { d.id["iss"] = "https://evil" },
		"an old one":     func(d *desk) { d.id["exp"] = time.Now().Unix() - 100 },
		"user info of another": func(d *desk) {
			d.info = map[string]any{"sub": "eve"}
		},
	} {
		d := newDesk(t)
		d.short = true
		v := visitAt(t, d, ", subject_claim: name", nil)
		if a := v.login(d, map[string]any{"name": "Ann"}); a.Status != 303 {
			t.Fatalf("%s: %d, %v", name, a.Status, a.Problem)
		}
		d.info = nil
		change(d)
		desks[name], visits[name] = d, v
	}
	// The token lasts to the end of the next second.
	time.Sleep(time.Until(time.Unix(time.Now().Unix()+2, 0)))
	for name, v := range visits {
		d := desks[name]
		v.want(name, 303)
		if d.renewed.Load() == 0 || len(v.r.Received()) != 0 {
			t.Errorf("%s: renewed %d times", name, d.renewed.Load())
		}
	}
}

// TestGone has a provider that has never answered.
func TestGone(t *testing.T) {
	d := newDesk(t)
	d.Close()
	v := newVisit(t, d)
	v.want("a page", 503)
	if a := v.r.Do(policytest.Request{Target: "/page", Header: []exchange.Field{{Name: "Sec-Fetch-Mode", Value: "cors"}, {Name: "Accept", Value: "text/html"}}}); a.Status != 401 {
		t.Errorf("a script: %d", a.Status)
	}
	if a := v.do("GET", "/_oidc/logout", ""); a.Status != 303 || a.Header.Get("Location") != "http://gateway.test/" {
		t.Errorf("signing out: %d to %q", a.Status, a.Header.Get("Location"))
	}
	if a := v.r.Do(policytest.Request{Method: "POST", Target: "/_oidc/backchannel", Body: "logout_token=x"}); a.Status/100 == 2 || len(v.r.Received()) != 0 {
		t.Errorf("a logout token: %d", a.Status)
	}
}

// TestFaults has settings that cannot be meant.
func TestFaults(t *testing.T) {
	d := newDesk(t)
	v := newVisit(t, d)
	for settings, want := range map[string]string{
		`origin: shop.example`:                     "is no origin",
		`origin: "https://shop.example/app"`:       "is no origin",
		`origin: "https://shop.example?x="`:        "is no origin",
		`origin: "https://u:p@shop.example"`:       "is no origin",
		`origin: "http://shop.example"`:            "is no origin",
		`callback: cb`:                             "is no path",
		`callback: //evil.example/cb`:              "is no path",
		`logout: "/out?x"`:                         "is no path",
		`back_channel: /_oidc/logout`:              "is the path of logout too",
		`after_logout: //evil.example`:             "neither a path nor a URL",
		`after_logout: "javascript:alert(1)"`:      "neither a path nor a URL",
		`cookie: "a=b"`:                            "is not a name of a cookie",
		`cookie: a.b`:                              "is not a name of a cookie",
		`consumers_only: true, session: 721h`:      "session",
		`optional: true, anonymous: guest`:         "optional",
		`forward: refresh_token`:                   "forward",
		`headers: { X-A: secret }`:                 "secret",
		`http: { ca_file: /none }`:                 "ca_file",
		`store: redis`:                             "redis is not configured",
		`origin: "https://shop.example/"`:          "",
		`after_logout: "https://shop.example/bye"`: "",
	} {
		f := v.r.Apply("routes:\n  - match: /*\n    upstream: http://up\n    policies: [ oidc: { issuer: \"" + d.URL + "\", client_id: web, cookie_secret: 0123456789abcdef0123456789abcdef, " + settings + " } ]\n")
		if (f != nil) != (want != "") || f != nil && !strings.Contains(f.Error(), want) {
			t.Errorf("%s: %v", settings, f)
		}
	}
}
