package jwks_test

import (
	"testing"

	"gatehouse.dev/gatehouse/internal/jose"
	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

const settings = "{ keys: [ { id: one, key: { file: testdata/key.pem } }, { id: two, key: { file: testdata/next.pem } } ] }"

func Test(t *testing.T) {
	policytest.Run(t, policytest.Suite{Catalog: all.Catalog(), Kind: "jwks", Settings: settings})
}

func TestKeys(t *testing.T) {
	r := policytest.NewRig(t, all.Catalog(), "routes:\n  - match: /*\n    respond: { status: 404 }\n    policies: [ jwks: "+settings+" ]\n", nil)
	defer r.Close()
	a := r.Do(policytest.Request{Target: "/"})
	set, err := jose.ParseSet([]byte(a.Body))
	if err != nil {
		t.Fatalf("%d, %s: %v", a.Status, a.Body, err)
	}
	for i, want := range []struct{ id, alg string }{{"one", "ES256"}, {"two", "EdDSA"}} {
		if k := set.Keys()[i]; k.ID != want.id || k.Alg != want.alg {
			t.Errorf("key %d is %q for %s", i, k.ID, k.Alg)
		}
	}
	// A JWK has private members of these names (RFC 7518, section 6).
	for _, name := range []string{"d", "p", "q", "k"} {
		if m, err := jose.Object([]byte(a.Body)); err != nil || hasMember(m, name) {
			t.Errorf("the set shows %q: %v", name, err)
		}
	}
}

func hasMember(m map[string]any, name string) bool {
	keys, _ := m["keys"].([]any)
	for _, k := range keys {
		if _, there := k.(map[string]any)[name]; there {
			return true
		}
	}
	return len(keys) == 0
}
