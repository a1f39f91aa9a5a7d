package certs

import (
	"bytes"
	"crypto/rand"
	"crypto/tls"
	"sync"
	"sync/atomic"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
)

// TicketKeys gives the keys of session tickets. It is asked by many goroutines.
type TicketKeys interface {
	// Keys returns the keys, the one that encrypts first, and when to ask again.
	// A ticket is taken as long as its key is among them.
	Keys() (keys [][32]byte, until time.Time)
}

// oldKeys is how many keys are kept after they have stopped to encrypt.
const oldKeys = 2

// randomKeys are keys that nobody else has.
type randomKeys struct {
	rotate time.Duration

	mu   sync.Mutex
	keys [][32]byte
	next time.Time
}

func (r *randomKeys) Keys() ([][32]byte, time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if !now.Before(r.next) {
		var key [32]byte
		rand.Read(key[:]) // it never fails (crypto/rand)
		keys := [][32]byte{key}
		// A gateway that nobody spoke to for a while has keys that are too old.
		for i := 0; i < oldKeys && i < len(r.keys) && now.Sub(r.next) < time.Duration(oldKeys-i)*r.rotate; i++ {
			keys = append(keys, r.keys[i])
		}
		r.keys, r.next = keys, now.Add(r.rotate)
	}
	return r.keys, r.next
}

// tickets encrypts sessions with the present keys, and binds each to what it
// may be resumed for.
type tickets struct {
	source TicketKeys
	vault  *tls.Config               // has the keys, and is used for nothing else
	until  atomic.Pointer[time.Time] // when to ask for keys again
	mu     sync.Mutex
}

// newTickets returns nil where no tickets are given out.
func newTickets(cfg config.SessionTickets, shared TicketKeys) *tickets {
	if !cfg.Enabled {
		return nil
	}
	t := &tickets{source: shared, vault: new(tls.Config)}
	if shared == nil {
		t.source = &randomKeys{rotate: cfg.Rotate.D()}
	}
	return t
}

// fresh takes over new keys when it is time.
func (t *tickets) fresh() {
	if until := t.until.Load(); until != nil && time.Now().Before(*until) {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	keys, until := t.source.Keys()
	if len(keys) > 0 {
		t.vault.SetSessionTicketKeys(keys)
	}
	t.until.Store(&until)
}

// extra begins what is added to a session: others may add to it as well.
const extra = "gatehouse "

// bind makes settings give out tickets that only they take, and only for the
// name that the ticket was given for.
func (t *tickets) bind(c *tls.Config, id [32]byte) {
	mark := func(state tls.ConnectionState) []byte {
		m := append([]byte(extra), id[:]...)
		return append(m, bytes.ToLower([]byte(state.ServerName))...)
	}
	c.WrapSession = func(state tls.ConnectionState, session *tls.SessionState) ([]byte, error) {
		t.fresh()
		session.Extra = append(session.Extra, mark(state))
		return t.vault.EncryptTicket(state, session)
	}
	c.UnwrapSession = func(ticket []byte, state tls.ConnectionState) (*tls.SessionState, error) {
		t.fresh()
		session, err := t.vault.DecryptTicket(ticket, state)
		if session == nil || err != nil {
			return nil, err
		}
		want := mark(state)
		for _, e := range session.Extra {
			if bytes.Equal(e, want) {
				return session, nil
			}
		}
		return nil, nil // a full handshake
	}
}
