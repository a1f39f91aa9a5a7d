package certs

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// The ACME library has one for each account, which lives as long as the process.
		goleak.IgnoreTopFunction("github.com/caddyserver/certmagic.(*RingBufferRateLimiter).permit"),
		goleak.IgnoreTopFunction("github.com/caddyserver/certmagic.(*RingBufferRateLimiter).loop"),
	)
}

// issuer is a certificate authority.
type issuer struct {
	t    testing.TB
	cert *x509.Certificate
	key  crypto.Signer
}

func newIssuer(t testing.TB, name string) *issuer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &issuer{t, cert, key}
}

func (i *issuer) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(i.cert)
	return p
}

func (i *issuer) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.cert.Raw})
}

// leaf describes a certificate to issue.
type leaf struct {
	names    []string
	ips      []net.IP
	subject  pkix.Name
	serial   int64
	rsa      int // bits, 0: ECDSA
	from, to time.Duration
	client   bool
}

// issue returns a chain and a key in PEM.
func (i *issuer) issue(l leaf) (cert, key []byte) {
	i.t.Helper()
	var signer crypto.Signer
	var err error
	if l.rsa > 0 {
		signer, err = rsa.GenerateKey(rand.Reader, l.rsa)
	} else {
		signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		i.t.Fatal(err)
	}
	if l.to == 0 {
		l.to = time.Hour
	}
	if l.from == 0 {
		l.from = -time.Hour
	}
	if l.serial == 0 {
		l.serial = time.Now().UnixNano()
	}
	use := x509.ExtKeyUsageServerAuth
	if l.client {
		use = x509.ExtKeyUsageClientAuth
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(l.serial), Subject: l.subject, DNSNames: l.names, IPAddresses: l.ips, ExtKeyUsage: []x509.ExtKeyUsage{use},
		NotBefore: time.Now().Add(l.from), NotAfter: time.Now().Add(l.to), KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, i.cert, signer.Public(), i.key)
	if err != nil {
		i.t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		i.t.Fatal(err)
	}
	cert = append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), i.pem()...)
	return cert, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
}

// identity is a certificate to show as a client.
func (i *issuer) identity(l leaf) tls.Certificate {
	i.t.Helper()
	l.client = true
	cert, err := tls.X509KeyPair(i.issue(l))
	if err != nil {
		i.t.Fatal(err)
	}
	return cert
}

// rig is a store and its files.
type rig struct {
	testing.TB
	dir   string
	store *Store
	logs  *logs
	took  chan struct{} // has a value when files were taken over since it was looked at
	sets  sync.Map      // by name of the listener
}

func (r *rig) set(listener string) *Set {
	r.Helper()
	set, ok := r.sets.Load(listener)
	if !ok {
		r.Fatalf("there is no listener %q", listener)
	}
	return set.(*Set)
}

// logs keeps what is logged.
type logs struct {
	mu sync.Mutex
	bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.Buffer.Write(p)
}

func (l *logs) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.String(), text)
}

func newRig(t testing.TB, o Options) *rig {
	t.Helper()
	r := &rig{TB: t, dir: t.TempDir(), logs: new(logs), took: make(chan struct{}, 1)}
	o.took = func() {
		select {
		case r.took <- struct{}{}:
		default:
		}
	}
	o.Log = slog.New(slog.NewTextHandler(r.logs, nil))
	r.store = New(o)
	t.Cleanup(r.store.Close)
	return r
}

// write writes files and returns the path of the first.
func (r *rig) write(name string, data []byte) string {
	r.Helper()
	name = filepath.Join(r.dir, name)
	if err := os.WriteFile(name, data, 0o600); err != nil {
		r.Fatal(err)
	}
	return name
}

// pair issues a certificate into NAME.crt and NAME.key.
func (r *rig) pair(i *issuer, name string, l leaf) {
	r.Helper()
	cert, key := i.issue(l)
	r.write(name+".crt", cert)
	r.write(name+".key", key)
}

func (r *rig) config(listeners string) (*config.Config, config.Faults) {
	return config.Parse(filepath.Join(r.dir, "gatehouse.yaml"), []byte("listeners:\n"+listeners+"\nroutes: []\n"), policy.NewCatalog())
}

// apply makes listeners the present ones.
func (r *rig) apply(listeners string) config.Faults {
	r.Helper()
	cfg, faults := r.config(listeners)
	if faults.Fatal() {
		r.Fatal(faults)
	}
	change, faults := r.store.Prepare(cfg)
	if faults != nil {
		return faults
	}
	r.sets.Clear()
	for _, l := range cfg.Listeners {
		if set := change.Set(l); set != nil {
			r.sets.Store(l.Name, set)
		}
	}
	change.Commit()
	return nil
}

func (r *rig) mustApply(listeners string) {
	r.Helper()
	if faults := r.apply(listeners); faults != nil {
		r.Fatal(faults)
	}
}

// visit is what both ends of one connection know.
type visit struct {
	state tls.ConnectionState // of the client
	facts *exchange.TLS
}

func (v *visit) serial() int64 { return v.state.PeerCertificates[0].SerialNumber.Int64() }

// connect speaks TLS with a listener, and one byte each way.
func (r *rig) connect(listener string, c *tls.Config) (*visit, error) {
	return handshake(r.set(listener), c)
}

func handshake(set *Set, c *tls.Config) (*visit, error) {
	here, there := buffered()
	defer here.Close()
	type result struct {
		facts *exchange.TLS
		err   error
	}
	done := make(chan result, 1)
	go func() {
		defer there.Close()
		conn, facts, err := set.Handshake(context.Background(), there)
		if err == nil {
			var b [1]byte
			if _, err = conn.Read(b[:]); err == nil {
				_, err = conn.Write(b[:])
			}
		}
		done <- result{facts, err}
	}()
	conn := tls.Client(here, c)
	err := conn.Handshake()
	if err == nil {
		b := []byte{'x'}
		if _, err = conn.Write(b); err == nil {
			_, err = conn.Read(b) // session tickets come before it
		}
	}
	here.Close()
	res := <-done
	if err == nil {
		err = res.err
	} else if res.err != nil {
		err = fmt.Errorf("%w; the listener: %w", err, res.err)
	}
	return &visit{conn.ConnectionState(), res.facts}, err
}

// half is one direction of a connection in memory. It holds what was not read
// yet, so that both ends may write at once, and works in a bubble of synctest.
type half struct {
	mu     sync.Mutex
	more   *sync.Cond
	b      bytes.Buffer
	closed bool
}

func newHalf() *half {
	h := new(half)
	h.more = sync.NewCond(&h.mu)
	return h
}

func (h *half) close() {
	h.mu.Lock()
	h.closed = true
	h.more.Broadcast()
	h.mu.Unlock()
}

// memory is one end of such a connection.
type memory struct {
	net.Conn // nil: deadlines are not used
	in, out  *half
}

func buffered() (a, b net.Conn) {
	x, y := newHalf(), newHalf()
	return &memory{in: x, out: y}, &memory{in: y, out: x}
}

func (m *memory) Read(p []byte) (int, error) {
	m.in.mu.Lock()
	defer m.in.mu.Unlock()
	for m.in.b.Len() == 0 {
		if m.in.closed {
			return 0, io.EOF
		}
		m.in.more.Wait()
	}
	return m.in.b.Read(p)
}

func (m *memory) Write(p []byte) (int, error) {
	m.out.mu.Lock()
	defer m.out.mu.Unlock()
	if m.out.closed {
		return 0, io.ErrClosedPipe
	}
	m.out.more.Broadcast()
	return m.out.b.Write(p)
}

func (m *memory) Close() error {
	m.in.close()
	m.out.close()
	return nil
}

func (*memory) SetDeadline(time.Time) error      { return nil }
func (*memory) SetReadDeadline(time.Time) error  { return nil }
func (*memory) SetWriteDeadline(time.Time) error { return nil }

func (r *rig) mustConnect(listener string, c *tls.Config) *visit {
	r.Helper()
	v, err := r.connect(listener, c)
	if err != nil {
		r.Fatal(err)
	}
	return v
}
