package certs

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"golang.org/x/crypto/ocsp"

	"gatehouse.dev/gatehouse/internal/config"
)

// Bounds of what is read. Beyond them a file is refused.
const (
	mostBytes  = 1 << 20 // of one file
	mostChain  = 16      // certificates in a chain
	leastRSA   = 2048    // bits of an RSA key
	mostFuture = 24 * time.Hour
)

// fieldError says which setting an error belongs to.
type fieldError struct {
	key string // in the configuration
	err error
}

func (e *fieldError) Error() string { return e.err.Error() }
func (e *fieldError) Unwrap() error { return e.err }

// pair is a certificate with its key, from files. Its fields are guarded by the
// store.
type pair struct {
	files config.Certificate
	log   *slog.Logger

	cert    *tls.Certificate  // what is served
	served  [sha256.Size]byte // the files that it came from
	seen    [sha256.Size]byte // the files as they were last looked at
	staple  time.Time         // until when the OCSP response is good, zero without one
	bare    string            // why what is served has none
	failure string            // why the files as they are now are not served
}

// content is what the files of a pair hold.
type content struct{ cert, key, ocsp []byte }

func (c *content) sum() (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, b := range [][]byte{c.cert, c.key, c.ocsp} {
		part := sha256.Sum256(b)
		h.Write(part[:])
	}
	h.Sum(sum[:0])
	return sum
}

func (p *pair) read() (c content, failed *fieldError) {
	for _, f := range []struct {
		key, name string
		into      *[]byte
	}{{"cert_file", p.files.CertFile, &c.cert}, {"key_file", p.files.KeyFile, &c.key}, {"ocsp_file", p.files.OCSPFile, &c.ocsp}} {
		if f.name == "" {
			continue
		}
		data, err := readFile(f.name)
		if err != nil {
			return c, &fieldError{f.key, err}
		}
		*f.into = data
	}
	return c, nil
}

func readFile(name string) ([]byte, error) {
	data, err := config.ReadFile(name, mostBytes)
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", name, plainError(err))
	}
	return data, nil
}

// plainError drops the path from an error of os: the text names it already.
func plainError(err error) error {
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		return p.Err
	}
	return err
}

// load reads the pair for the first time.
func (p *pair) load() *fieldError {
	c, failed := p.read()
	if failed != nil {
		return failed
	}
	cert, err := parsePair(p.files, c)
	if err != nil {
		return err
	}
	p.served = c.sum()
	p.seen = p.served
	if err := p.stapled(cert, c.ocsp); err != nil {
		return &fieldError{"ocsp_file", err}
	}
	if now := time.Now(); now.After(cert.Leaf.NotAfter) {
		p.log.Warn("certificate has expired", "file", p.files.CertFile, "expired", cert.Leaf.NotAfter)
	}
	p.cert = cert
	return nil
}

// check looks at the files again and reports whether something else is to be
// served. What cannot be used is told once, and again when it is another thing
// that cannot be used.
func (p *pair) check() bool {
	c, failed := p.read()
	if failed != nil {
		p.seen = [sha256.Size]byte{}
		p.refuse(failed)
		return false
	}
	sum := c.sum()
	if sum == p.served {
		p.seen, p.failure = sum, p.bare
		return p.unstaple()
	}
	if sum == p.seen {
		return p.unstaple()
	}
	p.seen, p.failure = sum, "" // another thing, to be told even if it is as broken as the last
	cert, err := parsePair(p.files, c)
	if err == nil {
		err = p.better(cert)
	}
	if err != nil {
		p.refuse(err)
		return p.unstaple()
	}
	p.served, p.failure, p.bare = sum, "", ""
	if err := p.stapled(cert, c.ocsp); err != nil {
		// A certificate without a staple is better than an older one.
		p.refuse(err)
		p.bare = p.failure
	}
	p.cert = cert
	p.log.Info("certificate read again", "file", p.files.CertFile, "names", cert.Leaf.DNSNames, "expires", cert.Leaf.NotAfter)
	return true
}

func (p *pair) refuse(err error) {
	if text := err.Error(); text != p.failure {
		p.failure = text
		p.log.Error("certificate files were not taken over as they are, what was good stays", "file", p.files.CertFile, "error", err)
	}
}

// better refuses a certificate that is not valid now while the one in use is.
func (p *pair) better(cert *tls.Certificate) *fieldError {
	now := time.Now()
	if !valid(p.cert.Leaf, now) || valid(cert.Leaf, now) {
		return nil
	}
	return &fieldError{"cert_file", notNow(p.files.CertFile, cert.Leaf)}
}

// notNow says of a certificate when it is valid.
func notNow(file string, leaf *x509.Certificate) error {
	return fmt.Errorf("certificate %q is valid from %s to %s", file, leaf.NotBefore.UTC().Format(time.RFC3339), leaf.NotAfter.UTC().Format(time.RFC3339))
}

func valid(leaf *x509.Certificate, now time.Time) bool {
	return !now.Before(leaf.NotBefore) && !now.After(leaf.NotAfter)
}

// parsePair makes a certificate of what the files hold, and refuses what
// clients would.
func parsePair(files config.Certificate, c content) (*tls.Certificate, *fieldError) {
	if err := onlyCertificates(files.CertFile, c.cert); err != nil {
		return nil, &fieldError{"cert_file", err}
	}
	cert, err := tls.X509KeyPair(c.cert, c.key)
	if err != nil {
		return nil, &fieldError{"key_file", fmt.Errorf("certificate %q with key %q: %w", files.CertFile, files.KeyFile, err)}
	}
	if key, ok := cert.Leaf.PublicKey.(*rsa.PublicKey); ok && key.N.BitLen() < leastRSA {
		return nil, &fieldError{"cert_file", fmt.Errorf("certificate %q: an RSA key of %d bits is too short: at least %d", files.CertFile, key.N.BitLen(), leastRSA)}
	}
	return &cert, nil
}

// onlyCertificates makes sure that a PEM file holds certificates that can be
// read, and not too many.
func onlyCertificates(name string, data []byte) error {
	n := 0
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		data = rest
		if block.Type != "CERTIFICATE" {
			continue
		}
		if n++; n > mostChain {
			return fmt.Errorf("%q holds more than %d certificates", name, mostChain)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("certificate %d of %q: %w", n, name, err)
		}
	}
	if n == 0 {
		return fmt.Errorf("%q holds no certificate in PEM", name)
	}
	return nil
}

// stapled adds an OCSP response to a certificate. One that is no longer good is
// left out: clients would refuse the connection for its sake.
func (p *pair) stapled(cert *tls.Certificate, der []byte) error {
	p.staple = time.Time{}
	if p.files.OCSPFile == "" {
		return nil
	}
	if len(cert.Certificate) < 2 {
		return fmt.Errorf("OCSP response %q cannot be verified: the issuer is not in %q", p.files.OCSPFile, p.files.CertFile)
	}
	issuer, err := x509.ParseCertificate(cert.Certificate[1])
	if err != nil {
		return fmt.Errorf("issuer in %q: %w", p.files.CertFile, err)
	}
	response, err := ocsp.ParseResponseForCert(der, cert.Leaf, issuer)
	switch {
	case err != nil:
		return fmt.Errorf("OCSP response %q: %w", p.files.OCSPFile, err)
	case response.Status != ocsp.Good:
		return fmt.Errorf("OCSP response %q does not say that the certificate is good", p.files.OCSPFile)
	case !response.NextUpdate.IsZero() && time.Now().After(response.NextUpdate):
		p.log.Warn("OCSP response is not stapled: it has expired", "file", p.files.OCSPFile, "expired", response.NextUpdate)
		return nil
	}
	p.staple = response.NextUpdate
	if p.staple.IsZero() {
		p.staple = time.Now().Add(mostFuture) // RFC 6960 section 2.4: newer information is always there
	}
	cert.OCSPStaple = der
	return nil
}

// unstaple leaves the OCSP response out when it is no longer good.
func (p *pair) unstaple() bool {
	if p.staple.IsZero() || time.Now().Before(p.staple) {
		return false
	}
	cert := *p.cert
	cert.OCSPStaple = nil
	p.cert, p.staple = &cert, time.Time{}
	p.log.Warn("OCSP response is no longer stapled: it has expired", "file", p.files.OCSPFile)
	return true
}

func (p *pair) status() Status {
	return Status{
		Names: p.cert.Leaf.DNSNames, Source: p.files.CertFile, Expires: p.cert.Leaf.NotAfter,
		Stapled: p.cert.OCSPStaple != nil, Error: p.failure,
	}
}

// rank orders the certificates of one name: what costs us less comes first.
func rank(cert *tls.Certificate) int {
	switch cert.Leaf.PublicKey.(type) {
	case *ecdsa.PublicKey:
		return 0
	case ed25519.PublicKey:
		return 1
	}
	return 2
}

// pool is a list of authorities for client certificates, from a file. Its
// fields are guarded by the store.
type pool struct {
	file string
	log  *slog.Logger

	certs   *x509.CertPool
	sum     [sha256.Size]byte // of what is in use
	seen    [sha256.Size]byte
	failure string
}

func readPool(file string) (*x509.CertPool, [sha256.Size]byte, error) {
	data, err := readFile(file)
	if err != nil {
		return nil, [sha256.Size]byte{}, err
	}
	sum := sha256.Sum256(data)
	certs := x509.NewCertPool()
	n := 0
	for {
		block, rest := pem.Decode(data)
		if block == nil {
			break
		}
		data = rest
		if block.Type != "CERTIFICATE" {
			continue
		}
		n++
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, sum, fmt.Errorf("certificate %d of %q: %w", n, file, err)
		}
		certs.AddCert(cert)
	}
	if n == 0 {
		return nil, sum, fmt.Errorf("%q holds no certificate in PEM", file)
	}
	return certs, sum, nil
}

func (p *pool) load() error {
	certs, sum, err := readPool(p.file)
	if err != nil {
		return err
	}
	p.certs, p.sum, p.seen = certs, sum, sum
	return nil
}

// check is the same for authorities as for certificates.
func (p *pool) check() bool {
	certs, sum, err := readPool(p.file)
	if err == nil && sum == p.sum {
		p.seen, p.failure = sum, ""
		return false
	}
	if err != nil {
		if text := err.Error(); sum != p.seen || text != p.failure {
			p.seen, p.failure = sum, text
			p.log.Error("client authorities were not taken over, the last good ones stay", "file", p.file, "error", err)
		}
		return false
	}
	p.certs, p.sum, p.seen, p.failure = certs, sum, sum, ""
	p.log.Info("client authorities read again", "file", p.file)
	return true
}
