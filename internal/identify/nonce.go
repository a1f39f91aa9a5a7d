package identify

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"fmt"

	"gatehouse.dev/gatehouse/internal/policy"
)

// nonceTime is how long a nonce lasts: one to two of these.
const nonceTime = 120 // seconds

const (
	leastNonceSecret = 32 // bytes
	mostNonceSecrets = 4
)

// nonces makes nonces of the time and a secret, so that nothing has to be
// remembered of them and every gateway with the secret knows those of others.
type nonces struct {
	secrets [][]byte // the first one makes them, each of them may have made one
}

// compileNonces returns the nonces of the secrets in the settings, or of one
// that no other gateway has.
func (b *Bound) compileNonces(env *policy.Env) (*nonces, *policy.Fault) {
	switch n := len(b.NonceSecrets); {
	case n == 0:
		return &nonces{[][]byte{env.Keep("nonces", func() any {
			s := make([]byte, leastNonceSecret)
			rand.Read(s)
			return s
		}).([]byte)}}, nil
	case !b.Nonce:
		return nil, &policy.Fault{Field: "nonce_secrets", Text: "nonce_secrets say nothing where no nonce is asked for", Hint: "set nonce: true, or remove them"}
	case n > mostNonceSecrets:
		return nil, &policy.Fault{Field: "nonce_secrets", Text: fmt.Sprintf("there are %d secrets, and at most %d are taken", n, mostNonceSecrets)}
	}
	out := new(nonces)
	for i, s := range b.NonceSecrets {
		if len(s.Reveal()) < leastNonceSecret {
			return nil, &policy.Fault{Field: fmt.Sprintf("nonce_secrets[%d]", i), Text: fmt.Sprintf("the secret has less than %d bytes", leastNonceSecret), Hint: "make one: openssl rand -base64 32"}
		}
		out.secrets = append(out.secrets, []byte(s.Reveal()))
	}
	return out, nil
}

// current returns the nonce to give out. now is in seconds since 1970.
func (n *nonces) current(now int64) string { return nonce(n.secrets[0], now/nonceTime) }

// fresh tells whether a nonce was given out a short while ago, by a gateway
// whose clock may be a little ahead.
func (n *nonces) fresh(text string, now int64) bool {
	for _, s := range n.secrets {
		for ahead := int64(1); ahead >= -1; ahead-- {
			if subtle.ConstantTimeCompare([]byte(text), []byte(nonce(s, now/nonceTime+ahead))) == 1 {
				return true
			}
		}
	}
	return false
}

// nonce is the one of a secret in a time. What else the secret is used for
// makes no nonces.
func nonce(secret []byte, period int64) string {
	mac := hmac.New(sha256.New, secret)
	mac.Write(binary.BigEndian.AppendUint64([]byte("gatehouse dpop nonce\x00"), uint64(period)))
	return base64.RawURLEncoding.EncodeToString(mac.Sum(nil)[:18])
}
