package oidc

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/identify"
)

const (
	loginSuffix = "_login_"
	loginTime   = 15 * time.Minute // to sign in with the provider
	mostLogins  = 5                // that a browser keeps at once
	mostTarget  = 2048             // bytes of the page first asked for; longer ones are forgotten
)

// begin sends a browser to the provider (OpenID Connect Core 1.0, section
// 3.1.2.1, with PKCE, RFC 7636).
func (m *method) begin(x *exchange.Exchange) error {
	says, err := m.provider.metadata()
	if err != nil {
		return identify.Unavailable(fmt.Errorf("provider %q: %w", m.config.Issuer, err))
	}
	target := x.Request.Path
	if x.Request.HasQuery {
		target += "?" + x.Request.Query
	}
	if len(target) > mostTarget {
		target = "/"
	}
	l := &login{State: token(24), Nonce: token(24), Verifier: token(32), Target: target, Send: m.config.access(), Until: time.Now().Add(loginTime).Unix()}
	sealed, err := m.seal.close("login", l)
	if err != nil {
		return err
	}
	out := new(cookies)
	m.forgetLogins(x, out)
	name, secure := m.cookieName(x)
	out.add(name+loginSuffix+l.State[:12], sealed, loginTime, secure)
	challenge := sha256.Sum256([]byte(l.Verifier))
	u, err := url.Parse(says.authorize)
	if err != nil {
		return identify.Unavailable(err)
	}
	q := u.Query()
	for name, v := range map[string]string{
		"response_type": "code", "client_id": m.config.ClientID, "redirect_uri": m.origin(x) + m.config.Callback,
		"scope": strings.Join(m.config.Scopes, " "), "state": l.State, "nonce": l.Nonce,
		"code_challenge": base64.RawURLEncoding.EncodeToString(challenge[:]), "code_challenge_method": "S256",
	} {
		q.Set(name, v)
	}
	u.RawQuery = q.Encode()
	return redirect(x, u.String(), out)
}

// forgetLogins removes logins that were never finished, when there are many:
// browsers send them all with every request.
func (m *method) forgetLogins(x *exchange.Exchange, out *cookies) {
	name, secure := m.cookieName(x)
	var names []string
	for _, f := range x.Request.Header.Fields() {
		if f.Known != exchange.Cookie {
			continue
		}
		for piece := range strings.SplitSeq(f.Value, ";") {
			n, _, _ := strings.Cut(strings.Trim(piece, " \t"), "=")
			if id, ok := strings.CutPrefix(n, name+loginSuffix); ok && len(id) == 12 && strings.Trim(id, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == "" {
				names = append(names, n)
			}
		}
	}
	if len(names) < mostLogins {
		return
	}
	for _, n := range names[:min(len(names), 32)] {
		out.add(n, "", 0, secure)
	}
}

// callback takes a browser that comes back. What does not fit together is
// refused; the page first asked for is the only one that it is sent to.
func (m *method) callback(x *exchange.Exchange) error {
	refuse := func(format string, args ...any) error {
		return &exchange.Problem{
			Status: 400, Code: "login_failed", Side: exchange.SideClient, Detail: "Signing in did not work. Open the page again.",
			Cause: fmt.Errorf(format, args...),
		}
	}
	q, err := url.ParseQuery(x.Request.Query)
	if err != nil || x.Request.Method != "GET" {
		return refuse("this is no answer of the provider")
	}
	for name, v := range q {
		if len(v) > 1 {
			return refuse("parameter %q stands twice", name)
		}
	}
	state := q.Get("state")
	if len(state) != 32 {
		return refuse("there is no state")
	}
	name, secure := m.cookieName(x)
	name += loginSuffix + state[:12]
	sealed, err := identify.CookieValue(&x.Request.Header, name)
	if err != nil || sealed == "" {
		return refuse("this browser has no login of that state: %v", err)
	}
	l := new(login)
	if err := m.seal.open("login", sealed, l); err != nil {
		return refuse("login: %w", err)
	}
	says, err := m.provider.metadata()
	switch {
	case err != nil:
		return identify.Unavailable(err)
	case subtle.ConstantTimeCompare([]byte(l.State), []byte(state)) != 1:
		return refuse("the state is another login's")
	case time.Now().Unix() >= l.Until:
		return refuse("the login took too long")
	case says.iss && q.Get("iss") != m.config.Issuer, q.Has("iss") && q.Get("iss") != m.config.Issuer: // RFC 9207, section 2.4
		return refuse("the answer is of issuer %q", q.Get("iss"))
	case q.Has("error"):
		return refuse("the provider says %q", q.Get("error"))
	case q.Get("code") == "":
		return refuse("there is no code")
	}
	s, err := m.redeem(x, l, q.Get("code"))
	var no *refused
	switch {
	case errors.As(err, &no), errors.Is(err, errIDToken):
		return refuse("%w", err)
	case err != nil:
		return identify.Unavailable(fmt.Errorf("redeeming a code: %w", err))
	}
	out := new(cookies)
	out.add(name, "", 0, secure)
	if err := m.write(x, out, s); err != nil {
		return refuse("%w", err)
	}
	return redirect(x, m.origin(x)+l.Target, out)
}

// errIDToken says that the provider's answer does not prove who signed in.
var errIDToken = errors.New("the ID token does not hold")

// redeem turns a code into a session.
func (m *method) redeem(x *exchange.Exchange, l *login, code string) (*session, error) {
	t, err := m.provider.exchange(m.config, url.Values{
		"grant_type": {"authorization_code"}, "code": {code}, "redirect_uri": {m.origin(x) + m.config.Callback}, "code_verifier": {l.Verifier},
	})
	if err != nil {
		return nil, err
	}
	now := time.Now().Unix()
	id, err := m.verify(t.id, now)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errIDToken, err)
	}
	if err := belongs(id, t.access); err != nil {
		return nil, fmt.Errorf("%w: %w", errIDToken, err)
	}
	_, expires := id.Claims["exp"]
	if err := m.info(id.Claims, t.access); err != nil {
		return nil, err
	}
	switch {
	case !expires:
		return nil, fmt.Errorf("%w: it has no exp", errIDToken)
	case subtle.ConstantTimeCompare([]byte(id.Text("nonce")), []byte(l.Nonce)) != 1:
		return nil, fmt.Errorf("%w: its nonce is another login's", errIDToken)
	case m.subject(id.Claims) == "" || id.Text("sub") == "":
		return nil, fmt.Errorf("%w: it names nobody", errIDToken)
	}
	s := &session{
		Own: token(12), Begun: now, Ends: now + m.longest(), ID: id.Text("sid"), Claims: id.Claims,
		Send: l.Send || m.config.access(),
	}
	s.take(t, now)
	return s, nil
}

// take keeps what of the tokens is needed later.
func (s *session) take(t *tokens, now int64) {
	s.Good = 0
	if t.expires > 0 {
		s.Good = now + t.expires - min(30, t.expires/2)
	}
	if t.renew != "" {
		s.Renew = t.renew
	}
	if t.id != "" {
		s.IDToken = t.id // a hint for signing out
	}
	s.Access = t.access
}
