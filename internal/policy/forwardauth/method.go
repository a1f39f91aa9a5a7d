package forwardauth

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/fetch"
	"gatehouse.dev/gatehouse/internal/identify"
	"gatehouse.dev/gatehouse/internal/policy"
)

type method struct {
	config             *Config
	client             *fetch.Client
	names              identify.Names
	send, take, answer []exchange.Field
	own                []exchange.Field              // that only the service may set: what is taken, and names
	taken              policy.Slot[[]exchange.Field] // of its answer
}

func (m *method) Prove(x *exchange.Exchange) error {
	ctx, cancel := context.WithTimeout(context.Background(), m.config.HTTP.Timeout.D())
	defer cancel()
	a, err := m.client.Do(ctx, http.MethodGet, m.config.URL, m.question(x), nil)
	if err != nil {
		return identify.Unavailable(fmt.Errorf("asking the service: %w", err))
	}
	switch a.Status {
	case 401, 403, 404, 429:
		return m.refused(a)
	case 302, 303, 307:
		return m.elsewhere(x, a)
	}
	if a.Status/100 != 2 {
		return identify.Unavailable(fmt.Errorf("asking the service: the answer has status %d", a.Status))
	}
	return m.proved(x, a)
}

// question is the head of what the service is asked. It says of the client what
// the gateway knows, never what the client says of itself.
func (m *method) question(x *exchange.Exchange) http.Header {
	r := &x.Request
	h := make(http.Header)
	for _, f := range m.send {
		for v := range r.Header.Values(f.Name) {
			h[http.CanonicalHeaderKey(f.Name)] = append(h[http.CanonicalHeaderKey(f.Name)], v)
		}
	}
	target := r.Path
	if r.HasQuery {
		target += "?" + r.Query
	}
	scheme, host, _ := strings.Cut(identify.Origin(x), "://")
	h["X-Forwarded-Method"] = []string{r.Method}
	h["X-Forwarded-Proto"] = []string{scheme}
	h["X-Forwarded-Host"] = []string{host}
	h["X-Forwarded-Uri"] = []string{target}
	if x.Client.IP != "" {
		h["X-Forwarded-For"] = []string{x.Client.IP}
	}
	return h
}

// proved takes over what a good answer says.
func (m *method) proved(x *exchange.Exchange, a *fetch.Answer) error {
	who := &x.Who
	consumer, err := one(a, m.config.ConsumerField)
	if err != nil {
		return err
	}
	subject, err := one(a, m.config.SubjectField)
	if err != nil {
		return err
	}
	if consumer != "" {
		if err := m.names.Named(consumer, who); err != nil {
			return &identify.Refusal{Cause: fmt.Errorf("the service names consumer %q: %w", consumer, err), Uncounted: true}
		}
	}
	who.Subject = subject
	taken := m.taken.Get(x)
	for _, f := range m.take {
		for _, v := range a.Header.Values(f.Name) {
			if fault := policy.CheckValue(v); fault != nil {
				return identify.Unavailable(fmt.Errorf("the service answers with an odd %s: %w", f.Name, fault))
			}
			f.Value = v
			*taken = append(*taken, f)
		}
	}
	return nil
}

// one is the only value of a field that names somebody. With two of them it
// would be chance who is meant.
func one(a *fetch.Answer, name string) (string, error) {
	if values := a.Header.Values(name); len(values) > 1 {
		return "", identify.Unavailable(fmt.Errorf("the service answers with %d values of %s", len(values), name))
	}
	return a.Header.Get(name), nil
}

// Own are what is taken, and the names.
func (m *method) Own() []exchange.Field { return m.own }

// Say hands over what the service said. What the client says in its place goes.
func (m *method) Say(x *exchange.Exchange, proved bool, place string) {
	for _, f := range m.own {
		if !identify.Stands(place, f.Name) {
			x.Request.Header.DelLooked(f.Name, f.Known)
		}
	}
	if proved {
		for _, f := range *m.taken.Get(x) {
			x.Request.Header.Append(f)
		}
	}
}

// refused is the problem of an answer that refuses.
func (m *method) refused(a *fetch.Answer) error {
	p := &exchange.Problem{
		Status: 403, Code: "access_refused", Side: exchange.SideClient,
		Detail: "The request is not allowed.", Cause: fmt.Errorf("the service answers with status %d", a.Status),
		Fields: m.fields(a),
	}
	p.Status = a.Status
	if a.Status == 401 && a.Header.Get("WWW-Authenticate") == "" {
		p.Fields = append(p.Fields, exchange.Field{Name: "WWW-Authenticate", Value: m.Challenge(true), Known: exchange.WWWAuthenticate})
	}
	return p
}

// fields are those of an answer that the client gets.
func (m *method) fields(a *fetch.Answer) (out []exchange.Field) {
	for _, f := range m.answer {
		for _, v := range a.Header.Values(f.Name) {
			if policy.CheckValue(v) == nil {
				f.Value = v
				out = append(out, f)
			}
		}
	}
	return out
}

// elsewhere answers with the redirection that the service asks for.
func (m *method) elsewhere(x *exchange.Exchange, a *fetch.Answer) error {
	to := a.Header.Get("Location")
	u, err := url.Parse(to)
	if err != nil || to == "" || policy.CheckValue(to) != nil || u.Scheme != "" && u.Scheme != "http" && u.Scheme != "https" {
		return identify.Unavailable(fmt.Errorf("the service sends the client to %q", to))
	}
	r := &x.Response
	r.Status = a.Status
	for _, f := range m.fields(a) {
		if f.Known != exchange.Location {
			r.Header.Append(f)
		}
	}
	r.Header.AddKnown(exchange.Location, to)
	r.Header.AddKnown(exchange.CacheControl, "no-store")
	r.SetBody(nil)
	return identify.ErrAnswered
}

// Reaches says that the method always asks.
func (m *method) Reaches(*exchange.Exchange) string { return "asks " + m.config.URL }

func (m *method) Place() string { return "request" }

// Hide takes out what was sent to the service, if that is not to go on.
func (m *method) Hide(x *exchange.Exchange, _ bool) {
	if m.config.Forward {
		return
	}
	for _, f := range m.send {
		x.Request.Header.DelLooked(f.Name, f.Known)
	}
}

// Conceal takes out what the service is asked with and what it said.
func (m *method) Conceal(x *exchange.Exchange) {
	for _, f := range slices.Concat(m.send, m.own) {
		x.Request.Header.Del(f.Name)
	}
}

// Challenge names what is wanted, where the service does not say.
func (m *method) Challenge(bool) string { return `Bearer realm="gatehouse"` }
