// Package jose owns signed tokens: JSON Web Signatures and Tokens in their
// compact form (RFC 7515, RFC 7519), keys and sets of them (RFC 7517), and
// keeping an issuer's set fresh. It verifies and signs, and refuses to encrypt.
// No algorithm is taken from a token: it belongs to the key.
package jose

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// Longest is the longest token in bytes that is looked at.
const Longest = 16 << 10

// Token is a token that has been read but not verified.
type Token struct {
	Alg    string
	Kid    string
	Typ    string         // in lower case, without "application/"
	Header map[string]any // all of it
	Claims map[string]any // not to be believed before Verify

	signed string
	sig    []byte
}

var (
	// ErrForm says that something is not a token at all.
	ErrForm = errors.New("this is not a signed token in compact form")
	// ErrNoKey says that no known key may verify a token.
	ErrNoKey = errors.New("no key verifies the token")
)

// LooksLike tells whether a text may be a token in compact form.
func LooksLike(text string) bool {
	return strings.HasPrefix(text, "eyJ") && strings.Count(text, ".") == 2
}

// Parse reads a token. It refuses what has more than one reading: padding and
// left-over bits in base64url, names that stand twice, extensions that must be
// understood (RFC 7515, section 4.1.11), and the algorithm none.
func Parse(text string) (*Token, error) {
	if len(text) > Longest {
		return nil, fmt.Errorf("the token has more than %d bytes", Longest)
	}
	head, rest, ok := strings.Cut(text, ".")
	body, sig, more := strings.Cut(rest, ".")
	if !ok || !more || strings.IndexByte(sig, '.') >= 0 || head == "" || body == "" || sig == "" {
		return nil, ErrForm
	}
	t := &Token{signed: text[:len(text)-len(sig)-1]}
	var err error
	if t.Header, err = segment(head); err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	if t.Claims, err = segment(body); err != nil {
		return nil, fmt.Errorf("claims: %w", err)
	}
	if t.sig, err = decode(sig); err != nil {
		return nil, fmt.Errorf("signature: %w", err)
	}
	return t, t.header()
}

func (t *Token) header() error {
	for name, into := range map[string]*string{"alg": &t.Alg, "kid": &t.Kid, "typ": &t.Typ} {
		v, there := t.Header[name]
		if !there {
			continue
		}
		s, ok := v.(string)
		if !ok || len(s) > 256 {
			return fmt.Errorf("header: %q is no text of at most 256 bytes", name)
		}
		*into = s
	}
	t.Typ = strings.TrimPrefix(strings.ToLower(t.Typ), "application/")
	switch {
	case t.Alg == "":
		return errors.New(`header: "alg" is missing`)
	case strings.EqualFold(t.Alg, "none"):
		return errors.New("the token is not signed")
	}
	if _, there := t.Header["crit"]; there {
		return errors.New("the token has extensions that must be understood")
	}
	if _, there := t.Header["b64"]; there {
		return errors.New("the token has an unencoded payload")
	}
	return nil
}

func segment(text string) (map[string]any, error) {
	data, err := decode(text)
	if err != nil {
		return nil, err
	}
	return Object(data)
}

func decode(text string) ([]byte, error) {
	// The decoder passes over line breaks, of which a token has none.
	if strings.ContainsAny(text, "\r\n") {
		return nil, errors.New("this is not base64url")
	}
	data, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, errors.New("this is not base64url")
	}
	return data, nil
}

// Verify checks the signature with those of the keys that may have made it,
// and returns the one that did.
func (t *Token) Verify(keys []*Key) (*Key, error) {
	err := ErrNoKey
	for _, k := range keys {
		if !k.Allows(t.Alg) {
			continue
		}
		if err = k.Verify(t.Alg, []byte(t.signed), t.sig); err == nil {
			return k, nil
		}
	}
	return nil, err
}

// Text returns a claim that is a text, "" when it is not one.
func (t *Token) Text(name string) string {
	s, _ := t.Claims[name].(string)
	return s
}
