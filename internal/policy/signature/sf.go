package signature

import (
	"encoding/base64"
	"errors"
	"strconv"
	"strings"
)

// The part of structured fields (RFC 9651) that signatures and digests are
// written in: dictionaries of inner lists and of byte sequences.

// token is a bare token, told from a string.
type token string

// params are parameters in their order.
type params []param

type param struct {
	name  string
	value any // int64, bool, string, token or []byte
}

func (p params) get(name string) (any, bool) {
	for i := range p {
		if p[i].name == name {
			return p[i].value, true
		}
	}
	return nil, false
}

// item is a value with parameters. In an inner list it is a component.
type item struct {
	value  any
	params params
}

// member is one entry of a dictionary: an inner list, or an item.
type member struct {
	name   string
	list   []item
	isList bool
	item   item // its params are those of the list too
}

var errField = errors.New("the field is not well formed")

// mostMembers bounds the entries of a dictionary, of a list and parameters.
const mostMembers = 64

type parser struct{ s string }

func (p *parser) peek() byte {
	if p.s == "" {
		return 0
	}
	return p.s[0]
}

func (p *parser) skip(set string) { p.s = strings.TrimLeft(p.s, set) }

func (p *parser) take(c byte) bool {
	if p.peek() != c || p.s == "" {
		return false
	}
	p.s = p.s[1:]
	return true
}

// dictionary reads a dictionary (RFC 9651, section 4.2.2). A name that stands
// twice is refused, though the RFC lets the last one count: there is no good
// reason for two signatures with one name.
func dictionary(text string) ([]member, error) {
	p := &parser{text}
	var out []member
	p.skip(" ")
	for p.s != "" {
		m, err := p.member()
		if err != nil || len(out) == mostMembers {
			return nil, errField
		}
		for i := range out {
			if out[i].name == m.name {
				return nil, errors.New("the field has a name that stands twice")
			}
		}
		out = append(out, m)
		p.skip(" \t")
		if p.s == "" {
			return out, nil
		}
		if !p.take(',') {
			return nil, errField
		}
		if p.skip(" \t"); p.s == "" {
			return nil, errField
		}
	}
	return out, nil
}

func (p *parser) member() (m member, err error) {
	if m.name, err = p.key(); err != nil {
		return m, err
	}
	if !p.take('=') {
		m.item.value = true
		m.item.params, err = p.params()
		return m, err
	}
	if p.peek() != '(' {
		m.item, err = p.item()
		return m, err
	}
	m.isList = true
	if m.list, err = p.innerList(); err != nil {
		return m, err
	}
	m.item.params, err = p.params()
	return m, err
}

func (p *parser) innerList() (list []item, err error) {
	p.take('(')
	for {
		p.skip(" ")
		if p.take(')') {
			return list, nil
		}
		it, err := p.item()
		if err != nil || len(list) == mostMembers || p.peek() != ' ' && p.peek() != ')' {
			return nil, errField
		}
		list = append(list, it)
	}
}

func (p *parser) item() (it item, err error) {
	if it.value, err = p.bare(); err != nil {
		return it, err
	}
	it.params, err = p.params()
	return it, err
}

func (p *parser) params() (out params, err error) {
	for p.take(';') {
		p.skip(" ")
		name, err := p.key()
		if err != nil || len(out) == mostMembers {
			return nil, errField
		}
		var v any = true
		if p.take('=') {
			if v, err = p.bare(); err != nil {
				return nil, err
			}
		}
		if _, twice := out.get(name); twice {
			return nil, errField
		}
		out = append(out, param{name, v})
	}
	return out, nil
}

func (p *parser) key() (string, error) {
	i := 0
	for i < len(p.s) {
		c := p.s[i]
		if 'a' <= c && c <= 'z' || c == '*' || i > 0 && ('0' <= c && c <= '9' || c == '_' || c == '-' || c == '.') {
			i++
			continue
		}
		break
	}
	if i == 0 {
		return "", errField
	}
	key := p.s[:i]
	p.s = p.s[i:]
	return key, nil
}

func (p *parser) bare() (any, error) {
	switch c := p.peek(); {
	case c == '"':
		return p.str()
	case c == ':':
		return p.bytes()
	case c == '?':
		if len(p.s) < 2 || p.s[1] != '0' && p.s[1] != '1' {
			return nil, errField
		}
		v := p.s[1] == '1'
		p.s = p.s[2:]
		return v, nil
	case c == '-' || '0' <= c && c <= '9':
		return p.integer()
	case 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '*':
		i := strings.IndexFunc(p.s, func(r rune) bool {
			return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune("!#$%&'*+-.^_`|~:/", r)
		})
		if i < 0 {
			i = len(p.s)
		}
		v := token(p.s[:i])
		p.s = p.s[i:]
		return v, nil
	}
	return nil, errField
}

func (p *parser) str() (any, error) {
	var b strings.Builder
	for i := 1; i < len(p.s); i++ {
		switch c := p.s[i]; {
		case c == '"':
			p.s = p.s[i+1:]
			return b.String(), nil
		case c == '\\':
			if i++; i == len(p.s) || p.s[i] != '"' && p.s[i] != '\\' {
				return nil, errField
			}
			b.WriteByte(p.s[i])
		case c < ' ' || c > '~':
			return nil, errField
		default:
			b.WriteByte(c)
		}
	}
	return nil, errField
}

func (p *parser) bytes() (any, error) {
	end := strings.IndexByte(p.s[1:], ':')
	if end < 0 {
		return nil, errField
	}
	v, err := base64.StdEncoding.Strict().DecodeString(p.s[1 : 1+end])
	if err != nil {
		return nil, errField
	}
	p.s = p.s[end+2:]
	return v, nil
}

// integer reads up to fifteen digits. Decimals are not needed here.
func (p *parser) integer() (any, error) {
	i := 0
	if p.s[0] == '-' {
		i = 1
	}
	start := i
	for i < len(p.s) && '0' <= p.s[i] && p.s[i] <= '9' {
		i++
	}
	if i == start || i-start > 15 || i < len(p.s) && p.s[i] == '.' {
		return nil, errField
	}
	v, err := strconv.ParseInt(p.s[:i], 10, 64)
	p.s = p.s[i:]
	return v, err
}

// appendItem writes an item in its one canonical form (RFC 9651, section 4.1).
func appendItem(b []byte, it item) []byte {
	return appendParams(appendBare(b, it.value), it.params)
}

func appendParams(b []byte, p params) []byte {
	for _, one := range p {
		b = append(append(b, ';'), one.name...)
		if one.value != true {
			b = appendBare(append(b, '='), one.value)
		}
	}
	return b
}

func appendBare(b []byte, v any) []byte {
	switch v := v.(type) {
	case int64:
		return strconv.AppendInt(b, v, 10)
	case bool:
		if v {
			return append(b, "?1"...)
		}
		return append(b, "?0"...)
	case token:
		return append(b, v...)
	case []byte:
		b = append(b, ':')
		b = base64.StdEncoding.AppendEncode(b, v)
		return append(b, ':')
	case string:
		b = append(b, '"')
		for i := range len(v) {
			if v[i] == '"' || v[i] == '\\' {
				b = append(b, '\\')
			}
			b = append(b, v[i])
		}
		return append(b, '"')
	}
	return b
}

// appendList writes an inner list and its parameters.
func appendList(b []byte, list []item, p params) []byte {
	b = append(b, '(')
	for i, it := range list {
		if i > 0 {
			b = append(b, ' ')
		}
		b = appendItem(b, it)
	}
	return appendParams(append(b, ')'), p)
}
