package idempotency_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
	"gatehouse.dev/gatehouse/internal/replay"
)

// memory keeps records as a store does, in virtual time. One without a map
// never answers.
type memory struct {
	mu      sync.Mutex
	records map[string]*replay.Stored
}

func (m *memory) Begin(_ context.Context, b replay.Begin) (replay.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.records == nil {
		return replay.Record{}, errors.New("down")
	}
	now := time.Now().UnixMilli()
	if s := m.records[b.Key]; s != nil {
		if r := s.Record(now); r.State != replay.New && !(r.State == replay.Unknown && b.TakeOver) {
			return r, nil
		}
	}
	m.records[b.Key] = &replay.Stored{Fingerprint: b.Fingerprint, Token: b.Token, Until: now + b.Lease.Milliseconds(), Expires: now + b.TTL.Milliseconds()}
	return replay.Record{}, nil
}

func (m *memory) change(key, token string, f func(*replay.Stored)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.records[key]; s != nil && s.Token == token && !s.Done {
		f(s)
	}
	return nil
}

func (m *memory) Finish(_ context.Context, key, token string, answer []byte, ttl time.Duration) error {
	return m.change(key, token, func(s *replay.Stored) {
		s.Done, s.Answer, s.Expires = true, answer, time.Now().Add(ttl).UnixMilli()
	})
}

func (m *memory) Release(_ context.Context, key, token string) error {
	return m.change(key, token, func(*replay.Stored) { delete(m.records, key) })
}

func (m *memory) Abandon(_ context.Context, key, token string) error {
	return m.change(key, token, func(s *replay.Stored) { s.Until = 0 })
}

func Test(t *testing.T) {
	m := &memory{records: make(map[string]*replay.Stored)}
	policytest.Run(t, policytest.Suite{
		Catalog: all.Catalog(), Kind: "idempotency", Allocs: 1,
		Services: func(name string) any {
			switch name {
			case "durable":
				return m
			case "redis":
				return new(memory)
			}
			return nil
		},
	})
}
