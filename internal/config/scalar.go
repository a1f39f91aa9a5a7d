package config

import (
	"cmp"
	"encoding"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"gatehouse.dev/gatehouse/internal/policy"
)

// plain tells whether a scalar stands without quotes.
func plain(n *yaml.Node) bool {
	return n.Style&(yaml.SingleQuotedStyle|yaml.DoubleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle) == 0
}

// quote shows a value of the configuration, shortened and on one line.
func quote(s string) string {
	const most = 60
	if utf8.RuneCountInString(s) > most {
		s = string([]rune(s)[:most-3]) + "..."
	}
	return strconv.Quote(s)
}

func lookupEnv(name string) (string, bool) { return os.LookupEnv(name) }

// text returns a scalar with its environment variables put in, and whether
// there were any.
func (d *decoder) text(n *yaml.Node) (text string, expanded, ok bool) {
	if strings.Contains(n.Value, "${") && !d.foreign {
		text, err := expand(n.Value)
		return text, true, d.report(n, err)
	}
	return n.Value, false, true
}

const literally = "write $${ for a ${ that is meant as it stands"

// expand replaces ${NAME} by the environment variable NAME, ${NAME:-default}
// by default where NAME is unset or empty, and $${ by ${. What a variable
// holds is not expanded again.
func expand(s string) (string, error) {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(s, "${")
		if !found {
			b.WriteString(s)
			return b.String(), nil
		}
		if literal, ok := strings.CutSuffix(before, "$"); ok {
			b.WriteString(literal + "${")
			s = rest
			continue
		}
		b.WriteString(before)
		inner, after, closed := strings.Cut(rest, "}")
		if !closed {
			return "", &policy.Fault{Text: quote("${"+rest) + " has no closing brace", Hint: literally}
		}
		name, otherwise, defaulted := strings.Cut(inner, ":-")
		if !envName(name) {
			return "", &policy.Fault{Text: quote("${"+inner+"}") + " does not name an environment variable", Hint: literally}
		}
		value, set := lookupEnv(name)
		switch {
		case defaulted && value == "":
			value = otherwise
		case !set:
			return "", &policy.Fault{Text: "environment variable " + quote(name) + " is not set", Hint: "set it, or give a default: ${" + name + ":-value}"}
		}
		b.WriteString(value)
		s = after
	}
}

func envName(s string) bool {
	for i, c := range []byte(s) {
		if c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// scalar decodes a string, a truth value or a number.
func (d *decoder) scalar(n *yaml.Node, v reflect.Value, f *Field) {
	if n.Kind != yaml.ScalarNode {
		d.wrong(n, v.Type())
		return
	}
	s, expanded, ok := d.text(n)
	if !ok {
		return
	}
	if v.Kind() == reflect.String {
		if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
			d.fault(n, quote(s)+" is not text", "")
			return
		}
		if f.Required && s == "" {
			d.fault(n, "must not be empty", "")
			return
		}
		if d.listed(n, s, f) {
			if f.File {
				if !d.isPath(n, s) {
					return
				}
				s = absolute(s, d.part.name)
			}
			v.SetString(s)
		}
		return
	}
	if !plain(n) && !expanded {
		d.fault(n, fmt.Sprintf("the string %s stands where %s is wanted", quote(s), wanted(v.Type())), "remove the quotes")
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		switch s {
		case "true", "True", "TRUE":
			v.SetBool(true)
		case "false", "False", "FALSE":
			v.SetBool(false)
		default:
			d.fault(n, quote(s)+" is neither true nor false", boolTwin(s))
		}
	case reflect.Int, reflect.Int32, reflect.Int64:
		i, err := integer(s)
		if d.report(n, err) && d.listed(n, s, f) {
			d.between(n, v, s, f, func(limit string) int {
				l, _ := strconv.ParseInt(limit, 10, 64)
				return cmp.Compare(i, l)
			}, func() {
				if v.OverflowInt(i) {
					d.fault(n, s+" is out of range", "")
				}
				v.SetInt(i)
			})
		}
	case reflect.Float64:
		x, err := strconv.ParseFloat(s, 64)
		if err != nil || strings.Trim(s, "0123456789.-+eE") != "" {
			d.fault(n, quote(s)+" is not a number", "")
			return
		}
		d.between(n, v, s, f, func(limit string) int {
			l, _ := strconv.ParseFloat(limit, 64)
			return cmp.Compare(x, l)
		}, func() { v.SetFloat(x) })
	default:
		d.fault(n, "settings of type "+v.Type().String()+" cannot be read", "")
	}
}

// isPath refuses what a file would hold in place of its name: it may be a key,
// and names are logged.
func (d *decoder) isPath(n *yaml.Node, s string) bool {
	if strings.ContainsAny(s, "\r\n") || strings.Contains(s, "-----BEGIN") {
		d.fault(n, "this is what a file holds, not the name of one", "put it into a file, and name that")
		return false
	}
	return true
}

// absolute makes a path that begins at the folder of a file mean the same
// wherever it is read from.
func absolute(path, file string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	path = filepath.Join(filepath.Dir(file), path)
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path // the working directory is gone: opening the file will say so
}

func integer(s string) (int64, error) {
	digits := strings.TrimPrefix(strings.TrimPrefix(s, "-"), "+")
	if digits == "" || strings.Trim(digits, "0123456789") != "" || digits[0] == '0' && digits != "0" {
		return 0, fmt.Errorf("%s is not a whole number", quote(s))
	}
	i, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s is out of range", s)
	}
	return i, nil
}

func boolTwin(s string) string {
	switch strings.ToLower(s) {
	case "yes", "on", "y", "1":
		return "write true"
	case "no", "off", "n", "0":
		return "write false"
	}
	return ""
}

// unmarshal decodes a value that reads its own text.
func (d *decoder) unmarshal(n *yaml.Node, v reflect.Value, into encoding.TextUnmarshaler, f *Field) {
	s, _, ok := d.text(n)
	if !ok || !d.report(n, into.UnmarshalText([]byte(s))) {
		return
	}
	if f == nil || f.Min == "" && f.Max == "" {
		return
	}
	d.between(n, v, s, f, func(limit string) int {
		l := reflect.New(v.Type())
		// The tags are constants of the program: a test reads each of them.
		_ = l.Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(limit))
		return compare(v, l.Elem())
	}, func() {})
}

// compare orders two values of the same type.
func compare(a, b reflect.Value) int {
	if r, ok := a.Interface().(Rate); ok {
		return cmp.Compare(r.PerSecond(), b.Interface().(Rate).PerSecond())
	}
	if a.CanInt() {
		return cmp.Compare(a.Int(), b.Int())
	}
	return cmp.Compare(a.Float(), b.Float())
}

// between calls set when the value is within the field's range.
func (d *decoder) between(n *yaml.Node, v reflect.Value, s string, f *Field, to func(limit string) int, set func()) {
	if f.Min != "" && to(f.Min) < 0 || f.Max != "" && to(f.Max) > 0 {
		rule := "at least " + f.Min
		switch {
		case f.Min != "" && f.Max != "":
			rule = f.Min + " to " + f.Max
		case f.Max != "":
			rule = "at most " + f.Max
		}
		d.fault(n, s+" is out of range: "+rule, "")
		return
	}
	set()
}

// listed checks a value against the field's enumeration.
func (d *decoder) listed(n *yaml.Node, s string, f *Field) bool {
	if f == nil || len(f.Enum) == 0 || slices.Contains(f.Enum, s) {
		return true
	}
	if later(f.Key, s) {
		d.fault(n, quote(s)+" is not available in this version", "write "+strings.Join(f.Enum, " or "))
		return false
	}
	shown := quote(s)
	if !strings.ContainsFunc(s, func(r rune) bool { return r < '0' || r > '9' }) {
		shown = s
	}
	text := fmt.Sprintf("%s is not one of %s", shown, strings.Join(f.Enum, ", "))
	if len(f.Enum) == 1 {
		text = fmt.Sprintf("%s is not %s", shown, f.Enum[0])
	}
	hint := ""
	if c := nearest(s, f.Enum); c != "" && shown != s {
		hint = "did you mean " + quote(c) + "?"
	}
	d.fault(n, text, hint)
	return false
}

// prefix decodes a range of addresses; a single address stands for itself.
func (d *decoder) prefix(n *yaml.Node, into *netip.Prefix) {
	if n.Kind != yaml.ScalarNode {
		d.wrong(n, reflect.TypeFor[netip.Prefix]())
		return
	}
	s, _, ok := d.text(n)
	if !ok {
		return
	}
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" {
		*into = netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen())
		return
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		d.fault(n, quote(s)+" is not a range of addresses", "write 10.0.0.0/8, fd00::/8 or a single address")
	case p.Addr().Is4In6():
		d.fault(n, quote(s)+" is an IPv4 range written as IPv6", "write it as IPv4")
	case p != p.Masked():
		d.fault(n, quote(s)+" has bits set beyond its length", "write "+p.Masked().String())
	default:
		*into = p
	}
}
