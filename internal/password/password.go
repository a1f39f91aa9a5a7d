// Package password owns the hashes of passwords: argon2id and bcrypt in their
// usual text forms, what they may cost, and how many may be computed at once.
// It keeps no password and refuses hashes that would take more memory or time
// than a request may have.
package password

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// Most is the longest password in bytes. bcrypt takes 72; longer ones never
// match one of its hashes, since it would ignore what follows.
const Most = 1024

// What New makes: 19 MiB and two passes, the least that is advised for
// argon2id, so that a gateway survives its users signing in at once.
const (
	newMemory = 19 << 10 // KiB
	newTime   = 2
	newLanes  = 1
)

// The most that a hash may cost.
const (
	mostMemory = 128 << 10 // KiB
	mostTime   = 16
	mostLanes  = 16
	mostCost   = 14 // of bcrypt: about a second
)

// bcryptAlphabet is what bcrypt writes salt and sum in.
const bcryptAlphabet = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

// Hash is a hash of a password, read from its text. The zero Hash matches
// nothing.
type Hash struct {
	bcrypt       []byte
	salt, sum    []byte
	memory, time uint32
	lanes        uint8
}

// New hashes a password with a new salt.
func New(password string) (string, error) {
	if password == "" || len(password) > Most {
		return "", fmt.Errorf("a password has 1 to %d bytes", Most)
	}
	salt := make([]byte, 16)
	rand.Read(salt)
	sum := argon2.IDKey([]byte(password), salt, newTime, newMemory, newLanes, 32)
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, newMemory, newTime, newLanes,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(sum)), nil
}

// Parse reads the text of a hash: $argon2id$v=19$m=...,t=...,p=...$salt$sum, or
// that of bcrypt, $2a$, $2b$ or $2y$. Errors do not show the text.
func Parse(text string) (*Hash, error) {
	switch {
	case strings.HasPrefix(text, "$argon2id$"):
		return parseArgon2(text)
	case strings.HasPrefix(text, "$2a$"), strings.HasPrefix(text, "$2b$"), strings.HasPrefix(text, "$2y$"):
		// The letters tell implementations apart that had mistakes of their
		// own; ours reads 2a and 2b, and 2y is 2b under another name.
		b := []byte("$2b$" + text[4:])
		cost, err := bcrypt.Cost(b)
		switch {
		case err != nil || len(b) != 60 || b[6] != '$' || strings.Trim(string(b[7:]), bcryptAlphabet) != "":
			return nil, errors.New("this is not a hash of bcrypt")
		case cost > mostCost:
			return nil, fmt.Errorf("the cost %d of the hash is more than %d", cost, mostCost)
		}
		return &Hash{bcrypt: b}, nil
	}
	return nil, errors.New("this is neither a hash of argon2id nor one of bcrypt")
}

func parseArgon2(text string) (*Hash, error) {
	wrong := errors.New("this is not a hash of argon2id")
	parts := strings.Split(text, "$")
	if len(parts) != 6 || parts[2] != "v=19" {
		return nil, wrong
	}
	costs := strings.Split(parts[3], ",")
	if len(costs) != 3 {
		return nil, wrong
	}
	var n [3]uint64
	for i, name := range []string{"m=", "t=", "p="} {
		digits, ok := strings.CutPrefix(costs[i], name)
		v, err := strconv.ParseUint(digits, 10, 32)
		if !ok || err != nil || v == 0 {
			return nil, wrong
		}
		n[i] = v
	}
	if n[0] > mostMemory || n[1] > mostTime || n[2] > mostLanes {
		return nil, fmt.Errorf("the hash costs more than m=%d, t=%d and p=%d allow", mostMemory, mostTime, mostLanes)
	}
	salt, err := base64.RawStdEncoding.Strict().DecodeString(parts[4])
	if err != nil || len(salt) < 8 || len(salt) > 64 {
		return nil, wrong
	}
	sum, err := base64.RawStdEncoding.Strict().DecodeString(parts[5])
	if err != nil || len(sum) < 16 || len(sum) > 64 {
		return nil, wrong
	}
	return &Hash{salt: salt, sum: sum, memory: uint32(n[0]), time: uint32(n[1]), lanes: uint8(n[2])}, nil
}

// Cost tells what it takes to compare with the hash: hashes of the same cost take
// the same time.
func (h *Hash) Cost() string {
	if h.bcrypt != nil {
		return string(h.bcrypt[:7])
	}
	return fmt.Sprintf("$argon2id$m=%d,t=%d,p=%d$%d", h.memory, h.time, h.lanes, len(h.sum))
}

// Like returns a hash that costs the same as h and that no password matches.
// Whoever asks for an unknown user is made to wait as long as for a known one.
func (h *Hash) Like() *Hash {
	if h.bcrypt != nil {
		// Another password's hash with the same cost. Its sum is of 31
		// random-looking characters, which nobody knows a password to.
		b := append([]byte(nil), h.bcrypt[:7]...)
		return &Hash{bcrypt: append(b, randomText(53)...)}
	}
	salt, sum := make([]byte, len(h.salt)), make([]byte, len(h.sum))
	rand.Read(salt)
	rand.Read(sum)
	return &Hash{salt: salt, sum: sum, memory: h.memory, time: h.time, lanes: h.lanes}
}

// Nobody returns a hash that costs what those of New do and that no password
// matches.
func Nobody() *Hash {
	return (&Hash{salt: make([]byte, 16), sum: make([]byte, 32), memory: newMemory, time: newTime, lanes: newLanes}).Like()
}

// randomText returns n characters of bcrypt's alphabet, the 22nd and last of
// which leave no bits over.
func randomText(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	for i := range b {
		b[i] = bcryptAlphabet[b[i]&63]
	}
	b[21], b[n-1] = '.', '.'
	return b
}

// Matches computes the hash of a password and compares.
func (h *Hash) Matches(password string) bool {
	switch {
	case h.bcrypt != nil:
		p := []byte(password)
		long := len(p) > 72
		if long {
			p = p[:72]
		}
		return bcrypt.CompareHashAndPassword(h.bcrypt, p) == nil && !long
	case h.sum == nil:
		return false
	}
	sum := argon2.IDKey([]byte(password), h.salt, h.time, h.memory, h.lanes, uint32(len(h.sum)))
	return subtle.ConstantTimeCompare(sum, h.sum) == 1
}

// ErrBusy says that too many hashes are being computed already.
var ErrBusy = errors.New("too many passwords are being checked")

// Desk bounds how many hashes are computed at once, and how many wait. Each
// may take 128 MiB and a core, which a flood of sign-ins must not multiply.
type Desk struct {
	seats chan struct{}
	queue chan struct{}
}

// NewDesk returns a desk with so many seats and so many places to wait.
func NewDesk(seats, queue int) *Desk {
	return &Desk{make(chan struct{}, seats), make(chan struct{}, seats+queue)}
}

// Matches is h.Matches at a seat of the desk, or ErrBusy, or the error of ctx.
func (d *Desk) Matches(ctx context.Context, h *Hash, password string) (bool, error) {
	select {
	case d.queue <- struct{}{}:
		defer func() { <-d.queue }()
	default:
		return false, ErrBusy
	}
	select {
	case d.seats <- struct{}{}:
		defer func() { <-d.seats }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	return h.Matches(password), nil
}
