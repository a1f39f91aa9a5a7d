package upstreamauth

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Names of fields and values of Signature Version 4.
const (
	amzDate     = "X-Amz-Date"
	amzHash     = "X-Amz-Content-Sha256"
	amzToken    = "X-Amz-Security-Token"
	algorithm   = "AWS4-HMAC-SHA256"
	unsigned    = "UNSIGNED-PAYLOAD"
	emptySHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
)

// signer signs requests (AWS Signature Version 4).
type signer struct {
	id, secret, session string
	region, service     string
	host                string // "": that of the request
	simple              bool   // s3 and its kin: the path is encoded once, and as it stands
	hold                int64  // 0: bodies are not signed
	fields              []string
	now                 func() time.Time

	key atomic.Pointer[dayKey]
}

// dayKey is what a day's requests are signed with.
type dayKey struct {
	day string
	key []byte
}

var (
	_ policy.OnRequest = (*signer)(nil)
	_ policy.Holds     = (*signer)(nil)
)

func (c *SigV4) compile() (policy.Policy, error) {
	var faults []error
	fault := func(field, text, hint string) {
		faults = append(faults, &policy.Fault{Field: field, Text: text, Hint: hint})
	}
	for _, part := range []struct{ field, text string }{{"region", c.Region}, {"service", c.Service}} {
		if part.text == "" || strings.Trim(part.text, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			fault(part.field, fmt.Sprintf("%q is not a name of AWS", part.text), "use lower-case letters, digits and hyphens")
		}
	}
	if id := c.AccessKey.Reveal(); id == "" || strings.ContainsFunc(id, func(r rune) bool { return r <= ' ' || r > '~' || r == '/' || r == ',' || r == '=' }) {
		fault("access_key", "this is not the id of an access key", "")
	}
	if c.SecretKey.Reveal() == "" {
		fault("secret_key", "the secret key is empty", "")
	}
	if c.SessionToken.IsSet() && policy.CheckValue(c.SessionToken.Reveal()) != nil {
		fault("session_token", "this is not a session token: it is too long, or holds characters that cannot be sent", "")
	}
	if strings.ContainsFunc(c.Host, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && !strings.ContainsRune("-._:[]", r)
	}) {
		fault("host", fmt.Sprintf("%q is not a host in lower case, with or without a port", c.Host), "")
	}
	s := &signer{
		id: c.AccessKey.Reveal(), secret: c.SecretKey.Reveal(), session: c.SessionToken.Reveal(),
		region: c.Region, service: c.Service, host: c.Host, now: time.Now,
		simple: c.Service == "s3" || strings.HasPrefix(c.Service, "s3-") || c.Service == "s3express",
	}
	if c.Payload == "signed" || c.Payload == "" && !s.simple {
		s.hold = int64(c.MaxBody)
	}
	for i, name := range c.Fields {
		lower := strings.ToLower(name)
		stem, _ := strings.CutSuffix(lower, "*")
		switch f := policy.CheckField(stem); {
		case f != nil || !strings.HasPrefix(stem, "x-amz-"):
			fault(fmt.Sprintf("fields[%d]", i), fmt.Sprintf("%q is not the name of an X-Amz field", name), "other fields go on without being listed")
		case lower == "x-amz-*" || slices.Contains([]string{"x-amz-date", "x-amz-content-sha256", "x-amz-security-token"}, lower):
			fault(fmt.Sprintf("fields[%d]", i), fmt.Sprintf("%q holds fields that the gateway alone writes", name), "write the names that clients may send")
		}
		s.fields = append(s.fields, lower)
	}
	if faults != nil {
		return nil, errors.Join(faults...)
	}
	return s, nil
}

// HoldRequest implements policy.Holds.
func (s *signer) HoldRequest() int64 { return s.hold }

// HoldResponse implements policy.Holds.
func (s *signer) HoldResponse() int64 { return 0 }

var (
	errNoHost  = errors.New("the request names no host that could be signed, and neither do the settings")
	errNotHeld = errors.New("the body to be signed is not in memory")
)

// Conceal takes the signature, and the token that may go with it, out of a copy.
func (s *signer) Conceal(x *exchange.Exchange) {
	x.Request.Header.DelKnown(exchange.Authorization)
	x.Request.Header.Del(amzToken)
}

// Request signs what is sent.
func (s *signer) Request(x *exchange.Exchange) policy.Verdict {
	r := &x.Request
	if s.host != "" {
		r.Authority = s.host
	}
	if r.Authority == "" {
		x.Fail(unavailable.With(errNoHost))
		return policy.Stop
	}
	hash := unsigned
	if s.hold > 0 {
		body, ok := exchange.Held(r.Body)
		if !ok {
			x.Fail(unavailable.With(errNotHeld))
			return policy.Stop
		}
		hash = hexSHA256(body)
	}
	s.clean(&r.Header)
	r.Path = encode(r.Path, "/", true)
	pairs := queryPairs(r.Query)
	r.Query = strings.Join(pairs, "&")
	r.HasQuery = r.HasQuery && r.Query != ""

	at := s.now().UTC().Format("20060102T150405Z")
	r.Header.Add(amzDate, at)
	r.Header.Add(amzHash, hash)
	if s.session != "" {
		r.Header.Add(amzToken, s.session)
	}
	r.Header.AddKnown(exchange.Authorization, s.authorization(r, pairs, at, hash, covered(&r.Header)))
	return policy.Next
}

// clean removes what the client must not say in the gateway's name, and its own
// credentials.
func (s *signer) clean(h *exchange.Header) {
	hide(h)
	h.DelFunc(func(f *exchange.Field) bool {
		return f.Known == exchange.Other && len(f.Name) > 6 && exchange.EqualFold(f.Name[:6], "x-amz-") && !s.passes(strings.ToLower(f.Name))
	})
}

func (s *signer) passes(lower string) bool {
	if lower == "x-amz-date" || lower == "x-amz-content-sha256" || lower == "x-amz-security-token" {
		return false
	}
	return slices.ContainsFunc(s.fields, func(p string) bool {
		stem, wild := strings.CutSuffix(p, "*")
		return lower == p || wild && strings.HasPrefix(lower, stem)
	})
}

// covered returns the names of the fields that are signed: what must be, and
// what says how the body is to be read. Others may be changed on the way by
// those who may, such as the upstream's own connection.
func covered(h *exchange.Header) []string {
	names := []string{"host"}
	for _, f := range h.Fields() {
		if lower := strings.ToLower(f.Name); lower == "content-type" || lower == "content-md5" || strings.HasPrefix(lower, "x-amz-") {
			names = append(names, lower)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// authorization returns the value of Authorization: pairs is the query, at the
// time as X-Amz-Date has it, and names are those of the signed fields, in order.
func (s *signer) authorization(r *exchange.Request, pairs []string, at, hash string, names []string) string {
	scope := at[:8] + "/" + s.region + "/" + s.service + "/aws4_request"
	text := algorithm + "\n" + at + "\n" + scope + "\n" + hexSHA256([]byte(s.canonical(r, pairs, hash, names)))
	signature := hex.EncodeToString(mac(s.signingKey(at[:8]), text))
	return algorithm + " Credential=" + s.id + "/" + scope + ", SignedHeaders=" + strings.Join(names, ";") + ", Signature=" + signature
}

// canonical returns the request in the form that is signed.
func (s *signer) canonical(r *exchange.Request, pairs []string, hash string, names []string) string {
	path := r.Path
	if !s.simple {
		for strings.Contains(path, "//") {
			path = strings.ReplaceAll(path, "//", "/")
		}
		path = encode(path, "/", false)
	}
	sorted := slices.Clone(pairs)
	// By name, then by value: "=" must not come after what may be in a name.
	slices.SortFunc(sorted, func(a, b string) int {
		an, av, _ := strings.Cut(a, "=")
		bn, bv, _ := strings.Cut(b, "=")
		if c := strings.Compare(an, bn); c != 0 {
			return c
		}
		return strings.Compare(av, bv)
	})
	var b strings.Builder
	b.WriteString(r.Method + "\n" + path + "\n" + strings.Join(sorted, "&") + "\n")
	for _, name := range names {
		b.WriteString(name + ":")
		if name == "host" {
			b.WriteString(r.Authority)
		} else {
			first := true
			for v := range r.Header.Values(name) {
				if !first {
					b.WriteByte(',')
				}
				first = false
				b.WriteString(squeeze(v))
			}
		}
		b.WriteByte('\n')
	}
	b.WriteString("\n" + strings.Join(names, ";") + "\n" + hash)
	return b.String()
}

// squeeze makes one space of several.
func squeeze(v string) string {
	v = strings.Trim(v, " \t")
	for strings.Contains(v, "  ") {
		v = strings.ReplaceAll(v, "  ", " ")
	}
	return v
}

// signingKey derives the key of a day.
func (s *signer) signingKey(day string) []byte {
	if k := s.key.Load(); k != nil && k.day == day {
		return k.key
	}
	key := mac(mac(mac(mac([]byte("AWS4"+s.secret), day), s.region), s.service), "aws4_request")
	s.key.Store(&dayKey{day, key})
	return key
}

func mac(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}

func hexSHA256(p []byte) string {
	if len(p) == 0 {
		return emptySHA256
	}
	sum := sha256.Sum256(p)
	return hex.EncodeToString(sum[:])
}

// queryPairs returns the parameters of a query in their order, each written in
// the one way that is signed, so that nobody can read it otherwise: a plus sign
// is a space, as in forms, and a percent sign that begins no escape is itself.
// The parameters of a signed URL are left out: they are the client's credential.
func queryPairs(query string) []string {
	if query == "" {
		return nil
	}
	var out []string
	for part := range strings.SplitSeq(query, "&") {
		if part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		name = encode(strings.ReplaceAll(name, "+", "%20"), "", true)
		if presigned(name) {
			continue
		}
		out = append(out, name+"="+encode(strings.ReplaceAll(value, "+", "%20"), "", true))
	}
	return out
}

// presigned tells the parameters that a signed URL has.
func presigned(name string) bool {
	switch strings.ToLower(name) {
	case "x-amz-algorithm", "x-amz-credential", "x-amz-date", "x-amz-expires", "x-amz-signedheaders", "x-amz-signature", "x-amz-security-token":
		return true
	}
	return false
}

const upperHex = "0123456789ABCDEF"

// encode writes a text with escapes for all but unreserved characters (RFC 3986,
// section 2.3) and those in keep. Escapes that are there stay escapes when
// escaped is set; otherwise their percent sign is a character like others.
func encode(text, keep string, escaped bool) string {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		c := text[i]
		if escaped && c == '%' && i+2 < len(text) {
			if hi, lo := unhex(text[i+1]), unhex(text[i+2]); hi >= 0 && lo >= 0 {
				c, i = byte(hi<<4|lo), i+2
				if strings.IndexByte(keep, c) >= 0 { // an escaped slash is no slash
					b.Write([]byte{'%', upperHex[hi], upperHex[lo]})
					continue
				}
			}
		}
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~' || strings.IndexByte(keep, c) >= 0 {
			b.WriteByte(c)
		} else {
			b.Write([]byte{'%', upperHex[c>>4], upperHex[c&15]})
		}
	}
	return b.String()
}

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
