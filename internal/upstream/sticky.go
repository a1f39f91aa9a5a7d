package upstream

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
)

// sticky keeps clients at their endpoints by a cookie: which endpoint, until
// when, and a signature of both. It tells nothing of the endpoint to whoever
// does not have the key.
type sticky struct {
	name       string
	ttl        time.Duration
	key        []byte
	attributes string // that follow the value
	insecure   bool   // SameSite=None is refused without Secure
}

// token names an endpoint in a cookie.
type token [9]byte

// cookieSize is token, expiry and signature before they become text.
const cookieSize = len(token{}) + 5 + 16

func newSticky(name string, cfg *config.Upstream) *sticky {
	c := cfg.Sticky
	if c == nil {
		return nil
	}
	s := &sticky{name: c.Cookie, ttl: c.TTL.D()}
	h := sha256.New()
	h.Write([]byte("gatehouse sticky cookie\x00"))
	if c.Secret.IsSet() {
		h.Write([]byte(c.Secret.Reveal()))
	} else {
		h.Write([]byte(name))
		var urls []string
		for _, e := range cfg.Endpoints {
			urls = append(urls, e.URL)
		}
		slices.Sort(urls)
		for _, u := range urls {
			h.Write([]byte("\x00" + u))
		}
	}
	s.key = h.Sum(nil)
	s.attributes = "; Path=" + c.Path
	if s.ttl > 0 {
		s.attributes += "; Max-Age=" + strconv.Itoa(int(s.ttl/time.Second))
	}
	site := map[string]string{"lax": "Lax", "strict": "Strict", "none": "None"}[c.SameSite]
	s.attributes += "; HttpOnly; SameSite=" + site
	s.insecure = site != "None"
	return s
}

// token returns what stands for an endpoint.
func (s *sticky) token(key string) (t token) {
	if s == nil {
		return t
	}
	m := hmac.New(sha256.New, s.key)
	m.Write([]byte("endpoint\x00" + key))
	copy(t[:], m.Sum(nil))
	return t
}

// sign returns the signature of the first part of a cookie.
func (s *sticky) sign(b []byte) []byte {
	m := hmac.New(sha256.New, s.key)
	m.Write([]byte("cookie\x00"))
	m.Write(b)
	return m.Sum(nil)[:16]
}

// read returns whom the cookie of a request means, and until when. Of several
// cookies of that name the first valid one counts.
func (s *sticky) read(r *exchange.Request) (t token, until time.Time, ok bool) {
	if !r.Header.Has(exchange.Cookie) {
		return t, until, false
	}
	for line := range r.Header.Values("Cookie") {
		for pair := range strings.SplitSeq(line, ";") {
			name, value, _ := strings.Cut(strings.TrimSpace(pair), "=")
			if name != s.name {
				continue
			}
			if t, until, ok = s.parse(value); ok {
				return t, until, true
			}
		}
	}
	return t, until, false
}

func (s *sticky) parse(value string) (t token, until time.Time, ok bool) {
	var b [cookieSize]byte
	if len(value) != base64.RawURLEncoding.EncodedLen(cookieSize) {
		return t, until, false
	}
	if _, err := base64.RawURLEncoding.Strict().Decode(b[:], []byte(value)); err != nil {
		return t, until, false
	}
	signed := b[:cookieSize-16]
	if subtle.ConstantTimeCompare(s.sign(signed), b[cookieSize-16:]) != 1 {
		return t, until, false
	}
	copy(t[:], signed)
	at := int64(signed[len(t)])<<32 | int64(binary.BigEndian.Uint32(signed[len(t)+1:]))
	if at != 0 {
		if until = time.Unix(at, 0); time.Now().After(until) {
			return t, until, false
		}
	}
	return t, until, true
}

// value returns the value of a cookie that means an endpoint until a time.
func (s *sticky) value(t token, until time.Time) string {
	b := make([]byte, 0, cookieSize)
	b = append(b, t[:]...)
	at := int64(0)
	if !until.IsZero() {
		at = until.Unix()
	}
	b = append(b, byte(at>>32))
	b = binary.BigEndian.AppendUint32(b, uint32(at))
	b = append(b, s.sign(b)...)
	return base64.RawURLEncoding.EncodeToString(b)
}

// set gives the answer a cookie, unless the client has one that means the same
// endpoint and is good for half of its time yet.
func (s *sticky) set(x *exchange.Exchange, e *endpoint, had token, until time.Time) {
	if had == e.token && (s.ttl == 0 || time.Until(until) > s.ttl/2) {
		return
	}
	until = time.Time{}
	if s.ttl > 0 {
		until = time.Now().Add(s.ttl)
	}
	v := s.name + "=" + s.value(e.token, until) + s.attributes
	if x.Request.Scheme == "https" || !s.insecure {
		v += "; Secure"
	}
	x.Response.Header.AddKnown(exchange.SetCookie, v)
}
