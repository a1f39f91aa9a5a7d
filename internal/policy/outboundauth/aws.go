package outboundauth

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"slices"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// signer signs requests with AWS Signature Version 4.
type signer struct{ *AWS }

var (
	_ policy.OnRequest = (*signer)(nil)
	_ policy.Holds     = (*signer)(nil)
)

func (a *AWS) compile() (policy.Policy, error) { return &signer{a}, nil }

// HoldRequest is the largest body that is signed.
func (s *signer) HoldRequest() int64 { return int64(s.Body) }

// HoldResponse says that no answer is held.
func (s *signer) HoldResponse() int64 { return 0 }

const unsigned = "UNSIGNED-PAYLOAD"

// Request signs the request as it will be sent. A rewrite of the route would
// come after it: what is signed has to be what the service gets.
func (s *signer) Request(x *exchange.Exchange) policy.Verdict {
	sum := unsigned
	if body, held := exchange.Held(x.Request.Body); held {
		h := sha256.Sum256(body)
		sum = hex.EncodeToString(h[:])
	}
	s.sign(&x.Request, sum, time.Now().UTC())
	return policy.Next
}

func (s *signer) sign(r *exchange.Request, sum string, now time.Time) {
	h := &r.Header
	stamp := now.Format("20060102T150405Z")
	host := s.Host
	if host == "" {
		host = r.Authority
	}
	h.DelKnown(exchange.Authorization)
	h.Set("X-Amz-Date", stamp)
	h.Del("X-Amz-Security-Token")
	if s.SessionToken.IsSet() {
		h.Set("X-Amz-Security-Token", s.SessionToken.Reveal())
	}
	h.Del("X-Amz-Content-Sha256")
	if s.Service == "s3" || sum == unsigned {
		h.Set("X-Amz-Content-Sha256", sum)
	}
	names, fields := s.fields(h, host)
	request := strings.Join([]string{r.Method, s.path(r.Path), query(r.Query), fields, names, sum}, "\n")
	scope := stamp[:8] + "/" + s.Region + "/" + s.Service + "/aws4_request"
	digest := sha256.Sum256([]byte(request))
	text := "AWS4-HMAC-SHA256\n" + stamp + "\n" + scope + "\n" + hex.EncodeToString(digest[:])
	key := []byte("AWS4" + s.SecretAccessKey.Reveal())
	for _, part := range []string{stamp[:8], s.Region, s.Service, "aws4_request"} {
		key = sum256(key, part)
	}
	h.SetKnown(exchange.Authorization, "AWS4-HMAC-SHA256 Credential="+s.AccessKeyID+"/"+scope+", SignedHeaders="+names+", Signature="+hex.EncodeToString(sum256(key, text)))
}

func sum256(key []byte, text string) []byte {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}

// fields returns the names and the lines of what is signed: the host, the type
// of the body, and all fields of Amazon's own. Others may change on the way.
func (s *signer) fields(h *exchange.Header, host string) (names, lines string) {
	all := map[string][]string{"host": {host}}
	for name, v := range h.All() {
		if name = strings.ToLower(name); name == "content-type" || strings.HasPrefix(name, "x-amz-") {
			all[name] = append(all[name], strings.Join(strings.Fields(v), " "))
		}
	}
	var sorted []string
	for name := range all {
		sorted = append(sorted, name)
	}
	slices.Sort(sorted)
	for _, name := range sorted {
		lines += name + ":" + strings.Join(all[name], ",") + "\n"
	}
	return strings.Join(sorted, ";"), lines
}

// path is the path, for all services but S3 encoded once more.
func (s *signer) path(path string) string {
	if path == "" {
		path = "/"
	}
	if s.Service == "s3" {
		return path
	}
	parts := strings.Split(path, "/")
	for i, p := range parts {
		parts[i] = escape(p)
	}
	return strings.Join(parts, "/")
}

// query is the query in its canonical form: every name and value encoded in
// one way, in the order of their bytes.
func query(text string) string {
	if text == "" {
		return ""
	}
	var pairs []string
	for piece := range strings.SplitSeq(text, "&") {
		if piece == "" {
			continue
		}
		k, v, _ := strings.Cut(piece, "=")
		pairs = append(pairs, again(k)+"="+again(v))
	}
	slices.Sort(pairs)
	return strings.Join(pairs, "&")
}

// again decodes a text and encodes it in the one way. What is not well encoded
// stays as the service will see it.
func again(text string) string {
	plain, err := url.QueryUnescape(text)
	if err != nil {
		plain = text
	}
	return escape(plain)
}

func escape(s string) string {
	const hexDigits = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("-_.~", c) >= 0 {
			b.WriteByte(c)
			continue
		}
		b.WriteByte('%')
		b.WriteByte(hexDigits[c>>4])
		b.WriteByte(hexDigits[c&15])
	}
	return b.String()
}
