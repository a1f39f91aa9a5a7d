package signature_test

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
	"gatehouse.dev/gatehouse/internal/redis/redistest"
)

const sharedRoutes = `
consumers:
  - name: mobile
    credentials: [ signature: { key_id: k1, algorithm: hmac-sha256, secret: ` + secret + ` } ]
routes:
  - match: /*
    policies: [ signature: { timeout: 5s, attempts: { client: 0, credential: 0 } } ]
    upstream: http://up
  - match: /local/*
    policies: [ signature: { store: local, attempts: { client: 0, credential: 0 } } ]
    upstream: http://up
  - match: /alone/*
    policies: [ signature: { on_failure: local, timeout: 5s, attempts: { client: 0, credential: 0 } } ]
    upstream: http://up
`

// gateways returns gateways that share a server.
func gateways(t *testing.T, server *redistest.Server, n int) (rigs []*policytest.Rig) {
	t.Helper()
	for range n {
		r := policytest.NewRig(t, all.Catalog(), sharedRoutes, policytest.Services("redis", policytest.Shared(t, server)))
		t.Cleanup(r.Close)
		rigs = append(rigs, r)
	}
	return rigs
}

// TestShared has two gateways with one memory: what one has taken the other
// refuses, and while nobody knows what was taken nothing is.
func TestShared(t *testing.T) {
	server := redistest.Start(t)
	g := gateways(t, server, 2)
	created := params(0) // the same all the time, or it is another signature
	at := func(path string) policytest.Request {
		m := get()
		m.path = path
		m.params = created + `;nonce="` + strings.Trim(path, "/") + `"`
		return m.request()
	}
	for i, c := range []struct {
		gateway int
		path    string
		status  int
	}{
		{0, "/a", 200},
		{1, "/a", 401},
		{0, "/a", 401},
		{1, "/b", 200},
		{0, "/b", 401},
		{0, "/local/a", 200},
		{1, "/local/a", 200},
		{0, "/local/a", 401},
		{0, "/alone/a", 200},
		{1, "/alone/a", 401},
	} {
		if a := g[c.gateway].Do(at(c.path)); a.Status != c.status {
			t.Errorf("%d, %s: %d, %v", i, c.path, a.Status, a.Problem)
		}
	}
	// Of many at once one is taken.
	var taken atomic.Int64
	var all sync.WaitGroup
	q := at("/race")
	for i := range 20 {
		all.Go(func() {
			if g[i%2].Do(q).Status == 200 {
				taken.Add(1)
			}
		})
	}
	all.Wait()
	if n := taken.Load(); n != 1 {
		t.Errorf("%d gateways took one signature", n)
	}
	server.Kill()
	for i, c := range []struct {
		gateway int
		path    string
		status  int
	}{
		{0, "/c", 503},
		{1, "/c", 503},
		{0, "/alone/c", 200},
		{0, "/alone/c", 401},
		{0, "/alone/a", 401}, // it knows what it took itself
	} {
		if a := g[c.gateway].Do(at(c.path)); a.Status != c.status {
			t.Errorf("without the server, %d, %s: %d, %v", i, c.path, a.Status, a.Problem)
		}
	}
}

func TestNothingToShare(t *testing.T) {
	r := policytest.NewRig(t, all.Catalog(), sharedRoutes, nil) // the default shares where it can
	defer r.Close()
	m := get()
	if a := r.Do(m.request()); a.Status != 200 {
		t.Errorf("%d: %v", a.Status, a.Problem)
	}
	faults := r.Apply(strings.Replace(sharedRoutes, "store: local", "store: redis", 1))
	if !faults.Fatal() || !strings.Contains(faults.Error(), "redis is not configured") {
		t.Errorf("faults: %v", faults)
	}
}
