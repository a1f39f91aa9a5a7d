package ldap

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	ldap "github.com/go-ldap/ldap/v3"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/fetch"
	"gatehouse.dev/gatehouse/internal/identify"
)

type method struct {
	config  *Config
	place   identify.Place
	guard   *identify.Guard
	address string // of the directory, with its port
	secure  bool   // from the first byte
	tls     *tls.Config
	seats   chan struct{}
	right   *identify.Tokens[person] // by keyed hashes of names and passwords
	key     []byte

	consumers consumers
	subject   string // the attribute that names people
}

// person is what the directory knows of somebody. Nothing writes to it.
type person struct {
	dn     string
	name   string   // as the directory spells it
	owners []string // the consumers that the entry names
	groups []string
	claims map[string]any
}

// The longest credential, in bytes of its encoded form, and name.
const (
	longest     = 2048
	longestName = 256
)

var (
	errForm  = errors.New("the credential is not base64 of name:password in UTF-8")
	errWrong = errors.New("the directory does not take the name or the password")
)

func (m *method) Prove(x *exchange.Exchange) error {
	text, err := m.place.Find(&x.Request, longest)
	switch {
	case err != nil:
		return &identify.Refusal{Cause: err}
	case text == "":
		return identify.ErrNone
	}
	data, err := base64.StdEncoding.Strict().DecodeString(text)
	user, pass, ok := strings.Cut(string(data), ":")
	// An empty password would be no password at all: a directory takes that as
	// anybody (RFC 4513, section 5.1.2).
	if err != nil || !ok || user == "" || pass == "" || len(user) > longestName || !utf8.Valid(data) || strings.ContainsFunc(string(data), func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return &identify.Refusal{Cause: errForm}
	}
	now := time.Now().Unix()
	key := m.sum(user, pass)
	p := m.right.Get(key, now)
	if p == nil {
		if err := m.guard.Blocked(x, plain(user)); err != nil {
			return err
		}
		p, err = m.ask(x, user, pass)
		var problem *exchange.Problem
		var no *identify.Refusal
		switch {
		case errors.As(err, &no):
			return no
		case errors.As(err, &problem):
			return problem
		case err != nil:
			return identify.Unavailable(fmt.Errorf("directory: %w", err))
		}
		m.right.Put(key, p, now, now+int64(m.config.Remember.D()/time.Second))
	}
	return m.identify(x, p)
}

// identify fills in who somebody is, and whose consumer. That is asked every
// time: consumers change.
func (m *method) identify(x *exchange.Exchange, p *person) error {
	who := &x.Who
	known, err := false, error(nil)
	if m.consumers != nil {
		known, err = m.consumers.Person(p.name, who)
	}
	switch {
	case known || err != nil || len(p.owners) == 0:
	case len(p.owners) > 1:
		err = fmt.Errorf("the directory names several consumers, %q", p.owners)
	default:
		if err = m.consumers.Named(p.owners[0], who); err != nil {
			err = fmt.Errorf("the directory names consumer %q: %w", p.owners[0], err)
		}
		known = true
	}
	switch {
	case err != nil:
		return &identify.Refusal{Cause: err, Uncounted: true}
	case !known && m.config.ConsumersOnly:
		return &identify.Refusal{Cause: fmt.Errorf("no consumer has %q of the directory", p.name), Uncounted: true}
	case who.Credential == "":
		who.Credential = p.dn
	}
	who.Subject, who.Claims = p.name, p.claims
	if who.Groups = slices.Clip(who.Groups); len(p.groups) > 0 {
		who.Groups = append(who.Groups, p.groups...)
	}
	return nil
}

func (m *method) sum(user, pass string) string {
	mac := hmac.New(sha256.New, m.key)
	mac.Write([]byte(user + ":" + pass))
	return string(mac.Sum(nil))
}

// ask finds somebody and tries the password. Known and unknown names take the
// same steps.
func (m *method) ask(x *exchange.Exchange, user, pass string) (*person, error) {
	timeout := m.config.Connection.Timeout.D()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	select {
	case m.seats <- struct{}{}:
		defer func() { <-m.seats }()
	case <-ctx.Done():
		return nil, errors.New("all connections are in use")
	}
	conn, err := m.connect(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	filter := strings.ReplaceAll(m.config.UserFilter, placeholder, ldap.EscapeFilter(user))
	attributes := append(slices.Clone([]string(m.config.Attributes)), m.subject)
	for _, name := range []string{m.config.GroupAttribute, m.config.ConsumerAttribute} {
		if name != "" {
			attributes = append(attributes, name)
		}
	}
	// Two are asked for, so that more than one is noticed.
	found, err := conn.Search(ldap.NewSearchRequest(m.config.BaseDN, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases, 2, int(timeout/time.Second)+1, false, filter, attributes, nil))
	if err != nil && !ldap.IsErrorWithCode(err, ldap.LDAPResultSizeLimitExceeded) && !ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject) {
		return nil, err
	}
	// A directory may tell fewer than there are, and says so. To be an entry
	// without a name is to be nobody in particular (RFC 4513, section 5.1.1).
	known := err == nil && len(found.Entries) == 1 && found.Entries[0].DN != ""
	// A name can be typed in many ways. Guesses are counted by whom they found.
	dn, guess := "cn="+nobody()+","+m.config.BaseDN, plain(user)
	if known {
		dn = found.Entries[0].DN
		guess = plain(dn)
		if err := m.guard.Blocked(x, guess); err != nil {
			return nil, err
		}
	}
	switch err := conn.Bind(dn, pass); {
	case err == nil && known:
		m.guard.Proved(x, guess)
		return m.person(found.Entries[0], user), nil
	case err == nil, isRefusal(err):
		return nil, &identify.Refusal{Cause: errWrong, Credential: guess}
	default:
		return nil, err
	}
}

// plain is a name without what directories do not look at.
func plain(name string) string { return strings.ToLower(strings.Join(strings.Fields(name), " ")) }

// isRefusal tells an answer about a name or password from one about the
// directory's state.
func isRefusal(err error) bool {
	return ldap.IsErrorAnyOf(err, ldap.LDAPResultInvalidCredentials, ldap.LDAPResultNoSuchObject, ldap.LDAPResultInvalidDNSyntax,
		ldap.LDAPResultUnwillingToPerform, ldap.LDAPResultConstraintViolation, ldap.LDAPResultInappropriateAuthentication, ldap.LDAPResultInsufficientAccessRights)
}

func nobody() string {
	b := make([]byte, 8)
	rand.Read(b)
	return "nobody-" + hex.EncodeToString(b)
}

// connect returns a connection that lasts as long as ctx, whatever the directory
// does, and takes no more than the settings allow.
func (m *method) connect(ctx context.Context) (*ldap.Conn, error) {
	raw, err := m.config.Connection.Dialer().DialContext(ctx, "tcp", m.address)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	if err := raw.SetDeadline(deadline); err != nil {
		_ = raw.Close()
		return nil, err
	}
	var under net.Conn = &bounded{raw, int64(m.config.Connection.MaxBody)}
	if m.secure {
		under = tls.Client(under, m.tls) // which shakes hands with the first question
	}
	conn := ldap.NewConn(under, m.secure)
	conn.SetTimeout(m.config.Connection.Timeout.D())
	conn.Start()
	if m.config.StartTLS {
		err = conn.StartTLS(m.tls)
	}
	if err == nil && m.config.BindDN != "" {
		err = conn.Bind(m.config.BindDN, m.config.BindPassword.Reveal())
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

// bounded is a connection that reads so many bytes and no more.
type bounded struct {
	net.Conn
	left int64
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, fetch.ErrLarge
	}
	n, err := b.Conn.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// person reads the entry of who gave this name.
func (m *method) person(e *ldap.Entry, user string) *person {
	p := &person{dn: e.DN, name: e.DN, claims: make(map[string]any)}
	// Of several names the one counts that was given, else the first.
	for i, name := range e.GetEqualFoldAttributeValues(m.subject) {
		if same := plain(name) == plain(user); i == 0 || same {
			if p.name = name; same {
				break
			}
		}
	}
	if m.config.ConsumerAttribute != "" {
		p.owners = e.GetEqualFoldAttributeValues(m.config.ConsumerAttribute)
	}
	for _, name := range m.config.Attributes {
		switch values := e.GetEqualFoldAttributeValues(name); len(values) {
		case 0:
		case 1:
			p.claims[name] = values[0]
		default:
			list := make([]any, len(values))
			for i, v := range values {
				list[i] = v
			}
			p.claims[name] = list
		}
	}
	if m.config.GroupAttribute == "" {
		return p
	}
	for _, v := range e.GetEqualFoldAttributeValues(m.config.GroupAttribute) {
		if dn, err := ldap.ParseDN(v); err == nil && len(dn.RDNs) > 1 && len(dn.RDNs[0].Attributes) > 0 {
			v = dn.RDNs[0].Attributes[0].Value
		}
		p.groups = append(p.groups, v)
	}
	return p
}

// Reaches says that a password makes the method ask the directory.
func (m *method) Reaches(x *exchange.Exchange) string {
	if text, err := m.place.Find(&x.Request, longest); err != nil || text == "" {
		return ""
	}
	return "asks the directory at " + m.config.URL
}

func (m *method) Place() string { return m.place.String() }

func (m *method) Hide(x *exchange.Exchange, proved bool) {
	if !m.config.Forward || !proved {
		m.place.Remove(&x.Request)
	}
}

// Challenge says that names and passwords are UTF-8 (RFC 7617, section 2.1).
func (m *method) Challenge(bool) string {
	return `Basic realm="` + m.config.Realm + `", charset="UTF-8"`
}
