package oidc_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

func Test(t *testing.T) {
	policytest.Run(t, policytest.Suite{
		Catalog: all.Catalog(), Kind: "oidc",
		Settings: `{ issuer: "http://127.0.0.1:1", client_id: a, cookie_secret: { file: testdata/secret }, optional: true }`,
	})
}

// TestLogin signs in, stays, and signs out again.
func TestLogin(t *testing.T) {
	h := newHouse(t, "")
	c := browser(t)
	p := follow(t, c, h.submit(c, h.begin(c, "/deep/page?x=1&y=%2F")))
	if p.status != 200 || p.url != h.gateway+"/deep/page?x=1&y=%2F" || !strings.Contains(p.body, "hello id1") {
		t.Fatalf("the browser is at %s, status %d: %s", p.url, p.status, p.body)
	}
	got := h.requests()
	if len(got) != 1 || got[0].Get("X-User") != "id1" || got[0].Get("X-Mail") != "test-user@zitadel.ch" || got[0].Get("Cookie") != "" {
		t.Errorf("the service is told %v", got)
	}
	// Other cookies go on, the session's does not, and what a client says of
	// itself neither.
	p = open(t, c, "POST", h.gateway+"/form", url.Values{"a": {"b"}}, "X-User", "admin", "Accept", "application/json")
	got = h.requests()
	if p.status != 200 || len(got) != 1 || got[0].Get("X-User") != "id1" {
		t.Errorf("a script of the page: %d, %v", p.status, got)
	}
	for _, cookie := range open(t, browser(t), "GET", h.gateway+"/", nil).header.Values("Set-Cookie") {
		for _, want := range []string{"HttpOnly", "SameSite=Lax", "Path=/"} {
			if !strings.Contains(cookie, want) {
				t.Errorf("a cookie without %s: %s", want, cookie)
			}
		}
		if strings.Contains(cookie, "Domain") {
			t.Errorf("a cookie for neighbours: %s", cookie)
		}
	}
	p = follow(t, c, open(t, c, "GET", h.gateway+"/_oidc/logout", nil))
	if !strings.HasPrefix(p.url, h.issuer) {
		t.Errorf("after signing out the browser is at %s", p.url)
	}
	if p := open(t, c, "GET", h.gateway+"/", nil, "Accept", "application/json"); p.status != 401 {
		t.Errorf("a script after signing out: %d", p.status)
	}
}

// TestScripts has requests that a login page is of no use to.
func TestScripts(t *testing.T) {
	h := newHouse(t, "")
	for _, fields := range [][]string{
		{"Accept", "application/json"}, {"Accept", "*/*"}, {"X-Requested-With", "XMLHttpRequest"}, {"Sec-Fetch-Mode", "cors"}, {"Sec-Fetch-Mode", "no-cors"},
	} {
		p := open(t, browser(t), "GET", h.gateway+"/", nil, fields...)
		if p.status != 401 || p.header.Get("WWW-Authenticate") == "" || len(p.header.Values("Set-Cookie")) != 0 {
			t.Errorf("%v: %d, %v", fields, p.status, p.header)
		}
	}
	if p := open(t, browser(t), "POST", h.gateway+"/", url.Values{}); p.status != 401 {
		t.Errorf("a form: %d", p.status)
	}
}

// TestTabs signs in with two tabs of one browser at once.
func TestTabs(t *testing.T) {
	h := newHouse(t, "")
	c := browser(t)
	one, two := h.begin(c, "/one"), h.begin(c, "/two")
	first, second := h.submit(c, one), h.submit(c, two)
	for _, tab := range []struct {
		p    page
		want string
	}{{second, "/two"}, {first, "/one"}} {
		if p := follow(t, c, tab.p); p.status != 200 || p.url != h.gateway+tab.want {
			t.Errorf("the tab of %s is at %s, %d: %s", tab.want, p.url, p.status, p.body)
		}
	}
}

// TestRenewal has access tokens that expire. Requests that come together renew
// them once.
func TestRenewal(t *testing.T) {
	h := newHouse(t, "")
	h.expires.Store(2)
	// The one who signs in first has the token that ends first: when the other's
	// was renewed, it is over.
	old, c := browser(t), browser(t)
	for _, one := range []*http.Client{old, c} {
		if p := follow(t, one, h.submit(one, h.begin(one, "/"))); p.status != 200 {
			t.Fatalf("%d: %s", p.status, p.body)
		}
	}
	h.renewals.Store(0) // the first may have been renewed by now
	deadline := time.Now().Add(30 * time.Second)
	for h.renewals.Load() == 0 {
		if p := open(t, c, "GET", h.gateway+"/", nil); p.status != 200 {
			t.Fatalf("%d: %s", p.status, p.body)
		}
		if time.Now().After(deadline) {
			t.Fatal("the session is never renewed")
		}
	}
	// With the old cookie many requests come at once.
	before := h.renewals.Load()
	results := make(chan int, 8)
	for range 8 {
		go func() {
			req, err := http.NewRequest("GET", h.gateway+"/", nil)
			if err != nil {
				results <- 0
				return
			}
			for _, k := range old.Jar.Cookies(mustURL(t, h.gateway)) {
				req.AddCookie(k)
			}
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				results <- 0
				return
			}
			_ = res.Body.Close()
			results <- res.StatusCode
		}()
	}
	for range 8 {
		if status := <-results; status != 200 {
			t.Errorf("a request while the session is renewed: %d", status)
		}
	}
	if n := h.renewals.Load() - before; n != 1 {
		t.Errorf("the session was renewed %d times", n)
	}
}

func mustURL(t *testing.T, text string) *url.URL {
	t.Helper()
	u, err := url.Parse(text)
	if err != nil {
		t.Error(err)
		return new(url.URL)
	}
	return u
}

// TestForged has answers and cookies that somebody else made.
func TestForged(t *testing.T) {
	h := newHouse(t, "")
	c := browser(t)
	back := h.submit(c, h.begin(c, "/page")).header.Get("Location")
	u := mustURL(t, back)
	with := func(name, value string) string {
		q := u.Query()
		q.Set(name, value)
		v := *u
		v.RawQuery = q.Encode()
		return v.String()
	}
	refused := func(what string, p page) {
		t.Helper()
		if p.status != 400 || len(h.requests()) != 0 {
			t.Errorf("%s: %d, %s", what, p.status, p.body)
		}
	}
	refused("in another browser", open(t, browser(t), "GET", back, nil))
	refused("with another state", open(t, c, "GET", with("state", strings.Repeat("a", 32)), nil))
	refused("with half a state", open(t, c, "GET", with("state", u.Query().Get("state")[:12]+strings.Repeat("a", 20)), nil))
	refused("without a code", open(t, c, "GET", with("code", ""), nil))
	refused("with two codes", open(t, c, "GET", back+"&code=x", nil))
	refused("with an error", open(t, c, "GET", with("error", "access_denied"), nil))
	refused("of another issuer", open(t, c, "GET", with("iss", "https://evil"), nil))
	refused("posted", open(t, c, "POST", back, url.Values{}))
	refused("a code of somebody else", open(t, c, "GET", with("code", "x"), nil))
	if p := follow(t, c, open(t, c, "GET", back, nil)); p.status != 200 || p.url != h.gateway+"/page" {
		t.Fatalf("the right answer: %d at %s", p.status, p.url)
	}
	h.requests()
	refused("the same again", open(t, c, "GET", back, nil))
	// A session that was changed, cut, or made up is none.
	cookie := c.Jar.Cookies(mustURL(t, h.gateway))[0]
	for _, v := range []string{cookie.Value[:len(cookie.Value)-1], cookie.Value + "A", "1.AAAA", "99." + cookie.Value[2:], "2." + cookie.Value[2:], cookie.Value[2:], `{"s":"admin"}`} {
		if p := open(t, browser(t), "GET", h.gateway+"/", nil, "Cookie", cookie.Name+"="+v, "Accept", "*/*"); p.status != 401 {
			t.Errorf("a session %q: %d", v, p.status)
		}
	}
	if p := open(t, browser(t), "GET", h.gateway+"/", nil, "Cookie", cookie.Name+"=x; "+cookie.Name+"="+cookie.Value, "Accept", "*/*"); p.status != 401 {
		t.Errorf("a session beside a tossed one: %d", p.status)
	}
	if p := open(t, browser(t), "GET", h.gateway+"/", nil, "Cookie", cookie.Name+"="+cookie.Value, "Accept", "*/*"); p.status != 200 {
		t.Errorf("the session itself: %d", p.status)
	}
	// A page whose path looks like another host is a page here.
	c = browser(t)
	if p := h.submit(c, h.begin(c, "//evil.example/page")); p.status/100 == 3 {
		if to := open(t, c, "GET", p.header.Get("Location"), nil).header.Get("Location"); !strings.HasPrefix(to, h.gateway+"/") {
			t.Errorf("the browser is sent to %q", to)
		}
	}
	h.requests()
	refused("a logout token that is none", open(t, browser(t), "POST", h.gateway+"/_oidc/backchannel", url.Values{"logout_token": {"x"}}))
	refused("a logout without one", open(t, browser(t), "POST", h.gateway+"/_oidc/backchannel", url.Values{}))
}

// TestDown has a provider that does not answer.
func TestDown(t *testing.T) {
	h := newHouse(t, "")
	h.expires.Store(2)
	c := browser(t)
	if p := follow(t, c, h.submit(c, h.begin(c, "/"))); p.status != 200 {
		t.Fatalf("%d: %s", p.status, p.body)
	}
	h.down.Store(true)
	deadline := time.Now().Add(30 * time.Second)
	for {
		p := open(t, c, "GET", h.gateway+"/", nil)
		if p.status == 503 {
			break
		}
		if p.status != 200 || time.Now().After(deadline) {
			t.Fatalf("%d: %s", p.status, p.body)
		}
	}
	h.down.Store(false)
	for {
		p := open(t, c, "GET", h.gateway+"/", nil)
		if p.status == 200 {
			return
		}
		if p.status != 503 || time.Now().After(deadline) {
			t.Fatalf("after it came back: %d: %s", p.status, p.body)
		}
	}
}
