package mint_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/jose"
	"gatehouse.dev/gatehouse/internal/mint"
	"gatehouse.dev/gatehouse/internal/policy"
)

func pemOf(t *testing.T, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func TestSigners(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	weak, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rs, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	shared := strings.Repeat("s3cret", 6)
	for name, c := range map[string]struct{ key, algorithm, alg, fault string }{
		"P-384":             {key: pemOf(t, ec), alg: "ES384"},
		"Ed25519":           {key: pemOf(t, ed), alg: "EdDSA"},
		"RSA":               {key: pemOf(t, rs), alg: "RS256"},
		"RSA with PSS":      {key: pemOf(t, rs), algorithm: "PS512", alg: "PS512"},
		"shared":            {key: shared, algorithm: "HS256", alg: "HS256"},
		"short":             {key: "s3cret", algorithm: "HS256", fault: "[0].key: a secret has at least 32 bytes"},
		"shared, not said":  {key: shared, fault: "[0].key: this is not a private key in PEM"},
		"private as shared": {key: pemOf(t, ec), algorithm: "HS256", fault: "[0].algorithm: HS256 wants a shared secret"},
		"public as shared":  {key: "-----BEGIN PUBLIC KEY-----\ns3cret\n-----END PUBLIC KEY-----", algorithm: "HS256", fault: "[0].algorithm: HS256 wants a shared secret"},
		"other algorithm":   {key: pemOf(t, ec), algorithm: "ES256", fault: "[0].key: the key is not one of ES256"},
		"other curve":       {key: pemOf(t, weak), fault: "[0].key: "},
		"cut":               {key: "-----BEGIN PRIVATE KEY-----\nczNjcmV0\n-----END PRIVATE KEY-----\n", fault: "[0].key: this is not a private key that can be read"},
	} {
		t.Run(name, func(t *testing.T) {
			signers, faults := mint.Signers([]*mint.Key{{Key: policy.NewSecret(c.key), Algorithm: c.algorithm}})
			switch {
			case c.fault != "":
				if len(faults) != 1 || !strings.HasPrefix(faults[0].Error(), c.fault) || strings.Contains(faults[0].Error(), "s3cret") {
					t.Errorf("%v, want %s", faults, c.fault)
				}
			case faults != nil || signers[0].Alg() != c.alg:
				t.Errorf("%v, %v", signers, faults)
			default:
				text, err := signers[0].Sign(nil, map[string]any{"a": "b"})
				if err != nil {
					t.Fatal(err)
				}
				token, err := jose.Parse(text)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := token.Verify([]*jose.Key{signers[0].Key()}); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestLists(t *testing.T) {
	if _, faults := mint.Signers(nil); len(faults) != 1 {
		t.Error("no key signs")
	}
	if _, faults := mint.Signers(make([]*mint.Key, 17)); len(faults) != 1 {
		t.Error("any number of keys is taken")
	}
	key := func(id string) *mint.Key {
		return &mint.Key{ID: id, Key: policy.NewSecret(strings.Repeat(id, 40)), Algorithm: "HS256"}
	}
	if _, faults := mint.Signers([]*mint.Key{key("a"), key("b"), key("a")}); len(faults) != 1 || !strings.HasPrefix(faults[0].Error(), "[2].id: ") {
		t.Errorf("two keys of one name: %v", faults)
	}
	signers, faults := mint.Signers([]*mint.Key{key("a"), key("b")})
	if faults != nil || signers[0].Key().ID != "a" || signers[1].Key().ID != "b" {
		t.Errorf("%v", faults)
	}
	if text, err := mint.Publish(signers); err == nil {
		t.Errorf("shared secrets are published: %s", text)
	}
	if mint.Secrets([]*mint.Key{key("a")}) == mint.Secrets([]*mint.Key{key("b")}) {
		t.Error("different keys have one fingerprint")
	}
}
