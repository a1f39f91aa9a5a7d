package identify

import (
	"errors"
	"sync"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// Replay remembers what must be used only once, for as long as it would be
// taken again. When it is full it takes nothing: to forget would be to let
// something in twice.
type Replay struct {
	most  int
	mu    sync.Mutex
	until map[[16]byte]int64 // by exchange.Now
	swept int64              // when those whose time is over were last looked for
}

// How often to look for those whose time is over: in any case, and when there
// is no room, where every request would look through all of them.
const (
	sweepAlways = 10 * time.Second
	sweepFull   = time.Second
)

var (
	// ErrReplayed says that something was used before.
	ErrReplayed = errors.New("it was used before")
	// ErrFull says that too much would have to be remembered.
	ErrFull = errors.New("too many are remembered already")
)

// NewReplay returns a memory of at most so many.
func NewReplay(most int) *Replay {
	return &Replay{most: most, until: make(map[[16]byte]int64), swept: exchange.Now()}
}

// Use takes down the use of what the parts name, for as long as given.
func (r *Replay) Use(keep time.Duration, parts ...string) error {
	return r.use(keep, digest(parts))
}

func (r *Replay) use(keep time.Duration, key [16]byte) error {
	now := exchange.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if until, ok := r.until[key]; ok && now < until {
		return ErrReplayed
	}
	pause := sweepAlways
	if len(r.until) >= r.most {
		pause = sweepFull
	}
	if now >= r.swept+int64(pause) {
		r.swept = now
		for k, until := range r.until {
			if now >= until {
				delete(r.until, k)
			}
		}
	}
	if len(r.until) >= r.most {
		return ErrFull
	}
	r.until[key] = now + int64(keep)
	return nil
}
