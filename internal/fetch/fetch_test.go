package fetch

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/policy"
)

func TestAllowed(t *testing.T) {
	for address, want := range map[string][2]bool{ // by default, and with link_local
		"127.0.0.1:80": {true, true}, "10.0.0.1:80": {true, true}, "192.0.2.1:443": {true, true}, "[::1]:80": {true, true}, "[2001:db8::1]:80": {true, true},
		"169.254.169.254:80": {false, true}, "169.254.0.1:80": {false, true}, "[fe80::1]:80": {false, true}, "[fe80::1%eth0]:80": {false, true},
		"[::ffff:169.254.169.254]:80": {false, true}, "[64:ff9b::a9fe:a9fe]:80": {false, true}, "[fd00:ec2::254]:80": {false, true}, "[fd00:ec2::23]:80": {false, true}, "[fd20:ce::254]:80": {false, true},
		"100.100.100.200:80": {false, true}, "168.63.129.16:80": {false, true},
		"0.0.0.0:80": {false, false}, "[::]:80": {false, false}, "224.0.0.1:80": {false, false}, "255.255.255.255:80": {false, false}, "name:80": {false, false},
	} {
		for i, linkLocal := range []bool{false, true} {
			if err := allowed(address, linkLocal); (err == nil) != want[i] {
				t.Errorf("%s, link_local %v: %v", address, linkLocal, err)
			}
		}
	}
}

func TestCheck(t *testing.T) {
	s := Default()
	for text, ok := range map[string]bool{
		"https://id.example.com/x": true, "http://127.0.0.1:1/": true, "http://localhost/": true, "http://[::1]/": true,
		"http://id.example.com/": false, "ftp://id.example.com/": false, "https://u:p@id.example.com/": false, "https://id.example.com/#x": false,
		"/path": false, "": false, "https://": false, "file:///etc/passwd": false, "http://localhost.evil.example/": false,
	} {
		if f := s.Check(text); (f == nil) != ok {
			t.Errorf("%q: %v", text, f)
		}
	}
	if s.Plain = true; s.Check("http://id.example.com/") != nil {
		t.Error("plain http was not allowed")
	}
}

func TestClient(t *testing.T) {
	stop := make(chan struct{})
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/", http.StatusFound)
		case "/large":
			_, _ = w.Write(make([]byte, 1<<10+1))
		case "/gzip":
			if r.Header.Get("Accept-Encoding") != "" {
				t.Errorf("it takes %q", r.Header.Get("Accept-Encoding"))
			}
		case "/slow":
			<-stop
		}
	}))
	defer s.Close()
	defer close(stop)
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	settings := Settings{Timeout: policy.Duration(500 * time.Millisecond), MaxBody: 1 << 10, CAFile: file}
	c, err := New(settings)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Retire()
	for path, want := range map[string]string{"/": "", "/gzip": "", "/moved": "redirection", "/large": ErrLarge.Error(), "/slow": "deadline"} {
		_, err := c.Get(t.Context(), s.URL+path+"?secret=hunter2")
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(strings.ToLower(err.Error()), want)) {
			t.Errorf("%s: %v", path, err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error shows the query: %v", err)
		}
	}
	t.Setenv("HTTPS_PROXY", "http://127.0.0.1:1")
	if _, err := c.Get(t.Context(), s.URL); err != nil {
		t.Errorf("with a proxy in the environment: %v", err)
	}
	stranger, err := New(Default())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.Get(t.Context(), s.URL); err == nil {
		t.Error("a certificate of nobody was taken")
	}
	var f *policy.Fault
	if _, err := New(Settings{CAFile: "/none", CertFile: "/none"}); !errors.As(err, &f) {
		t.Errorf("files that are not there: %v", err)
	}
}

// A certificate that is replaced is used without a reload; while its file holds
// nothing of use, the one before goes on.
func TestFilesAreFollowed(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer s.Close()
	right := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	file := filepath.Join(t.TempDir(), "ca.pem")
	write := func(text []byte) {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(otherAuthority(t))
	settings := Default()
	settings.CAFile = file
	c, err := New(settings)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Retire()
	ask := func(what string, later, ok bool) {
		t.Helper()
		if c.looked = time.Now().Add(time.Hour); later {
			c.looked = time.Time{}
		}
		if _, err := c.Get(t.Context(), s.URL); (err == nil) != ok {
			t.Errorf("%s: %v", what, err)
		}
	}
	ask("another authority", true, false)
	write(right)
	ask("before the file is looked at", false, false)
	ask("the right authority", true, true)
	write([]byte("half of a fi"))
	ask("a file of no use", true, true)
	write(otherAuthority(t))
	ask("another authority again", true, false)
}

// A service that asks for a certificate is shown the one of the settings.
func TestClientCertificate(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(r.TLS.PeerCertificates[0].Raw)
	}))
	s.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	s.StartTLS()
	defer s.Close()
	dir := t.TempDir()
	settings := Default()
	settings.CAFile, settings.CertFile, settings.KeyFile = filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	cert, key := authority(t)
	for file, text := range map[string][]byte{
		settings.CAFile: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), settings.CertFile: cert, settings.KeyFile: key,
	} {
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := New(settings)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Retire()
	block, _ := pem.Decode(cert)
	if shown, err := c.Get(t.Context(), s.URL); err != nil || !bytes.Equal(shown, block.Bytes) {
		t.Errorf("%v", err)
	}
	settings.CertFile, settings.KeyFile = "", ""
	if c, err = New(settings); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(t.Context(), s.URL); err == nil {
		t.Error("without a certificate it is let in")
	}
}

func otherAuthority(t *testing.T) []byte {
	cert, _ := authority(t)
	return cert
}

func authority(t *testing.T) (cert, private []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})
}
