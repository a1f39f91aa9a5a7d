package consumer

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/password"
)

// fault is one thing wrong with a consumer.
type fault struct{ path, text string }

// drop removes all that an old consumer had.
func (c *Change) drop(old *config.Consumer) {
	if old == nil {
		return
	}
	c.names = append(c.names, change[string]{key: old.Name})
	for _, cred := range old.Credentials {
		if cred == nil {
			continue
		}
		if b := cred.Basic; b != nil {
			// It was read once, when it came.
			if h, err := password.Parse(b.PasswordHash.Reveal()); err == nil {
				c.count(h, -1)
			}
		}
		c.put(cred, nil)
	}
}

// add adds a consumer and its credentials.
func (c *Change) add(next *config.Consumer) (faults []fault) {
	common := entry(next)
	byName := common
	c.names = append(c.names, change[string]{next.Name, &byName})
	for i, cred := range next.Credentials {
		if cred == nil {
			continue // decoding has said what is wrong with it
		}
		e := common
		e.name = cred.Name
		if e.name == "" {
			e.name = fmt.Sprintf("%s[%d]", cred.Kind(), i)
		}
		e.notBefore, e.expires = int64(cred.NotBefore), int64(cred.Expires)
		e.disabled = common.disabled || cred.Disabled
		at := fmt.Sprintf("credentials[%d].", i)
		if b := cred.Basic; b != nil {
			h, err := password.Parse(b.PasswordHash.Reveal())
			if err != nil {
				faults = append(faults, fault{at + "basic.password_hash", err.Error()})
				continue
			}
			e.proof = &proof{hash: h}
			c.count(h, 1)
		}
		if s := cred.Signature; s != nil {
			key, path, err := signatureKey(s)
			if err != nil {
				faults = append(faults, fault{at + "signature." + path, err.Error()})
				continue
			}
			e.proof = &proof{algorithm: s.Algorithm, key: key}
		}
		c.put(cred, &e)
	}
	return faults
}

// put sets, or with nil removes, the entry of a credential.
func (c *Change) put(cred *config.Credential, e *Credential) {
	switch {
	case cred.APIKey != nil:
		var sum [32]byte
		// The configuration has checked that these are 64 hex digits.
		n, err := hex.Decode(sum[:], []byte(strings.TrimPrefix(cred.APIKey.Hash, "sha256:")))
		if err == nil && n == len(sum) {
			c.keys = append(c.keys, change[[32]byte]{sum, e})
		}
	case cred.Basic != nil:
		c.users = append(c.users, change[string]{cred.Basic.Username, e})
	case cred.JWT != nil:
		c.tokens = append(c.tokens, change[subject]{subject{cred.JWT.Issuer, cred.JWT.Subject}, e})
	case cred.Certificate != nil:
		if key := certificateKey(cred.Certificate); key != "" {
			c.certs = append(c.certs, change[string]{key, e})
		}
	case cred.Signature != nil:
		c.signs = append(c.signs, change[string]{cred.Signature.KeyID, e})
	case cred.LDAP != nil:
		c.people = append(c.people, change[string]{strings.ToLower(cred.LDAP.Name), e})
	}
}

// certificateKey returns the key of a certificate, "" where there is none.
func certificateKey(m *config.ClientCertificate) string {
	switch {
	case m.Thumbprint != "":
		return "x " + strings.ToLower(strings.ReplaceAll(m.Thumbprint, ":", ""))
	case m.SAN != "":
		san, err := config.SAN(m.SAN)
		if err != nil { // the configuration has checked it
			return ""
		}
		return "a " + san
	}
	return "s " + m.Subject
}

// signatureKey returns the key of a signature credential, or what is wrong
// with it, and where.
func signatureKey(s *config.SignatureKey) (key any, path string, err error) {
	if s.Algorithm == "hmac-sha256" {
		secret := []byte(s.Secret.Reveal())
		if len(secret) < 32 {
			return nil, "secret", errors.New("the secret has less than 32 bytes")
		}
		return secret, "", nil
	}
	key, err = publicKey(s.PublicKey.Reveal())
	if err != nil {
		return nil, "public_key", err
	}
	fits := false
	switch k := key.(type) {
	case ed25519.PublicKey:
		fits = s.Algorithm == "ed25519"
	case *ecdsa.PublicKey:
		fits = s.Algorithm == "ecdsa-p256-sha256" && k.Curve == elliptic.P256() || s.Algorithm == "ecdsa-p384-sha384" && k.Curve == elliptic.P384()
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return nil, "public_key", fmt.Errorf("the RSA key has %d bits, less than 2048", k.N.BitLen())
		}
		fits = s.Algorithm == "rsa-pss-sha512" || s.Algorithm == "rsa-v1_5-sha256"
	}
	if !fits {
		return nil, "public_key", fmt.Errorf("the key is not one of %s", s.Algorithm)
	}
	return key, "", nil
}

// publicKey reads a public key in PEM: PKIX, PKCS #1 or a certificate.
func publicKey(text string) (any, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("this is not a public key in PEM")
	}
	switch block.Type {
	case "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case "RSA PUBLIC KEY":
		return x509.ParsePKCS1PublicKey(block.Bytes)
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		return cert.PublicKey, nil
	}
	return nil, fmt.Errorf("a PEM block %q holds no public key", block.Type)
}
