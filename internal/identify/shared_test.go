package identify

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/policy"
)

// memory is a store that works, or does not.
type memory struct {
	m   map[string]int64
	err error
}

func (m *memory) Once(ctx context.Context, key string, _ time.Duration) (bool, error) {
	if _, limited := ctx.Deadline(); !limited {
		return false, errors.New("without a deadline")
	}
	_, used := m.m[key]
	if m.err == nil {
		m.m[key] = 1
	}
	return !used, m.err
}

func (m *memory) Raise(_ context.Context, key string, n int64, _ time.Duration) error {
	if m.err == nil {
		m.m[key] = n
	}
	return m.err
}

func (m *memory) Numbers(_ context.Context, keys ...string) (out []int64, err error) {
	for _, k := range keys {
		out = append(out, m.m[k])
	}
	return out, m.err
}

// gate is a gateway's environment, with or without a store.
func gate(name string, store any) *policy.Env {
	kept := make(map[string]any)
	return &policy.Env{
		Name: name, Slots: new(policy.Slots), Log: slog.New(slog.DiscardHandler), Service: func(string) any { return store },
		Keep: func(key string, create func() any) any {
			if kept[key] == nil {
				kept[key] = create()
			}
			return kept[key]
		},
	}
}

// TestUses has two gateways use the same at several settings, while their store
// answers and while it does not.
func TestUses(t *testing.T) {
	for _, c := range []struct {
		store, failure string
		shared         bool // there is a store
		second         bool // the other gateway refuses what one took
		down, again    bool // what is new is taken while the store is silent, and taken twice by one
	}{
		{"auto", "closed", true, true, false, false},
		{"auto", "local", true, true, true, false},
		{"redis", "closed", true, true, false, false},
		{"local", "closed", true, false, true, false},
		{"auto", "closed", false, false, true, false},
	} {
		name := c.store + ", " + c.failure
		store := &memory{m: make(map[string]int64)}
		var uses [2]*Uses
		for i := range uses {
			var s any
			if c.shared {
				s = store
			}
			env := gate("jwt", s)
			shared, err := Sharing{c.store, c.failure, policy.Duration(time.Second)}.Compile(env)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			uses[i] = NewUses(env, "proofs", 10, shared)
		}
		if err := uses[0].Use(time.Minute, "a"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if err := uses[0].Use(time.Minute, "a"); !errors.Is(err, ErrReplayed) {
			t.Errorf("%s: a second time: %v", name, err)
		}
		if err := uses[1].Use(time.Minute, "a"); errors.Is(err, ErrReplayed) != c.second {
			t.Errorf("%s: at another gateway: %v", name, err)
		}
		store.err = errors.New("down")
		if err := uses[0].Use(time.Minute, "b"); (err == nil) != c.down || errors.Is(err, ErrReplayed) {
			t.Errorf("%s: without the store: %v", name, err)
		}
		if err := uses[0].Use(time.Minute, "b"); (err == nil) != c.again {
			t.Errorf("%s: without the store, a second time: %v", name, err)
		}
	}
	if _, err := (Sharing{Store: "redis"}).Compile(gate("jwt", nil)); err == nil {
		t.Error("redis is wanted, and there is none")
	}
}
