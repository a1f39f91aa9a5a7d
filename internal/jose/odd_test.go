package jose_test

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/hex"
	"testing"

	"gatehouse.dev/gatehouse/internal/jose"
)

// TestOddKeys verifies with keys that a client could write into a proof, and
// that are keys by their size only: none of them verifies anything, nor does one
// bring the gateway to its knees.
func TestOddKeys(t *testing.T) {
	b64 := base64.RawURLEncoding.EncodeToString
	n := func(first, fill, last byte, size int) string {
		b := bytes.Repeat([]byte{fill}, size)
		b[0], b[size-1] = first, last
		return b64(b)
	}
	zero32 := b64(make([]byte, 32))
	one32 := b64(append([]byte{1}, make([]byte, 31)...))
	for name, jwk := range map[string]string{
		"an even modulus":             `{"kty":"RSA","n":"` + n(0xff, 0xff, 0xfe, 256) + `","e":"AQAB"}`,
		"a power of two":              `{"kty":"RSA","n":"` + n(0x80, 0, 0, 256) + `","e":"AQAB"}`,
		"a power of two and 1":        `{"kty":"RSA","n":"` + n(0x80, 0, 1, 256) + `","e":"AQAB"}`,
		"all ones":                    `{"kty":"RSA","n":"` + n(0xff, 0xff, 0xff, 256) + `","e":"Aw"}`,
		"the largest":                 `{"kty":"RSA","n":"` + n(0xff, 0xff, 0xff, 1024) + `","e":"f____w"}`,
		"zeros before":                `{"kty":"RSA","n":"` + n(0, 0xff, 0xff, 300) + `","e":"AAEAAQ"}`,
		"Ed25519, zero":               `{"kty":"OKP","crv":"Ed25519","x":"` + zero32 + `"}`,
		"Ed25519, the neutral":        `{"kty":"OKP","crv":"Ed25519","x":"` + one32 + `"}`,
		"Ed25519, not a point":        `{"kty":"OKP","crv":"Ed25519","x":"` + b64(bytes.Repeat([]byte{0xff}, 32)) + `"}`,
		"P-256, the infinity":         `{"kty":"EC","crv":"P-256","x":"` + zero32 + `","y":"` + zero32 + `"}`,
		"P-256, beyond":               `{"kty":"EC","crv":"P-256","x":"` + b64(bytes.Repeat([]byte{0xff}, 32)) + `","y":"` + zero32 + `"}`,
		"RSA, exponent 1":             `{"kty":"RSA","n":"` + n(0xff, 0xff, 0xff, 256) + `","e":"AQ"}`,
		"RSA, exponent 0":             `{"kty":"RSA","n":"` + n(0xff, 0xff, 0xff, 256) + `","e":"AA"}`,
		"RSA, an even exponent":       `{"kty":"RSA","n":"` + n(0xff, 0xff, 0xff, 256) + `","e":"BA"}`,
		"RSA, an exponent of 33 bits": `{"kty":"RSA","n":"` + n(0xff, 0xff, 0xff, 256) + `","e":"AQAAAAE"}`,
	} {
		k, err := jose.ParseKey(jwk)
		if err != nil {
			continue
		}
		for _, alg := range []string{"RS256", "RS512", "PS256", "PS512", "ES256", "EdDSA"} {
			for _, sig := range [][]byte{nil, {0}, make([]byte, 64), append([]byte{1}, make([]byte, 63)...), make([]byte, 256), make([]byte, 1024), bytes.Repeat([]byte{0xff}, 256)} {
				if err := k.Verify(alg, []byte("text"), sig); err == nil {
					t.Errorf("%s: a signature of %d bytes by %s is right", name, len(sig), alg)
				}
			}
		}
	}
}

// TestSmallOrders makes signatures without a private key, for points of a small
// order: no such point is a key.
func TestSmallOrders(t *testing.T) {
	neutral := append([]byte{1}, make([]byte, 63)...) // as a point, with zero times the base
	for _, text := range []string{
		"0000000000000000000000000000000000000000000000000000000000000000", "0100000000000000000000000000000000000000000000000000000000000000",
		"26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05", "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
		"ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
		"eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
	} {
		for _, sign := range []byte{0, 0x80} {
			key, err := hex.DecodeString(text)
			if err != nil {
				t.Fatal(err)
			}
			key[31] |= sign
			forged := false
			for n := range 500 {
				forged = forged || ed25519.Verify(key, []byte{byte(n), byte(n >> 8)}, neutral)
			}
			// Of the neutral point and the one of order 2 no other sign exists;
			// whether it is read all the same is the library's business.
			if !forged && sign == 0 {
				t.Errorf("%x is not of a small order", key)
			}
			if k, err := jose.NewKey("", "", ed25519.PublicKey(key)); err == nil {
				t.Errorf("%x was taken as %+v", key, k)
			}
		}
	}
}
