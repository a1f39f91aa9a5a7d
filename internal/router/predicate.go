package router

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/expr"
)

// predicate is a condition of a route beyond host, path and method. A route
// has a short list of them, all of which must hold.
type predicate interface {
	holds(x *exchange.Exchange) bool
	// subject names what the predicate looks at; a route has at most one
	// predicate for each subject.
	subject() string
	// implies reports whether o, which has the same subject, holds whenever
	// this one does. It may say no when it is not sure.
	implies(o predicate) bool
	// String is the same text for predicates that hold for the same requests.
	String() string
}

// place is where a value is looked for.
type place uint8

const (
	inHeader place = iota
	inQuery
	inCookie
)

var placeNames = [...]string{"header", "query parameter", "cookie"}

// condition is a predicate on the values that a request has under one name. It
// holds when any one of them passes the test: neither a value repeated nor its
// order decides, and a client cannot hide a value behind another.
type condition struct {
	in    place
	name  string // in lower case for a header
	known exchange.Known
	test  test
}

// test is what is asked of one value. At most one of its fields is set; with
// none any value passes.
type test struct {
	exact  *string
	regex  *regexp.Regexp
	source string // of regex
	absent bool   // no value may be there
}

func (t *test) passes(value string) bool {
	switch {
	case t.exact != nil:
		return value == *t.exact
	case t.regex != nil:
		return t.regex.MatchString(value)
	}
	return true
}

func (c *condition) holds(x *exchange.Exchange) bool {
	r := &x.Request
	var found bool
	switch c.in {
	case inHeader:
		found = c.inFields(&r.Header)
	case inQuery:
		found = c.inPairs(r.Query)
	case inCookie:
		found = c.inCookies(&r.Header)
	}
	return found != c.test.absent
}

// inFields looks at every line of a header field, each by itself.
func (c *condition) inFields(h *exchange.Header) bool {
	if c.known != exchange.Other && !h.Has(c.known) {
		return false
	}
	fields := h.Fields()
	for i := range fields {
		f := &fields[i]
		if f.Known == c.known && (c.known != exchange.Other || exchange.EqualFold(f.Name, c.name)) && c.test.passes(f.Value) {
			return true
		}
	}
	return false
}

// inCookies looks at every cookie-pair of every Cookie field (RFC 6265, section
// 4.2.1). Names are compared with case; quotes belong to the value.
func (c *condition) inCookies(h *exchange.Header) bool {
	if !h.Has(exchange.Cookie) {
		return false
	}
	fields := h.Fields()
	for i := range fields {
		if fields[i].Known != exchange.Cookie {
			continue
		}
		for rest, more := fields[i].Value, true; more; {
			var pair string
			pair, rest, more = strings.Cut(rest, ";")
			name, value, ok := strings.Cut(strings.Trim(pair, " \t"), "=")
			if ok && name == c.name && c.test.passes(value) {
				return true
			}
		}
	}
	return false
}

// inPairs looks at every parameter of a query. Names and values are decoded as
// HTML forms are: + is a space. What has a bad percent-encoding is no name, and
// a value that passes no test but that of being there.
func (c *condition) inPairs(query string) bool {
	for rest, more := query, query != ""; more; {
		var pair string
		pair, rest, more = strings.Cut(rest, "&")
		name, value, _ := strings.Cut(pair, "=")
		if pair != "" && equalDecoded(name, c.name) && c.passesDecoded(value) {
			return true
		}
	}
	return false
}

func (c *condition) passesDecoded(value string) bool {
	switch {
	case c.test.exact != nil:
		return equalDecoded(value, *c.test.exact)
	case c.test.regex != nil && strings.ContainsAny(value, "%+"):
		decoded, ok := decode(value)
		return ok && c.test.passes(decoded)
	}
	return c.test.passes(value)
}

// equalDecoded reports whether raw is want after decoding.
func equalDecoded(raw, want string) bool {
	for i := 0; i < len(raw); i++ {
		c, n := nextDecoded(raw[i:])
		if n == 0 || want == "" || want[0] != c {
			return false
		}
		i, want = i+n-1, want[1:]
	}
	return want == ""
}

func decode(raw string) (string, bool) {
	b := make([]byte, 0, len(raw))
	for i := 0; i < len(raw); {
		c, n := nextDecoded(raw[i:])
		if n == 0 {
			return "", false
		}
		b, i = append(b, c), i+n
	}
	return string(b), true
}

// nextDecoded returns the first byte of s, decoded, and how long it was
// written, or 0 for a bad percent-encoding.
func nextDecoded(s string) (byte, int) {
	switch {
	case s[0] == '+':
		return ' ', 1
	case s[0] != '%':
		return s[0], 1
	case len(s) < 3 || !isHex(s[1]) || !isHex(s[2]):
		return 0, 0
	}
	return unhex(s[1])<<4 | unhex(s[2]), 3
}

func (c *condition) subject() string { return placeNames[c.in] + " " + c.name }

func (c *condition) String() string {
	switch t := &c.test; {
	case t.exact != nil:
		return c.subject() + " is " + quote(*t.exact)
	case t.regex != nil:
		return c.subject() + " matches " + quote(t.source)
	case t.absent:
		return c.subject() + " is absent"
	}
	return c.subject() + " is present"
}

func (c *condition) implies(other predicate) bool {
	o, ok := other.(*condition)
	if !ok {
		return false
	}
	switch t := &o.test; {
	case c.test.absent || t.absent:
		return c.test.absent == t.absent
	case t.exact != nil:
		return c.test.exact != nil && *c.test.exact == *t.exact
	case t.regex != nil && c.test.exact != nil:
		return t.regex.MatchString(*c.test.exact)
	case t.regex != nil:
		return c.test.source == t.source
	}
	return true
}

// parsePredicates reads the conditions on header fields, query parameters and
// cookies: cheap ones first, and by name, so that their order is certain.
func (b *builder) parsePredicates(m *config.Match) ([]predicate, []*fault) {
	var list []predicate
	var faults []*fault
	read := func(in place, field string, values map[string]*config.ValueMatch) {
		if len(values) == 0 {
			return
		}
		seen := make(map[string]bool)
		for _, name := range slices.Sorted(maps.Keys(values)) {
			at := "match." + field + key(name)
			c, f := b.parseCondition(in, at, name, values[name])
			if f == nil && seen[c.name] {
				f = &fault{field: at, text: "header " + quote(name) + " stands twice in this match", hint: "names of header fields are compared without case"}
			}
			if f != nil {
				faults = append(faults, f)
				continue
			}
			seen[c.name] = true
			list = append(list, c)
		}
	}
	read(inHeader, "headers", m.Headers)
	read(inCookie, "cookies", m.Cookies)
	read(inQuery, "query", m.Query)
	if m.When != "" {
		w, f := parseWhen(m.When)
		if f != nil {
			return list, append(faults, f)
		}
		list = append(list, w)
	}
	return list, faults
}

// when is a predicate that is a CEL expression.
type when struct{ program *expr.Program }

// holds is false when the expression fails: a route that asks for what is not
// there does not take the request.
func (w *when) holds(x *exchange.Exchange) bool {
	ok, err := w.program.Holds(x)
	return ok && err == nil
}

func (w *when) subject() string { return "when" }

func (w *when) String() string { return w.program.String() }

func (w *when) implies(other predicate) bool {
	o, ok := other.(*when)
	return ok && o.program.String() == w.program.String()
}

// parseWhen compiles an expression over what is known before a route is.
func parseWhen(source string) (*when, *fault) {
	p, err := expr.Compile(source, expr.Bool)
	if err != nil {
		return nil, &fault{field: "match.when", text: quote(source) + ": " + err.Error()}
	}
	if late := p.Uses() &^ (expr.Request | expr.Client); late != 0 {
		return nil, &fault{field: "match.when", text: fmt.Sprintf("%s looks at %s, which is not known while a route is looked for", quote(source), late), hint: "use request and client; the policy authorize sees the rest"}
	}
	return &when{p}, nil
}

// key is the step of a config path that a name makes. What would be misread is
// quoted.
func key(name string) string {
	if name == "" {
		return `[""]`
	}
	for i := 0; i < len(name); i++ {
		if c := name[i]; c != '-' && !isName("_"+name[i:i+1]) {
			return "[" + quote(name) + "]"
		}
	}
	return "." + name
}

func (b *builder) parseCondition(in place, at, name string, v *config.ValueMatch) (*condition, *fault) {
	c := &condition{in: in, name: name}
	switch {
	case in == inQuery: // any text can be the name of a parameter
	case !exchange.IsToken(name):
		return nil, &fault{field: at, text: fmt.Sprintf("%s %q is not a name that a %[1]s can have", placeNames[in], name)}
	case in == inHeader && exchange.EqualFold(name, "host"):
		return nil, &fault{field: at, text: "header " + quote(name) + " is not matched by its value", hint: "use match.host"}
	case in == inHeader:
		c.name, c.known = strings.ToLower(name), exchange.LookupKnown(name)
	}
	one := 0
	if v != nil && v.Exact != nil {
		c.test.exact = v.Exact
		one++
	}
	if v != nil && v.Present != nil {
		c.test.absent = !*v.Present
		one++
	}
	if v != nil && v.Regex != "" {
		re, err := b.anchored(v.Regex)
		if err != nil {
			return nil, &fault{field: at + ".regex", text: "regex " + quote(v.Regex) + " is not a regular expression: " + err.Error(), hint: "the syntax is RE2"}
		}
		c.test.regex, c.test.source = re, v.Regex
		one++
	}
	if one != 1 {
		return nil, &fault{field: at, text: fmt.Sprintf("%s %q needs exactly one condition", placeNames[in], name), hint: "write a text, { regex: ... } or { present: true }"}
	}
	return c, nil
}

// parseMethods returns the methods that a route takes, nil for all. Names have
// case (RFC 9110, section 9.1).
func parseMethods(list config.StringList) ([]string, []*fault) {
	var methods []string
	var faults []*fault
	for i, m := range list {
		at := fmt.Sprintf("match.methods[%d]", i)
		switch upper := strings.ToUpper(m); {
		case !exchange.IsToken(m):
			faults = append(faults, &fault{field: at, text: "method " + quote(m) + " is not a name that a method can have"})
		case upper != m && slices.Contains(standardMethods[:], upper):
			faults = append(faults, &fault{field: at, text: "method " + quote(m) + " is not in upper case", hint: "write " + upper})
		case upper == "CONNECT" || upper == "TRACE":
			faults = append(faults, &fault{field: at, text: "method " + quote(m) + " is refused before any route is looked for"})
		default:
			methods = append(methods, m)
		}
	}
	if slices.Contains(methods, "GET") {
		methods = append(methods, "HEAD")
	}
	slices.Sort(methods)
	return slices.Compact(methods), faults
}

var standardMethods = [...]string{"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}
