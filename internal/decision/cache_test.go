package decision

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache[bool](100, time.Second)
		c.put("hot", true)
		for i := range 1000 {
			c.put(fmt.Sprint(i), false)
			if v, ok := c.get("hot"); !v || !ok {
				t.Fatalf("what is asked for was forgotten after %d others", i)
			}
			if c.len() > 100 {
				t.Fatalf("%d decisions", c.len())
			}
		}
		if _, ok := c.get("1"); ok {
			t.Error("what nobody asked for is kept")
		}
		time.Sleep(time.Second)
		if _, ok := c.get("hot"); ok {
			t.Error("a decision is kept for too long")
		}
		var none *cache[bool]
		none.put("k", true)
		if _, ok := none.get("k"); ok {
			t.Error("no cache keeps a decision")
		}
	})
}
