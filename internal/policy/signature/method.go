package signature

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/identify"
)

type method struct {
	config    *Config
	guard     *identify.Guard
	used      *identify.Uses // nil: signatures may come again
	consumers consumers
}

// longest is the most of either field that is looked at, in bytes.
const longest = 8 << 10

// signed is one signature of a request.
type signed struct {
	label      string
	components []item
	params     params
	value      []byte
}

func (s *signed) text(name string) string {
	v, _ := s.params.get(name)
	t, _ := v.(string)
	return t
}

func (m *method) Prove(x *exchange.Exchange) error {
	h := &x.Request.Header
	input, value := lines(h, "Signature-Input"), lines(h, "Signature")
	if input == "" && value == "" {
		return identify.ErrNone
	}
	s, err := m.read(input, value)
	if err != nil {
		return &identify.Refusal{Cause: err}
	}
	id := s.text("keyid")
	if err := m.guard.Blocked(x, id); err != nil {
		return err
	}
	alg, key, err := m.consumers.SignatureKey(id, &x.Who)
	if err != nil {
		return &identify.Refusal{Cause: err, Credential: id}
	}
	if err := m.check(x, s, alg, key); err != nil {
		var p *exchange.Problem
		if errors.As(err, &p) {
			return p
		}
		return &identify.Refusal{Cause: err, Credential: id}
	}
	m.guard.Proved(x, id)
	x.Who.Subject = id
	return nil
}

func lines(h *exchange.Header, name string) string {
	var all []string
	for v := range h.Values(name) {
		all = append(all, v)
	}
	return strings.Join(all, ", ")
}

// read finds the signature that counts.
func (m *method) read(input, value string) (*signed, error) {
	if len(input) > longest || len(value) > longest {
		return nil, identify.ErrLong
	}
	inputs, err := dictionary(input)
	if err != nil {
		return nil, fmt.Errorf("field Signature-Input: %w", err)
	}
	values, err := dictionary(value)
	if err != nil {
		return nil, fmt.Errorf("field Signature: %w", err)
	}
	var found *signed
	for _, in := range inputs {
		if !in.isList {
			return nil, errors.New("the field Signature-Input holds something else than lists of components")
		}
		s := &signed{label: in.name, components: in.list, params: in.item.params}
		if m.config.Label != "" && s.label != m.config.Label || m.config.Tag != "" && s.text("tag") != m.config.Tag {
			continue
		}
		if found != nil {
			return nil, errors.New("there is more than one signature that could count")
		}
		found = s
	}
	if found == nil {
		return nil, errors.New("there is no signature with the label or tag that counts")
	}
	for _, v := range values {
		if b, ok := v.item.value.([]byte); ok && v.name == found.label && !v.isList {
			found.value = b
		}
	}
	if found.value == nil {
		return nil, fmt.Errorf("there is no signature %q", found.label)
	}
	return found, nil
}

// check makes sure that a signature is right, covers what it has to, and is
// neither old nor used.
func (m *method) check(x *exchange.Exchange, s *signed, alg string, key any) error {
	// The algorithm belongs to the key. What the signature says of it has to
	// be the same, and it decides nothing (RFC 9421, section 3.2).
	if v, there := s.params.get("alg"); there && v != alg {
		return fmt.Errorf("the signature says it is of %v, and the key is of %s", v, alg)
	}
	if err := m.times(s); err != nil {
		return err
	}
	if err := m.covers(x, s); err != nil {
		return err
	}
	b, err := base(x, s.components, s.params)
	if err != nil {
		return err
	}
	if !verify(alg, key, b, s.value) {
		return errors.New("the signature is wrong")
	}
	if m.used == nil {
		return nil
	}
	// What is signed must not come twice, whatever the signature over it is:
	// those of ECDSA and RSA-PSS differ every time that they are made.
	// Times are in whole seconds: it is good to the end of its last one.
	keep := m.config.MaxAge.D() + m.config.Leeway.D() + time.Second
	switch err := m.used.Use(keep, s.text("keyid"), s.text("nonce"), string(b)); {
	case errors.Is(err, identify.ErrReplayed):
		return fmt.Errorf("signature: %w", err)
	case err != nil:
		return identify.Unavailable(fmt.Errorf("signatures: %w", err))
	}
	return nil
}

func (m *method) times(s *signed) error {
	now := time.Now().Unix()
	age, leeway := int64(m.config.MaxAge.D()/time.Second), int64(m.config.Leeway.D()/time.Second)
	v, _ := s.params.get("created")
	created, ok := v.(int64)
	switch {
	case !ok:
		return errors.New("the signature does not say when it was made")
	case created > now+leeway:
		return errors.New("the signature is from the future")
	case created < now-age:
		return errors.New("the signature is too old")
	}
	if v, there := s.params.get("expires"); there {
		if expires, ok := v.(int64); !ok || now >= expires {
			return errors.New("the signature has expired")
		}
	}
	if m.config.Nonce && s.text("nonce") == "" {
		return errors.New("the signature has no nonce")
	}
	return nil
}

// covers makes sure that all is signed that has to be, and that the body is
// the one that was.
func (m *method) covers(x *exchange.Exchange, s *signed) error {
	has := func(name string) bool {
		return slices.ContainsFunc(s.components, func(c item) bool { return c.value == name && len(c.params) == 0 })
	}
	whole := has("@target-uri")
	for _, name := range m.config.Components {
		implied := whole && (name == "@authority" || name == "@scheme" || name == "@path" || name == "@query") ||
			has("@request-target") && (name == "@path" || name == "@query")
		if !has(name) && !implied {
			return fmt.Errorf("the signature does not cover %s", name)
		}
	}
	body, held := exchange.Held(x.Request.Body)
	switch {
	case held && len(body) == 0 && !has("content-digest"):
		return nil
	case !held:
		return errors.New("the body could not be had whole")
	case !has("content-digest"):
		return errors.New("the signature does not cover the body")
	}
	return checkDigest(&x.Request.Header, body)
}

// verify checks a signature (RFC 9421, section 3.3).
func verify(alg string, key any, text, sig []byte) bool {
	switch k := key.(type) {
	case []byte:
		mac := hmac.New(sha256.New, k)
		mac.Write(text)
		return alg == "hmac-sha256" && hmac.Equal(mac.Sum(nil), sig)
	case ed25519.PublicKey:
		return alg == "ed25519" && len(sig) == ed25519.SignatureSize && ed25519.Verify(k, text, sig)
	case *ecdsa.PublicKey:
		var digest []byte
		n := (k.Curve.Params().BitSize + 7) / 8
		switch {
		case alg == "ecdsa-p256-sha256" && n == 32:
			d := sha256.Sum256(text)
			digest = d[:]
		case alg == "ecdsa-p384-sha384" && n == 48:
			d := sha512.Sum384(text)
			digest = d[:]
		}
		return digest != nil && len(sig) == 2*n && ecdsa.Verify(k, digest, new(big.Int).SetBytes(sig[:n]), new(big.Int).SetBytes(sig[n:]))
	case *rsa.PublicKey:
		switch alg {
		case "rsa-pss-sha512":
			d := sha512.Sum512(text)
			return rsa.VerifyPSS(k, crypto.SHA512, d[:], sig, &rsa.PSSOptions{SaltLength: 64}) == nil
		case "rsa-v1_5-sha256":
			d := sha256.Sum256(text)
			return rsa.VerifyPKCS1v15(k, crypto.SHA256, d[:], sig) == nil
		}
	}
	return false
}

func (m *method) Place() string { return "signature" }

func (m *method) Hide(x *exchange.Exchange, proved bool) {
	if !m.config.Forward || !proved {
		x.Request.Header.Del("Signature")
		x.Request.Header.Del("Signature-Input")
	}
}

// Challenge names what is wanted. There is no registered scheme for signatures,
// and an answer 401 has to have a challenge (RFC 9110, section 15.5.2).
func (m *method) Challenge(bool) string {
	return `Signature realm="gatehouse", components="` + strings.Join(m.config.Components, " ") + `"`
}
