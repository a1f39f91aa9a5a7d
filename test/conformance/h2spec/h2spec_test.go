// Package h2spec_test runs h2spec against the real binary: whole but for
// section 5.3 of RFC 7540, whose two cases want a stream that depends on
// itself to be an error. That scheme of priorities is obsolete and ignored (RFC
// 9113, section 5.3).
package h2spec_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/test/live"
)

const settings = `
admin: off
listeners:
  - { name: plain, address: "127.0.0.1:0", protocols: [h2c] }
  - name: secure
    address: "localhost:0"
    tls: { certificates: [{ cert_file: a.crt, key_file: a.key }] }
policies: [{ request_id: {} }]
routes: [{ match: "/*", upstream: SERVICE }]
`

func TestH2Spec(t *testing.T) {
	if testing.Short() {
		t.Skip("h2spec takes some seconds, and has to be built")
	}
	dir := t.TempDir()
	bin, err := live.Build(dir)
	if err != nil {
		t.Fatal(err)
	}
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, io.MultiReader(strings.NewReader("hello "), r.Body))
	}))
	defer service.Close()
	certificate(t, dir)
	text := strings.Replace(settings, "SERVICE", service.URL, 1)
	if err := os.WriteFile(filepath.Join(dir, "gatehouse.yaml"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	g, err := live.Start(bin, dir, nil, "run", "-c", "gatehouse.yaml")
	if err != nil {
		t.Fatal(err)
	}
	defer g.Kill()
	if err := g.Serving(); err != nil {
		t.Fatal(err)
	}
	for name, flags := range map[string][]string{"plain": nil, "secure": {"-t", "-k"}} {
		t.Run(name, func(t *testing.T) {
			host, port, err := net.SplitHostPort(g.Addresses()[name])
			if err != nil {
				t.Fatal(err)
			}
			args := append([]string{"tool", "-modfile=../../../tools/go.mod", "h2spec", "-h", host, "-p", port, "-o", "2"}, flags...)
			args = append(args, "generic", "hpack", "http2/3", "http2/4", "http2/5.1", "http2/5.4", "http2/5.5", "http2/6", "http2/7", "http2/8")
			out, err := exec.CommandContext(t.Context(), "go", args...).CombinedOutput()
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			} else {
				t.Logf("%s", out[max(0, len(out)-100):])
			}
		})
	}
}

// certificate writes a certificate that signs itself; h2spec believes any.
func certificate(t *testing.T, dir string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	kd, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"a.crt": {Type: "CERTIFICATE", Bytes: der}, "a.key": {Type: "EC PRIVATE KEY", Bytes: kd}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
