package certs

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
)

// Set is what one listener needs for TLS. It follows the files and the ACME
// authority that it was made from.
type Set struct {
	name      string
	cfg       config.TLS
	protocols []string // by ALPN
	log       *slog.Logger

	pairs     []*pair
	pool      *pool
	authority *authority
	domains   names // what of the authority belongs to this listener

	tickets *tickets
	now     atomic.Pointer[present]

	overTCP, overQUIC *tls.Config // what is shown outside
}

// present is what a set serves now.
type present struct {
	exact, wild map[string][]*tls.Certificate // by name, and by what follows the *
	first       []*tls.Certificate            // for names that none has

	tcp, quic, challenge *tls.Config
}

// ErrChallenge says that a connection was the question of an ACME authority
// (RFC 8737): it has got its answer, and is to be closed.
var ErrChallenge = errors.New("the connection was an ACME challenge")

const acmeALPN = "acme-tls/1" // RFC 8737 section 6.2

// spoken lists the names of ALPN for the versions of HTTP that run over TCP.
func spoken(l *config.Listener) (list []string) {
	if l.Speaks("http2") {
		list = append(list, "h2")
	}
	if l.Speaks("http1") {
		list = append(list, "http/1.1")
	}
	return list
}

// refresh makes the set serve what its files hold now. The store's lock is
// held.
func (s *Set) refresh() {
	p := &present{exact: make(map[string][]*tls.Certificate), wild: make(map[string][]*tls.Certificate)}
	for _, pair := range s.pairs {
		for _, name := range pair.cert.Leaf.DNSNames {
			table, key := p.place(name)
			if !slices.Contains(table[key], pair.cert) {
				table[key] = append(table[key], pair.cert)
			}
		}
	}
	for _, table := range []map[string][]*tls.Certificate{p.exact, p.wild} {
		for _, list := range table {
			slices.SortStableFunc(list, func(a, b *tls.Certificate) int { return rank(a) - rank(b) })
		}
	}
	if len(s.pairs) > 0 {
		// The first of the list, with those of other kinds of key for its name.
		cert := s.pairs[0].cert
		p.first = []*tls.Certificate{cert}
		if n := cert.Leaf.DNSNames; len(n) > 0 {
			table, key := p.place(n[0])
			p.first = table[key]
		}
	}
	p.tcp = s.config(s.protocols, tls.VersionTLS12)
	p.quic = s.config([]string{"h3"}, tls.VersionTLS13)
	if s.authority != nil && s.authority.alpn {
		p.challenge = &tls.Config{
			MinVersion: tls.VersionTLS12, NextProtos: []string{acmeALPN}, SessionTicketsDisabled: true,
			GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
				return s.authority.alpnChallenge(s.domains, hello)
			},
		}
	}
	s.now.Store(p)
}

// place returns where the certificates of a name stand.
func (p *present) place(name string) (table map[string][]*tls.Certificate, key string) {
	key = strings.ToLower(strings.TrimSuffix(name, "."))
	if suffix, ok := strings.CutPrefix(key, "*"); ok {
		return p.wild, suffix
	}
	return p.exact, key
}

// config makes the settings of crypto/tls for a listener as it is now.
func (s *Set) config(protocols []string, least uint16) *tls.Config {
	c := &tls.Config{
		MinVersion: least,
		NextProtos: protocols,
		// The first is the hybrid with ML-KEM: what is recorded today cannot be
		// read by the quantum computer of a later day.
		CurvePreferences:       []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256, tls.CurveP384},
		CipherSuites:           suites(s.cfg.Ciphers),
		GetCertificate:         s.certificate,
		SessionTicketsDisabled: s.tickets == nil,
	}
	if s.cfg.MinVersion == "1.3" {
		c.MinVersion = tls.VersionTLS13
	}
	switch s.cfg.ClientAuth.Mode {
	case "request":
		c.ClientAuth = tls.VerifyClientCertIfGiven
	case "require":
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	var clients [sha256.Size]byte
	if s.pool != nil {
		c.ClientCAs, clients = s.pool.certs, s.pool.sum
	}
	if s.tickets != nil {
		// What a ticket must not carry elsewhere: the name, since the policy on
		// client certificates may differ by name, and RFC 6066 section 3 forbids
		// it; the listener; and the authorities that the client was verified by.
		id := sha256.Sum256(fmt.Appendf(nil, "%q %q %x %q", s.name, s.cfg.ClientAuth.Mode, clients, protocols))
		s.tickets.bind(c, id)
	}
	return c
}

// suites returns the cipher suites of TLS 1.2. Without a choice they are those
// with authenticated encryption: the others have been attacked by their padding
// for two decades, and HTTP/2 forbids them.
func suites(names []string) (ids []uint16) {
	for _, s := range tls.CipherSuites() {
		id, ok := config.Cipher(s.Name)
		if ok && (slices.Contains(names, s.Name) || len(names) == 0 && !strings.Contains(s.Name, "_CBC_")) {
			ids = append(ids, id)
		}
	}
	return ids
}

// open makes the settings that are shown outside. They stay as long as the Set,
// and lead each client to what is served at its time.
func (s *Set) open() {
	s.refresh()
	p := s.now.Load()
	s.overTCP = &tls.Config{
		MinVersion: p.tcp.MinVersion, NextProtos: p.tcp.NextProtos, GetCertificate: s.certificate,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			p := s.now.Load()
			if p.challenge != nil && len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acmeALPN {
				// An authority has no client certificate to show, and gets nothing
				// but the answer to its question.
				return p.challenge, nil
			}
			return p.tcp, nil
		},
	}
	s.overQUIC = &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: p.quic.NextProtos, GetCertificate: s.certificate,
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.now.Load().quic, nil },
	}
}

// Config returns settings for crypto/tls over TCP. They follow every change of
// files, and must not be changed. Who uses them without Handshake must close
// connections whose negotiated protocol is acme-tls/1.
func (s *Set) Config() *tls.Config { return s.overTCP }

// QUIC returns the same for HTTP/3.
func (s *Set) QUIC() *tls.Config { return s.overQUIC }

// Handshake speaks TLS with a client. The time that it may take is the caller's
// to bound, by ctx or by the connection. On an error the caller closes the
// connection; ErrChallenge is one that nobody needs to hear of.
func (s *Set) Handshake(ctx context.Context, nc net.Conn) (*tls.Conn, *exchange.TLS, error) {
	conn := tls.Server(nc, s.overTCP)
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, nil, err
	}
	state := conn.ConnectionState()
	switch {
	case state.NegotiatedProtocol == acmeALPN:
		return nil, nil, ErrChallenge
	case state.NegotiatedProtocol == "" && !slices.Contains(s.protocols, "http/1.1"):
		return nil, nil, errors.New("the client names no protocol, and the listener does not speak HTTP/1.1")
	}
	return conn, Facts(&state), nil
}

// HandshakeTimeout is the longest time that a handshake may take.
func (s *Set) HandshakeTimeout() time.Duration { return s.cfg.HandshakeTimeout.D() }

// ForwardsClientCert tells whether services are told the client's certificate.
func (s *Set) ForwardsClientCert() bool { return s.cfg.ForwardClientCert }

// Facts takes what exchanges need to know from a connection whose handshake is
// done. A resumed session has the client certificate that it began with.
func Facts(state *tls.ConnectionState) *exchange.TLS {
	t := &exchange.TLS{
		ServerName: strings.ToLower(state.ServerName), Protocol: state.NegotiatedProtocol,
		Version: state.Version, Cipher: state.CipherSuite, Group: uint16(state.CurveID), Resumed: state.DidResume,
	}
	if len(state.VerifiedChains) > 0 {
		t.Peer = exchange.NewCertificate(state.VerifiedChains[0])
	}
	return t
}

// certificate picks what a client gets to see: for its name exactly, then by a
// wildcard, then the first of all.
func (s *Set) certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	p := s.now.Load()
	name := strings.ToLower(hello.ServerName)
	list := p.exact[name]
	if list == nil && s.authority != nil && s.domains.match(name) {
		list = s.authority.certificates(name)
	}
	if list == nil {
		list = p.find(name)
	}
	if list == nil {
		list = p.first
	}
	if list == nil && s.authority != nil {
		list = s.authority.certificates(s.cfg.ACME.Domains[0])
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("listener %q has no certificate yet for %q", s.name, hello.ServerName)
	}
	return pick(hello, list), nil
}

// find returns the certificates of a name in lower case, nil for none.
func (p *present) find(name string) []*tls.Certificate {
	if list := p.exact[name]; list != nil {
		return list
	}
	if i := strings.IndexByte(name, '.'); i > 0 {
		return p.wild[name[i:]]
	}
	return nil
}

// pick returns the first certificate that the client can use and that is valid,
// then the first that it can use, then the first: the handshake will say why
// not.
func pick(hello *tls.ClientHelloInfo, list []*tls.Certificate) *tls.Certificate {
	if len(list) == 1 {
		return list[0]
	}
	h := *hello
	h.ServerName = "" // the name was looked at, and the first of all has another
	now := time.Now()
	var usable *tls.Certificate
	for _, c := range list {
		if h.SupportsCertificate(c) != nil {
			continue
		}
		if valid(c.Leaf, now) {
			return c
		}
		if usable == nil {
			usable = c
		}
	}
	if usable != nil {
		return usable
	}
	return list[0]
}

// names are those that a listener has from its ACME authority.
type names map[string]bool

func domains(list []string) names {
	n := make(names, len(list))
	for _, d := range list {
		n[strings.ToLower(d)] = true
	}
	return n
}

// match tells whether a name in lower case is one of them, or is meant by one
// with a wildcard.
func (n names) match(name string) bool {
	if n[name] {
		return true
	}
	i := strings.IndexByte(name, '.')
	return i > 0 && n["*"+name[i:]]
}
