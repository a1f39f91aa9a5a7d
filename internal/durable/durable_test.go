package durable

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"gatehouse.dev/gatehouse/internal/limit"
	"gatehouse.dev/gatehouse/internal/replay"
)

func open(t *testing.T, folder string) *Store {
	t.Helper()
	s, err := Open(folder, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func use(t *testing.T, s *Store, q limit.Quota) (int64, bool) {
	t.Helper()
	used, ok, err := s.Use(context.Background(), q)
	if err != nil {
		t.Fatal(err)
	}
	return used, ok
}

// TestQuotaSurvives counts, ends the process, and counts on.
func TestQuotaSurvives(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "made", "for", "it")
	q := limit.Quota{Key: "k", Limit: 10, Cost: 4, Slot: 7, Slots: 2, Keep: time.Hour}
	s := open(t, folder)
	use(t, s, q)
	q.Slot = 8
	if used, ok := use(t, s, q); used != 8 || !ok {
		t.Errorf("%d, %v", used, ok)
	}
	s.Close()
	if _, _, err := s.Use(context.Background(), limit.Quota{Key: "other"}); !errors.Is(err, ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
	s = open(t, folder)
	defer s.Close()
	if used, ok := use(t, s, q); used != 8 || ok {
		t.Errorf("after a restart: %d, %v", used, ok)
	}
	q.Slot = 9 // the first slot is past
	if used, ok := use(t, s, q); used != 8 || !ok {
		t.Errorf("a slot later: %d, %v", used, ok)
	}
	q.Force, q.Cost = true, 5
	if used, ok := use(t, s, q); used != 13 || !ok {
		t.Errorf("by force: %d, %v", used, ok)
	}
	q.Cost = -100
	if used, _ := use(t, s, q); used != 0 {
		t.Errorf("given back: %d", used)
	}
	if info, err := os.Stat(filepath.Join(folder, "gatehouse.db")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
}

func TestQuotaConcurrent(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	var passed atomic.Int64
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 200 {
				if _, ok := use(t, s, limit.Quota{Key: "k", Limit: 500, Cost: 1, Slot: 1, Slots: 1, Keep: time.Hour}); ok {
					passed.Add(1)
				}
				if err := s.write(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if passed.Load() != 500 {
		t.Errorf("%d passed", passed.Load())
	}
}

// TestRoom: counts that are not in memory any more are read again.
func TestRoom(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	q := limit.Quota{Limit: 10, Cost: 3, Slot: 1, Slots: 1, Keep: time.Hour}
	for i := range 500 {
		q.Key = fmt.Sprint(i)
		use(t, s, q)
	}
	if err := s.write(); err != nil {
		t.Fatal(err)
	}
	s.counts.mu.Lock()
	clear(s.counts.entries)
	s.counts.mu.Unlock()
	for i := range 500 {
		q.Key = fmt.Sprint(i)
		if used, _ := use(t, s, q); used != 6 {
			t.Fatalf("%d: %d", i, used)
		}
	}
}

// TestNoRoom: while nothing is written, a flood of new keys meets an end.
func TestNoRoom(t *testing.T) {
	c := counts{entries: make(map[string]*entry)}
	for i := range mostWaiting - 1 {
		c.entries[fmt.Sprint(i)] = &entry{changes: 1}
	}
	if !c.makeRoom() {
		t.Error("there is no room for the last one")
	}
	c.entries["last"] = &entry{changes: 1}
	if c.makeRoom() {
		t.Errorf("there is room for more than %d", mostWaiting)
	}
	for _, e := range c.entries {
		e.written = e.changes
	}
	if !c.makeRoom() || len(c.entries) >= mostWaiting {
		t.Error("what was written makes no room")
	}
}

func TestSweep(t *testing.T) {
	s := open(t, t.TempDir())
	defer s.Close()
	for i := range 100 {
		keep := time.Hour
		if i%2 == 0 {
			keep = -time.Hour
		}
		use(t, s, limit.Quota{Key: fmt.Sprint(i), Limit: 10, Cost: 1, Slot: 1, Slots: 1, Keep: keep})
		if _, err := s.Begin(context.Background(), replay.Begin{Key: fmt.Sprint(i), TTL: keep, Lease: time.Minute}); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(s.write(), s.sweep(), s.sweep()); err != nil {
		t.Fatal(err)
	}
	n := make(map[string]int)
	err := s.db.Load().View(func(tx *bbolt.Tx) error {
		for _, name := range []string{quotaBucket, replayBucket} {
			n[name] = tx.Bucket([]byte(name)).Stats().KeyN
		}
		return nil
	})
	if err != nil || n[quotaBucket] != 50 || n[replayBucket] != 50 {
		t.Errorf("%v, %v", n, err)
	}
}

// TestHandOver: a second process waits for the file of the first.
func TestHandOver(t *testing.T) {
	folder := t.TempDir()
	first := open(t, folder)
	said := make(lines, 10)
	second, err := Open(folder, slog.New(slog.NewTextHandler(said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if line := <-said; !strings.Contains(line, "belongs to another process") {
		t.Error(line)
	}
	if _, _, err := second.Use(context.Background(), limit.Quota{Key: "k", Limit: 1, Cost: 1}); !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
	first.Close()
	if line := <-said; !strings.Contains(line, "is ours now") {
		t.Error(line)
	}
	use(t, second, limit.Quota{Key: "k", Limit: 1, Cost: 1, Slots: 1, Keep: time.Hour})
}

// lines is a log that a test waits for.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}

func TestBadFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(filepath.Join(file, "x"), slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a folder below a file was opened")
	}
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "gatehouse.db"), []byte("this is no data file, and long enough to be looked at"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(folder, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("an odd file was opened")
	}
}

// TestReplay goes through the states of a record, over a restart.
func TestReplay(t *testing.T) {
	folder, ctx := t.TempDir(), context.Background()
	s := open(t, folder)
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
	begin(replay.Begin{Token: "b", TakeOver: true}, replay.Running)
	if err := errors.Join(s.Release(ctx, "k", "b"), s.Finish(ctx, "k", "b", []byte("no"), time.Hour)); err != nil {
		t.Fatal(err)
	}
	begin(replay.Begin{Token: "b"}, replay.Running) // another's token changes nothing
	if err := s.Release(ctx, "k", "a"); err != nil {
		t.Fatal(err)
	}
	begin(replay.Begin{Token: "c", Fingerprint: "f", Lease: -time.Second}, replay.New)
	s.Close() // the process ends in the middle
	s = open(t, folder)
	defer s.Close()
	begin(replay.Begin{Token: "d"}, replay.Unknown)
	begin(replay.Begin{Token: "d", Fingerprint: "f", Lease: time.Hour, TakeOver: true}, replay.New)
	if err := s.Finish(ctx, "k", "d", []byte("answer"), time.Hour); err != nil {
		t.Fatal(err)
	}
	if r := begin(replay.Begin{Token: "e"}, replay.Done); string(r.Answer) != "answer" || r.Fingerprint != "f" {
		t.Errorf("%+v", r)
	}
	if err := s.Finish(ctx, "nothing", "e", nil, time.Hour); err != nil {
		t.Errorf("a record that is gone: %v", err)
	}
}

func FuzzEntry(f *testing.F) {
	f.Add((&entry{expires: 5, slots: []slotCount{{1, 2}}}).encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := readEntry(b); err == nil && string(e.encode()) != string(b) {
			t.Errorf("%q is written as %q", b, e.encode())
		}
	})
}
