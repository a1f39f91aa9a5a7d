package app

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"
)

// pair makes a certificate for names and loopback.
func pair(t testing.TB, names ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: names,
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// serve runs a service that says its name and then repeats what it hears.
func serve(t testing.TB, ln net.Listener, name string) string {
	t.Helper()
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer nc.Close()
				fmt.Fprintln(nc, name)
				io.Copy(nc, nc)
			}()
		}
	}()
	return ln.Addr().String()
}

func listenTCP(t testing.TB) net.Listener {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// running starts a gateway with a configuration in a file. Who calls it drains
// or closes the gateway.
func running(t *testing.T, text string) (a *App, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "gatehouse.yaml")
	write(t, file, text)
	a, err := New(Source{Path: file}, "test", t.Output())
	if err != nil {
		t.Fatal(err)
	}
	return a, file
}

// writePair writes a.crt and a.key, which are for shop.example.com.
func writePair(t *testing.T, dir string) {
	t.Helper()
	cert := pair(t, "shop.example.com")
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "a.crt"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})))
	write(t, filepath.Join(dir, "a.key"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
}

func write(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// address returns where a listener listens.
func address(t *testing.T, a *App, name string) string {
	t.Helper()
	for _, l := range a.Status().Listeners {
		if l.Name == name {
			return l.Address
		}
	}
	t.Fatalf("there is no listener %q", name)
	return ""
}

// says reads a line.
func says(t *testing.T, c net.Conn, want string) {
	t.Helper()
	var line []byte
	for b := make([]byte, 1); ; {
		if _, err := c.Read(b); err != nil {
			t.Fatalf("%q, want %q: %v", line, want, err)
		}
		if b[0] == '\n' {
			break
		}
		line = append(line, b[0])
	}
	if string(line) != want {
		t.Fatalf("%q, want %q", line, want)
	}
}

func dial(t *testing.T, address string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c
}

// Connections are passed on by listener and by name; a reload sends new ones
// elsewhere and leaves the old ones alone; each has a line in the access log.
func TestPass(t *testing.T) {
	plain := serve(t, listenTCP(t), "plain")
	secure := func(name string) string {
		ln := tls.NewListener(listenTCP(t), &tls.Config{Certificates: []tls.Certificate{pair(t, name)}})
		return serve(t, ln, name)
	}
	log := filepath.Join(t.TempDir(), "access.log")
	text := fmt.Sprintf(`
listeners:
  - { name: tcp, address: "127.0.0.1:0", protocol: tcp, upstream: "tcp://%s" }
  - name: tls
    address: "[::1]:0"
    protocol: tls
    routes:
      - { sni: db.example.com, upstream: "tcp://%s" }
      - { sni: "*.example.com", upstream: "tcp://%s" }
admin: off
observe: { access_log: { output: %q } }
policies: [ access_log: {} ]
routes: []
`, plain, secure("exact"), secure("wild"), log)
	a, file := running(t, text)

	old := dial(t, address(t, a, "tcp"))
	says(t, old, "plain")
	for name, want := range map[string]string{"db.example.com": "exact", "DB.example.com": "exact", "a.b.example.com": "wild"} {
		c := tls.Client(dial(t, address(t, a, "tls")), &tls.Config{ServerName: name, InsecureSkipVerify: true})
		says(t, c, want)
		fmt.Fprintln(c, "hello")
		says(t, c, "hello")
		c.Close()
	}
	err := tls.Client(dial(t, address(t, a, "tls")), &tls.Config{ServerName: "other.example.net", InsecureSkipVerify: true}).Handshake()
	if err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("a name that no route has: %v", err)
	}

	other := serve(t, listenTCP(t), "other")
	write(t, file, strings.Replace(text, plain, other, 1))
	a.Reload(true)
	says(t, dial(t, address(t, a, "tcp")), "other")
	fmt.Fprintln(old, "still there")
	says(t, old, "still there")
	old.Close()

	// What is left is cut when the time of the drain is over, as it is at once.
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Drain(over); !errors.Is(err, ErrCut) {
		t.Error(err)
	}
	lines, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`"listener":"tcp","proto":"tcp","upstream":"tcp://` + plain,
		`"host":"db.example.com","proto":"tls"`,
		`"host":"other.example.net","proto":"tls","code":"no_route","side":"client"`,
		`"bytes_in":12,"bytes_out":18`,
	} {
		if !bytes.Contains(lines, []byte(want)) {
			t.Errorf("no line has %s:\n%s", want, lines)
		}
	}
	if n := bytes.Count(lines, []byte("\n")); n != 6 {
		t.Errorf("%d lines:\n%s", n, lines)
	}
}

// One listener answers by three protocols over two transports, and says so.
func TestProtocols(t *testing.T) {
	dir := t.TempDir()
	writePair(t, dir)
	a, _ := running(t, fmt.Sprintf(`
listeners:
  - name: public
    address: "127.0.0.1:0"
    protocols: [http1, http2, http3]
    tls: { certificates: [{ cert_file: %[1]q, key_file: %[2]q }] }
admin: off
policies: [ headers: { response: { set: { X-Policy: seen } } } ]
routes: [ { match: /*, respond: { body: hello } } ]
`, filepath.Join(dir, "a.crt"), filepath.Join(dir, "a.key")))
	defer a.Close(context.Background())
	at := address(t, a, "public")
	_, port, _ := net.SplitHostPort(at)
	conf := &tls.Config{ServerName: "shop.example.com", InsecureSkipVerify: true}
	for proto, transport := range map[string]http.RoundTripper{
		"HTTP/1.1": &http.Transport{TLSClientConfig: conf, DisableKeepAlives: true},
		"HTTP/2.0": &http.Transport{TLSClientConfig: conf.Clone(), ForceAttemptHTTP2: true},
		"HTTP/3.0": &http3.Transport{TLSClientConfig: conf.Clone()},
	} {
		c := http.Client{Transport: transport, Timeout: 20 * time.Second}
		res, err := c.Get("https://" + at + "/x")
		if err != nil {
			t.Errorf("%s: %v", proto, err)
			continue
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		want := fmt.Sprintf(`h3=":%s"; ma=86400`, port)
		if proto == "HTTP/3.0" {
			want = ""
		}
		if res.Proto != proto || string(body) != "hello" || res.Header.Get("X-Policy") != "seen" || res.Header.Get("Alt-Svc") != want {
			t.Errorf("%s: %s %q %v", proto, res.Proto, body, res.Header)
		}
		c.CloseIdleConnections()
		if closes, ok := transport.(io.Closer); ok {
			closes.Close()
		}
	}
}
