package quota_test

import (
	"context"
	"errors"
	"sync"
	"testing"

	"gatehouse.dev/gatehouse/internal/limit"
	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

// memory keeps quotas as a store does. One named redis never answers.
type memory struct {
	mu     sync.Mutex
	counts map[string]map[int64]int64
}

func (m *memory) Use(_ context.Context, q limit.Quota) (used int64, ok bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.counts == nil {
		return 0, false, errors.New("down")
	}
	slots := m.counts[q.Key]
	if slots == nil {
		slots = make(map[int64]int64)
		m.counts[q.Key] = slots
	}
	for slot, n := range slots {
		if slot > q.Slot-q.Slots {
			used += n
		}
	}
	if q.Cost > 0 && used+q.Cost > q.Limit && !q.Force {
		return used, false, nil
	}
	slots[q.Slot] += q.Cost
	return used + q.Cost, true, nil
}

func Test(t *testing.T) {
	m := &memory{counts: make(map[string]map[int64]int64)}
	policytest.Run(t, policytest.Suite{
		Catalog: all.Catalog(), Kind: "quota", Settings: "{ limit: 1000000 }", Allocs: 12,
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
