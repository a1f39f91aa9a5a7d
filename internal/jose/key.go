package jose

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	_ "crypto/sha512" // crypto.SHA384 and crypto.SHA512
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync/atomic"
)

// Key verifies signatures. Which algorithms it may be used with follows from
// what it is, never from a token.
type Key struct {
	ID    string // its "kid", "" for none
	Alg   string // the one algorithm that its owner allows, "" for all that fit
	Thumb string // its JWK thumbprint (RFC 7638), base64url; "" for a secret

	key  any // *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey or []byte
	gone atomic.Bool
}

// Gone tells whether the key's owner has withdrawn it. What it verified before
// is no longer to be believed.
func (k *Key) Gone() bool { return k.gone.Load() }

// The least strength of keys.
const (
	leastRSA    = 2048 // bits
	mostRSA     = 8192 // beyond it a signature takes milliseconds to verify
	leastSecret = 32   // bytes
)

var hashes = [...]struct {
	suffix string
	hash   crypto.Hash
}{{"256", crypto.SHA256}, {"384", crypto.SHA384}, {"512", crypto.SHA512}}

// NewKey returns a key of a public key or a secret.
func NewKey(id, alg string, key any) (*Key, error) {
	k := &Key{ID: id, Alg: alg, key: key}
	switch p := key.(type) {
	case *rsa.PublicKey:
		if n := p.N.BitLen(); n < leastRSA || n > mostRSA {
			return nil, fmt.Errorf("an RSA key has %d to %d bits, not %d", leastRSA, mostRSA, n)
		}
		if p.E < 3 || p.E%2 == 0 {
			return nil, fmt.Errorf("an RSA key cannot have the exponent %d", p.E)
		}
	case *ecdsa.PublicKey:
		if curveAlg(p.Curve) == "" {
			return nil, errors.New("the key is on a curve that is not supported")
		}
	case ed25519.PublicKey:
		if len(p) != ed25519.PublicKeySize {
			return nil, errors.New("the key has a wrong size")
		}
		if smallOrder(p) {
			return nil, errors.New("the key is one that anybody can sign with")
		}
	case []byte:
		if len(p) < leastSecret {
			return nil, fmt.Errorf("a secret has at least %d bytes", leastSecret)
		}
	default:
		return nil, fmt.Errorf("a key of type %T verifies nothing", key)
	}
	if alg != "" && !k.fits(alg) {
		return nil, fmt.Errorf("the key is not one of %s", alg)
	}
	if _, secret := key.([]byte); !secret {
		jwk, err := JWK(key)
		if err != nil {
			return nil, err
		}
		k.Thumb = Thumbprint(jwk)
	}
	return k, nil
}

// smallOrders has the points of Ed25519 whose order is 8 or less, without their
// sign and with the numbers that stand for two of them beyond the field.
var smallOrders = [...]string{
	"0000000000000000000000000000000000000000000000000000000000000000",
	"0100000000000000000000000000000000000000000000000000000000000000",
	"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
	"c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
	"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
}

// smallOrder tells the public keys that have no private one: one signature of
// theirs fits every eighth text or more.
func smallOrder(p ed25519.PublicKey) bool {
	y := [ed25519.PublicKeySize]byte(p)
	y[len(y)-1] &= 0x7f
	return slices.Contains(smallOrders[:], hex.EncodeToString(y[:]))
}

func curveAlg(c elliptic.Curve) string {
	switch c {
	case elliptic.P256():
		return "ES256"
	case elliptic.P384():
		return "ES384"
	case elliptic.P521():
		return "ES512"
	}
	return ""
}

// Secret tells whether the key is a shared secret.
func (k *Key) Secret() bool {
	_, ok := k.key.([]byte)
	return ok
}

// fits tells whether an algorithm is one of the key's type.
func (k *Key) fits(alg string) bool {
	switch p := k.key.(type) {
	case *rsa.PublicKey:
		return (strings.HasPrefix(alg, "RS") || strings.HasPrefix(alg, "PS")) && hashOf(alg) != 0
	case *ecdsa.PublicKey:
		return alg == curveAlg(p.Curve)
	case ed25519.PublicKey:
		return alg == "EdDSA" || alg == "Ed25519" // RFC 8037, and RFC 9864 which names it better
	case []byte:
		return strings.HasPrefix(alg, "HS") && hashOf(alg) != 0
	}
	return false
}

func hashOf(alg string) crypto.Hash {
	for _, h := range hashes {
		if len(alg) == 5 && alg[2:] == h.suffix {
			return h.hash
		}
	}
	return 0
}

// Allows tells whether a token with that algorithm may be verified with the
// key.
func (k *Key) Allows(alg string) bool { return k.fits(alg) && (k.Alg == "" || k.Alg == alg) }

var errSignature = errors.New("the signature is wrong")

// Verify checks a signature (RFC 7518, section 3).
func (k *Key) Verify(alg string, signed, sig []byte) error {
	if !k.Allows(alg) {
		return fmt.Errorf("algorithm %q is not one of the key", alg)
	}
	h := hashOf(alg)
	digest := func() []byte {
		d := h.New()
		d.Write(signed)
		return d.Sum(nil)
	}
	ok := false
	switch p := k.key.(type) {
	case []byte:
		mac := hmac.New(h.New, p)
		mac.Write(signed)
		ok = hmac.Equal(mac.Sum(nil), sig)
	case *rsa.PublicKey:
		if alg[0] == 'P' {
			ok = rsa.VerifyPSS(p, h, digest(), sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}) == nil
		} else {
			ok = rsa.VerifyPKCS1v15(p, h, digest(), sig) == nil
		}
	case *ecdsa.PublicKey:
		n := (p.Curve.Params().BitSize + 7) / 8
		if len(sig) != 2*n {
			return errSignature
		}
		r, s := new(big.Int).SetBytes(sig[:n]), new(big.Int).SetBytes(sig[n:])
		ok = ecdsa.Verify(p, digest(), r, s)
	case ed25519.PublicKey:
		ok = len(sig) == ed25519.SignatureSize && ed25519.Verify(p, signed, sig)
	}
	if !ok {
		return errSignature
	}
	return nil
}

// ParseJWK reads the JWK (RFC 7517) of a public key or a shared secret. A key
// that is not for signatures gives nil and no error. A private key is refused:
// whoever gives it out shares it with everybody who reads it.
func ParseJWK(m map[string]any) (*Key, error) {
	for _, name := range []string{"kty", "use", "alg", "kid"} {
		if _, ok := m[name].(string); !ok && m[name] != nil {
			return nil, fmt.Errorf("the key's %q is no text", name)
		}
	}
	text := func(name string) string {
		s, _ := m[name].(string)
		return s
	}
	if use := text("use"); use != "" && use != "sig" {
		return nil, nil
	}
	ops, ok := m["key_ops"].([]any)
	switch {
	case !ok && m["key_ops"] != nil:
		return nil, errors.New(`the key's "key_ops" is no list`)
	case ok && !slices.Contains(ops, any("verify")):
		return nil, nil
	}
	for _, name := range []string{"d", "p", "q", "dp", "dq", "qi", "oth"} {
		if m[name] != nil {
			return nil, errors.New("this is a private key, where its public half is wanted")
		}
	}
	key, err := jwkKey(text)
	if err != nil {
		return nil, err
	}
	return NewKey(text("kid"), text("alg"), key)
}

func jwkKey(text func(string) string) (any, error) {
	bytes := func(name string) ([]byte, error) {
		b, err := base64.RawURLEncoding.Strict().DecodeString(text(name))
		if err != nil || len(b) == 0 {
			return nil, fmt.Errorf("the key's %q is missing or not base64url", name)
		}
		return b, nil
	}
	switch kty := text("kty"); kty {
	case "RSA":
		n, err := bytes("n")
		if err != nil {
			return nil, err
		}
		e, err := bytes("e")
		if err != nil {
			return nil, err
		}
		exp := new(big.Int).SetBytes(e)
		if exp.BitLen() > 31 {
			return nil, errors.New("the key's exponent is too large")
		}
		return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exp.Int64())}, nil
	case "EC":
		curve := map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}[text("crv")]
		if curve == nil {
			return nil, fmt.Errorf("curve %q is not supported", text("crv"))
		}
		x, err := bytes("x")
		if err != nil {
			return nil, err
		}
		y, err := bytes("y")
		if err != nil {
			return nil, err
		}
		size := (curve.Params().BitSize + 7) / 8
		if len(x) != size || len(y) != size {
			return nil, errors.New("the key's coordinates have a wrong size") // RFC 7518, section 6.2.1.2
		}
		return ecdsa.ParseUncompressedPublicKey(curve, append(append([]byte{4}, x...), y...))
	case "OKP":
		if crv := text("crv"); crv != "Ed25519" {
			return nil, fmt.Errorf("curve %q is not supported", crv)
		}
		x, err := bytes("x")
		return ed25519.PublicKey(x), err
	case "oct":
		return bytes("k")
	default:
		return nil, fmt.Errorf("a key of type %q is not supported", kty)
	}
}

// JWK returns a public key as a JWK without its private parts, and only the
// members that its thumbprint is made of.
func JWK(key any) (map[string]string, error) {
	b64 := base64.RawURLEncoding.EncodeToString
	switch p := key.(type) {
	case *rsa.PublicKey:
		return map[string]string{"kty": "RSA", "n": b64(p.N.Bytes()), "e": b64(big.NewInt(int64(p.E)).Bytes())}, nil
	case *ecdsa.PublicKey:
		raw, err := p.Bytes()
		if err != nil {
			return nil, err
		}
		n := (len(raw) - 1) / 2
		return map[string]string{"kty": "EC", "crv": p.Curve.Params().Name, "x": b64(raw[1 : 1+n]), "y": b64(raw[1+n:])}, nil
	case ed25519.PublicKey:
		return map[string]string{"kty": "OKP", "crv": "Ed25519", "x": b64(p)}, nil
	}
	return nil, fmt.Errorf("a key of type %T has no JWK", key)
}

// Thumbprint returns the SHA-256 thumbprint of what JWK returned (RFC 7638,
// section 3): a hash of its members in the order of their names.
func Thumbprint(jwk map[string]string) string {
	var b strings.Builder
	for _, name := range []string{"crv", "e", "kty", "n", "x", "y"} {
		if v, ok := jwk[name]; ok {
			if b.Len() > 0 {
				b.WriteByte(',')
			}
			b.WriteString(`"` + name + `":"` + v + `"`)
		}
	}
	sum := sha256.Sum256([]byte("{" + b.String() + "}"))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// ParseKey reads a public key that somebody wrote down: PEM with a key or a
// certificate, or a JWK.
func ParseKey(text string) (*Key, error) {
	text = strings.TrimSpace(text)
	if strings.HasPrefix(text, "{") {
		m, err := Object([]byte(text))
		if err != nil {
			return nil, err
		}
		k, err := ParseJWK(m)
		if err == nil && k == nil {
			err = errors.New("the key is not one for signatures")
		}
		return k, err
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("this is neither a key in PEM nor a JWK")
	}
	key, err := pemKey(block)
	if err != nil {
		return nil, err
	}
	return NewKey("", "", key)
}

func pemKey(block *pem.Block) (any, error) {
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

// Set is the keys of one issuer. Nothing writes to it.
type Set struct {
	keys []*Key
}

// NewSet returns a set of keys.
func NewSet(keys ...*Key) *Set { return &Set{keys} }

// Keys returns the keys.
func (s *Set) Keys() []*Key { return s.keys }

// mostKeys bounds the keys of one issuer, and so the work for a token without
// a kid.
const mostKeys = 100

// ParseSet reads a JWK set. Keys of unknown types are left out, as RFC 7517,
// section 5, asks; so are shared secrets, which nobody publishes on purpose.
func ParseSet(data []byte) (*Set, error) {
	m, err := Object(data)
	if err != nil {
		return nil, err
	}
	list, ok := m["keys"].([]any)
	if !ok {
		return nil, errors.New(`the key set has no list of "keys"`)
	}
	if len(list) > mostKeys {
		return nil, fmt.Errorf("the key set has more than %d keys", mostKeys)
	}
	s := new(Set)
	var why error
	for _, e := range list {
		jwk, ok := e.(map[string]any)
		if !ok {
			return nil, errors.New("a key of the set is no object")
		}
		k, err := ParseJWK(jwk)
		if err != nil {
			why = err
			continue
		}
		if k != nil && !k.Secret() {
			s.keys = append(s.keys, k)
		}
	}
	if len(s.keys) == 0 {
		if why != nil {
			return nil, fmt.Errorf("the key set has no key that can be used: %w", why)
		}
		return nil, errors.New("the key set has no key that can be used")
	}
	return s, nil
}

// Find returns the keys that a token may have been signed with: those of its
// kid, or all that its algorithm fits when it names none.
func (s *Set) Find(kid, alg string) (keys []*Key) {
	for _, k := range s.keys {
		if (kid == "" || k.ID == kid) && k.Allows(alg) && !k.Gone() {
			keys = append(keys, k)
		}
	}
	return keys
}

// Names tells whether the set has a key with that kid.
func (s *Set) Names(kid string) bool {
	for _, k := range s.keys {
		if k.ID == kid {
			return true
		}
	}
	return false
}
