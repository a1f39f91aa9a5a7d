// Package identify owns what the policies of stage identify have in common: the
// step that asks a method for a proof, the answers when there is none or a
// wrong one, the limits on guessing, the places where credentials stand, and
// the fields that tell the service who asks. It refuses to know any method.
package identify

import (
	"errors"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Method proves who asks by one sort of credential.
type Method interface {
	// Prove looks for the method's credential in a request and fills in x.Who,
	// which is empty. It returns ErrNone when there is no such credential,
	// ErrAnswered when the method has given the answer itself, a *Refusal when
	// the credential proves nothing, or a *exchange.Problem when it could not
	// find out.
	Prove(x *exchange.Exchange) error
	// Place names where the credential stands in a request. Methods that look
	// at the same have the same.
	Place() string
	// Hide takes the credential out of the request, unless the settings say
	// that the service is to see it and it was proved.
	Hide(x *exchange.Exchange, proved bool)
	// Challenge is the value of WWW-Authenticate (RFC 9110, section 11.6.1)
	// for a request without the credential, or with a wrong one; "" for none.
	Challenge(wrong bool) string
}

// Says is a method that tells the service something by itself, beside what the
// settings "headers" do.
type Says interface {
	// Say takes the fields that only the method may set out of the request,
	// whoever set them, and sets them if it has proved who asks. All
	// credentials have been hidden by then. A field that a proof of another
	// method stood in is left alone: place is where it stood.
	Say(x *exchange.Exchange, proved bool, place string)
	// Own are the fields that only the method may set.
	Own() []exchange.Field
}

// Stands tells whether a proof stood in a field.
func Stands(place, field string) bool {
	name, ok := strings.CutPrefix(place, "header ")
	return ok && exchange.EqualFold(name, field)
}

var (
	// ErrNone says that a request has no credential of a method's sort.
	ErrNone = errors.New("there is no such credential")
	// ErrAnswered says that the method has filled in the response.
	ErrAnswered = errors.New("the method answers itself")
)

// Refusal says that there is a credential and that it proves nothing. The
// client is not told why.
type Refusal struct {
	Cause      error
	Credential string // what guessing is counted by beside the client, "" for nothing
	Uncounted  bool   // it cannot be a guess, such as a token that has only expired
}

func (r *Refusal) Error() string { return r.Cause.Error() }

// Unwrap returns the cause.
func (r *Refusal) Unwrap() error { return r.Cause }

// Names is what a step needs of the consumers.
type Names interface {
	// Named identifies the consumer of a name.
	Named(name string, who *exchange.Who) error
}

// Options are what all policies of the stage have to set.
type Options struct {
	Optional  bool              // requests without a credential go on
	Anonymous string            // consumer of requests without a credential
	Attempts  Attempts          // limits on guessing
	Headers   map[string]string // fields for the service: name to what it holds
}

// Step asks a method for a proof and acts on what it says. It is the runtime
// of every policy of stage identify.
type Step struct {
	name      string
	method    Method
	says      Says // the method, where it is one
	guard     *Guard
	names     Names
	optional  bool
	anonymous string
	fields    []field
	own       []exchange.Field // all that only the step may set
	missing   *exchange.Problem
	wrong     *exchange.Problem
}

// New returns the step of a method. The faults are those of the options.
func New(env *policy.Env, m Method, guard *Guard, o Options) (*Step, error) {
	s := &Step{name: env.Name, method: m, guard: guard, optional: o.Optional || o.Anonymous != "", anonymous: o.Anonymous}
	s.says, _ = m.(Says)
	var faults []error
	if o.Anonymous != "" {
		var ok bool
		if s.names, ok = env.Service("consumers").(Names); !ok {
			faults = append(faults, errors.New("there are no consumers to choose the anonymous one from"))
		}
		if o.Optional {
			faults = append(faults, &policy.Fault{Field: "optional", Text: "optional says nothing beside anonymous", Hint: "remove one of the two"})
		}
	}
	var more []error
	s.fields, more = compileFields(o.Headers)
	if err := errors.Join(append(faults, more...)...); err != nil {
		return nil, err
	}
	for _, f := range s.fields {
		s.own = append(s.own, f.Field)
	}
	if s.says != nil {
		s.own = append(s.own, s.says.Own()...)
	}
	s.missing = &exchange.Problem{
		Status: 401, Code: "credential_missing", Side: exchange.SideClient,
		Detail: "The request has no credential that this route asks for.", Fields: challenge(m.Challenge(false)),
		Cause: errors.New("there is no credential (" + m.Place() + ")"),
	}
	s.wrong = &exchange.Problem{
		Status: 401, Code: "credential_invalid", Side: exchange.SideClient,
		Detail: "The credential of the request is not valid.", Fields: challenge(m.Challenge(true)),
	}
	return s, nil
}

func challenge(text string) []exchange.Field {
	return []exchange.Field{{Name: "WWW-Authenticate", Value: text, Known: exchange.WWWAuthenticate}}
}

var _ policy.OnRequest = (*Step)(nil)

// Request proves who asks, or stops the exchange.
func (s *Step) Request(x *exchange.Exchange) policy.Verdict {
	for i := range s.fields {
		x.Request.Header.DelLooked(s.fields[i].Name, s.fields[i].Known)
	}
	if s.own != nil {
		x.Request.Own = append(x.Request.Own, s.own...)
	}
	var before exchange.Who
	// Mostly nothing is known yet, and nothing has to be copied.
	if x.Who.Method != "" || x.Who.Consumer != "" {
		before, x.Who = x.Who, exchange.Who{}
	}
	err := s.Prove(x)
	if err == nil {
		if err = join(&before, &x.Who); err == nil {
			s.method.Hide(x, true)
			if s.says != nil {
				s.says.Say(x, true, "")
			}
			s.tell(x)
			return policy.Next
		}
	}
	x.Who = before
	s.Count(x, err)
	if errors.Is(err, ErrNone) && s.optional {
		if err = s.nobody(x); err == nil {
			s.tell(x)
			return policy.Next
		}
	}
	s.fail(x, err)
	return policy.Stop
}

// nobody lets a request without a credential go on, as the anonymous consumer
// where there is one and nothing else has proved more.
func (s *Step) nobody(x *exchange.Exchange) error {
	s.method.Hide(x, false)
	if s.says != nil {
		s.says.Say(x, false, "")
	}
	if s.anonymous == "" || x.Who.Method != "" {
		return nil
	}
	if err := s.names.Named(s.anonymous, &x.Who); err != nil {
		return unavailable(err)
	}
	x.Who.Credential = ""
	return nil
}

// fail gives the exchange its problem.
func (s *Step) fail(x *exchange.Exchange, err error) {
	var p *exchange.Problem
	switch {
	case errors.Is(err, ErrAnswered):
	case errors.Is(err, ErrNone):
		x.Fail(s.missing)
	case errors.As(err, &p):
		x.Fail(p)
	default:
		x.Fail(s.wrong.With(err))
	}
}

// Prove asks the method, within the limits on guessing. It is what policies
// made of several methods call; what it returns is to be given to Count, if it
// is the last word.
func (s *Step) Prove(x *exchange.Exchange) error {
	if s.guard != nil {
		if wait := s.guard.blockedClient(x); wait > 0 {
			return tooMany(wait, "the client")
		}
	}
	err := s.method.Prove(x)
	if err == nil && x.Who.Method == "" {
		x.Who.Method = s.name
	}
	return err
}

// Count counts a refusal as a guess.
func (s *Step) Count(x *exchange.Exchange, err error) {
	if s.guard == nil || err == nil || errors.Is(err, ErrNone) || errors.Is(err, ErrAnswered) {
		return
	}
	var r *Refusal
	if errors.As(err, &r) && !r.Uncounted {
		s.guard.fail(x, r.Credential)
	}
}

var _ policy.Conceals = (*Step)(nil)

// Conceal takes the method's credentials out of a copy of a request.
func (s *Step) Conceal(x *exchange.Exchange) { conceal(s.method, x) }

var _ policy.Reaches = (*Step)(nil)

// Reaches says what the method would ask others.
func (s *Step) Reaches(x *exchange.Exchange) string { return reaches(s.method, x) }

func reaches(m Method, x *exchange.Exchange) string {
	if r, ok := m.(policy.Reaches); ok {
		return r.Reaches(x)
	}
	return ""
}

// conceal hides what a method would read, and what it is made of by itself.
func conceal(m Method, x *exchange.Exchange) {
	if c, ok := m.(policy.Conceals); ok {
		c.Conceal(x)
		return
	}
	m.Hide(x, false)
	if s, ok := m.(Says); ok {
		s.Say(x, false, "")
	}
}

// Method returns the step's method.
func (s *Step) Method() Method { return s.method }

// Alone tells which option only makes sense for a step that stands alone, "" when
// none is set.
func (s *Step) Alone() string {
	switch {
	case s.anonymous != "":
		return "anonymous"
	case s.optional:
		return "optional"
	case s.fields != nil:
		return "headers"
	}
	return ""
}

// Unavailable is the problem of a method that could not find out: what the
// proof depends on does not answer. It is a refusal, not an exemption.
func Unavailable(cause error) error { return unavailable(cause) }

func unavailable(cause error) *exchange.Problem {
	return &exchange.Problem{
		Status: 503, Code: "identity_unavailable", Side: exchange.SideGateway, Retry: retryUnavailable,
		Detail: "The gateway cannot check credentials at present.", Cause: cause,
	}
}

// join adds what was proved before to what was proved now. Proofs of different
// consumers contradict each other.
func join(before, now *exchange.Who) error {
	if before.Method == "" {
		return nil
	}
	if before.Consumer != "" && now.Consumer != "" && before.Consumer != now.Consumer {
		return &Refusal{Cause: errors.New("two credentials prove different consumers, " + before.Consumer + " and " + now.Consumer), Uncounted: true}
	}
	if now.Consumer == "" {
		now.Consumer = before.Consumer
	}
	if before.Subject != "" {
		now.Subject = before.Subject
	}
	now.Method = before.Method + "+" + now.Method
	now.Credential = before.Credential
	now.Groups = union(before.Groups, now.Groups)
	now.Scopes = union(before.Scopes, now.Scopes)
	if now.Labels == nil {
		now.Labels = before.Labels
	}
	if before.Claims != nil {
		now.Claims = before.Claims
	}
	if before.Token != "" {
		now.Token = before.Token
	}
	return nil
}

// Join is join for policies that are made of several methods.
func Join(before, now *exchange.Who) error { return join(before, now) }

func union(a, b []string) []string {
	if len(a) == 0 {
		return b
	}
	out := a
	for _, s := range b {
		if !slices.Contains(a, s) {
			out = append(out[:len(out):len(out)], s)
		}
	}
	return out
}

// CheckRealm returns what is wrong with a realm, nil when nothing is.
func CheckRealm(realm string) *policy.Fault {
	if realm == "" || len(realm) > 256 || Quote(realm) != realm || policy.CheckValue(realm) != nil {
		return &policy.Fault{Field: "realm", Text: "this is not a realm: 1 to 256 characters that need no escape"}
	}
	return nil
}

// Quote escapes what must not stand in a quoted string (RFC 9110, section
// 5.6.4).
func Quote(s string) string {
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s)
}
