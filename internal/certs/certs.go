// Package certs owns the certificates of listeners: it reads them from files
// and watches these, obtains and renews others by ACME, picks one for each
// client, and makes from all of it the settings of crypto/tls. It refuses to
// open a socket for clients, to know a protocol that runs over TLS, and to
// serve what is broken: a certificate that is served stays until a good one
// takes its place.
package certs

import (
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/watch"
)

// Options is what a Store is made from.
type Options struct {
	Log *slog.Logger
	// Tickets gives the keys of session tickets where several gateways share
	// them. Nil: random keys that one listener alone has.
	Tickets TicketKeys
	// Storage keeps what ACME obtains, in place of the folder that the
	// configuration names.
	Storage Storage
	// DNS sets the records of dns-01, in place of the name server that the
	// configuration names.
	DNS DNS

	renewals time.Duration // how often ACME looks for renewals; 0: every ten minutes
	took     func()        // called when Recheck has taken something over; may be nil
}

// Store holds all certificates of the process. It lives as long as the process,
// and goes from one configuration to the next by Prepare and Commit.
type Store struct {
	o     Options
	watch *watch.Watcher

	mu          sync.Mutex
	pairs       map[config.Certificate]*pair
	pools       map[string]*pool
	sets        map[string]*Set // by name of the listener
	authorities map[string]*authority
	closed      bool
}

// New returns a store without certificates. Close ends it.
func New(o Options) *Store {
	s := &Store{
		o: o, pairs: make(map[config.Certificate]*pair), pools: make(map[string]*pool),
		sets: make(map[string]*Set), authorities: make(map[string]*authority),
	}
	s.watch = watch.New(s.Recheck, func(err error) {
		o.Log.Warn("certificate files cannot be watched, they are compared at intervals", "error", err)
	})
	return s
}

// Change holds the certificates of a new configuration, read but not served
// yet. Exactly one of Commit and Discard must be called, and no other Prepare
// before it.
type Change struct {
	s           *Store
	sets        map[string]*Set
	pairs       map[config.Certificate]*pair
	pools       map[string]*pool
	authorities map[string]*authority
	domains     map[*authority][]string
}

// Prepare reads the certificates of all listeners. Without a fault the error is
// nil; a certificate that has expired is none, since it may be all there is.
// A listener whose settings did not change keeps its Set.
func (s *Store) Prepare(cfg *config.Config) (*Change, config.Faults) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &Change{
		s: s, sets: make(map[string]*Set), pairs: make(map[config.Certificate]*pair),
		pools: make(map[string]*pool), authorities: make(map[string]*authority), domains: make(map[*authority][]string),
	}
	var faults config.Faults
	for i, l := range cfg.Listeners {
		if l.TLS == nil {
			continue
		}
		faults = append(faults, c.listener(cfg, fmt.Sprintf("listeners[%d].tls", i), l)...)
	}
	if len(faults) > 0 {
		c.stopFresh()
		return nil, faults
	}
	return c, nil
}

// listener finds or makes the set of one listener.
func (c *Change) listener(cfg *config.Config, at string, l *config.Listener) (faults config.Faults) {
	set := &Set{name: l.Name, cfg: *l.TLS, protocols: spoken(l), log: c.s.o.Log, tickets: newTickets(l.TLS.SessionTickets, c.s.o.Tickets)}
	for i, files := range l.TLS.Certificates {
		p, err := c.pair(*files)
		if err != nil {
			faults = append(faults, cfg.Fault(fmt.Sprintf("%s.certificates[%d].%s", at, i, err.key), err.Error(), ""))
			continue
		}
		set.pairs = append(set.pairs, p)
	}
	if file := l.TLS.ClientAuth.CAFile; file != "" {
		p, err := c.pool(file)
		if err != nil {
			faults = append(faults, cfg.Fault(at+".client_auth.ca_file", err.Error(), ""))
		}
		set.pool = p
	}
	if l.TLS.ACME != nil {
		a, err := c.authority(l.TLS.ACME)
		if err != nil {
			faults = append(faults, acmeFault(cfg, at, err))
		} else {
			set.authority, set.domains = a, domains(l.TLS.ACME.Domains)
			c.domains[a] = append(c.domains[a], l.TLS.ACME.Domains...)
		}
	}
	if faults != nil {
		return faults
	}
	if old := c.s.sets[l.Name]; old != nil && old.same(set) {
		set = old
	} else {
		set.open()
	}
	c.sets[l.Name] = set
	return nil
}

// acmeFault says at which setting of ACME an error belongs.
func acmeFault(cfg *config.Config, at string, err error) config.Fault {
	at += ".acme"
	if field := (*fieldError)(nil); errors.As(err, &field) {
		at += "." + field.key
	}
	return cfg.Fault(at, err.Error(), "")
}

// pair finds or reads a certificate.
func (c *Change) pair(files config.Certificate) (*pair, *fieldError) {
	if p := c.pairs[files]; p != nil {
		return p, nil
	}
	p := c.s.pairs[files]
	if p == nil {
		p = &pair{files: files, log: c.s.o.Log}
		if err := p.load(); err != nil {
			return nil, err
		}
	}
	c.pairs[files] = p
	return p, nil
}

// pool finds or reads a list of authorities.
func (c *Change) pool(file string) (*pool, error) {
	if p := c.pools[file]; p != nil {
		return p, nil
	}
	p := c.s.pools[file]
	if p == nil {
		p = &pool{file: file, log: c.s.o.Log}
		if err := p.load(); err != nil {
			return nil, err
		}
	}
	c.pools[file] = p
	return p, nil
}

// authority finds or makes the client of an ACME authority.
func (c *Change) authority(a *config.ACME) (*authority, error) {
	roots, err := authorityRoots(a)
	if err != nil {
		return nil, err
	}
	key := authorityKey(a, roots)
	if found := c.authorities[key]; found != nil {
		return found, nil
	}
	found := c.s.authorities[key]
	if found == nil {
		if found, err = newAuthority(a, roots, &c.s.o); err != nil {
			return nil, err
		}
	}
	c.authorities[key] = found
	return found, nil
}

// Set returns the certificates of a listener with TLS, nil for others.
func (c *Change) Set(l *config.Listener) *Set { return c.sets[l.Name] }

// Discard forgets what Prepare has read.
func (c *Change) Discard() {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	c.stopFresh()
}

// stopFresh ends the authorities that are not in use.
func (c *Change) stopFresh() {
	for key, a := range c.authorities {
		if c.s.authorities[key] == nil {
			a.stop()
		}
	}
}

// Commit makes the change the present state: its files are watched, and its
// names are obtained by ACME. It comes when the listeners have their sets, since
// an authority may ask at once. What the change does not name ends; sets that
// listeners still hold go on with the certificates that they have.
func (c *Change) Commit() {
	s := c.s
	s.mu.Lock()
	old := s.authorities
	s.sets, s.pairs, s.pools, s.authorities = c.sets, c.pairs, c.pools, c.authorities
	for _, set := range s.sets {
		set.refresh() // files may have changed since it was made
	}
	var files []string
	for f := range s.pairs {
		files = append(files, f.CertFile, f.KeyFile)
		if f.OCSPFile != "" {
			files = append(files, f.OCSPFile)
		}
	}
	for f := range s.pools {
		files = append(files, f)
	}
	s.mu.Unlock()
	s.watch.Follow(files)
	for _, a := range c.authorities {
		a.manage(c.domains[a])
	}
	for key, a := range old {
		if c.authorities[key] != a {
			a.stop()
		}
	}
}

// Recheck compares the files with what is served, and takes over what is good.
// It happens by itself when they change; a signal may ask for it as well.
func (s *Store) Recheck() {
	s.mu.Lock()
	defer s.mu.Unlock()
	changed := false
	for _, p := range s.pairs {
		changed = p.check() || changed
	}
	for _, p := range s.pools {
		changed = p.check() || changed
	}
	if !changed {
		return
	}
	for _, set := range s.sets {
		set.refresh()
	}
	if s.o.took != nil {
		s.o.took()
	}
}

// Status is a certificate as the status page and the metrics show it.
type Status struct {
	Names   []string  `json:"names"`
	Source  string    `json:"source"` // the certificate's file, or the URL of the ACME directory
	Expires time.Time `json:"expires,omitzero"`
	Stapled bool      `json:"stapled,omitempty"` // with an OCSP response
	Error   string    `json:"error,omitempty"`   // why a newer one is not served, or none is
}

// Status returns all certificates, by source and name.
func (s *Store) Status() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Status
	for _, p := range s.pairs {
		out = append(out, p.status())
	}
	for _, p := range s.pools {
		if p.failure != "" {
			out = append(out, Status{Source: p.file, Error: p.failure})
		}
	}
	for _, a := range s.authorities {
		out = append(out, a.status()...)
	}
	slices.SortFunc(out, func(a, b Status) int {
		return slices.Compare(append([]string{a.Source}, a.Names...), append([]string{b.Source}, b.Names...))
	})
	return out
}

// HTTPChallenge answers the request of an ACME authority that comes to a plain
// listener (RFC 8555 section 8.3). It reports false for every other request.
func (s *Store) HTTPChallenge(host, path string) (answer string, ok bool) {
	if !isChallenge(path) {
		return "", false
	}
	s.mu.Lock()
	list := make([]*authority, 0, len(s.authorities))
	for _, a := range s.authorities {
		list = append(list, a)
	}
	s.mu.Unlock()
	for _, a := range list {
		if answer, ok := a.httpChallenge(host, path); ok {
			return answer, true
		}
	}
	return "", false
}

// farewell is how long Close waits for what runs.
const farewell = 2 * time.Second

// Close ends watching and renewing. Sets go on with the certificates that they
// have.
func (s *Store) Close() {
	s.mu.Lock()
	authorities := s.authorities
	s.authorities = make(map[string]*authority)
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	if !closed {
		s.watch.Close()
	}
	for _, a := range authorities {
		a.stop()
	}
	limit := time.NewTimer(farewell)
	defer limit.Stop()
	for _, a := range authorities {
		select {
		case <-a.done:
		case <-limit.C:
			return
		}
	}
}

// same tells whether a listener may go on with a set as it is.
func (s *Set) same(other *Set) bool {
	return reflect.DeepEqual(s.cfg, other.cfg) && slices.Equal(s.protocols, other.protocols) &&
		slices.Equal(s.pairs, other.pairs) && s.pool == other.pool && s.authority == other.authority
}
