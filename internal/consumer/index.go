// Package consumer owns who may call and what proves it: an index of
// credentials that changes one entry at a time and is read without locks. It is
// not part of a snapshot, so that a million keys cost a reload nothing.
//
// It keeps hashes and public keys, and what else a proof is checked against,
// and refuses to know how a credential comes with a request: that is the
// policies' business. They see it through small interfaces of their own.
package consumer

import (
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/password"
)

// Why a credential does not prove anybody. The reasons are for logs: a client
// is never told which it was.
var (
	ErrUnknown  = errors.New("no consumer has this credential")
	ErrDisabled = errors.New("the consumer or the credential is disabled")
	ErrExpired  = errors.New("the credential has expired")
	ErrNotYet   = errors.New("the credential is not valid yet")
)

// Credential is an entry of the index: whom it proves and when. Nothing writes
// to one.
type Credential struct {
	name      string // of the credential
	consumer  string
	groups    []string
	labels    map[string]string
	notBefore int64 // seconds since 1970, 0 for none
	expires   int64
	disabled  bool
	proof     *proof // nil for credentials that are proved by being found
}

// proof is what else a credential is checked against. It stands apart so that
// an API key, of which there may be a million, has two cache lines with it.
type proof struct {
	hash      *password.Hash // of a basic credential
	algorithm string         // of a signature credential
	key       any            // []byte, or a public key
}

// identify fills in whom the credential proves, or says why it does not.
func (c *Credential) identify(who *exchange.Who) error {
	switch {
	case c == nil:
		return ErrUnknown
	case c.disabled:
		return ErrDisabled
	case c.notBefore != 0 || c.expires != 0:
		now := time.Now().Unix()
		if c.expires != 0 && now >= c.expires {
			return ErrExpired
		}
		if now < c.notBefore {
			return ErrNotYet
		}
	}
	who.Consumer, who.Credential = c.consumer, c.name
	who.Groups, who.Labels = c.groups, c.labels
	return nil
}

type subject struct{ issuer, subject string }

// Index is the index. Its lookups may be used by any number of goroutines
// while it is changed.
type Index struct {
	edit      sync.Mutex // one Put or Delete at a time
	mu        sync.Mutex // guards consumers
	consumers map[string]*config.Consumer

	names  table[string]
	keys   table[[32]byte]
	users  table[string]
	tokens table[subject]
	certs  table[string]
	signs  table[string]
	people table[string]

	strangers *strangers
}

// New returns an empty index.
func New() *Index {
	seed := maphash.MakeSeed()
	text := func(s string) uint64 { return maphash.String(seed, s) }
	same := func(a, b string) bool { return a == b }
	x := &Index{consumers: make(map[string]*config.Consumer), strangers: newStrangers()}
	for _, t := range []*table[string]{&x.names, &x.users, &x.certs, &x.signs, &x.people} {
		t.hash, t.equal = text, same
	}
	x.keys.hash = func(k [32]byte) uint64 { return binary.LittleEndian.Uint64(k[:]) }
	x.keys.equal = func(a, b [32]byte) bool { return subtle.ConstantTimeCompare(a[:], b[:]) == 1 }
	x.tokens.hash = func(s subject) uint64 {
		return maphash.String(seed, s.issuer)*31 + maphash.String(seed, s.subject)
	}
	x.tokens.equal = func(a, b subject) bool { return a == b }
	return x
}

// Len returns how many consumers there are.
func (x *Index) Len() int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return len(x.consumers)
}

// Named identifies a consumer by its name, for policies whose proof leads to a
// name, or that have a consumer for requests without any.
func (x *Index) Named(name string, who *exchange.Who) error {
	return x.names.find(name).identify(who)
}

// APIKey identifies the consumer of a key by the key's SHA-256.
func (x *Index) APIKey(sum [32]byte, who *exchange.Who) error {
	return x.keys.find(sum).identify(who)
}

// Password identifies the consumer of a user name, and returns what the
// password has to match. For an unknown user it returns a hash that nothing
// matches and that costs what that of a user does, so that both take the same
// time; it must be compared with in any case.
func (x *Index) Password(username string, who *exchange.Who) (*password.Hash, error) {
	c := x.users.find(username)
	if c == nil {
		return x.strangers.find(username), ErrUnknown
	}
	return c.proof.hash, c.identify(who)
}

// Subject identifies the consumer of a token's issuer and subject, and tells
// whether there is one.
func (x *Index) Subject(issuer, sub string, who *exchange.Who) (known bool, err error) {
	c := x.tokens.find(subject{issuer, sub})
	if c == nil {
		return false, nil
	}
	return true, c.identify(who)
}

// Certificate identifies the consumer of a client certificate that has been
// verified, and tells whether there is one: by its thumbprint, the hex of its
// SHA-256, else by its alternative names, each with its type before it
// ("dns:NAME"), else by its subject.
func (x *Index) Certificate(thumbprint string, sans []string, name string, who *exchange.Who) (known bool, err error) {
	c := x.certs.find("x " + thumbprint)
	for i := 0; c == nil && i < len(sans); i++ {
		if san, err := config.SAN(sans[i]); err == nil {
			c = x.certs.find("a " + san)
		}
	}
	if c == nil {
		c = x.certs.find("s " + name)
	}
	if c == nil {
		return false, nil
	}
	return true, c.identify(who)
}

// SignatureKey identifies the consumer of a key id, and returns the key's
// algorithm and the key: the bytes of a shared secret, or a public key.
func (x *Index) SignatureKey(id string, who *exchange.Who) (algorithm string, key any, err error) {
	c := x.signs.find(id)
	if c == nil {
		return "", nil, ErrUnknown
	}
	return c.proof.algorithm, c.proof.key, c.identify(who)
}

// Person identifies the consumer of somebody in a directory, and tells whether
// there is one.
func (x *Index) Person(name string, who *exchange.Who) (known bool, err error) {
	c := x.people.find(strings.ToLower(name))
	if c == nil {
		return false, nil
	}
	return true, c.identify(who)
}

// Change is a checked change of the index that has not been made.
type Change struct {
	x      *Index
	next   map[string]*config.Consumer
	names  []change[string]
	keys   []change[[32]byte]
	users  []change[string]
	tokens []change[subject]
	certs  []change[string]
	signs  []change[string]
	people []change[string]
	costs  costs
}

// Prepare works out what has to change to make the index say what a
// configuration says. Consumers that it says nothing new about are left alone.
// Nothing else may change the index before Commit.
func (x *Index) Prepare(cfg *config.Config) (*Change, config.Faults) {
	x.mu.Lock()
	have := x.consumers
	x.mu.Unlock()
	c := &Change{x: x, next: make(map[string]*config.Consumer, len(cfg.Consumers))}
	var faults config.Faults
	for i, next := range cfg.Consumers {
		if next == nil {
			continue // decoding has said what is wrong with it
		}
		c.next[next.Name] = next
		old := have[next.Name]
		if old != nil && reflect.DeepEqual(old, next) {
			continue
		}
		c.drop(old)
		for _, f := range c.add(next) {
			faults = append(faults, cfg.Fault(fmt.Sprintf("consumers[%d].%s", i, f.path), f.text, ""))
		}
	}
	for name, old := range have {
		if c.next[name] == nil {
			c.drop(old)
		}
	}
	if faults != nil {
		return nil, faults
	}
	c.order()
	return c, nil
}

// order puts what goes before what comes: a credential may move from one
// consumer to another, and the last change of a key holds.
func (c *Change) order() {
	first(c.names)
	first(c.keys)
	first(c.users)
	first(c.tokens)
	first(c.certs)
	first(c.signs)
	first(c.people)
}

func first[K comparable](changes []change[K]) {
	slices.SortStableFunc(changes, func(a, b change[K]) int {
		switch {
		case a.value == nil && b.value != nil:
			return -1
		case a.value != nil && b.value == nil:
			return 1
		}
		return 0
	})
}

// Commit makes the change.
func (c *Change) Commit() {
	x := c.x
	x.mu.Lock()
	defer x.mu.Unlock()
	x.consumers = c.next
	x.strangers.commit(c.costs)
	commit(&x.keys, c.keys)
	commit(&x.users, c.users)
	commit(&x.tokens, c.tokens)
	commit(&x.certs, c.certs)
	commit(&x.signs, c.signs)
	commit(&x.people, c.people)
	commit(&x.names, c.names)
}

func commit[K comparable](t *table[K], changes []change[K]) {
	if len(changes) > 0 {
		t.apply(changes)
	}
}

// Put adds a consumer or replaces the one of its name. A credential that
// another consumer has is an error, and nothing changes.
func (x *Index) Put(next *config.Consumer) error {
	x.edit.Lock()
	defer x.edit.Unlock()
	x.mu.Lock()
	old := x.consumers[next.Name]
	x.mu.Unlock()
	c := &Change{x: x}
	c.drop(old)
	if f := c.add(next); f != nil {
		return fmt.Errorf("consumer %q: %s: %s", next.Name, f[0].path, f[0].text)
	}
	if c.clashes(next.Name) {
		return fmt.Errorf("consumer %q: a credential belongs to another consumer", next.Name)
	}
	c.order()
	c.next = x.with(next.Name, next)
	c.Commit()
	return nil
}

// Delete removes a consumer, and reports whether it was there.
func (x *Index) Delete(name string) bool {
	x.edit.Lock()
	defer x.edit.Unlock()
	x.mu.Lock()
	old := x.consumers[name]
	x.mu.Unlock()
	if old == nil {
		return false
	}
	c := &Change{x: x}
	c.drop(old)
	c.next = x.with(name, nil)
	c.Commit()
	return true
}

// with changes one entry of the list of consumers in place.
func (x *Index) with(name string, next *config.Consumer) map[string]*config.Consumer {
	x.mu.Lock()
	defer x.mu.Unlock()
	if next == nil {
		delete(x.consumers, name)
	} else {
		x.consumers[name] = next
	}
	return x.consumers
}

// clashes tells whether an entry that is to be added belongs to a consumer of
// another name.
func (c *Change) clashes(name string) bool {
	return owned(&c.x.keys, c.keys, name) || owned(&c.x.users, c.users, name) || owned(&c.x.tokens, c.tokens, name) ||
		owned(&c.x.certs, c.certs, name) || owned(&c.x.signs, c.signs, name) ||
		owned(&c.x.people, c.people, name)
}

func owned[K comparable](t *table[K], changes []change[K], name string) bool {
	return slices.ContainsFunc(changes, func(c change[K]) bool {
		have := t.find(c.key)
		return c.value != nil && have != nil && have.consumer != name
	})
}

// entry returns what all credentials of a consumer have in common.
func entry(c *config.Consumer) Credential {
	return Credential{consumer: c.Name, groups: slices.Clone([]string(c.Groups)), labels: maps.Clone(c.Labels), disabled: c.Disabled}
}
