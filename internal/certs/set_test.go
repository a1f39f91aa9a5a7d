package certs

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"io"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCertificateByName(t *testing.T) {
	r, ca := newRig(t, Options{}), newIssuer(t, "servers")
	r.pair(ca, "first", leaf{names: []string{"first.example"}, serial: 1})
	r.pair(ca, "first-rsa", leaf{names: []string{"first.example"}, serial: 2, rsa: 2048})
	r.pair(ca, "shop-rsa", leaf{names: []string{"Shop.example.com"}, serial: 3, rsa: 2048})
	r.pair(ca, "shop", leaf{names: []string{"shop.example.com", "www.example.com"}, serial: 4})
	r.pair(ca, "wild", leaf{names: []string{"*.example.com", "example.com"}, serial: 5})
	r.pair(ca, "none", leaf{subject: pkix.Name{CommonName: "old.example.com"}, serial: 6})
	r.mustApply(`
  - name: a
    address: ":1"
    tls: { certificates: [{ cert_file: first.crt, key_file: first.key }, { cert_file: first-rsa.crt, key_file: first-rsa.key }, { cert_file: shop-rsa.crt, key_file: shop-rsa.key }, { cert_file: shop.crt, key_file: shop.key }, { cert_file: wild.crt, key_file: wild.key }, { cert_file: none.crt, key_file: none.key }] }
  - name: b
    address: ":2"
    tls: { certificates: [{ cert_file: none.crt, key_file: none.key }, { cert_file: shop.crt, key_file: shop.key }] }`)
	onlyRSA := &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}}
	for _, c := range []struct {
		listener, name string
		client         *tls.Config
		want           int64
	}{
		{"a", "first.example", nil, 1},
		{"a", "first.example", onlyRSA, 2},
		{"a", "shop.example.com", nil, 4},
		{"a", "SHOP.Example.COM", nil, 4},
		{"a", "shop.example.com", onlyRSA, 3},
		{"a", "www.example.com", nil, 4},
		{"a", "example.com", nil, 5},
		{"a", "other.example.com", nil, 5},
		{"a", "OTHER.example.com", nil, 5},
		{"a", "a.b.example.com", nil, 1}, // a wildcard is one label
		{"a", "nobody.example", nil, 1},
		{"a", "nobody.example", onlyRSA, 2},
		{"a", "old.example.com", nil, 5}, // common names are no names
		{"a", "", nil, 1},
		{"b", "", nil, 6},
		{"b", "old.example.com", nil, 6},
		{"b", "shop.example.com", nil, 4},
	} {
		client := &tls.Config{}
		if c.client != nil {
			client = c.client.Clone()
		}
		client.ServerName, client.InsecureSkipVerify = c.name, true
		v, err := r.connect(c.listener, client)
		if err != nil {
			t.Errorf("%s %q: %v", c.listener, c.name, err)
			continue
		}
		if v.serial() != c.want {
			t.Errorf("%s %q gets certificate %d, want %d", c.listener, c.name, v.serial(), c.want)
		}
		if v.facts.ServerName != strings.ToLower(c.name) {
			t.Errorf("%s %q: server name %q", c.listener, c.name, v.facts.ServerName)
		}
	}
	// No key for this client at all: a clear refusal.
	if _, err := r.connect("b", &tls.Config{ServerName: "shop.example.com", InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12, CipherSuites: onlyRSA.CipherSuites}); err == nil {
		t.Error("a client that knows RSA alone got an ECDSA certificate")
	}
}

func TestVersionsSuitesAndProtocols(t *testing.T) {
	r, ca := newRig(t, Options{}), newIssuer(t, "servers")
	r.pair(ca, "a", leaf{names: []string{"a.example"}})
	r.mustApply(`
  - { name: plain, address: ":1", tls: &t { certificates: [{ cert_file: a.crt, key_file: a.key }] } }
  - { name: new, address: ":2", tls: { min_version: "1.3", certificates: [{ cert_file: a.crt, key_file: a.key }] } }
  - { name: cbc, address: ":3", tls: { ciphers: [TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384], certificates: [{ cert_file: a.crt, key_file: a.key }] } }
  - { name: h1, address: ":4", protocols: http1, tls: *t }
  - { name: h2, address: ":5", protocols: http2, tls: *t }`)
	const cbc, gcm128, gcm256 = tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
	for _, c := range []struct {
		name, listener string
		client         *tls.Config
		protocol       string // "-": refused
		version        uint16
		cipher         uint16
	}{
		{"1.3 with h2", "plain", &tls.Config{NextProtos: []string{"http/1.1", "h2"}}, "h2", tls.VersionTLS13, 0},
		{"1.2 with http/1.1", "plain", &tls.Config{NextProtos: []string{"http/1.1"}, MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{gcm128}}, "http/1.1", tls.VersionTLS12, gcm128},
		{"no ALPN", "plain", &tls.Config{}, "", tls.VersionTLS13, 0},
		{"1.1", "plain", &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, "-", 0, 0},
		{"CBC", "plain", &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{cbc}}, "-", 0, 0},
		{"another protocol", "plain", &tls.Config{NextProtos: []string{"smtp"}}, "-", 0, 0},
		{"an ACME question that nobody expects", "plain", &tls.Config{NextProtos: []string{"acme-tls/1"}}, "-", 0, 0},
		{"1.2 where 1.3 is wanted", "new", &tls.Config{MaxVersion: tls.VersionTLS12}, "-", 0, 0},
		{"1.3 where it is wanted", "new", &tls.Config{}, "", tls.VersionTLS13, 0},
		{"CBC where it is listed", "cbc", &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{cbc}}, "", tls.VersionTLS12, cbc},
		{"a suite that is not listed", "cbc", &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{gcm128}}, "-", 0, 0},
		{"a suite that is listed", "cbc", &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{gcm128, gcm256}}, "", tls.VersionTLS12, gcm256},
		{"h2 where it is not spoken", "h1", &tls.Config{NextProtos: []string{"h2", "http/1.1"}}, "http/1.1", tls.VersionTLS13, 0},
		{"h2 alone where it is not spoken", "h1", &tls.Config{NextProtos: []string{"h2"}}, "-", 0, 0},
		{"http/1.1 where it is not spoken", "h2", &tls.Config{NextProtos: []string{"http/1.1"}}, "-", 0, 0},
		{"no ALPN where HTTP/1.1 is not spoken", "h2", &tls.Config{}, "-", 0, 0},
	} {
		c.client.RootCAs, c.client.ServerName = ca.pool(), "a.example"
		v, err := r.connect(c.listener, c.client)
		switch {
		case c.protocol == "-":
			if err == nil {
				t.Errorf("%s: taken with %+v", c.name, v.facts)
			}
		case err != nil:
			t.Errorf("%s: %v", c.name, err)
		case v.facts.Protocol != c.protocol || v.facts.Version != c.version || c.cipher != 0 && v.facts.Cipher != c.cipher:
			t.Errorf("%s: %+v", c.name, v.facts)
		case c.version == tls.VersionTLS13 && v.facts.Group != uint16(tls.X25519MLKEM768):
			t.Errorf("%s: key exchange by %d, want the hybrid", c.name, v.facts.Group)
		}
	}
}

func TestClientCertificates(t *testing.T) {
	r, ca, partners, others := newRig(t, Options{}), newIssuer(t, "servers"), newIssuer(t, "partners"), newIssuer(t, "others")
	r.pair(ca, "a", leaf{names: []string{"a.example", "b.example"}})
	r.write("partners.pem", partners.pem())
	r.mustApply(`
  - { name: none, address: ":1", tls: { certificates: [{ cert_file: a.crt, key_file: a.key }] } }
  - { name: request, address: ":2", tls: { certificates: [{ cert_file: a.crt, key_file: a.key }], client_auth: { mode: request, ca_file: partners.pem } } }
  - { name: require, address: ":3", tls: { certificates: [{ cert_file: a.crt, key_file: a.key }], client_auth: { mode: require, ca_file: partners.pem } } }`)
	subject := pkix.Name{CommonName: "mobile", Organization: []string{"Partner, Inc"}}
	good := partners.identity(leaf{subject: subject, names: []string{"mobile.example"}})
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, c := range []struct {
			name     string
			show     []tls.Certificate
			request  bool // taken where one is requested
			required bool
		}{
			{"none", nil, true, false},
			{"a good one", []tls.Certificate{good}, true, true},
			{"of another authority", []tls.Certificate{others.identity(leaf{subject: subject})}, false, false},
			{"expired", []tls.Certificate{partners.identity(leaf{subject: subject, from: -2 * time.Hour, to: -time.Hour})}, false, false},
			{"not yet valid", []tls.Certificate{partners.identity(leaf{subject: subject, from: time.Hour, to: 2 * time.Hour})}, false, false},
			{"a server's", func() []tls.Certificate {
				cert, err := tls.X509KeyPair(partners.issue(leaf{subject: subject}))
				if err != nil {
					t.Fatal(err)
				}
				return []tls.Certificate{cert}
			}(), false, false},
		} {
			for listener, taken := range map[string]bool{"none": true, "request": c.request, "require": c.required} {
				client := &tls.Config{RootCAs: ca.pool(), ServerName: "a.example", MaxVersion: version}
				// Whatever the listener asks for, this client shows what it has.
				client.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
					if c.show == nil {
						return new(tls.Certificate), nil
					}
					return &c.show[0], nil
				}
				v, err := r.connect(listener, client)
				if (err == nil) != taken {
					t.Errorf("%#x, %s, %s: %v", version, listener, c.name, err)
					continue
				}
				if err == nil && (v.facts.Peer != nil) != (listener != "none" && c.show != nil) {
					t.Errorf("%#x, %s, %s: peer %v", version, listener, c.name, v.facts.Peer)
				}
			}
		}
	}
	v := r.mustConnect("require", &tls.Config{RootCAs: ca.pool(), ServerName: "a.example", Certificates: []tls.Certificate{good}})
	p := v.facts.Peer
	sum := sha256.Sum256(good.Certificate[0])
	if p.Subject() != `CN=mobile,O=Partner\, Inc` || p.Issuer() != "CN=partners" || !slices.Equal(p.Names(), []string{"DNS:mobile.example"}) ||
		p.Thumbprint() != hex.EncodeToString(sum[:]) || p.Field() != ":"+base64.StdEncoding.EncodeToString(good.Certificate[0])+":" || len(p.Chain()) != 2 {
		t.Errorf("%q %q %q %q %q", p.Subject(), p.Issuer(), p.Names(), p.Thumbprint(), p.Field())
	}
}

// fragments cuts each record of the handshake into records of one byte, and
// sends these byte by byte (RFC 8446 section 5.1).
type fragments struct{ net.Conn }

func (f fragments) Write(p []byte) (int, error) {
	whole := len(p)
	for len(p) > 5 {
		size := int(p[3])<<8 | int(p[4])
		record := p[5 : 5+size]
		if p[0] != 22 { // encrypted, or no handshake
			if _, err := f.Conn.Write(p[:5+size]); err != nil {
				return 0, err
			}
			p = p[5+size:]
			continue
		}
		for _, b := range record {
			for _, c := range []byte{p[0], p[1], p[2], 0, 1, b} {
				if _, err := f.Conn.Write([]byte{c}); err != nil {
					return 0, err
				}
			}
		}
		p = p[5+size:]
	}
	return whole, nil
}

// A client that sends its hello byte by byte, and in several records, is held to
// the same rules.
func TestSplitHello(t *testing.T) {
	r, ca, partners := newRig(t, Options{}), newIssuer(t, "servers"), newIssuer(t, "partners")
	r.pair(ca, "a", leaf{names: []string{"a.example"}})
	r.pair(ca, "b", leaf{names: []string{"b.example"}, serial: 7})
	r.write("partners.pem", partners.pem())
	r.mustApply(`  - { name: x, address: ":1", tls: { certificates: [{ cert_file: a.crt, key_file: a.key }, { cert_file: b.crt, key_file: b.key }], client_auth: { mode: require, ca_file: partners.pem } } }`)
	for _, show := range []bool{true, false} {
		here, there := buffered()
		failed := make(chan error, 1)
		go func() {
			_, facts, err := r.set("x").Handshake(t.Context(), there)
			if err == nil && (facts.ServerName != "b.example" || facts.Peer == nil) {
				t.Errorf("%+v", facts)
			}
			there.Close()
			failed <- err
		}()
		client := &tls.Config{RootCAs: ca.pool(), ServerName: "b.example"}
		if show {
			client.Certificates = []tls.Certificate{partners.identity(leaf{})}
		}
		conn := tls.Client(fragments{here}, client)
		err := conn.Handshake()
		if err == nil && conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64() != 7 {
			t.Error("another name's certificate")
		}
		io.Copy(io.Discard, conn)
		here.Close()
		if err := <-failed; (err == nil) != show {
			t.Errorf("with a certificate %v: %v", show, err)
		}
	}
}

func TestOpenSSL(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	r, ca, partners := newRig(t, Options{}), newIssuer(t, "servers"), newIssuer(t, "partners")
	r.pair(ca, "a", leaf{names: []string{"a.example"}})
	r.write("ca.pem", ca.pem())
	r.write("partners.pem", partners.pem())
	cert, key := partners.issue(leaf{subject: pkix.Name{CommonName: "mobile"}, client: true})
	r.write("mobile.crt", cert)
	r.write("mobile.key", key)
	r.mustApply(`  - { name: x, address: ":1", tls: { certificates: [{ cert_file: a.crt, key_file: a.key }], client_auth: { mode: require, ca_file: partners.pem } } }`)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	peers := make(chan string, 2)
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			conn, facts, err := r.set("x").Handshake(t.Context(), nc)
			switch {
			case err != nil:
				peers <- "refused"
			default:
				peers <- facts.Peer.Subject() + " " + facts.Protocol
				conn.Close()
			}
			nc.Close()
		}
	}()
	for _, c := range []struct {
		args string
		want string
	}{
		{"-tls1_3 -cert mobile.crt -key mobile.key -alpn h2,http/1.1", "CN=mobile h2"},
		{"-tls1_2 -cert mobile.crt -key mobile.key", "CN=mobile "},
		{"-tls1_2", "refused"},
	} {
		cmd := exec.Command(openssl, append([]string{"s_client", "-connect", ln.Addr().String(), "-servername", "a.example", "-CAfile", "ca.pem", "-verify_return_error"}, strings.Fields(c.args)...)...)
		cmd.Dir = r.dir
		out, _ := cmd.CombinedOutput() // it fails where the listener hangs up
		if got := <-peers; got != c.want {
			t.Errorf("%s: %q, want %q\n%s", c.args, got, c.want, out)
		}
		if c.want != "refused" && !strings.Contains(string(out), "Verify return code: 0 (ok)") {
			t.Errorf("%s: the certificate was not verified\n%s", c.args, out)
		}
	}
}

// What every connection, and every request to a plain listener, costs.
func TestAllocations(t *testing.T) {
	if raced {
		t.Skip("the race detector allocates")
	}
	r, ca := newRig(t, Options{}), newIssuer(t, "servers")
	r.pair(ca, "a", leaf{names: []string{"a.example", "*.a.example"}})
	r.mustApply(one)
	set, verified := r.set("x"), r.mustConnect("x", trusting(ca, "a.example")).state
	state := verified
	state.VerifiedChains = nil
	for name, c := range map[string]struct {
		most float64
		f    func()
	}{
		"pick exactly":        {0, func() { set.certificate(&tls.ClientHelloInfo{ServerName: "a.example"}) }},
		"pick by wildcard":    {0, func() { set.certificate(&tls.ClientHelloInfo{ServerName: "b.a.example"}) }},
		"pick the first":      {0, func() { set.certificate(&tls.ClientHelloInfo{}) }},
		"facts":               {1, func() { Facts(&state) }},
		"facts of a peer":     {2, func() { Facts(&verified) }},
		"no challenge":        {0, func() { r.store.HTTPChallenge("a.example", "/products/1") }},
		"nearly a challenge":  {0, func() { r.store.HTTPChallenge("a.example", "/.well-known/acme-challenge/") }},
		"no authority to ask": {0, func() { r.store.HTTPChallenge("a.example", "/.well-known/acme-challenge/x") }},
	} {
		if got := testing.AllocsPerRun(100, c.f); got > c.most {
			t.Errorf("%s: %v allocations, want %v", name, got, c.most)
		}
	}
}

func BenchmarkHandshake(b *testing.B) {
	for _, resumed := range []bool{false, true} {
		name := "full"
		if resumed {
			name = "resumed"
		}
		b.Run(name, func(b *testing.B) {
			r, ca := newRig(b, Options{}), newIssuer(b, "servers")
			r.pair(ca, "a", leaf{names: []string{"a.example"}})
			r.mustApply(one)
			client := trusting(ca, "a.example")
			if resumed {
				client.ClientSessionCache = new(sessions)
				r.mustConnect("x", client)
			}
			b.ReportAllocs()
			for b.Loop() {
				if v := r.mustConnect("x", client); v.facts.Resumed != resumed {
					b.Fatal("the other kind of handshake")
				}
			}
		})
	}
}
