package config

import (
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/internal/policy"
)

// Time is a moment, written as 2026-12-31 or 2026-12-31T18:00:00Z.
type Time = policy.Time

// Consumer is somebody who calls: an application, a partner, a person.
type Consumer struct {
	// Name of the consumer, for logs, metrics and policies.
	Name string `yaml:"name" required:"true" example:"mobile-app"`
	// Groups that the consumer belongs to.
	Groups StringList `yaml:"groups" example:"partners"`
	// What else is known of the consumer, for policies and logs.
	Labels map[string]string `yaml:"labels"`
	// A disabled consumer is refused whatever it sends.
	Disabled bool `yaml:"disabled"`
	// What proves the consumer. Several of one sort are all valid, so that one can be replaced without a gap.
	Credentials []*Credential `yaml:"credentials"`
}

// Credential is what proves a consumer: exactly one of api_key, basic, jwt,
// certificate, signature and ldap.
type Credential struct {
	// Name of the credential for logs, never secret. Default: the sort of the credential, and its place in the list.
	Name string `yaml:"name" example:"spring-2026"`
	// An API key.
	APIKey *APIKey `yaml:"api_key"`
	// A user name and password.
	Basic *BasicUser `yaml:"basic"`
	// The subject of a token.
	JWT *TokenSubject `yaml:"jwt"`
	// A client certificate.
	Certificate *ClientCertificate `yaml:"certificate"`
	// A key that signs requests.
	Signature *SignatureKey `yaml:"signature"`
	// Somebody in a directory.
	LDAP *DirectoryUser `yaml:"ldap"`
	// The moment before which the credential is refused.
	NotBefore Time `yaml:"not_before" example:"2026-01-01"`
	// The moment from which on the credential is refused.
	Expires Time `yaml:"expires" example:"2026-12-31T18:00:00Z"`
	// A disabled credential is refused.
	Disabled bool `yaml:"disabled"`
}

// APIKey is an API key of which only the hash is kept.
type APIKey struct {
	// "sha256:" and the hex of the SHA-256 of the key as it is sent. "gatehouse key" prints a new key and its hash.
	Hash string `yaml:"hash" required:"true"`
}

// BasicUser is a user name and the hash of its password.
type BasicUser struct {
	// User name, without a colon.
	Username string `yaml:"username" required:"true"`
	// Hash of the password, argon2id or bcrypt in their usual text form. "gatehouse key --password" makes one.
	PasswordHash Secret `yaml:"password_hash" required:"true"`
}

// TokenSubject is whom a token speaks of.
type TokenSubject struct {
	// The token's "iss".
	Issuer string `yaml:"issuer" required:"true" example:"https://id.example.com"`
	// The token's "sub".
	Subject string `yaml:"subject" required:"true" example:"mobile"`
}

// ClientCertificate names a client certificate by exactly one of its traits.
type ClientCertificate struct {
	// Subject as RFC 4514 writes it, the most particular part first.
	Subject string `yaml:"subject" example:"CN=mobile,O=Partner"`
	// A subject alternative name with its type, "dns:NAME", "email:ADDRESS", "uri:URI" or "ip:ADDRESS". Without a type it is what it looks like: an address, a URI where it has a colon, an e-mail address where it has an @, else a DNS name. Names of another type never match.
	SAN string `yaml:"san" example:"dns:mobile.partner.example"`
	// Hex of the SHA-256 of the certificate.
	Thumbprint string `yaml:"thumbprint"`
}

// DirectoryUser is somebody whom a directory knows.
type DirectoryUser struct {
	// The name of the person in the directory, as "subject_attribute" of the policy has it. Directories do not tell capitals from small letters, and neither is it told here.
	Name string `yaml:"name" required:"true" example:"ann"`
}

// SignatureKey is a key that signs requests (RFC 9421).
type SignatureKey struct {
	// The "keyid" that signatures carry.
	KeyID string `yaml:"key_id" required:"true" example:"mobile-1"`
	// The algorithm, which belongs to the key: what a signature says of it must be the same.
	Algorithm string `yaml:"algorithm" required:"true" enum:"hmac-sha256,ed25519,ecdsa-p256-sha256,ecdsa-p384-sha384,rsa-pss-sha512,rsa-v1_5-sha256"`
	// The shared secret of hmac-sha256, at least 32 bytes.
	Secret Secret `yaml:"secret"`
	// The public key of the other algorithms in PEM.
	PublicKey Secret `yaml:"public_key"`
}

// Group says what holds for the consumers of a group.
type Group struct {
	// Policies of the requests of these consumers, run once the consumer is known. A kind that a route has too is replaced by the group's.
	Policies []*Policy `yaml:"policies"`
}

// Kind names the sort of the credential: its key in the configuration.
func (c *Credential) Kind() string {
	if kinds := c.kinds(); len(kinds) > 0 {
		return kinds[0]
	}
	return ""
}

func (c *Credential) kinds() (set []string) {
	for _, k := range []struct {
		name string
		set  bool
	}{
		{"api_key", c.APIKey != nil},
		{"basic", c.Basic != nil},
		{"jwt", c.JWT != nil},
		{"certificate", c.Certificate != nil},
		{"signature", c.Signature != nil},
		{"ldap", c.LDAP != nil},
	} {
		if k.set {
			set = append(set, k.name)
		}
	}
	return set
}

// consumers checks names, and that no credential stands for two consumers.
func (k *checker) consumers() {
	names, taken := make(map[string]string), make(map[string]string)
	for i, c := range k.c.Consumers {
		at := fmt.Sprintf("consumers[%d]", i)
		if c == nil || c.Name == "" {
			continue
		}
		k.name(at, c.Name, false, names)
		for j, g := range c.Groups {
			k.group(fmt.Sprintf("%s.groups[%d]", at, j), g)
		}
		for j, cred := range c.Credentials {
			if cred != nil {
				k.credential(fmt.Sprintf("%s.credentials[%d]", at, j), cred, taken)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(k.c.Groups)) {
		k.group(keyed("groups", name), name)
	}
}

func (k *checker) group(path, name string) {
	if name == "" || len(name) > 63 || !plainKey(strings.ReplaceAll(name, ".", "_")) {
		k.fault(path, quote(name)+" is not a name of a group", "use at most 63 letters, digits, dots, - and _")
	}
}

func (k *checker) credential(at string, c *Credential, taken map[string]string) {
	kinds := c.kinds()
	switch {
	case len(kinds) == 0 && !k.known[at]:
		k.fault(at, "the credential proves nothing", "give one of api_key, basic, jwt, certificate, signature and ldap")
	case len(kinds) > 1:
		k.fault(at+"."+kinds[1], fmt.Sprintf("the credential has %s as well as %s", kinds[1], kinds[0]), "begin each credential with \"- \"")
	case c.NotBefore != 0 && c.Expires != 0 && c.Expires <= c.NotBefore:
		k.fault(at+".expires", "the credential expires before it becomes valid", "")
	}
	once := func(path string, parts ...string) {
		key := strings.Join(parts, "\x00")
		if first, ok := taken[key]; ok {
			k.fault(path, "the credential stands twice, first at "+k.place(first), "a credential belongs to one consumer")
			return
		}
		taken[key] = path
	}
	if a := c.APIKey; a != nil && a.Hash != "" {
		digits, ok := strings.CutPrefix(a.Hash, "sha256:")
		if sum, err := hex.DecodeString(digits); !ok || err != nil || len(sum) != 32 {
			k.fault(at+".api_key.hash", "this is not the hash of a key", `write "sha256:" and 64 hex digits; "gatehouse key" prints them`)
		} else {
			once(at+".api_key", "api_key", strings.ToLower(digits))
		}
	}
	if b := c.Basic; b != nil && b.Username != "" {
		if strings.ContainsFunc(b.Username, func(r rune) bool { return r == ':' || r < ' ' || r == 0x7f }) || len(b.Username) > 255 {
			k.fault(at+".basic.username", quote(b.Username)+" is not a user name: at most 255 bytes, no colon, no control characters", "")
		}
		once(at+".basic", "basic", b.Username)
	}
	if j := c.JWT; j != nil {
		once(at+".jwt", "jwt", j.Issuer, j.Subject)
	}
	if m := c.Certificate; m != nil {
		k.certificate(at+".certificate", m, once)
	}
	if s := c.Signature; s != nil && s.KeyID != "" {
		if shared := s.Algorithm == "hmac-sha256"; s.Algorithm != "" && (shared != s.Secret.IsSet() || shared == s.PublicKey.IsSet()) {
			hint := "give public_key, and no secret"
			if shared {
				hint = "give secret, and no public_key"
			}
			k.fault(at+".signature", "the key does not fit "+s.Algorithm, hint)
		}
		once(at+".signature", "signature", s.KeyID)
	}
	if l := c.LDAP; l != nil && l.Name != "" {
		once(at+".ldap", "ldap", strings.ToLower(l.Name))
	}
}

func (k *checker) certificate(at string, m *ClientCertificate, once func(path string, parts ...string)) {
	n := 0
	for _, set := range []string{m.Subject, m.SAN, m.Thumbprint} {
		if set != "" {
			n++
		}
	}
	if n != 1 {
		if !k.known[at] {
			k.fault(at, fmt.Sprintf("%d traits stand where one is wanted", n), "give one of subject, san and thumbprint")
		}
		return
	}
	if m.Thumbprint != "" {
		if sum, err := hex.DecodeString(strings.ReplaceAll(m.Thumbprint, ":", "")); err != nil || len(sum) != 32 {
			k.fault(at+".thumbprint", quote(m.Thumbprint)+" is not the SHA-256 of a certificate", "write 64 hex digits")
		}
	}
	san := ""
	if m.SAN != "" {
		var err error
		if san, err = SAN(m.SAN); err != nil {
			k.fault(at+".san", err.Error(), `write "dns:NAME", "email:ADDRESS", "uri:URI" or "ip:ADDRESS"`)
			return
		}
	}
	once(at, "certificate", m.Subject, san, strings.ToLower(strings.ReplaceAll(m.Thumbprint, ":", "")))
}
