package identify

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Member is a policy of the stage as a part of another one: a *Step, or what
// embeds one.
type Member interface {
	Prove(x *exchange.Exchange) error
	Count(x *exchange.Exchange, err error)
	Method() Method
	Alone() string
}

// Composite is the runtime of a policy that is made of several methods.
type Composite struct {
	*Step
	responses []policy.OnResponse
	hold      int64
}

// mostMembers bounds the members of a policy.
const mostMembers = 16

// Compose returns a policy of several methods, which stand at "policies" of
// its settings: of any of which one has to prove who asks, or all.
func Compose(env *policy.Env, one bool, uses []*policy.Use, o Options) (*Composite, error) {
	c := new(Composite)
	var members []Member
	var faults []error
	if len(uses) < 2 || len(uses) > mostMembers {
		faults = append(faults, &policy.Fault{Field: "policies", Text: fmt.Sprintf("%d policies stand where 2 to %d are wanted", len(uses), mostMembers)})
	}
	for i, use := range uses {
		if use == nil {
			continue // decoding has said what is wrong with it
		}
		at := fmt.Sprintf("policies[%d].%s", i, use.Kind.Name)
		if use.Kind.Stage != policy.Identify {
			faults = append(faults, &policy.Fault{Field: at, Text: use.Kind.Name + " does not tell who asks", Hint: "move it to the list around"})
			continue
		}
		inner := *env
		inner.Name, inner.Path = use.Kind.Name, env.Path+"."+at
		// What a member keeps is that of its kind: to ask on a route where it is
		// one of several is no way around the guesses counted on another.
		inner.Keep = func(key string, create func() any) any { return env.KeepAs(use.Kind.Name, key, create) }
		p, err := use.Config.Compile(&inner)
		if err != nil {
			faults = append(faults, within(at, err))
			continue
		}
		m, ok := p.(Member)
		if !ok {
			faults = append(faults, &policy.Fault{Field: at, Text: use.Kind.Name + " cannot be one of several"})
			continue
		}
		if option := m.Alone(); option != "" {
			faults = append(faults, &policy.Fault{Field: at + "." + option, Text: option + " has no effect here", Hint: "set it beside policies"})
		}
		if env.Still {
			m = still{m}
		}
		members = append(members, m)
		if r, ok := p.(policy.OnResponse); ok {
			c.responses = append(c.responses, r)
		}
		if h, ok := p.(policy.Holds); ok {
			c.hold = max(c.hold, h.HoldRequest())
		}
	}
	var m Method = &allOf{members}
	if one {
		m = &anyOf{members: members, proved: policy.NewSlot[int](env)}
	}
	step, err := New(env, m, nil, o)
	if err := errors.Join(append(faults, err)...); err != nil {
		return nil, err
	}
	c.Step = step
	return c, nil
}

// within puts a place before the fields of faults.
func within(at string, err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var out []error
		for _, e := range joined.Unwrap() {
			out = append(out, within(at, e))
		}
		return errors.Join(out...)
	}
	var f *policy.Fault
	if !errors.As(err, &f) {
		return &policy.Fault{Field: at, Text: err.Error()}
	}
	g := *f
	g.Field = strings.TrimSuffix(at+"."+g.Field, ".")
	return &g
}

// Within puts a place before the fields of faults, for settings that are made
// of others.
func Within(at string, err error) error {
	if at == "" {
		return err
	}
	return within(at, err)
}

// Response runs the response steps of the members that have one.
func (c *Composite) Response(x *exchange.Exchange) {
	for _, r := range c.responses {
		r.Response(x)
	}
}

// HoldRequest is the most that a member wants to hold.
func (c *Composite) HoldRequest() int64 { return c.hold }

// HoldResponse says that no answer is held.
func (c *Composite) HoldResponse() int64 { return 0 }

// anyOf asks its members in their order until one proves who asks. Each
// credential that was looked at on the way has to be right for one of those
// that read it: a wrong one is not made good by another.
type anyOf struct {
	members []Member
	proved  policy.Slot[int] // 1 + the index of the member that did
}

func (a *anyOf) Prove(x *exchange.Exchange) error {
	var wrong [mostMembers]error
	for i, m := range a.members {
		x.Who = exchange.Who{}
		err := m.Prove(x)
		switch {
		case errors.Is(err, ErrNone):
			continue
		case errors.Is(err, ErrAnswered):
			if i := a.first(wrong[:i], ""); i >= 0 {
				x.Response.Reset()
				return a.refuse(x, wrong[:], i)
			}
			return err
		case err != nil:
			wrong[i] = err
			continue
		}
		if i := a.first(wrong[:i], m.Method().Place()); i >= 0 {
			return a.refuse(x, wrong[:], i)
		}
		*a.proved.Get(x) = i + 1
		return nil
	}
	if i := a.first(wrong[:], ""); i >= 0 {
		return a.refuse(x, wrong[:], i)
	}
	return ErrNone
}

// first returns the first member that found a wrong credential at another
// place, -1 for none.
func (a *anyOf) first(wrong []error, place string) int {
	for i, err := range wrong {
		if err != nil && a.members[i].Method().Place() != place {
			return i
		}
	}
	return -1
}

// refuse counts what was wrong, and returns the error of a member.
func (a *anyOf) refuse(x *exchange.Exchange, wrong []error, first int) error {
	for i, err := range wrong {
		if err != nil {
			a.members[i].Count(x, err)
		}
	}
	var p *exchange.Problem
	if !errors.As(wrong[first], &p) || p.Status != 401 {
		return wrong[first]
	}
	// The member speaks for itself: what else would be taken is said beside it.
	rest := slices.Delete(slices.Clone(a.members), first, first+1)
	if text := challenges(rest, false); text != "" {
		q := *p
		q.Fields = slices.Concat(p.Fields, challenge(text))
		return &q
	}
	return p
}

func (a *anyOf) Place() string { return "any" }

func (a *anyOf) Hide(x *exchange.Exchange, proved bool) {
	did := *a.proved.Get(x)
	for i, m := range a.members {
		// What the others would have read was proved by nobody, unless it is
		// the same.
		own := proved && did > 0 && a.members[did-1].Method().Place() == m.Method().Place()
		if i == did-1 || !own {
			m.Method().Hide(x, own)
		}
	}
}

// Say has the member that proved who asks speak last: nothing that it says is
// taken back by another.
func (a *anyOf) Say(x *exchange.Exchange, proved bool, place string) {
	did := -1
	if proved {
		did = *a.proved.Get(x) - 1
		place = a.members[did].Method().Place()
	}
	for i, m := range a.members {
		if s, ok := m.Method().(Says); ok && i != did {
			s.Say(x, false, place)
		}
	}
	if did >= 0 {
		if s, ok := a.members[did].Method().(Says); ok {
			s.Say(x, true, "")
		}
	}
}

func (a *anyOf) Own() []exchange.Field { return ownOf(a.members) }

func (a *anyOf) Conceal(x *exchange.Exchange) { concealAll(a.members, x) }

func (a *anyOf) Challenge(wrong bool) string { return challenges(a.members, wrong) }

// allOf wants a proof of each of its members, and that they agree.
type allOf struct{ members []Member }

var errPart = errors.New("some of the credentials are there and some are not")

func (a *allOf) Prove(x *exchange.Exchange) error {
	var who exchange.Who
	none := 0
	for i, m := range a.members {
		x.Who = exchange.Who{}
		err := m.Prove(x)
		switch {
		case errors.Is(err, ErrNone):
			if none++; none <= i {
				return &Refusal{Cause: errPart, Uncounted: true}
			}
			continue
		case err != nil:
			m.Count(x, err)
			return err
		case none > 0:
			return &Refusal{Cause: errPart, Uncounted: true}
		}
		if err := join(&who, &x.Who); err != nil {
			return err
		}
		who = x.Who
	}
	if none > 0 {
		return ErrNone
	}
	x.Who = who
	return nil
}

func (a *allOf) Place() string { return "all" }

func (a *allOf) Hide(x *exchange.Exchange, proved bool) {
	for _, m := range a.members {
		m.Method().Hide(x, proved)
	}
}

func (a *allOf) Say(x *exchange.Exchange, proved bool, place string) {
	for _, m := range a.members {
		if s, ok := m.Method().(Says); ok {
			s.Say(x, proved, place)
		}
	}
}

func (a *allOf) Own() []exchange.Field { return ownOf(a.members) }

func (a *allOf) Conceal(x *exchange.Exchange) { concealAll(a.members, x) }

func (a *allOf) Challenge(wrong bool) string { return challenges(a.members, wrong) }

func ownOf(members []Member) (all []exchange.Field) {
	for _, m := range members {
		if s, ok := m.Method().(Says); ok {
			all = append(all, s.Own()...)
		}
	}
	return all
}

func concealAll(members []Member, x *exchange.Exchange) {
	for _, m := range members {
		conceal(m.Method(), x)
	}
}

// still is a member where it is only looked at what happens: it does not ask
// others, and says so. The members before it have their say all the same.
type still struct{ Member }

func (s still) Prove(x *exchange.Exchange) error {
	if text := reaches(s.Method(), x); text != "" {
		return unavailable(&policy.LeftOut{Text: text})
	}
	return s.Member.Prove(x)
}

// challenges joins those of several methods (RFC 9110, section 11.6.1).
func challenges(members []Member, wrong bool) string {
	var list []string
	for _, m := range members {
		if c := m.Method().Challenge(wrong); c != "" {
			list = append(list, c)
		}
	}
	return strings.Join(list, ", ")
}
