package oidc

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/identify"
)

// logout ends the session here and sends the browser to the provider to end it
// there (OpenID Connect RP-Initiated Logout 1.0).
func (m *method) logout(x *exchange.Exchange) error {
	out := new(cookies)
	s, _ := m.read(x) // one that cannot be read is removed too
	m.clear(x, out)
	after := m.config.AfterLogout
	if strings.HasPrefix(after, "/") {
		after = m.origin(x) + after
	}
	if s != nil {
		// The browser's cookies go; copies of them must not be of use either.
		if err := m.ended.end(time.Until(time.Unix(s.Ends, 0)), time.Now().Unix(), ownName(s.Own)); err != nil {
			m.tell.Warn("other gateways do not know that somebody signed out", "error", err)
		}
	}
	says, err := m.provider.metadata()
	if s == nil || err != nil || says.end == "" {
		return redirect(x, after, out)
	}
	u, err := url.Parse(says.end)
	if err != nil {
		return redirect(x, after, out)
	}
	q := u.Query()
	q.Set("client_id", m.config.ClientID)
	q.Set("post_logout_redirect_uri", after)
	if s.IDToken != "" {
		q.Set("id_token_hint", s.IDToken)
	}
	u.RawQuery = q.Encode()
	return redirect(x, u.String(), out)
}

// longestSession is what no policy exceeds: the session may be another's.
const longestSession = 720 * time.Hour

// longestLogout is the largest body that the provider may send, in bytes.
const longestLogout = 64 << 10

// backChannel takes the provider's word that a session has ended (OpenID
// Connect Back-Channel Logout 1.0, section 2.5).
func (m *method) backChannel(x *exchange.Exchange) error {
	refuse := func(format string, args ...any) error {
		return &exchange.Problem{
			Status: 400, Code: "logout_invalid", Side: exchange.SideClient, Detail: "This is not a logout token.",
			Cause: fmt.Errorf(format, args...),
		}
	}
	if x.Request.Method != "POST" {
		return refuse("the method is %s", x.Request.Method)
	}
	body, err := readAll(x.Request.Body)
	if err != nil {
		return refuse("reading the body: %w", err)
	}
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return refuse("the body is no form")
	}
	t, err := m.verify(form.Get("logout_token"), time.Now().Unix())
	if err != nil {
		return refuse("%w", err)
	}
	events, _ := t.Claims["events"].(map[string]any)
	_, ends := events["http://schemas.openid.net/event/backchannel-logout"].(map[string]any)
	_, nonce := t.Claims["nonce"]
	sid, sub, id := t.Text("sid"), t.Text("sub"), t.Text("jti")
	switch {
	case !ends || nonce:
		return refuse("the token is for another purpose")
	case t.Typ != "" && t.Typ != "logout+jwt" && t.Typ != "jwt":
		return refuse("the token is of type %q", t.Typ)
	case sid == "" && sub == "":
		return refuse("the token names no session")
	case id == "":
		return refuse("the token has no id")
	}
	names := []string{sessionName(sid), lonelyName(sub)}
	if sid == "" {
		names = []string{personName(sub)}
	}
	// Sessions that began after the token was made are no business of it: it may
	// come again.
	now, iat := time.Now().Unix(), t.Claims["iat"].(int64) // which was checked
	for _, name := range names {
		if err := m.ended.end(longestSession+m.config.Leeway.D(), min(now, iat+int64(m.config.Leeway.D()/time.Second)), name); err != nil {
			return identify.Unavailable(fmt.Errorf("ended sessions: %w", err))
		}
	}
	x.Response.Status = 200
	x.Response.Header.AddKnown(exchange.CacheControl, "no-store")
	x.Response.SetBody(nil)
	return identify.ErrAnswered
}

func readAll(b exchange.Body) (all []byte, err error) {
	for {
		p, err := b.Next()
		if len(all)+len(p) > longestLogout {
			return nil, errors.New("it is too large")
		}
		all = append(all, p...)
		switch {
		case errors.Is(err, io.EOF):
			return all, nil
		case err != nil:
			return nil, err
		}
	}
}
