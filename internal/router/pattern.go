package router

import (
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
)

// fault is something wrong with one field of a route's match, or a template.
type fault struct {
	field string // path within the route, for example "match.path"
	text  string
	hint  string
}

func (f *fault) Error() string {
	if f.hint == "" {
		return f.text
	}
	return f.text + " (" + f.hint + ")"
}

func quote(s string) string { return strconv.Quote(s) }

// spelling is the hint for a path that Normalize refused, where percent-encoding
// would help.
func spelling(raw string) string {
	escaped := strings.NewReplacer("%2F", "/", "%2A", "*").Replace(url.PathEscape(raw))
	if _, err := Normalize(escaped); err != nil || strings.ContainsAny(raw, "%?#{}") || escaped == raw {
		return ""
	}
	return "write " + quote(escaped)
}

// pattern is a compiled path pattern: segments and a tail, or a regular
// expression.
type pattern struct {
	text     string // as configured
	segments []segment
	tail     bool   // anything may follow the segments
	tailName string // parameter that takes what follows, "" for none
	literals int    // segments that are literal
	regex    *regexp.Regexp
	groups   []string // names of the regex's groups, nil when none has one
}

// segment is one part of a path between slashes: text, or a parameter.
type segment struct {
	literal string // normalised
	param   string // "" for a literal
}

// everyPath is the pattern of a route that says nothing about the path.
var everyPath = pattern{text: "/*", tail: true}

// parsePattern reads the pattern of match.path.
//
//	/a/b         that path
//	/a/*         /a, /a/ and everything below
//	/a/{name}    one segment that is not empty
//	/a/{name...} like /a/* with a name for the rest
func parsePattern(text string) (pattern, *fault) {
	p := pattern{text: text}
	bad := func(why, hint string) (pattern, *fault) {
		return p, &fault{field: "match.path", text: "path " + quote(text) + " " + why, hint: hint}
	}
	if text == "" || text[0] != '/' {
		return bad("does not begin with a slash", "write "+quote("/"+text))
	}
	if strings.ContainsAny(text, "?#") {
		return bad("holds a query or fragment", "conditions on the query go under match.query")
	}
	parts := strings.Split(text[1:], "/")
	var names []string
	for i, part := range parts {
		last := i == len(parts)-1
		if last && part == "*" {
			p.tail = true
			return p, nil
		}
		if name, ok := parameter(part); ok {
			name, rest := strings.CutSuffix(name, "...")
			switch {
			case !isName(name):
				return bad("has the parameter "+part+" with a bad name", "names are letters, digits and _, and do not begin with a digit")
			case slices.Contains(names, name):
				return bad("has the parameter {"+name+"} twice", "")
			case rest && !last:
				return bad("goes on after {"+name+"...}", "it takes the rest of the path, so nothing can follow; {"+name+"} takes one segment")
			}
			names = append(names, name)
			if rest {
				p.tail, p.tailName = true, name
				return p, nil
			}
			p.segments = append(p.segments, segment{param: name})
			continue
		}
		if strings.ContainsAny(part, "{}") {
			return bad("has a parameter that is not a whole segment", "a brace itself is written %7B or %7D; parts of a segment can be matched by path_regex")
		}
		if strings.Contains(part, "*") {
			return bad("has a * that does not stand alone at the end", "a prefix is written like /products/*; one segment of any text like {name}")
		}
		literal, err := Normalize("/" + part)
		if err != nil {
			return bad("cannot match: "+err.Error(), spelling(text))
		}
		if literal == "/" && part != "" {
			return bad("has a dot segment", "requests are matched after dot segments are removed")
		}
		p.segments = append(p.segments, segment{literal: literal[1:]})
		p.literals++
	}
	return p, nil
}

// parameter returns what stands between the braces of a whole segment.
func parameter(part string) (string, bool) {
	if len(part) < 2 || part[0] != '{' || part[len(part)-1] != '}' {
		return "", false
	}
	name := part[1 : len(part)-1]
	return name, !strings.ContainsAny(name, "{}")
}

func isName(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c != '_' && (c|0x20 < 'a' || c|0x20 > 'z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// anchored compiles a regular expression that has to match all of a text.
func (b *builder) anchored(expr string) (*regexp.Regexp, error) {
	if re := b.regexes[expr]; re != nil {
		return re, nil
	}
	// By itself first: "a)(b" would be valid between our parentheses.
	if _, err := regexp.Compile(expr); err != nil {
		return nil, err
	}
	re, err := regexp.Compile(`\A(?:` + expr + `)\z`)
	if err == nil {
		b.regexes[expr] = re
	}
	return re, err
}

// parseRegex reads the expression of match.path_regex.
func (b *builder) parseRegex(text string) (pattern, *fault) {
	p := pattern{text: text}
	re, err := b.anchored(text)
	if err != nil {
		return p, &fault{field: "match.path_regex", text: "path_regex " + quote(text) + " is not a regular expression: " + err.Error(), hint: "the syntax is RE2"}
	}
	if prefix, _ := re.LiteralPrefix(); prefix != "" && prefix[0] != '/' {
		return p, &fault{field: "match.path_regex", text: "path_regex " + quote(text) + " can match no path, since every path begins with a slash", hint: "write " + quote("/"+text)}
	}
	p.regex = re
	for i, name := range re.SubexpNames() {
		if name == "" {
			continue
		}
		if slices.Contains(re.SubexpNames()[:i], name) {
			return p, &fault{field: "match.path_regex", text: "path_regex " + quote(text) + " has the group " + name + " twice"}
		}
		p.groups = re.SubexpNames()
	}
	return p, nil
}

// Params returns the names that the templates of a route may use beside the
// fixed ones: its path parameters, and "rest" when its pattern has a tail.
func Params(m *config.Match) []string {
	var names []string
	if m == nil {
		return nil
	}
	if m.PathRegex != "" {
		re, err := regexp.Compile(m.PathRegex)
		if err != nil {
			return nil // reported by New
		}
		for _, name := range re.SubexpNames() {
			if name != "" {
				names = append(names, name)
			}
		}
		return names
	}
	p := everyPath
	if path := m.Pattern(); path != "" {
		p, _ = parsePattern(path) // faults are reported by New
	}
	for _, s := range p.segments {
		if s.param != "" {
			names = append(names, s.param)
		}
	}
	if p.tailName != "" {
		names = append(names, p.tailName)
	}
	if p.tail && !slices.Contains(names, "rest") {
		names = append(names, "rest")
	}
	return names
}

// exact returns the one path that the pattern matches, if it is only one.
func (p *pattern) exact() (string, bool) {
	if p.regex != nil || p.tail || p.literals < len(p.segments) {
		return "", false
	}
	return p.shape(), true
}

// shape is the same text for patterns that match the same paths: names do not
// matter. Literals hold no braces and no *, so it is not ambiguous.
func (p *pattern) shape() string {
	if p.regex != nil {
		return "~" + p.text
	}
	var b strings.Builder
	for _, s := range p.segments {
		b.WriteByte('/')
		if s.param != "" {
			b.WriteString("{}")
		} else {
			b.WriteString(s.literal)
		}
	}
	if p.tail {
		b.WriteString("/*")
	}
	return b.String()
}

// match reports whether the pattern matches a normalised path, and puts the
// parameters and the rest into out, which may be nil. It allocates only for
// the groups of a regular expression.
func (p *pattern) match(path string, out *exchange.Route) bool {
	if p.regex != nil {
		return p.matchRegex(path, out)
	}
	rest, more := path[1:], true
	for i := range p.segments {
		if !more {
			return false
		}
		var part string
		part, rest, more = strings.Cut(rest, "/")
		s := &p.segments[i]
		switch {
		case s.param == "" && part != s.literal, s.param != "" && part == "":
			return false
		case s.param != "" && out != nil:
			out.Params = append(out.Params, exchange.Param{Name: s.param, Value: part})
		}
	}
	if more && !p.tail {
		return false
	}
	if out != nil && p.tail {
		out.Rest = rest
		if p.tailName != "" {
			out.Params = append(out.Params, exchange.Param{Name: p.tailName, Value: rest})
		}
	}
	return true
}

func (p *pattern) matchRegex(path string, out *exchange.Route) bool {
	if out == nil || p.groups == nil {
		return p.regex.MatchString(path)
	}
	values := p.regex.FindStringSubmatch(path)
	if values == nil {
		return false
	}
	for i, name := range p.groups {
		if name != "" {
			out.Params = append(out.Params, exchange.Param{Name: name, Value: values[i]})
		}
	}
	return true
}
