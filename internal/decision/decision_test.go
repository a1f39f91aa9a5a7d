package decision

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := New[bool](100, time.Second)
		c.Put("hot", true)
		for i := range 1000 {
			c.Put(fmt.Sprint(i), false)
			if v, ok := c.Get("hot"); !v || !ok {
				t.Fatalf("what is asked for was forgotten after %d others", i)
			}
			if c.Len() > 100 {
				t.Fatalf("%d decisions", c.Len())
			}
		}
		if _, ok := c.Get("1"); ok {
			t.Error("what nobody asked for is kept")
		}
		time.Sleep(time.Second)
		if _, ok := c.Get("hot"); ok {
			t.Error("a decision is kept for too long")
		}
		var none *Cache[bool]
		none.Put("k", true)
		if _, ok := none.Get("k"); ok {
			t.Error("no cache keeps a decision")
		}
	})
}
