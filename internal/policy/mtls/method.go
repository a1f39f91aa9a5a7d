package mtls

import (
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/identify"
)

type method struct {
	config    *Config
	consumers consumers
}

// traits are what a certificate is known by.
type traits struct {
	thumbprint string // hex of its SHA-256, in lower case
	subject    string
	names      []string // alternative names, each with its type before it
}

func (m *method) Prove(x *exchange.Exchange) error {
	var t traits
	switch c := x.Client.TLS; {
	case c != nil && c.Peer != nil:
		t = of(c.Peer)
	case m.config.Forwarded && x.ForwardedCert != "":
		var err error
		if t, err = parse(x.ForwardedCert); err != nil {
			return &identify.Refusal{Cause: err, Uncounted: true}
		}
	default:
		return identify.ErrNone
	}
	known, err := m.consumers.Certificate(t.thumbprint, t.names, t.subject, &x.Who)
	switch {
	case err != nil:
		return &identify.Refusal{Cause: err, Uncounted: true}
	case !known && !m.config.Any:
		return &identify.Refusal{Cause: fmt.Errorf("no consumer has the certificate of %q", t.subject), Uncounted: true}
	case !known:
		x.Who.Credential = t.thumbprint
	}
	x.Who.Subject = t.subject
	return nil
}

func of(c *exchange.Certificate) traits {
	return traits{thumbprint: c.Thumbprint(), subject: c.Subject(), names: c.Names()}
}

func (m *method) Place() string { return "certificate" }

// Hide has nothing to do: what a proxy says of certificates goes to no service.
func (m *method) Hide(*exchange.Exchange, bool) {}

// Challenge names what is wanted. A message cannot ask for a certificate, and an
// answer 401 has to have a challenge (RFC 9110, section 15.5.2).
func (m *method) Challenge(bool) string { return `Certificate realm="gatehouse"` }

// longest is the most of the field that is looked at, in bytes.
const longest = 32 << 10

// parse reads X-Forwarded-Client-Cert. Its elements, with commas between them,
// are one for each proxy on the way; the last is that of the proxy that we
// trust. An element has pairs with semicolons between them; values may be
// quoted.
func parse(text string) (t traits, err error) {
	if len(text) > longest {
		return t, errors.New("the forwarded certificate is too long")
	}
	var pairs [][2]string
	for rest := text; ; {
		var key, value string
		var sep byte
		if key, value, sep, rest, err = pair(rest); err != nil {
			return t, err
		}
		if key != "" {
			pairs = append(pairs, [2]string{strings.ToLower(key), value})
		}
		if sep == ',' {
			pairs = pairs[:0]
		}
		if sep == 0 {
			break
		}
	}
	cert := ""
	seen := make(map[string]bool)
	for _, p := range pairs {
		key, value := p[0], p[1]
		if seen[key] && key != "dns" && key != "uri" {
			return t, fmt.Errorf("the forwarded certificate has two values of %q", key)
		}
		seen[key] = true
		switch key {
		case "cert":
			cert = value
		case "hash":
			if sum, err := hex.DecodeString(value); err != nil || len(sum) != 32 {
				return t, errors.New("the forwarded hash is no SHA-256")
			}
			t.thumbprint = strings.ToLower(value)
		case "subject":
			t.subject = value
		case "dns", "uri":
			t.names = append(t.names, key+":"+value)
		}
	}
	if seen["cert"] {
		return certificate(cert)
	}
	if t.thumbprint == "" && t.subject == "" && t.names == nil {
		return t, errors.New("the forwarded certificate has no traits")
	}
	return t, nil
}

// pair cuts one key and its value, and what ends it: ; or , or nothing.
func pair(s string) (key, value string, sep byte, rest string, err error) {
	i := strings.IndexAny(s, "=;,")
	if i < 0 || s[i] != '=' {
		if strings.TrimSpace(s) == "" {
			return "", "", 0, "", nil
		}
		return "", "", 0, "", errors.New("the forwarded certificate has a part without a value")
	}
	key, s = strings.TrimSpace(s[:i]), s[i+1:]
	if !strings.HasPrefix(s, `"`) {
		if i = strings.IndexAny(s, `;,"`); i < 0 {
			return key, s, 0, "", nil
		}
		if s[i] == '"' {
			return "", "", 0, "", errors.New("the forwarded certificate has a quote within a value")
		}
		return key, s[:i], s[i], s[i+1:], nil
	}
	var b strings.Builder
	for i = 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\' && i+1 < len(s):
			i++
			b.WriteByte(s[i])
		case c != '"':
			b.WriteByte(c)
		case i+1 == len(s):
			return key, b.String(), 0, "", nil
		case s[i+1] == ';' || s[i+1] == ',':
			return key, b.String(), s[i+1], s[i+2:], nil
		default:
			return "", "", 0, "", errors.New("the forwarded certificate has text after a quote")
		}
	}
	return "", "", 0, "", errors.New("the forwarded certificate has a quote without an end")
}

// certificate reads a certificate in PEM, percent-encoded. What it says counts
// for more than what else the proxy wrote.
func certificate(value string) (t traits, err error) {
	text, err := url.PathUnescape(value)
	if err != nil {
		return t, errors.New("the forwarded certificate is not well encoded")
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return t, errors.New("the forwarded certificate is not in PEM")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return t, fmt.Errorf("the forwarded certificate: %w", err)
	}
	return of(exchange.NewCertificate([]*x509.Certificate{c})), nil
}
