package gateway

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/internal/policy"
)

// compileGroups compiles the policies of consumer groups, once for all plans:
// a limit of a group is one limit on whatever routes it is used up.
func (c *compiler) compileGroups() {
	for _, name := range slices.Sorted(maps.Keys(c.cfg.Groups)) {
		g := c.cfg.Groups[name]
		if g == nil {
			continue
		}
		path := "groups." + name + ".policies"
		if strings.Contains(name, ".") {
			path = fmt.Sprintf("groups[%q].policies", name)
		}
		for i, p := range c.compileAll(path, "group "+name, g.Policies) {
			if p.stage <= policy.Identify {
				c.fault(fmt.Sprintf("%s[%d].%s", path, i, p.kind.Name),
					fmt.Sprintf("%s runs before it is known who asks, and so cannot be for a group", p.kind.Name), "move it to a route, a listener or the gateway")
				continue
			}
			if p.policy != nil {
				p.only = name
				c.groups = append(c.groups, p)
			}
		}
	}
}

// unlessGroups makes policies give way to those of the same kind that groups
// have. Kinds of which several may stand in a plan stay in force.
func (c *compiler) unlessGroups(all []compiled) []compiled {
	for i := range all {
		if all[i].repeat {
			continue
		}
		for _, g := range c.groups {
			if g.kind == all[i].kind && !slices.Contains(all[i].unless, g.only) {
				all[i].unless = append(all[i].unless, g.only)
			}
		}
	}
	return all
}
