package policy_test

import (
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// A slot is empty at its first use in each exchange, also in a reused one.
func TestSlot(t *testing.T) {
	env := &policy.Env{Slots: new(policy.Slots)}
	type state struct{ n int }
	a, b := policy.NewSlot[state](env), policy.NewSlot[int](env)
	if env.Slots.Len() != 2 {
		t.Errorf("%d slots were given out", env.Slots.Len())
	}
	for range 3 {
		x := exchange.Get()
		x.Reserve(env.Slots.Len())
		if s := a.Get(x); s.n != 0 {
			t.Errorf("a slot holds %d of an earlier exchange", s.n)
		}
		a.Get(x).n = 7
		*b.Get(x) = 8
		if a.Get(x).n != 7 || *b.Get(x) != 8 {
			t.Error("a slot did not keep its value")
		}
		exchange.Put(x)
	}
	// Another snapshot gives the same numbers to other types.
	x := exchange.Get()
	defer exchange.Put(x)
	other := policy.NewSlot[string](&policy.Env{Slots: new(policy.Slots)})
	if s := other.Get(x); *s != "" {
		t.Errorf("a slot holds %q", *s)
	}
}

func TestCatalog(t *testing.T) {
	a, b := &policy.Kind{Name: "a"}, &policy.Kind{Name: "b"}
	c := policy.NewCatalog(a, b)
	if k, rank := c.Lookup("b"); k != b || rank != 1 {
		t.Errorf("b: %v, %d", k, rank)
	}
	if k, rank := c.Lookup("c"); k != nil || rank != -1 {
		t.Errorf("c: %v, %d", k, rank)
	}
}
