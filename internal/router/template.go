package router

import (
	"fmt"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// Template is a compiled text with placeholders like {name}, for rewrite.path
// and redirect.to. A value is put in once and is only ever data: it is not
// looked into for placeholders, and it cannot end the part of the URL that it
// stands in.
//
// The placeholders are the route's parameters; {rest}, what a trailing * took;
// {path}, the path after strip_prefix without its leading slash; and, in
// redirects only, {host} and {query} of the request. A parameter named like
// one of these takes its place.
type Template struct {
	parts []part
	local bool // a location that begins with a path: it stays on the host
}

// part is literal text, or a value.
type part struct {
	literal string
	value   value
	param   string // of a parameter
	where   section
}

type value uint8

const (
	literalText value = iota
	paramValue
	restValue
	pathValue
	hostValue
	queryValue
)

// section is a part of a URL; each allows other characters to values.
type section uint8

const (
	inPath section = iota
	inAuthority
	afterPath // query or fragment
)

// ParsePath reads the template of a rewrite.path. params are the names that
// Params gives for the route.
func ParsePath(text string, params []string) (*Template, error) {
	if !strings.HasPrefix(text, "/") {
		return nil, &fault{text: "path " + quote(text) + " does not begin with a slash", hint: "write " + quote("/"+text)}
	}
	if strings.ContainsAny(text, "?#") {
		return nil, &fault{text: "path " + quote(text) + " holds a query or fragment", hint: "the query of the request is passed on as it came"}
	}
	t, err := parse(text, inPath, params, []string{"path"})
	if err != nil {
		return nil, err
	}
	// Whatever the values are, the text around them must be normal.
	var sample strings.Builder
	for _, p := range t.parts {
		if p.value == literalText {
			sample.WriteString(p.literal)
		} else {
			sample.WriteByte('x')
		}
	}
	normal, err := Normalize(sample.String())
	if err != nil {
		return nil, &fault{text: "path " + quote(text) + ": " + err.Error(), hint: spelling(text)}
	}
	if normal != sample.String() {
		return nil, &fault{text: "path " + quote(text) + " is not normalised", hint: "leave out dot segments, write unreserved characters plainly, and hexadecimal digits in upper case"}
	}
	return t, nil
}

// ParseRedirect reads the template of a redirect.to: a path on the same host,
// or a URL of http or https.
func ParseRedirect(text string, params []string) (*Template, error) {
	fixed := []string{"path", "host", "query"}
	if bad := strings.IndexFunc(text, func(c rune) bool { return c <= ' ' || c >= 0x7f || strings.ContainsRune("\"<>\\^`|", c) }); bad >= 0 {
		return nil, &fault{text: "location " + quote(text) + " holds a character that must be percent-encoded"}
	}
	if strings.HasPrefix(text, "//") {
		return nil, &fault{text: "location " + quote(text) + " leaves the scheme open", hint: "write " + quote("https:"+text)}
	}
	if strings.HasPrefix(text, "/") {
		t, err := parse(text, inPath, params, fixed)
		if err == nil {
			t.local = true
		}
		return t, err
	}
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok || scheme != "http" && scheme != "https" {
		return nil, &fault{text: "location " + quote(text) + " is neither a path nor a URL of http or https", hint: "write " + quote("/"+strings.TrimLeft(text, "/")) + " for a path on the same host"}
	}
	if rest == "" || strings.ContainsRune("/?#:@", rune(rest[0])) {
		return nil, &fault{text: "location " + quote(text) + " has no host"}
	}
	t, err := parse(rest, inAuthority, params, fixed)
	if err != nil {
		return nil, err
	}
	t.parts = slices.Insert(t.parts, 0, part{literal: scheme + "://"})
	return t, nil
}

// parse cuts a text into parts. where is the section that it begins in.
func parse(text string, where section, params, fixed []string) (*Template, error) {
	t := new(Template)
	for rest := text; rest != ""; {
		literal := rest
		open := strings.IndexAny(rest, "{}")
		if open >= 0 {
			literal = rest[:open]
		}
		if i := badPercent(literal); i >= 0 {
			return nil, &fault{text: quote(text) + " has a percent sign without two hexadecimal digits", hint: "a percent sign itself is written %25"}
		}
		if literal != "" {
			t.parts = append(t.parts, part{literal: literal})
			where = where.after(literal)
		}
		rest = rest[len(literal):]
		if rest == "" {
			break
		}
		end := strings.IndexByte(rest, '}')
		if rest[0] == '}' || end < 0 {
			return nil, &fault{text: quote(text) + " has a brace without its partner", hint: "a brace itself is written %7B or %7D"}
		}
		p, err := placeholder(text, rest[1:end], where, params, fixed)
		if err != nil {
			return nil, err
		}
		t.parts = append(t.parts, p)
		rest = rest[end+1:]
	}
	return t, nil
}

// after returns the section that follows a literal text.
func (s section) after(literal string) section {
	switch {
	case s == afterPath || strings.ContainsAny(literal, "?#"):
		return afterPath
	case strings.Contains(literal, "/"):
		return inPath
	}
	return s
}

func placeholder(text, name string, where section, params, fixed []string) (part, error) {
	p := part{where: where}
	switch {
	case name == "rest" && slices.Contains(params, name):
		p.value, p.param = restValue, name
	case slices.Contains(params, name):
		p.value, p.param = paramValue, name
	case !slices.Contains(fixed, name):
		return p, unknown(text, name, params, fixed)
	case name == "path":
		p.value = pathValue
	case name == "host":
		p.value = hostValue
	default:
		p.value = queryValue
	}
	switch {
	case where == inAuthority && p.value != hostValue:
		return p, &fault{text: fmt.Sprintf("%q has {%s} in its host", text, name), hint: "only {host} may stand there, since a client could choose the host otherwise; put a slash before a path"}
	case where != afterPath && p.value == queryValue:
		return p, &fault{text: quote(text) + " has {query} in its path", hint: "write it after a question mark, like " + quote("/new/{rest}?{query}")}
	}
	return p, nil
}

// unknown explains a placeholder that does not exist for this route.
func unknown(text, name string, params, fixed []string) error {
	f := &fault{text: fmt.Sprintf("%q has the unknown placeholder {%s}", text, name)}
	known := slices.Concat(params, fixed)
	best := 3
	for _, k := range known {
		if d := distance(name, k); d < best && d < len(k) {
			best, f.hint = d, "did you mean {"+k+"}?"
		}
	}
	switch {
	case name == "rest":
		f.hint = "the match of this route has no trailing *"
	case name == "host" || name == "query":
		f.hint = "{" + name + "} is for redirects"
	case f.hint == "":
		f.hint = "there are {" + strings.Join(known, "}, {") + "}"
	}
	return f
}

// distance is the number of letters to insert, delete or change to make a b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}

func badPercent(s string) int {
	for i := 0; i < len(s); i++ {
		if s[i] == '%' && (i+2 >= len(s) || !isHex(s[i+1]) || !isHex(s[i+2])) {
			return i
		}
	}
	return -1
}

// Path returns the path that a template of ParsePath makes. path is that of
// the request after strip_prefix. The text is normal, or it is refused: parts
// that are normal one by one could still make a dot segment or a new
// percent-encoding together, and leave the place that the template names.
func (t *Template) Path(r *exchange.Request, route *exchange.Route, path string) (string, error) {
	text := string(t.Append(nil, r, route, path))
	normal, err := Normalize(text)
	if err == nil && normal != text {
		err = errJoined
	}
	if err != nil {
		return "", err
	}
	return normal, nil
}

// Append appends the location that a template of ParseRedirect makes. path is
// the normalised path of the request, after strip_prefix where there is one.
// The result is visible ASCII. A template that begins with a path always makes
// a path: never //, which browsers take for another host.
func (t *Template) Append(b []byte, r *exchange.Request, route *exchange.Route, path string) []byte {
	start := len(b)
	for i := range t.parts {
		p := &t.parts[i]
		switch p.value {
		case literalText:
			b = append(b, p.literal...)
		case paramValue:
			b = p.where.append(b, route.Param(p.param))
		case restValue:
			b = p.where.append(b, rest(route))
		case pathValue:
			b = p.where.append(b, strings.TrimPrefix(path, "/"))
		case hostValue:
			b = p.where.append(b, hostOf(r))
		case queryValue:
			if r.Query == "" && i == len(t.parts)-1 {
				b = trimJoint(b)
			}
			b = appendSafe(b, r.Query, "!$&'()*+,;=:@/?%")
		}
	}
	if t.local {
		b = oneSlash(b, start)
	}
	return b
}

// rest is what the tail took; a parameter of that name says the same, or, where
// it is one segment, takes its place.
func rest(route *exchange.Route) string {
	for i := range route.Params {
		if route.Params[i].Name == "rest" {
			return route.Params[i].Value
		}
	}
	return route.Rest
}

// hostOf is the host of a request. HTTP/1.0 allows a request without one; then
// the location must not get another one from what follows its slashes.
func hostOf(r *exchange.Request) string {
	if r.Host == "" {
		return "host.invalid" // RFC 2606, section 2
	}
	return r.Host
}

// append puts a value in such that it cannot end the section. Paths are normal
// text, in which a percent sign begins a percent-encoding.
func (s section) append(b []byte, value string) []byte {
	switch s {
	case inAuthority:
		return append(b, value...) // the host, which is that of a checked authority
	case afterPath:
		return appendSafe(b, value, "/%")
	}
	return appendSafe(b, value, "!$&'()*+,;=:@/%")
}

// appendSafe percent-encodes all but unreserved characters and those given.
func appendSafe(b []byte, value, also string) []byte {
	for i := 0; i < len(value); i++ {
		if c := value[i]; isUnreserved(c) || strings.IndexByte(also, c) >= 0 {
			b = append(b, c)
		} else {
			b = appendEncoded(b, c)
		}
	}
	return b
}

// trimJoint takes off what would have joined a query that is not there.
func trimJoint(b []byte) []byte {
	if n := len(b); n > 0 && (b[n-1] == '?' || b[n-1] == '&') {
		return b[:n-1]
	}
	return b
}

// oneSlash leaves one of the slashes that b[start:] begins with.
func oneSlash(b []byte, start int) []byte {
	n := start
	for n+1 < len(b) && b[n+1] == '/' {
		n++
	}
	return append(b[:start], b[n:]...)
}
