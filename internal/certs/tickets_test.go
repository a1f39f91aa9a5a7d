package certs

import (
	"crypto/tls"
	"crypto/x509/pkix"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
)

// sessions is a client that remembers one session, whatever it was for.
type sessions struct {
	mu sync.Mutex
	s  *tls.ClientSessionState
}

func (s *sessions) Get(string) (*tls.ClientSessionState, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.s, s.s != nil
}

func (s *sessions) Put(_ string, state *tls.ClientSessionState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if state != nil {
		s.s = state
	}
}

const guarded = `
  - { name: open, address: ":1", tls: { certificates: [{ cert_file: a.crt, key_file: a.key }] } }
  - { name: asked, address: ":2", tls: { certificates: [{ cert_file: a.crt, key_file: a.key }], client_auth: { mode: request, ca_file: p.pem } } }
  - { name: closed, address: ":3", tls: { certificates: [{ cert_file: a.crt, key_file: a.key }], client_auth: { mode: require, ca_file: p.pem } } }
  - { name: other, address: ":4", tls: { certificates: [{ cert_file: a.crt, key_file: a.key }], client_auth: { mode: require, ca_file: q.pem } } }
  - { name: without, address: ":5", tls: { certificates: [{ cert_file: a.crt, key_file: a.key }], session_tickets: { enabled: false } } }`

// sharedKeys are the same for all listeners, as within a cluster.
type sharedKeys struct{}

func (sharedKeys) Keys() ([][32]byte, time.Time) {
	return [][32]byte{{1, 2, 3}}, time.Now().Add(time.Hour)
}

// A ticket resumes what it was given for and nothing else: same listener, same
// name, same authorities for client certificates. That holds with keys that
// all listeners share.
func TestTicketsAreBound(t *testing.T) {
	for name, o := range map[string]Options{"own keys": {}, "shared keys": {Tickets: sharedKeys{}}} {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			r, ca, partners := newRig(t, o), newIssuer(t, "servers"), newIssuer(t, "partners")
			r.pair(ca, "a", leaf{names: []string{"a.example", "*.a.example"}})
			r.write("p.pem", partners.pem())
			r.write("q.pem", newIssuer(t, "others").pem())
			r.mustApply(guarded)
			identity := partners.identity(leaf{subject: pkix.Name{CommonName: "mobile"}})
			for _, c := range []struct {
				from, fromName string
				shows          bool
				to, toName     string
				resumed, taken bool
			}{
				{"open", "a.example", false, "open", "a.example", true, true},
				{"open", "a.example", false, "open", "A.Example", true, true},
				{"open", "a.example", false, "open", "b.a.example", false, true},
				{"open", "b.a.example", false, "open", "c.a.example", false, true},
				{"open", "a.example", false, "asked", "a.example", false, true},
				{"open", "a.example", false, "closed", "a.example", false, false},
				{"asked", "a.example", false, "closed", "a.example", false, false},
				{"asked", "a.example", true, "closed", "a.example", false, false},
				{"closed", "a.example", true, "closed", "a.example", true, true},
				{"closed", "a.example", true, "closed", "b.a.example", false, false},
				{"closed", "a.example", true, "asked", "a.example", false, true},
				{"closed", "a.example", true, "other", "a.example", false, false},
				{"closed", "a.example", true, "open", "a.example", false, true},
				{"without", "a.example", false, "without", "a.example", false, true},
			} {
				// The certificate is shown the first time only: later there is
				// nothing but the ticket.
				client := &tls.Config{RootCAs: ca.pool(), ServerName: c.fromName, MaxVersion: version, ClientSessionCache: new(sessions)}
				if c.shows {
					client.Certificates = []tls.Certificate{identity}
				}
				v := r.mustConnect(c.from, client)
				if v.facts.Resumed {
					t.Fatalf("%+v: the first connection resumes", c)
				}
				client = client.Clone()
				client.ServerName, client.Certificates = c.toName, nil
				v, err := r.connect(c.to, client)
				if (err == nil) != c.taken {
					t.Errorf("%s, %#x, %+v: %v", name, version, c, err)
				}
				if err != nil {
					continue
				}
				if v.facts.Resumed != c.resumed {
					t.Errorf("%s, %#x, %+v: resumed %v", name, version, c, v.facts.Resumed)
				}
				if kept := v.facts.Peer != nil; kept != (c.resumed && c.shows) {
					t.Errorf("%s, %#x, %+v: peer %v", name, version, c, kept)
				} else if kept && v.facts.Peer.Subject() != "CN=mobile" {
					t.Errorf("%s, %#x, %+v: peer %q", name, version, c, v.facts.Peer.Subject())
				}
			}
		}
	}
}

// Keys follow each other, and a ticket is taken as long as its key is one of the
// last three.
func TestTicketKeysRotate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca := newIssuer(t, "servers")
		cert, err := tls.X509KeyPair(ca.issue(leaf{names: []string{"a.example"}, to: 1000 * time.Hour}))
		if err != nil {
			t.Fatal(err)
		}
		set := &Set{
			name: "x", protocols: []string{"http/1.1"}, pairs: []*pair{{cert: &cert}},
			tickets: newTickets(config.SessionTickets{Enabled: true, Rotate: config.Duration(time.Hour)}, nil),
		}
		set.open()
		client := func() *tls.Config {
			return &tls.Config{InsecureSkipVerify: true, ServerName: "a.example", ClientSessionCache: new(sessions)}
		}
		connect := func(c *tls.Config) bool {
			t.Helper()
			v, err := handshake(set, c)
			if err != nil {
				t.Fatal(err)
			}
			return v.facts.Resumed
		}
		first := client()
		connect(first)
		keep := first.ClientSessionCache.(*sessions).s
		for _, c := range []struct {
			after   time.Duration
			resumed bool
		}{
			{time.Minute, true}, {time.Hour, true}, {time.Hour, true}, {time.Hour, false},
		} {
			time.Sleep(c.after)
			first.ClientSessionCache.(*sessions).s = keep // not the newer ticket
			if got := connect(first); got != c.resumed {
				t.Errorf("after another %s: resumed %v", c.after, got)
			}
		}
		// After a long silence nothing old is good, and new tickets are.
		second := client()
		connect(second)
		time.Sleep(100 * time.Hour)
		if connect(second) {
			t.Error("a ticket outlasted its key")
		}
		if !connect(second) {
			t.Error("a new ticket was not taken")
		}
	})
}

// What QUIC uses follows the same rules, and shares no ticket with TCP.
func TestQUIC(t *testing.T) {
	r, ca, partners := newRig(t, Options{}), newIssuer(t, "servers"), newIssuer(t, "partners")
	r.pair(ca, "a", leaf{names: []string{"a.example"}})
	r.write("p.pem", partners.pem())
	r.mustApply(`  - { name: x, address: ":1", protocols: [http1, http2, http3], tls: { certificates: [{ cert_file: a.crt, key_file: a.key }], client_auth: { mode: require, ca_file: p.pem } } }`)
	set := r.set("x")
	over := func(c *tls.Config) (*tls.ConnectionState, error) {
		here, there := buffered()
		defer here.Close()
		conn := tls.Server(there, set.QUIC().Clone())
		done := make(chan error, 1)
		go func() {
			err := conn.Handshake()
			if err != nil {
				there.Close()
			}
			done <- err
		}()
		client := tls.Client(here, c)
		if err := client.Handshake(); err != nil {
			<-done
			return nil, err
		}
		if err := <-done; err != nil {
			return nil, err
		}
		state := conn.ConnectionState()
		return &state, nil
	}
	client := trusting(ca, "a.example")
	client.NextProtos, client.ClientSessionCache = []string{"h2", "h3"}, new(sessions)
	if _, err := over(client); err == nil {
		t.Error("a client without a certificate was taken")
	}
	client.Certificates = []tls.Certificate{partners.identity(leaf{subject: pkix.Name{CommonName: "mobile"}})}
	state, err := over(client)
	if err != nil {
		t.Fatal(err)
	}
	if f := Facts(state); f.Protocol != "h3" || f.Peer.Subject() != "CN=mobile" || f.Version != tls.VersionTLS13 {
		t.Errorf("%+v", f)
	}
	r.mustConnect("x", client) // over TCP, which leaves a ticket
	client.Certificates = nil
	if _, err := over(client); err == nil {
		t.Error("a ticket of TCP stood for a certificate")
	}
	old := trusting(ca, "a.example")
	old.NextProtos, old.MaxVersion = []string{"h3"}, tls.VersionTLS12
	if _, err := over(old); err == nil {
		t.Error("TLS 1.2 for HTTP/3")
	}
}
