package oidc_test

import (
	"maps"
	"sync"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
	"gatehouse.dev/gatehouse/internal/redis/redistest"
)

// sharing returns visits of one browser at two gateways that share a server.
func sharing(t *testing.T, d *desk, server *redistest.Server, settings string) (a, b *visit) {
	t.Helper()
	var visits [2]*visit
	for i := range visits {
		visits[i] = visitAt(t, d, settings, policytest.Services("redis", policytest.Shared(t, server)))
	}
	visits[1].cookies = visits[0].cookies
	return visits[0], visits[1]
}

// copied is the same session in another browser.
func (v *visit) copied() *visit { return &visit{t: v.t, r: v.r, cookies: maps.Clone(v.cookies)} }

func (v *visit) want(what string, status int) {
	v.t.Helper()
	if a := v.do("GET", "/page", ""); a.Status != status {
		v.t.Errorf("%s: %d, want %d: %v", what, a.Status, status, a.Problem)
	}
}

// endSession has the provider tell a gateway that session s1 ended.
func (v *visit) endSession(d *desk, iat int64) int {
	v.t.Helper()
	token, err := d.signer.Sign(map[string]any{"typ": "logout+jwt"}, map[string]any{
		"iss": d.URL, "aud": "web", "iat": iat, "jti": "1", "sid": "s1",
		"events": map[string]any{"http://schemas.openid.net/event/backchannel-logout": map[string]any{}},
	})
	if err != nil {
		v.t.Fatal(err)
	}
	return v.r.Do(policytest.Request{Method: "POST", Target: "/_oidc/backchannel", Body: "logout_token=" + token}).Status
}

// TestSignOutEndsCopies: whoever has a copy of the cookies is out too.
func TestSignOutEndsCopies(t *testing.T) {
	d := newDesk(t)
	v := newVisit(t, d)
	v.login(d, map[string]any{"sid": nil})
	thief := v.copied()
	thief.want("a copy", 200)
	v.do("GET", "/_oidc/logout", "")
	thief.want("a copy after signing out", 303)
}

// TestLogoutTokenAgain: a token that ended a session once ends none that began
// later.
func TestLogoutTokenAgain(t *testing.T) {
	server := redistest.Start(t)
	for name, settings := range map[string]string{"local": ", leeway: 1s, store: local", "redis": ", leeway: 1s, timeout: 5s"} {
		d := newDesk(t)
		a, b := sharing(t, d, server, settings)
		a.login(d, nil)
		old := time.Now().Unix() - 100
		if got := b.endSession(d, old); got != 200 {
			t.Errorf("%s: %d", name, got)
		}
		if got := a.endSession(d, old); got != 200 {
			t.Errorf("%s: %d", name, got)
		}
		a.want(name+": an old token", 200)
		if got := a.endSession(d, time.Now().Unix()); got != 200 {
			t.Errorf("%s: %d", name, got)
		}
		if got := a.endSession(d, old); got != 200 {
			t.Errorf("%s: %d", name, got)
		}
		a.copied().want(name+": an old token after a new one", 303)
	}
}

// TestShared has two gateways with one memory of what has ended.
func TestShared(t *testing.T) {
	server := redistest.Start(t)
	d := newDesk(t)
	a, b := sharing(t, d, server, ", timeout: 5s")
	local, _ := sharing(t, d, server, ", timeout: 5s, on_failure: local")
	a.login(d, nil)
	b.want("at the other gateway", 200)
	thief := b.copied()
	a.do("GET", "/_oidc/logout", "")
	thief.want("signed out at the other gateway", 303)

	a.login(d, nil)
	thief = b.copied()
	thief.want("signed in again", 200)
	if got := a.endSession(d, time.Now().Unix()); got != 200 {
		t.Errorf("%d", got)
	}
	thief.copied().want("ended by the provider at the other gateway", 303)

	local.login(d, map[string]any{"sid": "s2"})
	a.login(d, map[string]any{"sid": "s3"})
	server.Kill()
	a.want("without the server", 503)
	local.want("without the server, where that was chosen", 200)
	if got := local.endSession(d, time.Now().Unix()); got != 503 {
		t.Errorf("the provider is told %d, and other gateways know of nothing", got)
	}
}

// TestSharedRenewal has two gateways renew one session at once, with a provider
// that takes a refresh token once.
func TestSharedRenewal(t *testing.T) {
	d := newDesk(t)
	d.short = true
	a, b := sharing(t, d, redistest.Start(t), ", timeout: 5s")
	if answer := a.login(d, nil); answer.Status != 303 {
		t.Fatalf("%d: %v", answer.Status, answer.Problem)
	}
	// The token lasts to the end of the next second.
	time.Sleep(time.Until(time.Unix(time.Now().Unix()+2, 0)))
	var all sync.WaitGroup
	for i := range 8 {
		v := a.copied()
		if i%2 == 1 {
			v = &visit{t: t, r: b.r, cookies: maps.Clone(a.cookies)}
		}
		all.Go(func() {
			q := policytest.Request{Target: "/page"}
			for name, value := range v.cookies {
				q.Header = append(q.Header, exchange.Field{Name: "Cookie", Value: name + "=" + value})
			}
			if answer := v.r.Do(q); answer.Status != 200 {
				t.Errorf("%d: %v", answer.Status, answer.Problem)
			}
		})
	}
	all.Wait()
	if n := d.renewed.Load(); n != 1 {
		t.Errorf("the provider was asked %d times", n)
	}
}
