package oidc

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/identify"
	"gatehouse.dev/gatehouse/internal/policy"
	"gatehouse.dev/gatehouse/internal/replay"
)

type method struct {
	config     *Config
	provider   *provider
	seal       *seal
	renewals   *renewals
	ended      endings
	once       replay.Store // with which gateways agree who renews a session, nil: this one alone does
	tell       *policy.Teller
	answers    policy.Slot[answer]
	consumers  consumers
	hostCookie string // the cookie's name where the browser came by https
	signIn     bool   // whoever has no session is sent to the provider
}

// answer is what becomes of a request with a session.
type answer struct {
	cookies cookies // of the session, where it was renewed
	bearer  string  // the token that the service gets, "" for none
}

func (m *method) Prove(x *exchange.Exchange) error {
	switch x.Request.Path {
	case m.config.Callback:
		return m.callback(x)
	case m.config.Logout:
		return m.logout(x)
	case m.config.BackChannel:
		return m.backChannel(x)
	}
	s, err := m.read(x)
	if s != nil && err == nil {
		s, err = m.fresh(x, s)
	}
	if err == nil && s != nil {
		return m.identify(x, s)
	}
	if err != nil {
		var p *exchange.Problem
		if errors.As(err, &p) {
			return p
		}
	}
	switch {
	case m.signIn && navigates(&x.Request):
		return m.begin(x)
	case errors.Is(err, errOver) && !m.signIn:
		// Nobody would take it from the browser, which shows it to every page.
		m.clear(x, &m.answers.Get(x).cookies)
	case err != nil:
		return &identify.Refusal{Cause: err, Uncounted: true}
	}
	return identify.ErrNone
}

// fresh returns the session, renewed where its access token is about to expire.
func (m *method) fresh(x *exchange.Exchange, s *session) (*session, error) {
	switch over, err := m.ended.has(s); {
	case err != nil:
		return nil, identify.Unavailable(fmt.Errorf("ended sessions: %w", err))
	case over:
		return nil, fmt.Errorf("%w: it was ended", errOver)
	}
	now := time.Now().Unix()
	switch {
	case (s.Good == 0 || now < s.Good) && (s.Access != "" || !m.config.access()):
		return s, nil
	case s.Renew == "":
		return nil, fmt.Errorf("%w: its token is missing or has expired, and cannot be renewed", errOver)
	}
	next, err := m.renewals.do(s.Renew, func() (*session, error) { return m.renewOnce(s) })
	var no *refused
	switch {
	case errors.As(err, &no):
		return nil, fmt.Errorf("%w: %w", errOver, err) // the provider does not want it: people sign in again
	case err != nil:
		return nil, identify.Unavailable(fmt.Errorf("renewing a session: %w", err))
	}
	return next, m.write(x, &m.answers.Get(x).cookies, next)
}

// access tells whether the service gets access tokens.
func (c *Config) access() bool { return c.Forward == "access_token" }

// identify fills in who signed in.
func (m *method) identify(x *exchange.Exchange, s *session) error {
	who := &x.Who
	subject := m.subject(s.Claims)
	if subject == "" {
		return &identify.Refusal{Cause: fmt.Errorf("the session has no claim %q", m.config.SubjectClaim), Uncounted: true}
	}
	known := false
	if m.consumers != nil {
		var err error
		if known, err = m.consumers.Subject(m.config.Issuer, subject, who); err != nil {
			return &identify.Refusal{Cause: err, Uncounted: true}
		}
	}
	if !known && m.config.ConsumersOnly {
		return &exchange.Problem{
			Status: 403, Code: "consumer_unknown", Side: exchange.SideClient, Detail: "This account may not come in here.",
			Cause: fmt.Errorf("no consumer has subject %q", subject),
		}
	}
	if who.Credential == "" {
		who.Credential = m.config.Issuer
	}
	who.Subject, who.Claims = subject, s.Claims
	if m.config.GroupsClaim != "" {
		who.Groups = slices.Concat(who.Groups, identify.Texts(identify.Claim(s.Claims, m.config.GroupsClaim)))
	}
	switch m.config.Forward {
	case "access_token":
		m.answers.Get(x).bearer = s.Access
	case "id_token":
		m.answers.Get(x).bearer = s.IDToken
	}
	return nil
}

// subject is who signed in, by what the provider said, "" for nobody.
func (m *method) subject(claims map[string]any) string {
	s, _ := identify.Claim(claims, m.config.SubjectClaim).(string)
	return s
}

// Own is where the token goes.
func (m *method) Own() []exchange.Field {
	if m.config.Forward == "none" {
		return nil
	}
	return []exchange.Field{{Name: "Authorization", Known: exchange.Authorization}}
}

// Say puts the token into the request. A service that gets tokens from here gets
// none that a client wrote.
func (m *method) Say(x *exchange.Exchange, proved bool, place string) {
	if m.config.Forward == "none" || identify.Stands(place, "Authorization") {
		return
	}
	x.Request.Header.DelKnown(exchange.Authorization)
	if token := m.answers.Get(x).bearer; proved && token != "" {
		x.Request.Header.AddKnown(exchange.Authorization, "Bearer "+token)
	}
}

// navigates tells a browser that opens a page from a script that would not
// know what to do with the provider's page. Browsers say it in Sec-Fetch-Mode.
func navigates(r *exchange.Request) bool {
	if r.Method != "GET" && r.Method != "HEAD" {
		return false
	}
	h := &r.Header
	if mode := h.Get("Sec-Fetch-Mode"); mode != "" {
		return mode == "navigate"
	}
	if h.Get("X-Requested-With") != "" {
		return false
	}
	for t := range exchange.Tokens(h.Known(exchange.Accept)) {
		if kind, _, _ := strings.Cut(t, ";"); exchange.EqualFold(strings.TrimSpace(kind), "text/html") {
			return true
		}
	}
	return false
}

// origin is where browsers know the gateway.
func (m *method) origin(x *exchange.Exchange) string {
	if m.config.Origin != "" {
		return strings.TrimSuffix(m.config.Origin, "/")
	}
	return identify.Origin(x)
}

// redirect answers with a way to go.
func redirect(x *exchange.Exchange, to string, out *cookies) error {
	r := &x.Response
	r.Status = 303
	r.Header.AddKnown(exchange.Location, to)
	r.Header.AddKnown(exchange.CacheControl, "no-store")
	r.Header.Add("Referrer-Policy", "no-referrer")
	r.SetBody(nil)
	out.set(x)
	return identify.ErrAnswered
}

// Reaches says that the method needs the provider, whether to sign somebody in
// or to renew a session.
func (m *method) Reaches(*exchange.Exchange) string {
	return "looks for a session, and signs in at " + m.config.Issuer
}

func (m *method) Place() string { return "session" }

// Hide takes the session, and logins that are under way, out of the cookies.
func (m *method) Hide(x *exchange.Exchange, _ bool) {
	identify.RemoveCookies(&x.Request.Header, func(name string) bool {
		name = strings.TrimPrefix(name, "__Host-")
		own, ok := strings.CutPrefix(name, m.config.Cookie)
		return ok && (own == "" || own[0] == '.' || strings.HasPrefix(own, loginSuffix))
	})
}

// Challenge is for scripts: a browser that opens a page is sent to the provider.
func (m *method) Challenge(bool) string { return `Session realm="gatehouse"` }
