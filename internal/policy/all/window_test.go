package all_test

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestProofWindow shows a proof again for as long as it could be good, made by a
// clock that is as far ahead as one may be.
func TestProofWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		time.Sleep(500 * time.Millisecond) // into a second
		token, began := l.bound(), time.Now()
		a := attack{"", "/dpop/a", []string{"Authorization", "DPoP " + token, "DPoP", l.proof(token, l.device, nil, "iat", began.Unix()+60)}, ""}
		if got := l.do(a); got.Status != 200 {
			t.Fatalf("%d: %v", got.Status, got.Problem)
		}
		for time.Since(began) < 125*time.Second {
			if got := l.do(a); got.Status != 401 {
				t.Fatalf("after %v it is taken again", time.Since(began))
			}
			time.Sleep(250 * time.Millisecond)
		}
	})
}
