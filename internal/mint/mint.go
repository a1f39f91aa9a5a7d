// Package mint owns the keys that the gateway itself signs tokens with: how
// they are written down, what is wrong with them, and what of them is
// published. What is signed, and for whom, is the business of policies.
package mint

import (
	"fmt"
	"strings"

	"gatehouse.dev/gatehouse/internal/jose"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Key is a key that the gateway signs with.
type Key struct {
	// Name of the key, the "kid" of what it signs. Default: its thumbprint (RFC 7638); a shared secret has none.
	ID string `yaml:"id" example:"2026-11"`
	// Private key in PEM (RSA of 2048 bits or more, P-256, P-384, P-521 or Ed25519), or a shared secret of 32 bytes or more.
	Key policy.Secret `yaml:"key" required:"true"`
	// What it signs with. Default: the usual one of a private key, "RS256", "ES256", "ES384", "ES512" or "EdDSA". A shared secret needs one.
	Algorithm string `yaml:"algorithm" enum:"RS256,RS384,RS512,PS256,PS384,PS512,ES256,ES384,ES512,EdDSA,HS256,HS384,HS512"`
}

// mostKeys is how many keys there may be: those in use, the next and the last.
const mostKeys = 16

// Signers returns the signers of a list of keys, in its order. The faults are
// those of the list, without its name.
func Signers(keys []*Key) (signers []*jose.Signer, faults []error) {
	if len(keys) == 0 {
		return nil, []error{&policy.Fault{Text: "there is no key to sign with", Hint: "give one: [ { key: { file: key.pem } } ]"}}
	}
	if len(keys) > mostKeys {
		return nil, []error{&policy.Fault{Text: fmt.Sprintf("there are %d keys, and at most %d are taken", len(keys), mostKeys)}}
	}
	seen := make(map[string]int)
	for i, k := range keys {
		if k == nil {
			continue // decoding has said what is wrong with it
		}
		s, f := k.signer()
		if f != nil {
			f.Field = fmt.Sprintf("[%d].%s", i, f.Field)
			faults = append(faults, f)
			continue
		}
		id := s.Key().ID
		if first, twice := seen[id]; twice {
			faults = append(faults, &policy.Fault{Field: fmt.Sprintf("[%d].id", i), Text: fmt.Sprintf("%q is the name of key %d too", id, first), Hint: "nobody could tell which of the two a token is signed with"})
			continue
		}
		seen[id] = i
		signers = append(signers, s)
	}
	return signers, faults
}

func (k *Key) signer() (*jose.Signer, *policy.Fault) {
	if len(k.ID) > 256 {
		return nil, &policy.Fault{Field: "id", Text: "the name of a key has at most 256 bytes"}
	}
	var key any = []byte(k.Key.Reveal())
	if shared := strings.HasPrefix(k.Algorithm, "HS"); !shared {
		var err error
		if key, err = jose.ParsePrivate(k.Key.Reveal()); err != nil {
			return nil, &policy.Fault{Field: "key", Text: plain(err), Hint: "for a shared secret write algorithm: HS256"}
		}
	} else if strings.Contains(k.Key.Reveal(), "-----BEGIN ") {
		return nil, &policy.Fault{Field: "algorithm", Text: fmt.Sprintf("%s wants a shared secret, and this is a key in PEM", k.Algorithm)}
	}
	s, err := jose.NewSigner(key, k.Algorithm, k.ID)
	if err != nil {
		return nil, &policy.Fault{Field: "key", Text: err.Error()}
	}
	return s, nil
}

// plain keeps what a parser says of a key's bytes out of faults: only that it
// is no key is of interest, and nothing of it is to be shown.
func plain(err error) string {
	if strings.Contains(err.Error(), "PEM") {
		return err.Error()
	}
	return "this is not a private key that can be read"
}

// Publish returns the JWK set (RFC 7517, section 5) by which others verify what
// the signers sign. Shared secrets are an error: they are not for publishing.
func Publish(signers []*jose.Signer) ([]byte, error) {
	return jose.Publish(signers...)
}

// Secrets takes part in fingerprints of settings, for what keys do not show of
// themselves.
func Secrets(keys []*Key) string {
	var b strings.Builder
	for _, k := range keys {
		if k != nil {
			b.WriteString(k.Key.Fingerprint())
		}
	}
	return b.String()
}
