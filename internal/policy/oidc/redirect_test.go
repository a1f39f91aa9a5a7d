package oidc_test

import (
	"net/url"
	"strings"
	"testing"
)

// TestOpenRedirect tries to have a browser sent to another site after it signed
// in or out.
func TestOpenRedirect(t *testing.T) {
	d := newDesk(t)
	v := newVisit(t, d)
	home, err := url.Parse(v.login(d, nil).Header.Get("Location"))
	if err != nil || home.Host == "" || home.Path != "/page" {
		t.Fatalf("after signing in a browser is sent to %q, %v", home, err)
	}
	same := func(what, location string) {
		t.Helper()
		to, err := url.Parse(location)
		if err != nil || to.Scheme != home.Scheme || to.Host != home.Host || to.User != nil || strings.ContainsAny(location, "\\\r\n") {
			t.Errorf("%s: a browser is sent to %q", what, location)
		}
	}
	came := 0
	for _, target := range []string{
		"//evil.example/a", "///evil.example", "/\\evil.example", "/%5Cevil.example", "/%2F%2Fevil.example", "/.//evil.example", "/..//evil.example",
		"/@evil.example", "/:80@evil.example", "/a?next=https%3A%2F%2Fevil.example", "/a?//evil.example", "/%0d%0aLocation:%20https:%2F%2Fevil.example", "/%09/evil.example",
	} {
		v.cookies = make(map[string]string)
		a := v.do("GET", target, "")
		to, err := url.Parse(a.Header.Get("Location"))
		if err != nil || a.Status != 303 || !strings.HasPrefix(to.String(), d.URL+"/authorize") {
			if a.Status < 400 {
				t.Errorf("%s: %d to %q", target, a.Status, to)
			}
			continue // it is no way in
		}
		d.id["nonce"] = to.Query().Get("nonce")
		a = v.do("GET", "/_oidc/callback?code=c&next=https%3A%2F%2Fevil.example&redirect_uri=https%3A%2F%2Fevil.example&state="+to.Query().Get("state")+"&iss="+url.QueryEscape(d.URL), "")
		if a.Status == 303 {
			came++
			same(target, a.Header.Get("Location"))
		}
	}
	if came < 5 {
		t.Errorf("only %d targets came to an end: the others prove nothing", came)
	}
	for _, query := range []string{"post_logout_redirect_uri=https%3A%2F%2Fevil.example", "next=//evil.example", "returnTo=https%3A%2F%2Fevil.example", "rd=/\\evil.example"} {
		same(query, v.do("GET", "/_oidc/logout?"+query, "").Header.Get("Location"))
	}
}
