package front

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/certs"
	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
)

// identity is a certificate for a.example, made once.
var identity = sync.OnceValues(func() (cert, key []byte) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a.example"}, DNSNames: []string{"a.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, leaf, &k.PublicKey, k)
	if err != nil {
		panic(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		panic(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})
})

// tlsOf gives a listener TLS.
func tlsOf(dir string) *config.TLS {
	t := new(config.TLS)
	t.Defaults()
	t.ClientAuth.Defaults()
	t.SessionTickets.Defaults()
	t.Certificates = []*config.Certificate{{CertFile: filepath.Join(dir, "a.crt"), KeyFile: filepath.Join(dir, "a.key")}}
	return t
}

// sets reads the certificates of listeners.
func sets(t testing.TB, store *certs.Store, cfgs []*config.Listener) Sets {
	t.Helper()
	for _, cfg := range cfgs {
		if cfg.TLS == nil {
			continue
		}
		cert, key := identity()
		for name, text := range map[string][]byte{cfg.TLS.Certificates[0].CertFile: cert, cfg.TLS.Certificates[0].KeyFile: key} {
			if err := os.WriteFile(name, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	change, faults := store.Prepare(&config.Config{Listeners: cfgs})
	if faults != nil {
		t.Fatal(faults)
	}
	change.Commit()
	return change.Set
}

// plainSets is for listeners without TLS.
func plainSets(*config.Listener) *certs.Set { return nil }

func newStore(t testing.TB) *certs.Store {
	s := certs.New(certs.Options{Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	t.Cleanup(s.Close)
	return s
}

// trusting is what a client needs to believe the certificate of identity.
func trusting(protocols ...string) *tls.Config {
	cert, _ := identity()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return &tls.Config{RootCAs: pool, ServerName: "a.example", NextProtos: protocols}
}

func TestProtocolsOverTLS(t *testing.T) {
	cfg := listenerOf("native-tls")
	cfg.Protocols = nil
	r := newRig(t, cfg, func(x *exchange.Exchange) {
		reply(x, x.Request.Proto.String()+" "+x.Request.Scheme+" "+x.Client.TLS.ServerName)
	})
	for _, c := range []struct{ offered, want string }{
		{"h2", "HTTP/2.0 https a.example"},
		{"http/1.1", "HTTP/1.1 https a.example"},
		{"", "HTTP/1.1 https a.example"},
	} {
		transport := &http.Transport{TLSClientConfig: trusting(), Protocols: new(http.Protocols)}
		transport.Protocols.SetHTTP1(c.offered != "h2")
		transport.Protocols.SetHTTP2(c.offered == "h2")
		if got := ask(t, transport, "https://"+r.address); got != c.want {
			t.Errorf("a client that offers %q gets %q, want %q", c.offered, got, c.want)
		}
	}
}

func TestPriorKnowledge(t *testing.T) {
	for _, c := range []struct {
		protocols config.StringList
		http1     bool
	}{{config.StringList{"http1", "h2c"}, true}, {config.StringList{"h2c"}, false}} {
		cfg := listenerOf("native")
		cfg.Protocols = c.protocols
		r := newRig(t, cfg, func(x *exchange.Exchange) { reply(x, x.Request.Proto.String()) })
		transport := &http.Transport{Protocols: new(http.Protocols)}
		transport.Protocols.SetUnencryptedHTTP2(true)
		if got := ask(t, transport, "http://"+r.address); got != "HTTP/2.0" {
			t.Errorf("%v: HTTP/2 by prior knowledge got %q", c.protocols, got)
		}
		if !c.http1 {
			continue
		}
		if got := ask(t, new(http.Transport), "http://"+r.address); got != "HTTP/1.1" {
			t.Errorf("%v: HTTP/1.1 got %q", c.protocols, got)
		}
		// Byte by byte, and what only begins like the preface.
		k := r.dial(t)
		for _, b := range []byte("PRI / HTTP/1.1\r\nHost: a.example\r\n\r\n") {
			k.send(string(b))
		}
		k.expect(200, "HTTP/1.1")
	}
}

// TestYoungConnections: a client that does not get on with its handshake, or
// with its first bytes, is cut at the end of a drain.
func TestYoungConnections(t *testing.T) {
	for _, door := range []string{"native-tls", "std-tls", "native"} {
		cfg := listenerOf(door)
		if door == "native" {
			cfg.Protocols = config.StringList{"http1", "h2c"}
		}
		r := newRig(t, cfg, pathOf)
		nc, err := net.Dial("tcp", r.address)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if _, err := nc.Write([]byte("PRI\x16\x03\x01"[:3])); err != nil {
			t.Fatal(err)
		}
		// Closing takes what is in the kernel's queue first.
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if cut := r.f.Drain(ctx); cut != 1 {
			t.Errorf("%s: %d connections were cut, want 1", door, cut)
		}
	}
}

func ask(t *testing.T, transport *http.Transport, url string) string {
	t.Helper()
	defer transport.CloseIdleConnections()
	res, err := (&http.Client{Transport: transport, Timeout: 20 * time.Second}).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var b strings.Builder
	if _, err := io.Copy(&b, res.Body); err != nil {
		t.Fatal(err)
	}
	return b.String()
}
