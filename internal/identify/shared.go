package identify

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"time"

	"gatehouse.dev/gatehouse/internal/policy"
)

// Sharing says where is remembered what all gateways have to know.
type Sharing struct {
	Store     string          // "auto", "local" or "redis"
	OnFailure string          // "closed" or "local"
	Timeout   policy.Duration // of a question to the store
}

// DefaultSharing shares where there is a store, and refuses while it is silent.
func DefaultSharing() Sharing {
	return Sharing{Store: "auto", OnFailure: "closed", Timeout: policy.Duration(100 * time.Millisecond)}
}

// Store is what the gateway has under the name "redis".
type Store interface {
	// Once takes down the use of a key for as long as given, and tells whether
	// nobody did before.
	Once(ctx context.Context, key string, keep time.Duration) (first bool, err error)
	// Raise keeps a number under a key for as long as given, if it is larger
	// than the one that is there.
	Raise(ctx context.Context, key string, n int64, keep time.Duration) error
	// Numbers returns what Raise keeps under keys, 0 where there is nothing.
	Numbers(ctx context.Context, keys ...string) ([]int64, error)
}

// Shared is the memory that all gateways share. What it is asked while the
// store is silent has an error, unless the settings say that what this gateway
// knows alone is enough.
type Shared struct {
	store   Store
	alone   bool
	timeout time.Duration
	tell    *policy.Teller
}

// Compile returns the shared memory, nil where nothing is to be shared.
func (s Sharing) Compile(env *policy.Env) (*Shared, error) {
	if s.Store == "local" {
		return nil, nil
	}
	store, ok := env.Service("redis").(Store)
	switch {
	case !ok && s.Store == "redis":
		return nil, &policy.Fault{Field: "store", Text: "there is nothing to share: redis is not configured", Hint: "add redis: { url: redis://127.0.0.1:6379 } to the configuration"}
	case !ok:
		return nil, nil
	}
	return &Shared{store: store, alone: s.OnFailure == "local", timeout: s.Timeout.D(), tell: policy.NewTeller(env)}, nil
}

// Alone tells whether what this gateway knows has to be remembered too.
func (s *Shared) Alone() bool { return s == nil || s.alone }

// failed says what an error of the store means: nothing, where this gateway
// alone may decide.
func (s *Shared) failed(err error) error {
	if err != nil && s.alone {
		s.tell.Warn("what other gateways remember is not known: the store does not answer", "error", err)
		return nil
	}
	return err
}

// once returns ErrReplayed for a key that was used before.
func (s *Shared) once(key string, keep time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), s.timeout)
	defer cancel()
	first, err := s.store.Once(ctx, key, keep)
	if err == nil && !first {
		return ErrReplayed
	}
	return s.failed(err)
}

// Raise keeps a number under a key, if it is larger than the one that is there.
// A failure is one whatever the settings say.
func (s *Shared) Raise(key string, n int64, keep time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), s.timeout)
	defer cancel()
	return s.store.Raise(ctx, key, n, keep)
}

// Numbers returns what is kept under keys, 0 where there is nothing.
func (s *Shared) Numbers(keys ...string) ([]int64, error) {
	ctx, cancel := context.WithTimeout(context.Background(), s.timeout)
	defer cancel()
	list, err := s.store.Numbers(ctx, keys...)
	if err != nil {
		return make([]int64, len(keys)), s.failed(err)
	}
	return list, nil
}

// Uses remembers what must be used only once: here, or with all gateways.
type Uses struct {
	kind   string
	local  *Replay
	shared *Shared
}

// NewUses returns the uses of a policy, of which this gateway remembers at most
// so many.
func NewUses(env *policy.Env, what string, most int, s *Shared) *Uses {
	return &Uses{
		kind: what + ":" + env.Name + ":", shared: s,
		local: env.Keep(fmt.Sprintf("%s %d", what, most), func() any { return NewReplay(most) }).(*Replay),
	}
}

// Use takes down the use of what the parts name, for as long as given. It
// returns ErrReplayed for what was used before; every other error says that
// nobody knows.
func (u *Uses) Use(keep time.Duration, parts ...string) error {
	key := digest(parts)
	if u.shared.Alone() {
		if err := u.local.use(keep, key); err != nil || u.shared == nil {
			return err
		}
	}
	return u.shared.once(u.kind+base64.RawURLEncoding.EncodeToString(key[:]), keep)
}

// digest stands for parts, which could hold anything.
func digest(parts []string) (key [16]byte) {
	h := sha256.New()
	for _, p := range parts {
		var n [4]byte
		binary.LittleEndian.PutUint32(n[:], uint32(len(p)))
		h.Write(n[:])
		h.Write([]byte(p))
	}
	return [16]byte(h.Sum(nil)[:16])
}

// SharedKey is a key of the shared memory that parts make.
func SharedKey(what string, parts ...string) string {
	key := digest(parts)
	return what + ":" + base64.RawURLEncoding.EncodeToString(key[:])
}
