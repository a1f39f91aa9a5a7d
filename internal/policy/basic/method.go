package basic

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/identify"
	"gatehouse.dev/gatehouse/internal/password"
)

const (
	remember = 5 * time.Minute
	longest  = 2048            // bytes of the encoded credential
	patience = 5 * time.Second // for a seat at the desk
)

type method struct {
	place     identify.Place
	realm     string
	forward   bool
	guard     *identify.Guard
	desk      *password.Desk
	right     *memory // nil: nothing is remembered
	consumers consumers
	ctx       context.Context
}

var (
	errForm     = errors.New("the credential is not base64 of name:password in UTF-8")
	errPassword = errors.New("the password is wrong")
)

func (m *method) Prove(x *exchange.Exchange) error {
	text, err := m.place.Find(&x.Request, longest)
	switch {
	case err != nil:
		return m.refuse(err, "")
	case text == "":
		return identify.ErrNone
	}
	var buf [longest]byte
	n, err := base64.StdEncoding.Strict().Decode(buf[:], []byte(text))
	if err != nil {
		return m.refuse(errForm, "")
	}
	user, pass, ok := strings.Cut(string(buf[:n]), ":")
	if !ok || !utf8.Valid(buf[:n]) || strings.ContainsFunc(user, control) || strings.ContainsFunc(pass, control) || len(pass) > password.Most {
		return m.refuse(errForm, "")
	}
	return m.check(x, user, pass)
}

// control tells the characters that neither a name nor a password has (RFC
// 7617, section 2).
func control(r rune) bool { return r < ' ' || r == 0x7f }

// check compares the password. Known and unknown users take the same way
// through it, so that they take the same time.
func (m *method) check(x *exchange.Exchange, user, pass string) error {
	hash, unknown := m.consumers.Password(user, &x.Who)
	if unknown == nil && m.right.has(hash, user, pass) {
		x.Who.Subject = user
		return nil
	}
	// What is remembered is let in before this: guessing at a name does not
	// lock out whoever knows the password and uses it.
	if err := m.guard.Blocked(x, user); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(m.ctx, patience)
	defer cancel()
	matches, err := m.desk.Matches(ctx, hash, pass)
	switch {
	case err != nil:
		return identify.Unavailable(err)
	case unknown != nil:
		return m.refuse(unknown, user)
	case !matches:
		return m.refuse(errPassword, user)
	}
	m.right.add(hash, user, pass)
	m.guard.Proved(x, user)
	x.Who.Subject = user
	return nil
}

func (m *method) refuse(cause error, user string) error {
	return &identify.Refusal{Cause: cause, Credential: user}
}

func (m *method) Place() string { return m.place.String() }

func (m *method) Hide(x *exchange.Exchange, proved bool) {
	if !m.forward || !proved {
		m.place.Remove(&x.Request)
	}
}

// Challenge says that names and passwords are UTF-8 (RFC 7617, section 2.1).
func (m *method) Challenge(bool) string { return `Basic realm="` + m.realm + `", charset="UTF-8"` }

// memory remembers which passwords were right, by a keyed hash: it holds no
// password, and what it holds is of no use outside of this process. An entry
// belongs to the hash that the password matched, so that a changed password
// is noticed at once.
type memory struct {
	ttl  time.Duration
	most int
	key  [32]byte
	mu   sync.RWMutex
	m    map[[32]byte]remembered
}

type remembered struct {
	hash  *password.Hash
	until int64 // by exchange.Now
}

func newMemory(ttl time.Duration, most int) *memory {
	m := &memory{ttl: ttl, most: most, m: make(map[[32]byte]remembered)}
	rand.Read(m.key[:])
	return m
}

// sum is the keyed hash of a name and a password. Names have no colon.
func (m *memory) sum(user, pass string) [32]byte {
	var buf [32 + 256 + 1 + password.Most]byte
	b := append(buf[:0], m.key[:]...)
	b = append(b, user...)
	b = append(b, ':')
	b = append(b, pass...)
	return sha256.Sum256(b)
}

func (m *memory) has(hash *password.Hash, user, pass string) bool {
	if m == nil {
		return false
	}
	sum := m.sum(user, pass)
	m.mu.RLock()
	r, ok := m.m[sum]
	m.mu.RUnlock()
	return ok && r.hash == hash && exchange.Now() < r.until
}

func (m *memory) add(hash *password.Hash, user, pass string) {
	if m == nil {
		return
	}
	sum := m.sum(user, pass)
	now := exchange.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.m[sum]; !ok && len(m.m) >= m.most {
		m.makeRoom(now)
	}
	m.m[sum] = remembered{hash, now + int64(m.ttl)}
}

// makeRoom removes what is over, and then any entries until an eighth is free:
// all entries are looked at, which is not to happen for every user.
func (m *memory) makeRoom(now int64) {
	for k, r := range m.m {
		if now >= r.until {
			delete(m.m, k)
		}
	}
	for k := range m.m {
		if len(m.m) < m.most-m.most/8 {
			return
		}
		delete(m.m, k)
	}
}
