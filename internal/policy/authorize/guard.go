package authorize

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/expr"
	"gatehouse.dev/gatehouse/internal/policy"
)

var refused = exchange.Problem{
	Status: 403, Code: "forbidden", Side: exchange.SideClient,
	Detail: "You may not make this request.",
}

var _ policy.OnRequest = (*guard)(nil)

// guard decides.
type guard struct {
	consumers, groups set
	scopes            []string
	claims            []claim
	when              *expr.Program
	denied            denied
	somebody          bool           // anybody may who has proved who they are
	tell              *policy.Teller // of a dry run
}

type denied struct {
	consumers, groups, scopes set
	claims                    []claim
	when                      *expr.Program
}

func (d *denied) nobody() bool {
	return d.consumers == nil && d.groups == nil && d.scopes == nil && d.claims == nil && d.when == nil
}

func (g *guard) Request(x *exchange.Exchange) policy.Verdict {
	err := g.judge(x)
	if err == nil {
		return policy.Next
	}
	if g.tell != nil {
		g.tell.Spared(policy.DryRun, "a request was let through by dry_run", "request_id", x.RequestID(), "consumer", x.Who.Consumer, "reason", err)
		return policy.Next
	}
	x.Fail(refused.With(err))
	return policy.Stop
}

// Why a request was refused, for the log.
var (
	errDenied   = errors.New("the caller is denied")
	errUnknown  = errors.New("nobody has proved who they are")
	errConsumer = errors.New("the consumer is not among those allowed")
	errGroup    = errors.New("the caller is in none of the groups")
	errScope    = errors.New("a scope is missing")
	errClaim    = errors.New("a claim is missing or has another value")
	errWhen     = errors.New("the condition does not hold")
)

// judge returns why a request is refused, nil when it may pass. What is denied
// comes first.
func (g *guard) judge(x *exchange.Exchange) error {
	who := &x.Who
	if d := &g.denied; d.consumers.has(who.Consumer) || d.groups.hasAny(who.Groups) || d.scopes.hasAny(who.Scopes) || anyOf(d.claims, who.Claims) {
		return errDenied
	}
	if g.denied.when != nil {
		if ok, err := g.denied.when.Holds(x); err != nil {
			return fmt.Errorf("the condition of deny failed: %w", err)
		} else if ok {
			return errDenied
		}
	}
	switch {
	case g.somebody && who.Method == "":
		return errUnknown
	case g.consumers != nil && !g.consumers.has(who.Consumer):
		return errConsumer
	case g.groups != nil && !g.groups.hasAny(who.Groups):
		return errGroup
	}
	for _, s := range g.scopes {
		if !slices.Contains(who.Scopes, s) {
			return errScope
		}
	}
	for i := range g.claims {
		if !g.claims[i].met(who.Claims) {
			return errClaim
		}
	}
	if g.when != nil {
		if ok, err := g.when.Holds(x); err != nil {
			return fmt.Errorf("the condition failed: %w", err)
		} else if !ok {
			return errWhen
		}
	}
	return nil
}

// set is a list of names. Nobody's name, which is empty, is never in it.
type set map[string]struct{}

func newSet(list []string) set {
	if list == nil {
		return nil
	}
	s := make(set, len(list))
	for _, name := range list {
		s[name] = struct{}{}
	}
	return s
}

func (s set) has(name string) bool {
	if len(s) == 0 || name == "" {
		return false
	}
	_, ok := s[name]
	return ok
}

func (s set) hasAny(names []string) bool {
	if len(s) == 0 {
		return false
	}
	for _, name := range names {
		if s.has(name) {
			return true
		}
	}
	return false
}

// claim is a claim with the values that it may have.
type claim struct {
	name   string
	values set
}

func newClaims(m map[string]policy.StringList) []claim {
	var list []claim
	for name, values := range m {
		list = append(list, claim{name, newSet(values)})
	}
	slices.SortFunc(list, func(a, b claim) int {
		if a.name < b.name {
			return -1
		}
		return 1
	})
	return list
}

func anyOf(list []claim, claims map[string]any) bool {
	for i := range list {
		if list[i].met(claims) {
			return true
		}
	}
	return false
}

func (c *claim) met(claims map[string]any) bool {
	v, ok := claims[c.name]
	if !ok {
		return false
	}
	if list, ok := v.([]any); ok {
		return slices.ContainsFunc(list, c.one)
	}
	return c.one(v)
}

// one compares a value by its text. Maps and nothing have none.
func (c *claim) one(v any) bool {
	switch v := v.(type) {
	case string:
		return c.values.has(v)
	case bool:
		return c.values.has(strconv.FormatBool(v))
	case int64:
		return c.values.has(strconv.FormatInt(v, 10))
	case float64:
		return c.values.has(strconv.FormatFloat(v, 'f', -1, 64))
	}
	return false
}
