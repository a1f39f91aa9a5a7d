package script_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/test/live"
)

// issuer is an authority of certificates.
type issuer struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newIssuer(t *testing.T, name string) *issuer {
	i := &issuer{t: t}
	pair := i.issue(&x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	i.cert, i.key = pair.Leaf, pair.PrivateKey.(*ecdsa.PrivateKey)
	return i
}

func (i *issuer) issue(template *x509.Certificate) tls.Certificate {
	i.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		i.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	parent, by := i.cert, i.key
	if parent == nil {
		parent, by = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
	if err != nil {
		i.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		i.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// client issues a certificate for a client.
func (i *issuer) client(name string) *tls.Certificate {
	c := i.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: name, Organization: []string{"Partner"}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return &c
}

func keep(t *testing.T, file, kind string, der []byte) string {
	t.Helper()
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// pieces sends the first record of a connection, which is the ClientHello, in
// pieces: of the stream, and where records is set also in records of their own.
type pieces struct {
	net.Conn
	records, sent bool
}

func (p *pieces) Write(b []byte) (int, error) {
	if p.sent {
		return p.Conn.Write(b)
	}
	p.sent = true
	out := b
	if p.records {
		out = nil
		for rest := b[5:]; len(rest) > 0; {
			n := min(len(rest), 50)
			out = append(append(out, b[0], b[1], b[2], 0, byte(n)), rest[:n]...)
			rest = rest[n:]
		}
	}
	for len(out) > 0 {
		n := min(len(out), 7)
		if _, err := p.Conn.Write(out[:n]); err != nil {
			return 0, err
		}
		out = out[n:]
	}
	return len(b), nil
}

// mutual is a gateway that asks for certificates, in front of a service.
type mutual struct {
	t        *testing.T
	url      map[string]string // by listener
	received chan http.Header
	roots    *x509.CertPool
}

const mutualText = `
listeners:
  - name: tells
    address: "127.0.0.1:0"
    tls: { certificates: [ { cert_file: %[1]q, key_file: %[2]q } ], client_auth: { mode: require, ca_file: %[3]q }, forward_client_cert: true }
  - name: silent
    address: "localhost:0"
    tls: { certificates: [ { cert_file: %[1]q, key_file: %[2]q } ], client_auth: { mode: require, ca_file: %[3]q } }
admin: off
consumers:
  - name: warehouse
    credentials: [ certificate: { subject: "CN=warehouse,O=Partner" } ]
  - name: closed
    disabled: true
    credentials: [ certificate: { subject: "CN=closed,O=Partner" } ]
policies: [ access_log: {} ]
routes:
  - match: /*
    policies: [ mtls: { headers: { X-Consumer: consumer } } ]
    upstream: %[4]s
`

func newMutual(t *testing.T, partners *issuer) *mutual {
	m := &mutual{t: t, url: make(map[string]string), received: make(chan http.Header, 1), roots: x509.NewCertPool()}
	service := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { m.received <- r.Header.Clone() }))
	t.Cleanup(service.Close)
	own := newIssuer(t, "own")
	m.roots.AddCert(own.cert)
	server := own.issue(&x509.Certificate{IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	der, err := x509.MarshalPKCS8PrivateKey(server.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	text := fmt.Sprintf(mutualText,
		keep(t, filepath.Join(dir, "own.crt"), "CERTIFICATE", server.Certificate[0]),
		keep(t, filepath.Join(dir, "own.key"), "PRIVATE KEY", der),
		keep(t, filepath.Join(dir, "partners.pem"), "CERTIFICATE", partners.cert.Raw), service.URL)
	if err := os.WriteFile(filepath.Join(dir, "gatehouse.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	g, err := live.Start(binary, dir, nil, "run", "-c", "gatehouse.yaml")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Kill)
	if err := g.Serving(); err != nil {
		t.Fatal(err)
	}
	for name, address := range g.Addresses() {
		m.url[name] = "https://" + address + "/orders"
	}
	return m
}

// spoofed are fields by which a client would pass for another one.
var spoofed = []string{"Client-Cert", "client-cert", "Client-Cert-Chain", "X-Forwarded-Client-Cert", "X-Consumer", "x-consumer"}

// ask sends a request on a connection of its own, with all of the fields that
// speak of certificates and consumers.
func (m *mutual) ask(listener string, conf *tls.Config, wrap func(net.Conn) net.Conn) (*http.Response, http.Header, error) {
	m.t.Helper()
	conf.RootCAs = m.roots
	transport := &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		c, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil && wrap != nil {
			c = wrap(c)
		}
		return c, err
	}}
	q, err := http.NewRequest("GET", m.url[listener], nil)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, name := range spoofed {
		q.Header[name] = []string{":AAAA:"}
	}
	res, err := (&http.Client{Transport: transport, Timeout: live.Patience}).Do(q)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		m.t.Error(err)
	}
	var received http.Header
	if res.StatusCode == 200 {
		received = <-m.received
	}
	return res, received, nil
}

// identified makes sure that the service was told of the right client, and of
// nothing that the client made up.
func (m *mutual) identified(listener string, cert *tls.Certificate, res *http.Response, h http.Header, err error) {
	m.t.Helper()
	if err != nil || res.StatusCode != 200 {
		m.t.Errorf("%s: %v, %v", listener, res, err)
		return
	}
	want := ""
	if listener == "tells" {
		want = ":" + base64.StdEncoding.EncodeToString(cert.Certificate[0]) + ":" // RFC 9440, section 2.1
	}
	if got := strings.Join(h.Values("Client-Cert"), "|"); got != want {
		m.t.Errorf("%s: Client-Cert is %q, want %q", listener, got, want)
	}
	if got := strings.Join(h.Values("X-Consumer"), "|"); got != "warehouse" {
		m.t.Errorf("%s: X-Consumer is %q", listener, got)
	}
	for name, values := range h {
		if strings.Contains(strings.Join(values, "|"), ":AAAA:") {
			m.t.Errorf("%s: the client's own %s reached the service", listener, name)
		}
	}
}

// TestMutualTLS has clients with certificates at a running gateway.
func TestMutualTLS(t *testing.T) {
	partners := newIssuer(t, "partners")
	m := newMutual(t, partners)
	warehouse := partners.client("warehouse")
	show := func(c *tls.Certificate, version uint16) *tls.Config {
		conf := &tls.Config{MaxVersion: version, MinVersion: version}
		if c != nil {
			// Shown whatever the gateway says that it takes.
			conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return c, nil }
		}
		return conf
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		t.Run(tls.VersionName(version), func(t *testing.T) {
			m.t = t
			for _, listener := range []string{"tells", "silent"} {
				for name, wrap := range map[string]func(net.Conn) net.Conn{
					"whole":      nil,
					"in pieces":  func(c net.Conn) net.Conn { return &pieces{Conn: c} },
					"in records": func(c net.Conn) net.Conn { return &pieces{Conn: c, records: true} },
				} {
					t.Log(listener, name)
					res, h, err := m.ask(listener, show(warehouse, version), wrap)
					m.identified(listener, warehouse, res, h, err)
				}
			}
			for name, c := range map[string]*tls.Certificate{"nobody's": partners.client("stranger"), "disabled": partners.client("closed")} {
				res, _, err := m.ask("tells", show(c, version), nil)
				if err != nil || res.StatusCode != 401 || res.Header.Get("WWW-Authenticate") == "" {
					t.Errorf("%s: %v, %v", name, res, err)
				}
			}
			for name, c := range map[string]*tls.Certificate{"none": nil, "of another authority": newIssuer(t, "partners").client("warehouse")} {
				if res, _, err := m.ask("tells", show(c, version), nil); err == nil {
					t.Errorf("%s: %v", name, res)
				}
			}
			// A resumed session shows no certificate: it has that of the first.
			conf := show(warehouse, version)
			conf.ClientSessionCache = tls.NewLRUClientSessionCache(4)
			for i := range 3 {
				res, h, err := m.ask("tells", conf, nil)
				m.identified("tells", warehouse, res, h, err)
				if err == nil && res.TLS.DidResume != (i > 0) {
					t.Errorf("connection %d: resumed is %v", i, res.TLS.DidResume)
				}
			}
		})
	}
}
