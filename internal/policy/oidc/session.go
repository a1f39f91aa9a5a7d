package oidc

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/identify"
)

// session is what a cookie says of who signed in.
type session struct {
	Claims  map[string]any `json:"c"`
	ID      string         `json:"i,omitempty"` // the provider's name of the session: "sid"
	Own     string         `json:"o,omitempty"` // the gateway's name of it, which stays when it is renewed
	Begun   int64          `json:"b"`           // seconds since 1970
	Ends    int64          `json:"e"`
	Good    int64          `json:"g,omitempty"` // until when the access token is, 0: as long as the session
	Send    bool           `json:"f,omitempty"` // a service gets the access token: it is kept
	Access  string         `json:"a,omitempty"`
	Renew   string         `json:"r,omitempty"` // the refresh token
	IDToken string         `json:"t,omitempty"`
}

// login is what a cookie says of somebody who is signing in. Every tab has its
// own.
type login struct {
	State    string `json:"s"`
	Nonce    string `json:"n"`
	Verifier string `json:"v"`
	Target   string `json:"t"`           // path and query of the page first asked for
	Send     bool   `json:"a,omitempty"` // the page needs the access token
	Until    int64  `json:"u"`
}

// seal encrypts cookies so that nobody can read or change them. The key and
// what is bound to each cookie hold the client and the provider, so that a
// cookie of one policy is none of another.
type seal struct {
	aeads []cipher.AEAD // the first is in use, the others open what they closed
	name  string
}

func newSeal(secrets []string, issuer, client string) *seal {
	s := &seal{name: issuer + "\x00" + client}
	for _, secret := range secrets {
		s.aeads = append(s.aeads, newAEAD(secret))
	}
	return s
}

func newAEAD(secret string) cipher.AEAD {
	// The settings have been checked: none of these fails.
	key, err := hkdf.Key(sha256.New, []byte(secret), nil, "gatehouse oidc cookies", 32)
	if err != nil {
		panic(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		panic(err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err)
	}
	return aead
}

func (s *seal) close(what string, v any) (string, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(s.aeads[0].Seal(nil, nil, data, []byte(what+"\x00"+s.name))), nil
}

var errSeal = errors.New("the cookie was not made by this gateway, or for something else")

func (s *seal) open(what, text string, v any) error {
	data, err := base64.RawURLEncoding.Strict().DecodeString(text)
	if err != nil {
		return errSeal
	}
	for _, aead := range s.aeads {
		if plain, err := aead.Open(nil, nil, data, []byte(what+"\x00"+s.name)); err == nil {
			return json.Unmarshal(plain, v)
		}
	}
	return errSeal
}

// The size of a cookie that all browsers take, and how many pieces a session
// may have.
const (
	pieceSize  = 3800
	mostPieces = 10
)

// cookies are Set-Cookie values for an answer.
type cookies struct{ list []string }

func (c *cookies) add(name, value string, age time.Duration, secure bool) {
	s := name + "=" + value + "; Path=/; HttpOnly; SameSite=Lax"
	if secure {
		s += "; Secure"
	}
	if age <= 0 {
		s += "; Max-Age=0"
	} else {
		s += "; Max-Age=" + strconv.FormatInt(int64(age/time.Second), 10)
	}
	c.list = append(c.list, s)
}

// set puts the cookies on the answer, which then is nobody else's.
func (c *cookies) set(x *exchange.Exchange) {
	if len(c.list) == 0 {
		return
	}
	for _, s := range c.list {
		x.Response.Header.AddKnown(exchange.SetCookie, s)
	}
	x.Response.Header.SetKnown(exchange.CacheControl, "no-store")
	c.list = nil
}

// cookieName has the prefix that keeps neighbouring domains and plain http from
// setting it, where the browser came by https.
func (m *method) cookieName(x *exchange.Exchange) (name string, secure bool) {
	scheme := x.Request.Header.Known(exchange.XForwardedProto)
	switch {
	case m.config.Origin != "":
		secure = strings.HasPrefix(m.config.Origin, "https://")
	case scheme != "":
		secure = exchange.EqualFold(scheme, "https")
	default:
		secure = x.Request.Scheme == "https"
	}
	if secure {
		return m.hostCookie, true
	}
	return m.config.Cookie, false
}

// write divides a session into cookies. Pieces of an earlier one that are left
// over are removed.
func (m *method) write(x *exchange.Exchange, out *cookies, s *session) error {
	if !s.Send {
		small := *s
		small.Access, s = "", &small
	}
	text, err := m.seal.close("session", s)
	if err != nil {
		return err
	}
	name, secure := m.cookieName(x)
	n := (len(text) + pieceSize - 1) / pieceSize
	if n > mostPieces {
		return fmt.Errorf("the session has %d bytes, more than cookies can hold", len(text))
	}
	age := time.Until(time.Unix(s.Ends, 0))
	for i := range n {
		piece := text[i*pieceSize : min(len(text), (i+1)*pieceSize)]
		if i == 0 {
			piece = strconv.Itoa(n) + "." + piece
		}
		out.add(pieceName(name, i), piece, age, secure)
	}
	m.clearPieces(x, out, n)
	return nil
}

// clear removes a session's cookies.
func (m *method) clear(x *exchange.Exchange, out *cookies) { m.clearPieces(x, out, 0) }

func (m *method) clearPieces(x *exchange.Exchange, out *cookies, from int) {
	name, secure := m.cookieName(x)
	for i := from; i < mostPieces; i++ {
		if v, err := identify.CookieValue(&x.Request.Header, pieceName(name, i)); v != "" || err != nil {
			out.add(pieceName(name, i), "", 0, secure)
		}
	}
}

func pieceName(name string, i int) string {
	if i == 0 {
		return name
	}
	return name + "." + strconv.Itoa(i)
}

// errOver says that a session was a good one.
var errOver = errors.New("the session is over")

// read returns the session of a request, nil when there is none.
func (m *method) read(x *exchange.Exchange) (*session, error) {
	name, _ := m.cookieName(x)
	first, err := identify.CookieValue(&x.Request.Header, name)
	if err != nil || first == "" {
		return nil, err
	}
	count, text, ok := strings.Cut(first, ".")
	n, err := strconv.Atoi(count)
	if !ok || err != nil || n < 1 || n > mostPieces {
		return nil, errSeal
	}
	for i := 1; i < n; i++ {
		piece, err := identify.CookieValue(&x.Request.Header, pieceName(name, i))
		if err != nil || piece == "" {
			return nil, errSeal
		}
		text += piece
	}
	s := new(session)
	if err := m.seal.open("session", text, s); err != nil {
		return nil, err
	}
	if now := time.Now().Unix(); now >= min(s.Ends, s.Begun+m.longest()) || s.Begun > now+60 {
		return nil, errOver
	}
	return s, nil
}

// longest is how many seconds a session lasts.
func (m *method) longest() int64 { return int64(m.config.Session.D() / time.Second) }

// token returns so many random bytes as text.
func token(bytes int) string {
	b := make([]byte, bytes)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}
