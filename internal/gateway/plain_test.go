package gateway_test

import (
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

// TestRedirectToHTTPS: a listener with redirect_https answers whatever comes
// without TLS with the same URL on the one that has it, whether or not a route
// takes it.
func TestRedirectToHTTPS(t *testing.T) {
	r := policytest.NewRig(t, catalog(), `
listeners:
  - { name: plain, address: ":8080", redirect_https: true, trusted_proxies: [10.0.0.0/8] }
  - { name: open, address: ":8081" }
  - { name: secure, address: ":8443", tls: { certificates: [{ cert_file: a.crt, key_file: a.key }] } }
routes:
  - match: /a/*
    respond: { status: 200, body: served }
`, nil)
	defer r.Close()
	plain, open, secure := r.Config.Listeners[0], r.Config.Listeners[1], r.Config.Listeners[2]
	for _, c := range []struct {
		name     string
		client   *exchange.Client
		target   string
		header   []exchange.Field
		status   int
		location string
	}{
		{"a route", r.Client("192.0.2.1:1", plain), "/a/b?c=d%20e", nil, 308, "https://gateway.test:8443/a/b?c=d%20e"},
		{"no route", r.Client("192.0.2.1:1", plain), "/a/../x", nil, 308, "https://gateway.test:8443/x"},
		{"a claim of https by anybody", r.Client("192.0.2.1:1", plain), "/a/b", []exchange.Field{{Name: "X-Forwarded-Proto", Value: "https", Known: exchange.XForwardedProto}}, 308, "https://gateway.test:8443/a/b"},
		{"a bad path", r.Client("192.0.2.1:1", plain), "/a/%00", nil, 400, ""},
		{"another listener", r.Client("192.0.2.1:1", open), "/a/b", nil, 200, ""},
		{"TLS", r.Client("192.0.2.1:1", secure), "/a/b", nil, 200, ""},
	} {
		if c.name == "TLS" {
			c.client.TLS = new(exchange.TLS)
		}
		a := r.Do(policytest.Request{Target: c.target, Header: c.header, Client: c.client})
		if a.Status != c.status || a.Header.Get("Location") != c.location {
			t.Errorf("%s: status %d to %q, want %d to %q", c.name, a.Status, a.Header.Get("Location"), c.status, c.location)
		}
	}
	behind := r.Client("10.0.0.1:1", plain)
	behind.Trusted = true
	if a := r.Do(policytest.Request{
		Target: "/a/b", Client: behind,
		Header: []exchange.Field{{Name: "X-Forwarded-Proto", Value: "https", Known: exchange.XForwardedProto}, {Name: "X-Forwarded-For", Value: "192.0.2.9", Known: exchange.XForwardedFor}},
	}); a.Status != 200 {
		t.Errorf("behind a proxy that took TLS off: %d", a.Status)
	}
	r.Errors()
}

// TestChallenges: what an ACME authority asks for over plain HTTP is answered on
// every listener, before any policy, redirect or route, and only what is known.
func TestChallenges(t *testing.T) {
	r, tr := newRig(t, `
policies:
  - a: { name: guard, at: identify }
listeners:
  - { name: plain, address: ":8080", redirect_https: true }
  - { name: secure, address: ":8443", tls: { acme: { email: a@b.example, domains: gateway.test, storage: acme } } }
routes:
  - { match: /*, respond: { status: 200, body: route } }
`)
	r.Challenge = func(host, path string) (string, bool) {
		return "token.thumbprint", host == "gateway.test" && path == "/.well-known/acme-challenge/token"
	}
	const token = "/.well-known/acme-challenge/token"
	for _, c := range []struct {
		name, target string
		listener     int
		secure       bool
		status       int
		body, ran    string
	}{
		{"a challenge", token, 0, false, 200, "token.thumbprint", ""},
		{"with a query", token + "?x", 0, false, 200, "token.thumbprint", ""},
		{"spelled in another way", "/.well-known/acme%2Dchallenge/x/../token", 0, false, 200, "token.thumbprint", ""},
		{"an unknown token", token + "s", 0, false, 308, "", ""},
		{"no token", "/.well-known/acme-challenge/", 0, false, 308, "", ""},
		{"over TLS", token, 1, true, 200, "route", "guard"},
	} {
		client := r.Client("192.0.2.1:1", r.Config.Listeners[c.listener])
		if c.secure {
			client.TLS = new(exchange.TLS)
		}
		tr.take()
		a := r.Do(policytest.Request{Target: c.target, Client: client})
		if ran := tr.take(); a.Status != c.status || a.Body != c.body || !strings.HasPrefix(ran, c.ran) || c.ran == "" && ran != "" {
			t.Errorf("%s: %d %q, ran %q; want %d %q, %q", c.name, a.Status, a.Body, ran, c.status, c.body, c.ran)
		}
		if kind := a.Header.Get("Content-Type"); c.body == "token.thumbprint" && kind != "text/plain" {
			t.Errorf("%s: of type %q", c.name, kind)
		}
	}
}
