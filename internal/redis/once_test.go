package redis

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/redis/redistest"
)

// TestOnce has several gateways use the same keys at once.
func TestOnce(t *testing.T) {
	server := redistest.Start(t)
	stores := []*Store{to(t, server), to(t, server), to(t, server)}
	var first atomic.Int64
	var all sync.WaitGroup
	for _, s := range stores {
		for range 4 {
			all.Go(func() {
				for i := range 50 {
					ok, err := s.Once(context.Background(), "once "+number(int64(i)), time.Hour)
					if err != nil {
						t.Error(err)
					}
					if ok {
						first.Add(1)
					}
				}
			})
		}
	}
	all.Wait()
	if n := first.Load(); n != 50 {
		t.Errorf("%d first uses of 50 keys", n)
	}
	if ok, err := stores[0].Once(context.Background(), "short", time.Microsecond); !ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
	redistest.Until(t, "the key is free again", func() bool {
		ok, err := stores[1].Once(context.Background(), "short", time.Microsecond)
		return ok && err == nil
	})
}

func TestNumbers(t *testing.T) {
	server := redistest.Start(t)
	a, b, ctx := to(t, server), to(t, server), context.Background()
	if err := a.Raise(ctx, "x", 7, time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := b.Raise(ctx, "x", 6, time.Hour); err != nil {
		t.Fatal(err)
	}
	if got, err := b.Numbers(ctx, "x", "none"); err != nil || len(got) != 2 || got[0] != 7 || got[1] != 0 {
		t.Errorf("%v, %v", got, err)
	}
	server.Kill()
	if _, err := b.Numbers(within(t, 5*time.Second), "x"); err == nil {
		t.Error("a server that is gone answers")
	}
	if _, err := a.Once(within(t, 5*time.Second), "y", time.Hour); err == nil {
		t.Error("a server that is gone answers")
	}
	if err := a.Raise(within(t, 5*time.Second), "y", 1, time.Hour); err == nil {
		t.Error("a server that is gone answers")
	}
}
