package basic

import (
	"fmt"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/identify"
	"gatehouse.dev/gatehouse/internal/password"
	"gatehouse.dev/gatehouse/internal/policy"
)

type nobody struct{}

func (nobody) Password(string, *exchange.Who) (*password.Hash, error) { return new(password.Hash), nil }

// TestEntries has settings that differ in how many users are remembered: each
// has its own memory, which holds no more.
func TestEntries(t *testing.T) {
	kept := make(map[string]any)
	env := &policy.Env{
		Name: "basic", Slots: new(policy.Slots), Service: func(string) any { return nobody{} },
		Keep: func(key string, create func() any) any {
			if kept[key] == nil {
				kept[key] = create()
			}
			return kept[key]
		},
	}
	memories := make(map[*memory]bool)
	for _, entries := range []int{1, 2, 100} {
		c := Kind().New().(*Config)
		c.Entries = entries
		p, err := c.Compile(env)
		if err != nil {
			t.Fatal(err)
		}
		m := p.(*identify.Step).Method().(*method).right
		memories[m] = true
		h := new(password.Hash)
		for n := range 10 * entries {
			user := fmt.Sprint(n)
			m.add(h, user, "p")
			if len(m.m) > entries || !m.has(h, user, "p") {
				t.Fatalf("of %d there are %d, and the last one is among them: %v", entries, len(m.m), m.has(h, user, "p"))
			}
		}
		// Another hash, another name or password is not what is remembered.
		last := fmt.Sprint(10*entries - 1)
		if m.has(new(password.Hash), last, "p") || m.has(h, last, "q") || m.has(h, last+":", "p") || m.has(h, "none", "p") {
			t.Error("what was never right is remembered")
		}
		if n := len(m.m); entries == 100 && n < entries*3/4 {
			t.Errorf("of %d only %d are remembered", entries, n)
		}
	}
	if len(memories) != 3 {
		t.Errorf("there are %d memories", len(memories))
	}
}

// TestMakeRoom has a memory that is full: it is not looked through for every
// user that comes.
func TestMakeRoom(t *testing.T) {
	m := newMemory(1<<40, 800)
	h := new(password.Hash)
	for n := range 800 {
		m.add(h, fmt.Sprint(n), "p")
	}
	m.add(h, "next", "p")
	if n := len(m.m); n > 750 || n < 600 {
		t.Errorf("%d are left", n)
	}
}
