package upstream

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
)

// authority signs certificates for tests.
type authority struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	dir  string
	file string // its own certificate
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir()}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	a.key = key
	a.cert = &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, a.cert, a.cert, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	a.file = a.write("ca.pem", "CERTIFICATE", der)
	return a
}

// parsed returns the certificate as it was signed.
func (a *authority) parsed() *x509.Certificate {
	b, err := os.ReadFile(a.file)
	if err != nil {
		a.t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		a.t.Fatal(err)
	}
	return c
}

func (a *authority) write(name, kind string, der []byte) string {
	path := filepath.Join(a.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		a.t.Fatal(err)
	}
	return path
}

// issue returns the files of a certificate for a name and its key.
func (a *authority) issue(name string, change func(*x509.Certificate)) (cert, key string) {
	a.t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	if ip := net.ParseIP(name); ip != nil {
		c.DNSNames, c.IPAddresses = nil, []net.IP{ip}
	}
	if change != nil {
		change(c)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, a.cert, k.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	kd, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	return a.write(name+".crt", "CERTIFICATE", der), a.write(name+".key", "EC PRIVATE KEY", kd)
}

// secured serves over TLS.
func secured(t testing.TB, cfg *tls.Config, serve func(*peer)) *service {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serveOn(t, tls.NewListener(ln, cfg), serve)
}

func TestSecureEndpoints(t *testing.T) {
	a, other := newAuthority(t), newAuthority(t)
	load := func(a *authority, name string, change func(*x509.Certificate)) tls.Certificate {
		c, k := a.issue(name, change)
		pair, err := tls.LoadX509KeyPair(c, k)
		if err != nil {
			t.Fatal(err)
		}
		return pair
	}
	mine := x509.NewCertPool()
	mine.AddCert(func() *x509.Certificate {
		b, _ := os.ReadFile(a.file)
		p, _ := pem.Decode(b)
		c, err := x509.ParseCertificate(p.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}())
	clientCert, clientKey := a.issue("gateway", nil)
	named := load(a, "products.internal", nil)
	for _, c := range []struct {
		name   string
		server *tls.Config
		client *config.UpstreamTLS
		code   string
	}{
		{"by name", &tls.Config{Certificates: []tls.Certificate{named}}, &config.UpstreamTLS{Verify: true, CAFile: a.file, ServerName: "products.internal"}, ""},
		{"by address", &tls.Config{Certificates: []tls.Certificate{load(a, "127.0.0.1", nil)}}, &config.UpstreamTLS{Verify: true, CAFile: a.file}, ""},
		{"TLS 1.2", &tls.Config{Certificates: []tls.Certificate{named}, MaxVersion: tls.VersionTLS12}, &config.UpstreamTLS{Verify: true, CAFile: a.file, ServerName: "products.internal"}, ""},
		{"TLS 1.1", &tls.Config{Certificates: []tls.Certificate{named}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}, &config.UpstreamTLS{Verify: true, CAFile: a.file, ServerName: "products.internal"}, "upstream_tls_failed"},
		{"another name", &tls.Config{Certificates: []tls.Certificate{named}}, &config.UpstreamTLS{Verify: true, CAFile: a.file, ServerName: "other.internal"}, "upstream_tls_failed"},
		{"another authority", &tls.Config{Certificates: []tls.Certificate{load(other, "products.internal", nil)}}, &config.UpstreamTLS{Verify: true, CAFile: a.file, ServerName: "products.internal"}, "upstream_tls_failed"},
		{"the system's authorities", &tls.Config{Certificates: []tls.Certificate{load(a, "127.0.0.1", nil)}}, nil, "upstream_tls_failed"},
		{"not verified", &tls.Config{Certificates: []tls.Certificate{load(other, "other.internal", nil)}}, &config.UpstreamTLS{}, ""},
		{"expired", &tls.Config{Certificates: []tls.Certificate{load(a, "127.0.0.1", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) })}}, &config.UpstreamTLS{Verify: true, CAFile: a.file}, "upstream_tls_failed"},
		{
			"client's certificate", &tls.Config{Certificates: []tls.Certificate{named}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: mine, MaxVersion: tls.VersionTLS12},
			&config.UpstreamTLS{Verify: true, CAFile: a.file, ServerName: "products.internal", CertFile: clientCert, KeyFile: clientKey}, "",
		},
		{
			"client's certificate is missing", &tls.Config{Certificates: []tls.Certificate{named}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: mine, MaxVersion: tls.VersionTLS12},
			&config.UpstreamTLS{Verify: true, CAFile: a.file, ServerName: "products.internal"}, "upstream_tls_failed",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := secured(t, c.server, hello)
			cfg := settings("https://" + s.ln.Addr().String())
			cfg.TLS = c.client
			r := newRig(t, cfg)
			k := r.dial()
			for range 2 {
				k.send(get)
				if c.code != "" {
					k.fails(502, c.code)
					continue
				}
				k.wants(200, "hello")
				<-r.ended
			}
			if c.code == "" && s.connections() != 1 {
				t.Errorf("%d connections for two requests", s.connections())
			}
			k.send("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello")
			if c.code == "" {
				k.wants(200, "hello")
			} else {
				k.fails(502, c.code)
			}
		})
	}
}

// A service that does not speak TLS, or says nothing, is found out in time.
func TestHandshakesThatFail(t *testing.T) {
	for _, c := range []struct {
		name  string
		serve func(*peer)
		code  string
	}{
		{"plain", func(p *peer) { p.send("HTTP/1.1 400 Bad Request\r\n\r\n") }, "upstream_tls_failed"},
		{"hangs", hang, "upstream_connect_timeout"},
		{"closes", func(*peer) {}, "upstream_connect_failed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := newService(t, c.serve)
			cfg := settings("https://" + s.ln.Addr().String())
			cfg.Connections.ConnectTimeout = short
			k := newRig(t, cfg).dial()
			k.send(get)
			status := 502
			if c.code == "upstream_connect_timeout" {
				status = 504
			}
			k.fails(status, c.code)
		})
	}
}

func TestSecureChecks(t *testing.T) {
	a := newAuthority(t)
	c, k := a.issue("127.0.0.1", nil)
	pair, err := tls.LoadX509KeyPair(c, k)
	if err != nil {
		t.Fatal(err)
	}
	s := secured(t, &tls.Config{Certificates: []tls.Certificate{pair}}, hello)
	cfg := settings("https://" + s.ln.Addr().String())
	cfg.TLS = &config.UpstreamTLS{Verify: true, CAFile: a.file}
	u, err := prepare("test", cfg, Options{Resolver: static{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := u.start(settings()); err != nil {
		t.Fatal(err)
	}
	defer u.Retire()
	h := &config.Health{Expect: config.StringList{"200"}, Path: "/", Timeout: dur(10 * time.Second)}
	if u.health, err = newChecking(h); err != nil {
		t.Fatal(err)
	}
	e := endpoints(u)[0]
	if reason, err := u.ask(t.Context(), e); err != nil || reason != "status 200" {
		t.Error(reason, err)
	}
	e.tls.ServerName = "other.internal"
	if _, err := u.ask(t.Context(), e); err == nil || !strings.HasPrefix(err.Error(), "tls: ") {
		t.Error(err)
	}
}

func TestFilesOfTLS(t *testing.T) {
	a := newAuthority(t)
	cert, key := a.issue("gateway", nil)
	_, wrong := a.issue("other", nil)
	for _, c := range []struct {
		name string
		tls  config.UpstreamTLS
		want string
	}{
		{"no such file", config.UpstreamTLS{Verify: true, CAFile: filepath.Join(a.dir, "none.pem")}, "none.pem"},
		{"no certificate", config.UpstreamTLS{Verify: true, CAFile: key}, "no certificate"},
		{"no such key", config.UpstreamTLS{Verify: true, CertFile: cert, KeyFile: filepath.Join(a.dir, "none.key")}, "none.key"},
		{"another's key", config.UpstreamTLS{Verify: true, CertFile: cert, KeyFile: wrong}, "gateway.crt"},
	} {
		cfg := settings("https://10.0.0.1")
		cfg.TLS = &c.tls
		if _, err := New("test", cfg, Options{}); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), `upstream "test"`) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// TestFilesAreFollowed: new connections use the files as they are by then; what
// cannot be used leaves the old ones in place.
func TestFilesAreFollowed(t *testing.T) {
	a := newAuthority(t)
	serverCert, serverKey := a.issue("127.0.0.1", nil)
	pair, err := tls.LoadX509KeyPair(serverCert, serverKey)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(a.parsed())
	peers := make(chan string, 1)
	s := secured(t, &tls.Config{
		Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool,
		VerifyConnection: func(c tls.ConnectionState) error {
			peers <- c.PeerCertificates[0].Subject.CommonName
			return nil
		},
	}, hello)
	cert, key, ca := filepath.Join(a.dir, "own.crt"), filepath.Join(a.dir, "own.key"), filepath.Join(a.dir, "own-ca.pem")
	put := func(from, to string) {
		t.Helper()
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	oneCert, oneKey := a.issue("one", nil)
	twoCert, twoKey := a.issue("two", nil)
	put(oneCert, cert)
	put(oneKey, key)
	put(a.file, ca)
	cfg := settings("https://" + s.ln.Addr().String())
	cfg.TLS = &config.UpstreamTLS{Verify: true, CAFile: ca, CertFile: cert, KeyFile: key}
	var log bytes.Buffer
	u, err := prepare("test", cfg, Options{Resolver: static{}, Log: slog.New(slog.NewTextHandler(&log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	if err := u.start(settings()); err != nil {
		t.Fatal(err)
	}
	defer u.Retire()
	h := &config.Health{Expect: config.StringList{"200"}, Path: "/", Timeout: dur(10 * time.Second)}
	if u.health, err = newChecking(h); err != nil {
		t.Fatal(err)
	}
	asks := func(want string, warnings int) {
		t.Helper()
		if reason, err := u.ask(t.Context(), endpoints(u)[0]); err != nil {
			t.Fatal(reason, err)
		}
		if got := <-peers; got != want {
			t.Errorf("the service saw %q, not %q", got, want)
		}
		if n := strings.Count(log.String(), "old ones stay"); n != warnings {
			t.Errorf("%d warnings, not %d: %s", n, warnings, &log)
		}
	}
	asks("one", 0)
	put(twoCert, cert) // the key is still the other's
	asks("one", 1)
	asks("one", 1)
	put(twoKey, key)
	asks("two", 1)
	if err := os.Remove(ca); err != nil {
		t.Fatal(err)
	}
	asks("two", 2)
	put(a.file, ca)
	asks("two", 2)
	// Another authority counts at once: no session outlasts it.
	put(newAuthority(t).file, ca)
	if _, err := u.ask(t.Context(), endpoints(u)[0]); err == nil || !strings.HasPrefix(err.Error(), "tls: ") {
		t.Error(err)
	}
}
