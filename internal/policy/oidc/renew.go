package oidc

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/url"
	"sync"
	"time"

	"gatehouse.dev/gatehouse/internal/identify"
	"gatehouse.dev/gatehouse/internal/replay"
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
		if err == nil {
			err = belongs(id, t.access)
		}
		if err != nil {
			return nil, &refused{"id token: " + err.Error()}
		}
		switch err := m.info(id.Claims, t.access); {
		case errors.Is(err, errIDToken):
			return nil, &refused{err.Error()}
		case err != nil:
			return nil, err
		}
		if id.Claims["sub"] != s.Claims["sub"] || m.subject(id.Claims) != m.subject(s.Claims) {
			return nil, &refused{fmt.Sprintf("the ID token is of %q", id.Claims["sub"])}
		}
		next.Claims = id.Claims
	}
	next.take(t, now)
	next.Send = s.Send || m.config.access()
	return &next, nil
}

// renewOnce has one gateway of all renew a session, and gives the others what it
// got, sealed as cookies are.
func (m *method) renewOnce(s *session) (*session, error) {
	if m.once == nil {
		return m.renew(s, time.Now().Unix())
	}
	// It takes two questions to the provider at most.
	lease := 3 * m.config.HTTP.Timeout.D()
	b := replay.Begin{Key: identify.SharedKey("renewal", m.config.Issuer, m.config.ClientID, s.Renew), Token: token(12), Lease: lease, TTL: lease + renewalKept, TakeOver: true}
	const pause = 50 * time.Millisecond
	for range lease/pause + 1 {
		rec, err := m.claim(b)
		switch {
		case err != nil && m.config.OnFailure == "local":
			m.tell.Warn("a session is renewed without asking other gateways: the store does not answer", "error", err)
			return m.renew(s, time.Now().Unix())
		case err != nil:
			return nil, err
		case rec.State == replay.New:
			return m.renewFor(s, b)
		case rec.State == replay.Done:
			next := new(session)
			return next, m.seal.open("renewal", string(rec.Answer), next)
		}
		time.Sleep(pause) // another gateway is at it
	}
	return nil, errors.New("another gateway renews the session, and does not get done")
}

// renewFor renews a session, and leaves what it got for other gateways.
func (m *method) renewFor(s *session, b replay.Begin) (*session, error) {
	next, err := m.renew(s, time.Now().Unix())
	ctx, cancel := context.WithTimeout(context.Background(), m.config.Timeout.D())
	defer cancel()
	var told error
	if err != nil {
		told = m.once.Release(ctx, b.Key, b.Token)
	} else if sealed, fault := m.seal.close("renewal", next); fault != nil {
		told = fault
	} else {
		told = m.once.Finish(ctx, b.Key, b.Token, []byte(sealed), renewalKept)
	}
	if told != nil {
		m.tell.Warn("other gateways do not know what a session was renewed to", "error", told)
	}
	return next, err
}

func (m *method) claim(b replay.Begin) (replay.Record, error) {
	ctx, cancel := context.WithTimeout(context.Background(), m.config.Timeout.D())
	defer cancel()
	return m.once.Begin(ctx, b)
}

// renewals lets one request renew a session, and gives the others of this
// gateway and the same session what it got: many providers take a refresh token
// once only, and end the session of whoever uses one again.
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

var errUnfinished = errors.New("the session was not renewed by an error of the gateway")

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
	// A panic leaves the error, for those who wait.
	one := &renewal{done: make(chan struct{}), err: errUnfinished}
	r.m[sum] = one
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		if one.until = time.Now().Add(renewalKept); one.err != nil {
			one.until = time.Now().Add(time.Second) // what failed is soon tried again
		}
		r.mu.Unlock()
		close(one.done)
	}()
	one.s, one.err = renew()
	return one.s, one.err
}
