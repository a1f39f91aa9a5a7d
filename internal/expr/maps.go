package expr

import (
	"iter"
	"net/url"
	"reflect"
	"slices"
	"strings"

	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/common/types/traits"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// The maps of the environment are views too: a pointer under another type. A
// name that stands several times has its values joined by ", ", as RFC 9110,
// section 5.3, has it for fields: a rule sees all of them, and a client cannot
// hide one behind another.

type (
	headers exchange.Header
	cookies exchange.Header
	query   exchange.Request
	params  exchange.Route
)

// source is what a view has to offer.
type source interface {
	lookup(name string) (string, bool)
	pairs() iter.Seq2[string, string]
}

func (h *headers) lookup(name string) (string, bool) {
	hdr := (*exchange.Header)(h)
	first, ok := hdr.Lookup(name)
	if !ok {
		return "", false
	}
	n := 0
	for range hdr.Values(name) {
		n++
	}
	if n == 1 {
		return first, true
	}
	return strings.Join(slices.Collect(hdr.Values(name)), ", "), true
}

func (h *headers) pairs() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		fields := (*exchange.Header)(h).Fields()
		for i := range fields {
			if !yield(strings.ToLower(fields[i].Name), fields[i].Value) {
				return
			}
		}
	}
}

func (c *cookies) pairs() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for line := range (*exchange.Header)(c).Values("Cookie") {
			for pair := range strings.SplitSeq(line, ";") {
				name, value, ok := strings.Cut(strings.Trim(pair, " \t"), "=")
				if ok && !yield(name, value) {
					return
				}
			}
		}
	}
}

func (c *cookies) lookup(name string) (string, bool) { return joined(c.pairs(), name) }

// pairs decodes as forms are decoded. What is badly encoded stands as it came:
// it is no reason to leave a parameter out.
func (q *query) pairs() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for pair := range strings.SplitSeq(q.Query, "&") {
			if pair == "" {
				continue
			}
			name, value, _ := strings.Cut(pair, "=")
			if !yield(decoded(name), decoded(value)) {
				return
			}
		}
	}
}

func (q *query) lookup(name string) (string, bool) { return joined(q.pairs(), name) }

func decoded(s string) string {
	if !strings.ContainsAny(s, "%+") {
		return s
	}
	if d, err := url.QueryUnescape(s); err == nil {
		return d
	}
	return s
}

func (p *params) lookup(name string) (string, bool) {
	for i := range p.Params {
		if p.Params[i].Name == name {
			return p.Params[i].Value, true
		}
	}
	return "", false
}

func (p *params) pairs() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for i := range p.Params {
			if !yield(p.Params[i].Name, p.Params[i].Value) {
				return
			}
		}
	}
}

// joined looks a name up that may stand several times.
func joined(pairs iter.Seq2[string, string], name string) (value string, found bool) {
	var all []string // once there are two
	for n, v := range pairs {
		switch {
		case n != name:
		case !found:
			value, found = v, true
		case all == nil:
			all = []string{value, v}
		default:
			all = append(all, v)
		}
	}
	if all != nil {
		value = strings.Join(all, ", ")
	}
	return value, found
}

// mapping makes a view a map of the CEL library.
type mapping struct{ of source }

var _ traits.Mapper = mapping{}

func (m mapping) Type() ref.Type                   { return types.MapType }
func (m mapping) Value() any                       { return m.whole().Value() }
func (m mapping) Size() ref.Val                    { return m.whole().Size() }
func (m mapping) Iterator() traits.Iterator        { return m.whole().Iterator() }
func (m mapping) Equal(other ref.Val) ref.Val      { return m.whole().Equal(other) }
func (m mapping) ConvertToType(t ref.Type) ref.Val { return m.whole().ConvertToType(t) }
func (m mapping) ConvertToNative(t reflect.Type) (any, error) {
	return m.whole().ConvertToNative(t)
}

// Find returns the value of a name, and nil where there is none.
func (m mapping) Find(key ref.Val) (ref.Val, bool) {
	name, ok := key.(types.String)
	if !ok {
		return types.MaybeNoSuchOverloadErr(key), false
	}
	v, ok := m.of.lookup(string(name))
	if !ok {
		return nil, false
	}
	return types.String(v), true
}

// Get is Find with an error for what is absent.
func (m mapping) Get(key ref.Val) ref.Val {
	v, ok := m.Find(key)
	if !ok && v == nil {
		return types.NewErr("no such key: %v", key.Value())
	}
	return v
}

// Contains tells whether a name is there.
func (m mapping) Contains(key ref.Val) ref.Val {
	v, ok := m.Find(key)
	if !ok && v != nil {
		return v
	}
	return types.Bool(ok)
}

// whole copies a view into a map, for expressions that go through all of it.
// The number of entries has the limits of a request's head.
func (m mapping) whole() traits.Mapper {
	all := make(map[string]string)
	var more map[string][]string // of names that stand several times
	for name, value := range m.of.pairs() {
		first, ok := all[name]
		if !ok {
			all[name] = value
			continue
		}
		if more == nil {
			more = make(map[string][]string)
		}
		if more[name] == nil {
			more[name] = []string{first}
		}
		more[name] = append(more[name], value)
	}
	for name, values := range more {
		all[name] = strings.Join(values, ", ")
	}
	return types.NewStringStringMap(types.DefaultTypeAdapter, all)
}
