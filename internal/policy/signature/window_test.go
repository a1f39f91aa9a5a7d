package signature_test

import (
	"testing"
	"testing/synctest"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

// TestWindow sends a signature again for as long as it could be good, made by a
// clock that is as far ahead as one may be.
func TestWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := policytest.NewRig(t, all.Catalog(), config, nil)
		defer r.Close()
		time.Sleep(500 * time.Millisecond) // into a second
		m := get()
		m.params = params(-30)
		q := m.request()
		if a := r.Do(q); a.Status != 200 {
			t.Fatalf("%d: %v", a.Status, a.Problem)
		}
		for range 4 * 332 {
			if a := r.Do(q); a.Status != 401 {
				t.Fatalf("after %v it is taken again", time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)))
			}
			time.Sleep(250 * time.Millisecond)
		}
	})
}

// TestEmptyFirst has signatures that stand behind an empty line: they are wrong,
// and not none.
func TestEmptyFirst(t *testing.T) {
	r := policytest.NewRig(t, all.Catalog(), `
routes:
  - match: /*
    policies: [ signature: { optional: true } ]
    upstream: http://up
`, nil)
	defer r.Close()
	for _, name := range []string{"Signature", "Signature-Input"} {
		a := r.Do(policytest.Request{Target: "/", Header: []exchange.Field{{Name: name, Value: ""}, {Name: name, Value: "x"}}})
		if a.Status != 401 || len(r.Received()) != 0 {
			t.Errorf("%s: %d", name, a.Status)
		}
	}
}
