package ldap_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// certificate writes one for a host and its key, and returns their files.
func certificate(t *testing.T, host string) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: host}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	if ip := net.ParseIP(host); ip != nil {
		c.IPAddresses = []net.IP{ip}
	} else {
		c.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for file, b := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(b), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// TestSecured asks real directories over TLS: what cannot be verified is asked
// nothing.
func TestSecured(t *testing.T) {
	cert, key := certificate(t, "127.0.0.1")
	other, _ := certificate(t, "127.0.0.1")
	settings := "TLSCertificateFile " + cert + "\nTLSCertificateKeyFile " + key
	plain, secured := directoryWith(t, "ldap", settings+"\nsecurity tls=1"), directoryWith(t, "ldaps", settings)
	for _, c := range []struct {
		name, url, settings string
		status              int
	}{
		{"from the first byte", secured, ", connection: { ca_file: " + cert + " }", 200},
		{"later", plain, ", start_tls: true, connection: { ca_file: " + cert + " }", 200},
		{"never", plain, "", 503},
		{"with another authority", secured, ", connection: { ca_file: " + other + " }", 503},
		{"later with another authority", plain, ", start_tls: true, connection: { ca_file: " + other + " }", 503},
		{"with the system's authorities", secured, "", 503},
		{"for another name", secured, ", connection: { server_name: ldap.example.com, ca_file: " + cert + " }", 503},
		{"later for another name", plain, ", start_tls: true, connection: { server_name: ldap.example.com, ca_file: " + cert + " }", 503},
	} {
		r := at(t, c.url, asGate+c.settings)
		for pass, status := range map[string]int{"password": c.status, "wrong": map[bool]int{true: 401, false: 503}[c.status == 200]} {
			if a := signIn(r, "ann", pass); a.Status != status {
				t.Errorf("%s, %s: %d, %v", c.name, pass, a.Status, a.Problem)
			}
		}
		if got := r.Received(); (len(got) == 1) != (c.status == 200) || len(got) == 1 && strings.Contains(got[0].String(), "Basic") {
			t.Errorf("%s: the service got %v", c.name, got)
		}
	}
}
