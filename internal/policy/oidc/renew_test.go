package oidc

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
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

// TestShorterSession has a policy that takes less of a session than the one
// that began it.
func TestShorterSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &method{config: &Config{Cookie: "c", Session: policy.Duration(time.Hour)}, seal: newSeal([]string{"secret"}, "id", "web")}
		now := time.Now().Unix()
		text, err := m.seal.close("session", &session{Begun: now, Ends: now + 8*3600})
		if err != nil {
			t.Fatal(err)
		}
		x := exchange.Get()
		defer exchange.Put(x)
		x.Request.Header.Add("Cookie", "c=1."+text)
		time.Sleep(time.Hour - time.Second)
		if s, err := m.read(x); s == nil || err != nil {
			t.Errorf("within the hour: %v", err)
		}
		time.Sleep(time.Second)
		if _, err := m.read(x); err == nil {
			t.Error("after an hour the session is taken")
		}
	})
}
