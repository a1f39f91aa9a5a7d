package jose

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
)

// Signer signs tokens with one key and one algorithm.
type Signer struct {
	id, alg string
	key     any // a crypto.Signer, or []byte
	public  *Key
}

// NewSigner returns a signer. An empty alg stands for the usual one of the key;
// an empty id for the key's thumbprint.
func NewSigner(key any, alg, id string) (*Signer, error) {
	s := &Signer{id: id, alg: alg, key: key}
	public := key
	switch k := key.(type) {
	case *rsa.PrivateKey:
		s.usual("RS256")
		public = &k.PublicKey
	case *ecdsa.PrivateKey:
		s.usual(curveAlg(k.Curve))
		public = &k.PublicKey
	case ed25519.PrivateKey:
		s.usual("EdDSA")
		public = k.Public().(ed25519.PublicKey)
	case []byte:
		s.usual("HS256")
	default:
		return nil, fmt.Errorf("a key of type %T signs nothing", key)
	}
	var err error
	if s.public, err = NewKey(id, s.alg, public); err != nil {
		return nil, err
	}
	if s.id == "" {
		s.id = s.public.Thumb
		s.public.ID = s.id
	}
	return s, nil
}

func (s *Signer) usual(alg string) {
	if s.alg == "" {
		s.alg = alg
	}
}

// Alg returns the algorithm.
func (s *Signer) Alg() string { return s.alg }

// Key returns what verifies the signatures.
func (s *Signer) Key() *Key { return s.public }

// ParsePrivate reads a private key in PEM: PKCS #8, PKCS #1 or SEC 1.
func ParsePrivate(text string) (any, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("this is not a private key in PEM")
	}
	switch block.Type {
	case "PRIVATE KEY":
		return x509.ParsePKCS8PrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		return x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		return x509.ParseECPrivateKey(block.Bytes)
	}
	return nil, fmt.Errorf("a PEM block %q holds no private key", block.Type)
}

// Sign makes a token. header says more than "alg" and "kid"; it may be nil.
func (s *Signer) Sign(header, claims map[string]any) (string, error) {
	h := map[string]any{"alg": s.alg}
	if s.id != "" {
		h["kid"] = s.id
	}
	maps.Copy(h, header)
	head, err := json.Marshal(h)
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	b64 := base64.RawURLEncoding.EncodeToString
	text := b64(head) + "." + b64(body)
	sig, err := s.Raw([]byte(text))
	if err != nil {
		return "", err
	}
	return text + "." + b64(sig), nil
}

// Raw signs bytes (RFC 7518, section 3).
func (s *Signer) Raw(text []byte) ([]byte, error) {
	if k, ok := s.key.(ed25519.PrivateKey); ok {
		return ed25519.Sign(k, text), nil
	}
	h := hashOf(s.alg)
	if k, ok := s.key.([]byte); ok {
		mac := hmac.New(h.New, k)
		mac.Write(text)
		return mac.Sum(nil), nil
	}
	d := h.New()
	d.Write(text)
	digest := d.Sum(nil)
	switch k := s.key.(type) {
	case *rsa.PrivateKey:
		if s.alg[0] == 'P' {
			return rsa.SignPSS(rand.Reader, k, h, digest, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
		}
		return rsa.SignPKCS1v15(rand.Reader, k, h, digest)
	case *ecdsa.PrivateKey:
		return signECDSA(k, digest)
	}
	return nil, fmt.Errorf("a key of type %T signs nothing", s.key)
}

func signECDSA(k *ecdsa.PrivateKey, digest []byte) ([]byte, error) {
	r, t, err := ecdsa.Sign(rand.Reader, k, digest)
	if err != nil {
		return nil, err
	}
	n := (k.Curve.Params().BitSize + 7) / 8
	sig := make([]byte, 2*n)
	r.FillBytes(sig[:n])
	t.FillBytes(sig[n:])
	return sig, nil
}

// Publish returns the JWK set with which others verify what the signers sign.
func Publish(signers ...*Signer) ([]byte, error) {
	keys := []map[string]string{}
	for _, s := range signers {
		if s.public.Secret() {
			return nil, errors.New("a shared secret is not for publishing")
		}
		jwk, err := JWK(s.public.key)
		if err != nil {
			return nil, err
		}
		jwk["kid"], jwk["alg"], jwk["use"] = s.id, s.alg, "sig"
		keys = append(keys, jwk)
	}
	return json.Marshal(map[string]any{"keys": keys})
}
