package oidc

import (
	"crypto/sha256"
	"fmt"
	"net/url"
	"sync"
	"time"

	"gatehouse.dev/gatehouse/internal/identify"
)

// renew asks the provider for new tokens (RFC 6749, section 6). A new ID token
// has to be of the same person (OpenID Connect Core 1.0, section 12.2).
func (m *method) renew(s *session, now int64) (*session, error) {
	t, err := m.provider.exchange(m.config, url.Values{"grant_type": {"refresh_token"}, "refresh_token": {s.Renew}})
	if err != nil {
		return nil, err
	}
	next := *s
	if t.id != "" {
		id, err := m.verify(t.id, now)
		if err != nil {
			return nil, &refused{"id token: " + err.Error()}
		}
		if err := m.info(id.Claims, t.access); err != nil {
			return nil, err
		}
		if subject, _ := identify.Claim(id.Claims, m.config.SubjectClaim).(string); subject != s.Subject {
			return nil, &refused{fmt.Sprintf("the ID token is of %q", subject)}
		}
		next.Claims = id.Claims
	}
	next.take(t, now, m.config)
	return &next, nil
}

// renewals lets one request renew a session, and gives the others of the same
// session what it got: many providers take a refresh token once only, and end
// the session of whoever uses one again.
type renewals struct {
	mu sync.Mutex
	m  map[[32]byte]*renewal
}

type renewal struct {
	done  chan struct{}
	until time.Time // from then on it may be asked again
	s     *session
	err   error
}

// The most renewals that are remembered, and for how long: browsers have
// requests under way with the old cookie.
const (
	mostRenewals = 10_000
	renewalKept  = 30 * time.Second
)

func newRenewals() *renewals { return &renewals{m: make(map[[32]byte]*renewal)} }

func (r *renewals) do(key string, renew func() (*session, error)) (*session, error) {
	sum := sha256.Sum256([]byte(key))
	now := time.Now()
	r.mu.Lock()
	if one := r.m[sum]; one != nil && (one.until.IsZero() || now.Before(one.until)) {
		r.mu.Unlock()
		<-one.done
		return one.s, one.err
	}
	if len(r.m) >= mostRenewals {
		for k, one := range r.m {
			if !one.until.IsZero() && (now.After(one.until) || len(r.m) >= mostRenewals) {
				delete(r.m, k)
			}
		}
	}
	one := &renewal{done: make(chan struct{})}
	r.m[sum] = one
	r.mu.Unlock()
	defer close(one.done)
	one.s, one.err = renew()
	r.mu.Lock()
	defer r.mu.Unlock()
	if one.until = time.Now().Add(renewalKept); one.err != nil {
		one.until = time.Now().Add(time.Second) // what failed is soon tried again
	}
	return one.s, one.err
}
