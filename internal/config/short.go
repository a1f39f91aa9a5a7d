package config

import (
	"strconv"
	"strings"
	"unicode"

	"gatehouse.dev/gatehouse/internal/policy"
)

// UnmarshalText reads the short form "[METHOD[,METHOD]] [host]/path".
func (m *Match) UnmarshalText(text []byte) error {
	s := strings.TrimSpace(string(text))
	methods, target, found := strings.Cut(s, " ")
	if !found {
		methods, target = "", s
	}
	target = strings.TrimSpace(target)
	if strings.ContainsRune(target, ' ') {
		f := &policy.Fault{Text: quote(s) + " is not a match in short form", Hint: `write "/path", "host/path" or "GET host/path"`}
		if strings.HasSuffix(methods, ",") {
			f.Hint = "write the methods without spaces: GET,POST /path"
		}
		return f
	}
	host, path, found := strings.Cut(target, "/")
	if !found {
		hint := `write "/path", "host/path" or "GET host/path"`
		if target == "*" {
			hint = "write /* for every path"
		} else if strings.Contains(target, ".") {
			hint = "write " + target + "/* for every path"
		}
		return &policy.Fault{Text: quote(s) + " has no path", Hint: hint}
	}
	*m = Match{Path: "/" + path}
	if methods != "" {
		m.Methods = strings.Split(methods, ",")
	}
	if host != "" {
		m.Host = StringList{host}
	}
	return nil
}

// String returns the match in short form, without what the short form cannot
// say. A path_regex follows a tilde.
func (m *Match) String() string {
	var b strings.Builder
	if len(m.Methods) > 0 {
		b.WriteString(strings.Join(m.Methods, ",") + " ")
	}
	b.WriteString(strings.Join(m.Host, ","))
	switch path := m.Pattern(); {
	case path != "":
		b.WriteString(path)
	case m.PathRegex != "":
		b.WriteString("~" + m.PathRegex)
	default:
		b.WriteString("/*")
	}
	return b.String()
}

// Pattern returns the path of the match, as it is written or as grpc means it,
// "" for none.
func (m *Match) Pattern() string {
	switch g := m.GRPC; {
	case g == nil:
		return m.Path
	case g.Method == "":
		return "/" + g.Service + "/*"
	default:
		return "/" + g.Service + "/" + g.Method
	}
}

// name is the short form as a name: what a name must not hold is replaced.
func (m *Match) name() string {
	r := []rune(strings.Map(func(r rune) rune {
		if !nameRune(r) {
			return '_'
		}
		return r
	}, m.String()))
	if len(r) > mostName-6 {
		r = append(r[:mostName-9], '.', '.', '.')
	}
	return string(r)
}

func numbered(name string, n int) string { return name + " #" + strconv.Itoa(n) }

const mostName = 200 // characters of a name

func nameRune(r rune) bool { return unicode.IsPrint(r) && r != '"' && r != '\\' }

// UnmarshalText reads the short form: the URL.
func (e *Endpoint) UnmarshalText(text []byte) error {
	e.URL = string(text)
	return nil
}

// UnmarshalText reads the short form: the exact value.
func (v *ValueMatch) UnmarshalText(text []byte) error {
	s := string(text)
	v.Exact = &s
	return nil
}

// UnmarshalText reads the short form "off".
func (a *Admin) UnmarshalText(text []byte) error {
	if s := string(text); s != "off" {
		f := &policy.Fault{Text: quote(s) + " is neither off nor a mapping"}
		switch {
		case s == "false" || s == "no":
			f.Hint = "write off"
		case checkAddress(s) == nil:
			f.Hint = "write { address: \"" + s + "\" }"
		}
		return f
	}
	a.Off = true
	return nil
}

// Upstream returns the settings of an upstream by its name, or those that a
// URL in its place stands for: one endpoint, and defaults for the rest. It
// returns nil for a name that is not defined.
func (c *Config) Upstream(name string) *Upstream {
	if !isURL(name) {
		return c.Upstreams[name]
	}
	u, e := new(Upstream), new(Endpoint)
	setDefaultsOf(u)
	setDefaultsOf(e)
	e.URL = name
	u.Endpoints = []*Endpoint{e}
	u.Zone = c.Zone
	return u
}

func isURL(s string) bool { return strings.Contains(s, "://") }
