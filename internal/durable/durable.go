// Package durable owns what one gateway has to remember over a restart: how
// much of a quota was used, and the answers to requests that may come again.
// It keeps both in one file. A disk that is full or slow never holds up a
// count; what must be on the disk before a request goes on is.
package durable

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"gatehouse.dev/gatehouse/internal/limit"
	"gatehouse.dev/gatehouse/internal/replay"
)

// ErrClosed says that the file is not open: not yet, because another process
// still has it, or not any more.
var ErrClosed = errors.New("the data file is not open")

// Store is the file and what of it is in memory.
type Store struct {
	log    *slog.Logger
	db     atomic.Pointer[bbolt.DB]
	counts counts

	stop chan struct{}
	all  sync.WaitGroup
}

var (
	_ limit.Quotas = (*Store)(nil)
	_ replay.Store = (*Store)(nil)
)

// The file's parts.
const (
	quotaBucket  = "quotas"
	replayBucket = "replays"
)

// How often counts are written, and how long the file's lock is waited for.
const (
	writeEvery = time.Second
	lockWait   = 200 * time.Millisecond
)

// Open opens the file in a folder, which is made where there is none. While
// another process has the file, as during a hand-over, it is tried again in
// the background, and calls fail with ErrClosed. Close ends it.
func Open(folder string, log *slog.Logger) (*Store, error) {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	s := &Store{log: log, stop: make(chan struct{})}
	s.counts.entries = make(map[string]*entry)
	path := filepath.Join(folder, "gatehouse.db")
	switch err := s.open(path); {
	case errors.Is(err, bolterrors.ErrTimeout):
		log.Warn("the data file belongs to another process, trying again", "file", path)
	case err != nil:
		return nil, fmt.Errorf("data file %q: %w", path, err)
	}
	s.all.Go(func() { s.run(path) })
	return s, nil
}

func (s *Store) open(path string) error {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockWait})
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range []string{quotaBucket, replayBucket} {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		_ = db.Close() // the error of opening says more
		return err
	}
	// A request waits for the disk, not for company.
	db.MaxBatchDelay = time.Millisecond
	s.db.Store(db)
	return nil
}

// run writes counts and removes what is past, until Close.
func (s *Store) run(path string) {
	tick := time.NewTicker(writeEvery)
	defer tick.Stop()
	failing := false
	for {
		select {
		case <-tick.C:
		case <-s.stop:
			if err := s.write(); err != nil {
				s.log.Error("counts of quotas were not written", "error", err)
			}
			return
		}
		err := s.tick(path)
		if err != nil && !failing {
			s.log.Error("the data file cannot be written, trying again", "error", err)
		} else if err == nil && failing {
			s.log.Info("the data file can be written again")
		}
		failing = err != nil
	}
}

func (s *Store) tick(path string) error {
	if s.db.Load() == nil {
		if err := s.open(path); err != nil {
			if errors.Is(err, bolterrors.ErrTimeout) {
				return nil
			}
			return err
		}
		s.log.Info("the data file is ours now", "file", path)
	}
	if err := s.write(); err != nil {
		return err
	}
	return s.sweep()
}

// Close writes what is not written yet, and closes the file.
func (s *Store) Close() {
	close(s.stop)
	s.all.Wait()
	if db := s.db.Swap(nil); db != nil {
		if err := db.Close(); err != nil {
			s.log.Error("the data file was not closed", "error", err)
		}
	}
}

// Begin implements replay.Store. The record is on the disk when it returns.
func (s *Store) Begin(_ context.Context, b replay.Begin) (rec replay.Record, err error) {
	rec, err = s.peek(b.Key)
	if err != nil || rec.State != replay.New && !(rec.State == replay.Unknown && b.TakeOver) {
		return rec, err
	}
	err = s.change(replayBucket, func(bucket *bbolt.Bucket) error {
		now := time.Now().UnixMilli()
		rec = replay.Record{}
		if have := bucket.Get([]byte(b.Key)); have != nil {
			old, err := replay.Read(have)
			if err != nil {
				return err
			}
			rec = old.Record(now)
			rec.Answer = append([]byte(nil), rec.Answer...)
			if rec.State != replay.New && !(rec.State == replay.Unknown && b.TakeOver) {
				return nil
			}
		}
		rec.State = replay.New
		next := replay.Stored{Fingerprint: b.Fingerprint, Token: b.Token, Until: now + b.Lease.Milliseconds(), Expires: now + b.TTL.Milliseconds()}
		return bucket.Put([]byte(b.Key), next.Append(nil))
	})
	return rec, err
}

// Finish implements replay.Store.
func (s *Store) Finish(_ context.Context, key, token string, answer []byte, ttl time.Duration) error {
	return s.change(replayBucket, func(bucket *bbolt.Bucket) error {
		have, err := held(bucket, key, token)
		if have == nil {
			return err
		}
		have.Done, have.Answer, have.Expires = true, answer, time.Now().Add(ttl).UnixMilli()
		return bucket.Put([]byte(key), have.Append(nil))
	})
}

// Release implements replay.Store.
func (s *Store) Release(_ context.Context, key, token string) error {
	return s.change(replayBucket, func(bucket *bbolt.Bucket) error {
		have, err := held(bucket, key, token)
		if have == nil || have.Done {
			return err
		}
		return bucket.Delete([]byte(key))
	})
}

// Abandon implements replay.Store.
func (s *Store) Abandon(_ context.Context, key, token string) error {
	return s.change(replayBucket, func(bucket *bbolt.Bucket) error {
		have, err := held(bucket, key, token)
		if have == nil || have.Done {
			return err
		}
		have.Until = 0
		return bucket.Put([]byte(key), have.Append(nil))
	})
}

// peek returns the record of a key without writing anything: most repetitions
// find one.
func (s *Store) peek(key string) (rec replay.Record, err error) {
	db := s.db.Load()
	if db == nil {
		return rec, ErrClosed
	}
	err = db.View(func(tx *bbolt.Tx) error {
		v := tx.Bucket([]byte(replayBucket)).Get([]byte(key))
		if v == nil {
			return nil
		}
		have, err := replay.Read(v)
		if err != nil {
			return err // a record that nobody can read is no leave to carry it out again
		}
		rec = have.Record(time.Now().UnixMilli())
		rec.Answer = append([]byte(nil), rec.Answer...)
		return nil
	})
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		err = ErrClosed
	}
	return rec, err
}

// held returns the record of a key if it belongs to token.
func held(bucket *bbolt.Bucket, key, token string) (*replay.Stored, error) {
	v := bucket.Get([]byte(key))
	if v == nil {
		return nil, nil
	}
	have, err := replay.Read(v)
	if err != nil || have.Token != token {
		return nil, err
	}
	return have, nil
}

// change runs f in a transaction that may be shared with other calls, and
// returns when it is on the disk.
func (s *Store) change(name string, f func(*bbolt.Bucket) error) error {
	db := s.db.Load()
	if db == nil {
		return ErrClosed
	}
	err := db.Batch(func(tx *bbolt.Tx) error { return f(tx.Bucket([]byte(name))) })
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return ErrClosed
	}
	return err
}

// mostSwept bounds how many records one sweep looks at.
const mostSwept = 2000

// sweep removes records whose time is over, some at a time.
func (s *Store) sweep() error {
	db := s.db.Load()
	if db == nil {
		return nil
	}
	now := time.Now().UnixMilli()
	for name, past := range map[string]func(v []byte) bool{
		replayBucket: func(v []byte) bool {
			r, err := replay.Read(v)
			return err == nil && r.State(now) == replay.New
		},
		quotaBucket: func(v []byte) bool {
			e, err := readEntry(v)
			return err == nil && e.expires <= now
		},
	} {
		var gone [][]byte
		err := db.View(func(tx *bbolt.Tx) error {
			c := tx.Bucket([]byte(name)).Cursor()
			k, v := c.Seek(s.counts.resume[name])
			for range mostSwept {
				if k == nil {
					break
				}
				if past(v) {
					gone = append(gone, append([]byte(nil), k...))
				}
				k, v = c.Next()
			}
			s.counts.setResume(name, k)
			return nil
		})
		if err != nil {
			return err
		}
		if len(gone) == 0 {
			continue
		}
		err = db.Update(func(tx *bbolt.Tx) error {
			bucket := tx.Bucket([]byte(name))
			for _, k := range gone {
				// It may have been written anew in between.
				if v := bucket.Get(k); v != nil && past(v) {
					if err := bucket.Delete(k); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
