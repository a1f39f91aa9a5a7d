package introspect

import (
	"errors"
	"testing"
	"testing/synctest"
)

// TestTogether has many requests come at once with a token that is not known:
// the issuer is asked once, and all have its answer.
func TestTogether(t *testing.T) {
	down := errors.New("the issuer is down")
	for name, answer := range map[string]question{
		"good": {token: new(token)}, "wrong": {token: &token{wrong: errors.New("it is not active")}}, "down": {err: down},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := newAsker(nil, 16)
				asked := 0
				answered := make(chan struct{})
				ask := func() (*token, int64, error) {
					asked++
					<-answered
					return answer.token, 200, answer.err
				}
				got := make(chan question)
				for range 20 {
					go func() {
						t, err := a.find("x", 100, ask)
						got <- question{token: t, err: err}
					}()
				}
				synctest.Wait() // all of them wait for the answer
				close(answered)
				for range 20 {
					if q := <-got; q.token != answer.token || !errors.Is(q.err, answer.err) {
						t.Errorf("one of them has %+v", q)
					}
				}
				if asked != 1 || len(a.asked) != 0 {
					t.Errorf("asked %d times, %d questions are left", asked, len(a.asked))
				}
				// What is known is not asked again before its time, and what
				// could not be found out is.
				_, _ = a.find("x", 199, ask)
				if want := map[bool]int{true: 2, false: 1}[name == "down"]; asked != want {
					t.Errorf("asked %d times, want %d", asked, want)
				}
				asked = 0
				if _, _ = a.find("x", 200, ask); asked != 1 {
					t.Errorf("asked %d times after its time", asked)
				}
			})
		})
	}
}

// TestAskingFails has the question of one request end in a panic: those that
// wait for it are refused, and the next one asks.
func TestAskingFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAsker(nil, 16)
		waits := make(chan struct{})
		go func() {
			defer func() { _ = recover() }()
			_, _ = a.find("x", 100, func() (*token, int64, error) {
				<-waits
				panic("an error of the gateway")
			})
		}()
		synctest.Wait()
		second := make(chan error)
		go func() {
			_, err := a.find("x", 100, nil)
			second <- err
		}()
		synctest.Wait()
		close(waits)
		if err := <-second; !errors.Is(err, errAsking) {
			t.Errorf("the one that waited: %v", err)
		}
		if got, err := a.find("x", 100, func() (*token, int64, error) { return new(token), 200, nil }); got == nil || err != nil {
			t.Errorf("the next one: %v, %v", got, err)
		}
	})
}
