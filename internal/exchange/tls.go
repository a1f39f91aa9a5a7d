package exchange

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"sync"
)

// TLS holds the facts of a client's TLS connection. All its exchanges share
// them, and none changes them.
type TLS struct {
	ServerName string       // the name that the client asked for, in lower case, "" for none
	Protocol   string       // by ALPN, "" for none
	Version    uint16       // as in crypto/tls
	Cipher     uint16       // as in crypto/tls
	Group      uint16       // of the key exchange: a tls.CurveID
	Resumed    bool         // a session ticket was taken
	Peer       *Certificate // that the client showed and the listener verified, nil for none
}

// Certificate is the certificate of a client, verified against the listener's
// authorities. Its texts are made when first asked for; any goroutine may ask.
type Certificate struct {
	chain []*x509.Certificate

	texts struct {
		sync.Once
		subject, issuer, thumbprint string
		names                       []string
	}
	field struct {
		sync.Once
		text string
	}
}

// NewCertificate takes a verified chain, the client's own certificate first.
func NewCertificate(chain []*x509.Certificate) *Certificate { return &Certificate{chain: chain} }

// Leaf returns the client's own certificate.
func (c *Certificate) Leaf() *x509.Certificate { return c.chain[0] }

// Chain returns the certificates up to the authority, the client's own first.
func (c *Certificate) Chain() []*x509.Certificate { return c.chain }

// DER returns the encoded certificate. It must not be changed.
func (c *Certificate) DER() []byte { return c.chain[0].Raw }

// Subject returns the subject in the form of RFC 2253, such as
// "CN=mobile,O=Partner".
func (c *Certificate) Subject() string {
	c.format()
	return c.texts.subject
}

// Issuer returns the issuer in the same form.
func (c *Certificate) Issuer() string {
	c.format()
	return c.texts.issuer
}

// Names returns the alternative names of the subject, each with its type:
// "DNS:", "email:", "URI:" or "IP:". They must not be changed.
func (c *Certificate) Names() []string {
	c.format()
	return c.texts.names
}

// Thumbprint returns the SHA-256 of the certificate in lower-case hex.
func (c *Certificate) Thumbprint() string {
	c.format()
	return c.texts.thumbprint
}

func (c *Certificate) format() {
	c.texts.Do(func() {
		leaf := c.chain[0]
		c.texts.subject, c.texts.issuer = leaf.Subject.String(), leaf.Issuer.String()
		sum := sha256.Sum256(leaf.Raw)
		c.texts.thumbprint = hex.EncodeToString(sum[:])
		for _, n := range leaf.DNSNames {
			c.texts.names = append(c.texts.names, "DNS:"+n)
		}
		for _, n := range leaf.EmailAddresses {
			c.texts.names = append(c.texts.names, "email:"+n)
		}
		for _, n := range leaf.URIs {
			c.texts.names = append(c.texts.names, "URI:"+n.String())
		}
		for _, n := range leaf.IPAddresses {
			c.texts.names = append(c.texts.names, "IP:"+n.String())
		}
	})
}

// Field returns the value of the field Client-Cert (RFC 9440 section 2.1).
func (c *Certificate) Field() string {
	c.field.Do(func() { c.field.text = ":" + base64.StdEncoding.EncodeToString(c.chain[0].Raw) + ":" })
	return c.field.text
}
