package oidc

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// A panic while a session is renewed harms that request, and is no renewal to
// those who wait for it or come later.
func TestPanicWhileRenewing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRenewals()
		renewing := make(chan struct{})
		go func() {
			defer func() { recover() }()
			_, _ = r.do("session", func() (*session, error) {
				<-renewing
				panic("renewing")
			})
		}()
		synctest.Wait()
		waited := make(chan error)
		go func() {
			_, err := r.do("session", func() (*session, error) { return nil, errors.New("asked twice") })
			waited <- err
		}()
		synctest.Wait()
		close(renewing)
		if err := <-waited; !errors.Is(err, errUnfinished) {
			t.Errorf("who waited has %v", err)
		}
		time.Sleep(2 * time.Second)
		want := new(session)
		if s, err := r.do("session", func() (*session, error) { return want, nil }); s != want || err != nil {
			t.Errorf("later it is not renewed: %v", err)
		}
	})
}
