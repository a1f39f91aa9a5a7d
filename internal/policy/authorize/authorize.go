// Package authorize is the policy that decides who may do what, once it is
// known who asks. It owns lists of consumers, groups, scopes and claims, and
// conditions in CEL. It refuses to grant anything in doubt: what cannot be
// evaluated is a refusal, and a list of the denied wins over one of the
// allowed.
package authorize

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"gatehouse.dev/gatehouse/internal/expr"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "authorize".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "authorize", Stage: policy.Authorize,
		New: func() policy.Config { return &Config{} },
		Doc: "Decides who may make a request, by consumer, group, scope, claim and condition.",
	}
}

// Config says who may. All that is set must hold; with nothing set anybody may
// who has proved who they are.
type Config struct {
	// Consumers, of whom it must be one.
	Consumers policy.StringList `yaml:"consumers" example:"mobile-app"`
	// Groups, of which the caller must be in one.
	Groups policy.StringList `yaml:"groups" example:"partners"`
	// Scopes, all of which the caller must have.
	Scopes policy.StringList `yaml:"scopes" example:"read"`
	// Claims that must be there, each with one of these values. A claim that is a list must contain one.
	Claims map[string]policy.StringList `yaml:"claims"`
	// A CEL expression that must hold. It sees request, route, client, claims and consumer; one that fails does not hold.
	When string `yaml:"when" example:"claims.tenant == route.params.tenant"`
	// Who may not, whatever else says.
	Deny Deny `yaml:"deny"`
	// Only log what would be refused.
	DryRun bool `yaml:"dry_run"`
}

// Deny says who may not. Any of it is enough.
type Deny struct {
	// Consumers who may not.
	Consumers policy.StringList `yaml:"consumers"`
	// Groups whose members may not.
	Groups policy.StringList `yaml:"groups"`
	// Scopes whose holders may not.
	Scopes policy.StringList `yaml:"scopes"`
	// Claims with one of whose values the caller may not.
	Claims map[string]policy.StringList `yaml:"claims"`
	// A CEL expression for what is refused. One that fails refuses.
	When string `yaml:"when"`
}

// Repeatable says that the rules of all levels are in force.
func (*Config) Repeatable() {}

// Compile sorts the lists and compiles the expressions.
func (c *Config) Compile(env *policy.Env) (policy.Policy, error) {
	g := &guard{
		consumers: newSet(c.Consumers), groups: newSet(c.Groups), scopes: slices.Clone(c.Scopes), claims: newClaims(c.Claims),
		denied: denied{consumers: newSet(c.Deny.Consumers), groups: newSet(c.Deny.Groups), scopes: newSet(c.Deny.Scopes), claims: newClaims(c.Deny.Claims)},
	}
	if c.DryRun {
		g.tell = policy.NewTeller(env)
	}
	var faults []error
	lists := map[string][]string{
		"consumers": c.Consumers, "groups": c.Groups, "scopes": c.Scopes,
		"deny.consumers": c.Deny.Consumers, "deny.groups": c.Deny.Groups, "deny.scopes": c.Deny.Scopes,
	}
	claims := func(path string, m map[string]policy.StringList) {
		if m != nil && len(m) == 0 {
			faults = append(faults, &policy.Fault{Field: path, Text: "no claim is named", Hint: "remove it, or name one"})
		}
		for name, values := range m {
			lists[path+"."+name] = values
			if len(values) == 0 {
				faults = append(faults, &policy.Fault{Field: path + "." + name, Text: fmt.Sprintf("claim %q has no value that would do", name), Hint: "name one"})
			}
		}
	}
	claims("claims", c.Claims)
	claims("deny.claims", c.Deny.Claims)
	for _, key := range slices.Sorted(maps.Keys(lists)) {
		list := lists[key]
		if list != nil && len(list) == 0 {
			faults = append(faults, &policy.Fault{Field: key, Text: "the list is empty: nobody is on it", Hint: "remove it, or name somebody"})
		}
		for i, s := range list {
			if s == "" {
				faults = append(faults, &policy.Fault{Field: fmt.Sprintf("%s[%d]", key, i), Text: "an empty name is nobody's"})
			}
		}
	}
	compile := func(field, source string) *expr.Program {
		if source == "" {
			return nil
		}
		p, err := expr.Compile(source, expr.Bool)
		if err != nil {
			faults = append(faults, &policy.Fault{Field: field, Text: fmt.Sprintf("%q: %v", source, err)})
		}
		return p
	}
	g.when = compile("when", c.When)
	g.denied.when = compile("deny.when", c.Deny.When)
	g.somebody = len(c.Consumers) == 0 && len(c.Groups) == 0 && len(c.Scopes) == 0 && len(c.Claims) == 0 && c.When == "" && g.denied.nobody()
	return g, errors.Join(faults...)
}
