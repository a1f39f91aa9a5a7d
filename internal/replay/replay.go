// Package replay owns what is kept of a request so that a repetition of it gets
// the same answer and is not carried out again: a record for each key, from
// before the request goes on until its time is over. It knows no store and no
// request.
package replay

import (
	"context"
	"encoding/binary"
	"errors"
	"time"
)

// State is how far a request came.
type State uint8

// The states of a record.
const (
	New     State = iota // there was no record: the request may be carried out
	Running              // it is being carried out
	Unknown              // nobody is carrying it out any more, and how it ended was not written down
	Done                 // its answer is there
)

// Record is what is known of a key.
type Record struct {
	State       State
	Fingerprint string // of the request that the key was first used for
	Answer      []byte // with Done
}

// Store keeps records. What Begin or Finish has written survives whatever
// happens to the process after they return.
type Store interface {
	// Begin returns the record of a key. Where there is none it writes one,
	// of a request that is carried out under token for at most lease, and
	// returns New. With takeOver an unknown record is replaced as well.
	Begin(ctx context.Context, b Begin) (Record, error)
	// Finish writes the answer, if the record still belongs to token.
	Finish(ctx context.Context, key, token string, answer []byte, ttl time.Duration) error
	// Release forgets a request that was certainly not carried out, if the
	// record still belongs to token.
	Release(ctx context.Context, key, token string) error
	// Abandon says that nobody carries the request out any more and that how
	// it ended is unknown, if the record still belongs to token.
	Abandon(ctx context.Context, key, token string) error
}

// Begin is how a request begins.
type Begin struct {
	Key         string
	Fingerprint string
	Token       string // tells who carries it out
	Lease       time.Duration
	TTL         time.Duration
	TakeOver    bool
}

// Stored is a record as stores write it.
type Stored struct {
	Fingerprint string
	Token       string
	Done        bool
	Until       int64 // of a lease while not Done: unix milliseconds
	Expires     int64 // unix milliseconds
	Answer      []byte
}

// State tells how far the record is at a time of day.
func (s *Stored) State(now int64) State {
	switch {
	case s.Expires <= now:
		return New
	case s.Done:
		return Done
	case s.Until <= now:
		return Unknown
	}
	return Running
}

// Record is the record as a policy sees it.
func (s *Stored) Record(now int64) Record {
	return Record{State: s.State(now), Fingerprint: s.Fingerprint, Answer: s.Answer}
}

// Append writes the record behind b.
func (s *Stored) Append(b []byte) []byte {
	done := byte(0)
	if s.Done {
		done = 1
	}
	b = append(b, 1, done)
	b = binary.BigEndian.AppendUint64(b, uint64(s.Until))
	b = binary.BigEndian.AppendUint64(b, uint64(s.Expires))
	b = appendText(b, s.Fingerprint)
	b = appendText(b, s.Token)
	return append(b, s.Answer...)
}

var errMalformed = errors.New("a stored record cannot be read")

// Read reads what Append wrote. The answer is a view of b.
func Read(b []byte) (*Stored, error) {
	if len(b) < 18 || b[0] != 1 || b[1] > 1 {
		return nil, errMalformed
	}
	s := &Stored{Done: b[1] == 1, Until: int64(binary.BigEndian.Uint64(b[2:])), Expires: int64(binary.BigEndian.Uint64(b[10:]))}
	b = b[18:]
	var ok1, ok2 bool
	s.Fingerprint, b, ok1 = cutText(b)
	s.Token, b, ok2 = cutText(b)
	if !ok1 || !ok2 {
		return nil, errMalformed
	}
	s.Answer = b
	return s, nil
}

func appendText(b []byte, s string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(s))), s...)
}

func cutText(b []byte) (s string, rest []byte, ok bool) {
	if len(b) < 2 {
		return "", nil, false
	}
	n := int(binary.BigEndian.Uint16(b))
	if len(b) < 2+n {
		return "", nil, false
	}
	return string(b[2 : 2+n]), b[2+n:], true
}
