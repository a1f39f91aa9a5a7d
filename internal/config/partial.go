package config

// Partial tells that faults were found and that what they are about is missing:
// entries of lists are nil, names stand for nothing. Such a configuration can
// be compiled, to find the faults of what is left in the same go, and must not
// be served.
func (c *Config) Partial() bool { return c.partial }

// leaveOut takes out what has a fault, so that whoever compiles the rest does
// not meet it again. Places in lists stay what they are.
func (c *Config) leaveOut(faults Faults) {
	c.partial = true
	for _, f := range faults {
		steps := splitPath(f.Path)
		if f.Warning || len(steps) == 0 {
			continue
		}
		switch within := steps[1:]; steps[0].key {
		case "observe":
			c.Observe = Observe{}
			setDefaultsOf(&c.Observe)
		case "upstreams":
			if len(within) == 0 {
				c.Upstreams = nil
			} else if _, ok := c.Upstreams[within[0].key]; ok {
				c.Upstreams[within[0].key] = nil
			}
		case "policies":
			c.Policies = withoutEntry(c.Policies, within)
		case "listeners":
			if l := entry(c.Listeners, within); l != nil && len(within) > 1 && within[1].key == "policies" {
				l.Policies = withoutEntry(l.Policies, within[2:])
			}
		case "routes":
			if r := entry(c.Routes, within); r != nil && len(within) > 1 && within[1].key != "match" {
				r.leaveOut(within[1:])
			} else {
				c.Routes = withoutEntry(c.Routes, within)
			}
		}
	}
}

// leaveOut takes out a policy, or what the route does.
func (r *Route) leaveOut(steps []step) {
	switch steps[0].key {
	case "name":
	case "policies":
		r.Policies = withoutEntry(r.Policies, steps[1:])
	default:
		r.Upstream, r.Split, r.SplitBy, r.Rewrite, r.Redirect, r.Respond = "", nil, "", nil, nil, nil
	}
}

// entry returns the entry of a list that steps lead into, nil when there is
// none.
func entry[T any](list []*T, steps []step) *T {
	if len(steps) == 0 || steps[0].index < 0 || steps[0].index >= len(list) {
		return nil
	}
	return list[steps[0].index]
}

// withoutEntry returns a list with nil for the entry that steps lead into, or
// no list when they do not lead into one.
func withoutEntry[T any](list []*T, steps []step) []*T {
	if len(steps) == 0 || steps[0].index < 0 {
		return nil
	}
	if i := steps[0].index; i < len(list) {
		list[i] = nil
	}
	return list
}
