// Package headers is the policy that sets, adds and removes header fields of
// requests and answers. It owns no template language and refuses to have one:
// values are constants, so that nothing a client sends is ever expanded.
package headers

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "headers".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "headers", Stage: policy.Transform,
		New: func() policy.Config { return new(Config) },
		Doc: "Sets, adds and removes header fields of the request and of the answer.",
	}
}

// Config says what to change on either way.
type Config struct {
	// Changes of the request, before it goes to the upstream.
	Request Changes `yaml:"request"`
	// Changes of the answer, before it goes to the client. Answers that the gateway makes itself are changed too.
	Response Changes `yaml:"response"`
}

// Changes are what to do with the fields of one message. A field may be named
// only once in them.
type Changes struct {
	// Fields that get this one value, whether or not they were there. Values are constants: nothing in them is expanded.
	Set map[string]string `yaml:"set"`
	// Fields that get one more line with this value, after those that are there.
	Add map[string]string `yaml:"add"`
	// Fields that are removed.
	Remove policy.StringList `yaml:"remove" example:"X-Powered-By"`
}

// Repeatable says that headers of all levels are in force.
func (*Config) Repeatable() {}

// Compile checks names and values.
func (c *Config) Compile(*policy.Env) (policy.Policy, error) {
	request, bad := c.Request.compile("request")
	response, worse := c.Response.compile("response")
	if err := errors.Join(append(bad, worse...)...); err != nil {
		return nil, err
	}
	return &editor{request, response}, nil
}

// compile turns the settings into a list in a fixed order: what is removed
// first, then what is set, then what is added, each by name.
func (c *Changes) compile(path string) (list changes, faults []error) {
	places := make(map[string]string) // lower-case name to the place that names it
	one := func(op op, place, name, value string) {
		f := policy.CheckField(name)
		lower := strings.ToLower(name)
		if first, ok := places[lower]; ok && f == nil {
			f = &policy.Fault{Text: fmt.Sprintf("%q is named twice, first at %s", name, first), Hint: "name a field once; case does not matter"}
		}
		if f == nil && op != remove {
			f = policy.CheckValue(value)
		}
		places[lower] = place
		if f != nil {
			f.Field = place
			faults = append(faults, f)
			return
		}
		list = append(list, change{op, exchange.Field{Name: name, Value: value, Known: exchange.LookupKnown(name)}})
	}
	for i, name := range c.Remove {
		one(remove, fmt.Sprintf("%s.remove[%d]", path, i), name, "")
	}
	for _, name := range slices.Sorted(maps.Keys(c.Set)) {
		one(set, path+".set"+key(name), name, c.Set[name])
	}
	for _, name := range slices.Sorted(maps.Keys(c.Add)) {
		one(add, path+".add"+key(name), name, c.Add[name])
	}
	return list, faults
}

// key writes the last step of a path.
func key(name string) string {
	if name == "" || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") != "" {
		return "[" + strconv.Quote(name) + "]"
	}
	return "." + name
}
