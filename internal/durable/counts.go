package durable

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"gatehouse.dev/gatehouse/internal/limit"
)

// counts are the quotas in memory. Memory has the word; the file has it a
// second later. What is not in use is read from the file when it is asked for.
type counts struct {
	mu      sync.Mutex
	entries map[string]*entry
	resume  map[string][]byte // where the next sweep begins
}

// entry is the count of one key.
type entry struct {
	slots   []slotCount // ascending
	expires int64       // unix milliseconds
	changes int         // since it was read
	written int         // of them, how many are on the disk
}

func (e *entry) dirty() bool { return e.changes != e.written }

type slotCount struct{ slot, count int64 }

// mostEntries is how many counts are in memory. Beyond it those that are on the
// disk already are let go, and read again when they are needed.
const mostEntries = 100_000

// mostWaiting is how many counts wait for a disk that takes none: beyond it new
// ones are not begun, and those that there are go on.
const mostWaiting = 4 * mostEntries

var errNoRoom = errors.New("too many counts wait to be written to the disk")

func (c *counts) setResume(name string, at []byte) {
	if c.resume == nil {
		c.resume = make(map[string][]byte)
	}
	c.resume[name] = append([]byte(nil), at...)
}

// Use implements limit.Quotas.
func (s *Store) Use(_ context.Context, q limit.Quota) (used int64, ok bool, err error) {
	c := &s.counts
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[q.Key]
	if e == nil {
		if e, err = s.load(q.Key); err != nil {
			return 0, false, err
		}
		if !c.makeRoom() {
			return 0, false, errNoRoom
		}
		c.entries[q.Key] = e
	}
	used = e.since(q.Slot - q.Slots)
	if q.Cost > 0 && used+q.Cost > q.Limit && !q.Force {
		return used, false, nil
	}
	cost := max(q.Cost, -used)
	if cost != 0 {
		e.add(q.Slot, cost)
		e.expires = time.Now().Add(q.Keep).UnixMilli()
		e.changes++
	}
	return used + cost, true, nil
}

// since forgets the slots up to one and adds up the rest.
func (e *entry) since(past int64) (sum int64) {
	keep := e.slots[:0]
	for _, s := range e.slots {
		if s.slot > past {
			keep = append(keep, s)
			sum += s.count
		}
	}
	e.slots = keep
	return sum
}

func (e *entry) add(slot, cost int64) {
	for i := range e.slots {
		if e.slots[i].slot == slot {
			e.slots[i].count += cost
			return
		}
	}
	e.slots = append(e.slots, slotCount{slot, cost})
}

// makeRoom reports whether there is room for another count.
func (c *counts) makeRoom() bool {
	if len(c.entries) < mostEntries {
		return true
	}
	tries := 0
	for key, e := range c.entries {
		if !e.dirty() {
			delete(c.entries, key)
		}
		if tries++; tries >= 64 {
			break
		}
	}
	return len(c.entries) < mostWaiting
}

// load reads a count from the file.
func (s *Store) load(key string) (*entry, error) {
	db := s.db.Load()
	if db == nil {
		return nil, ErrClosed
	}
	e := new(entry)
	err := db.View(func(tx *bbolt.Tx) (err error) {
		if v := tx.Bucket([]byte(quotaBucket)).Get([]byte(key)); v != nil {
			e, err = readEntry(v)
		}
		return err
	})
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		err = ErrClosed
	}
	return e, err
}

// write brings what has changed to the disk. What cannot be written stays for
// the next time.
func (s *Store) write() error {
	db := s.db.Load()
	if db == nil {
		return nil
	}
	c := &s.counts
	c.mu.Lock()
	changed := make(map[string][]byte)
	upTo := make(map[string]int)
	for key, e := range c.entries {
		if e.dirty() {
			changed[key], upTo[key] = e.encode(), e.changes
		}
	}
	c.mu.Unlock()
	if len(changed) == 0 {
		return nil
	}
	err := db.Update(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket([]byte(quotaBucket))
		for key, v := range changed {
			if err := bucket.Put([]byte(key), v); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for key, n := range upTo {
		c.entries[key].written = n // what is dirty is never let go
	}
	return nil
}

func (e *entry) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(e.expires))
	for _, s := range e.slots {
		b = binary.BigEndian.AppendUint64(b, uint64(s.slot))
		b = binary.BigEndian.AppendUint64(b, uint64(s.count))
	}
	return b
}

var errMalformed = errors.New("a stored count cannot be read")

func readEntry(b []byte) (*entry, error) {
	if len(b) < 8 || len(b)%16 != 8 {
		return nil, errMalformed
	}
	e := &entry{expires: int64(binary.BigEndian.Uint64(b))}
	for b = b[8:]; len(b) > 0; b = b[16:] {
		e.slots = append(e.slots, slotCount{int64(binary.BigEndian.Uint64(b)), int64(binary.BigEndian.Uint64(b[8:]))})
	}
	return e, nil
}
