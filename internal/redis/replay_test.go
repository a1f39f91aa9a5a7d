package redis

import (
	"context"
	"errors"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/redis/redistest"
	"gatehouse.dev/gatehouse/internal/replay"
)

func TestReplay(t *testing.T) {
	s, ctx := to(t, redistest.Start(t)), context.Background()
	begin := func(b replay.Begin, want replay.State) replay.Record {
		t.Helper()
		b.Key, b.TTL = "k", time.Hour
		r, err := s.Begin(ctx, b)
		if err != nil || r.State != want {
			t.Fatalf("%+v, %v; want state %d", r, err, want)
		}
		return r
	}
	begin(replay.Begin{Token: "a", Fingerprint: "f", Lease: time.Hour}, replay.New)
	if r := begin(replay.Begin{Token: "b", Fingerprint: "g", Lease: time.Hour}, replay.Running); r.Fingerprint != "f" {
		t.Errorf("%+v", r)
	}
	if err := errors.Join(s.Release(ctx, "k", "b"), s.Abandon(ctx, "k", "b"), s.Finish(ctx, "k", "b", []byte("no"), time.Hour)); err != nil {
		t.Fatal(err)
	}
	begin(replay.Begin{Token: "b", TakeOver: true}, replay.Running) // another's token changes nothing
	if err := s.Release(ctx, "k", "a"); err != nil {
		t.Fatal(err)
	}
	begin(replay.Begin{Token: "c", Fingerprint: "f", Lease: time.Hour}, replay.New)
	if err := s.Abandon(ctx, "k", "c"); err != nil {
		t.Fatal(err)
	}
	begin(replay.Begin{Token: "d"}, replay.Unknown)
	begin(replay.Begin{Token: "d", Fingerprint: "f", Lease: time.Hour, TakeOver: true}, replay.New)
	if err := s.Finish(ctx, "k", "d", []byte("an\x00swer"), time.Hour); err != nil {
		t.Fatal(err)
	}
	if r := begin(replay.Begin{Token: "e"}, replay.Done); string(r.Answer) != "an\x00swer" || r.Fingerprint != "f" {
		t.Errorf("%+v", r)
	}
}
