package identify

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Source is something that is known of who asks, by the name that settings
// have for it.
type Source struct {
	what string // consumer, subject, method, credential, groups, scopes, labels or claims
	name string // of the label or claim
}

// ParseSource reads the name of a source.
func ParseSource(text string) (s Source, f *policy.Fault) {
	what, rest, named := strings.Cut(text, ".")
	switch what {
	case "consumer", "subject", "method", "credential", "groups", "scopes":
		if named {
			return s, &policy.Fault{Text: fmt.Sprintf("%q: %s has no parts", text, what), Hint: "write " + what}
		}
	case "labels", "claims":
		if rest == "" {
			return s, &policy.Fault{Text: fmt.Sprintf("%q names no part of the %s", text, what), Hint: "write " + what + ".NAME"}
		}
	default:
		return s, &policy.Fault{Text: fmt.Sprintf("%q is not known of who asks", text), Hint: "write consumer, subject, method, credential, groups, scopes, labels.NAME or claims.NAME"}
	}
	return Source{what, rest}, nil
}

// field is a header field that tells the service who asks.
type field struct {
	exchange.Field
	Source
}

// compileFields reads the settings "headers".
func compileFields(settings map[string]string) (fields []field, faults []error) {
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		source, f := ParseSource(settings[name])
		if bad := policy.CheckField(name); bad != nil {
			f = bad
		}
		for i := range fields {
			if exchange.EqualFold(fields[i].Name, name) {
				f = &policy.Fault{Text: fmt.Sprintf("%s is the same field as %s", name, fields[i].Name), Hint: "remove one of the two"}
			}
		}
		if f != nil {
			f.Field = "headers." + name
			faults = append(faults, f)
			continue
		}
		fields = append(fields, field{exchange.Field{Name: name, Known: exchange.LookupKnown(name)}, source})
	}
	return fields, faults
}

// tell sets the fields. Those of the same name that the client sent have been
// removed already, also where there is nothing to tell.
func (s *Step) tell(x *exchange.Exchange) {
	for i := range s.fields {
		f := &s.fields[i]
		value, ok := f.Text(&x.Who)
		if !ok || value == "" || policy.CheckValue(value) != nil {
			continue
		}
		out := f.Field
		out.Value = value
		x.Request.Header.Append(out)
	}
}

// Text returns what is known as one text, and false when it cannot be one.
func (s *Source) Text(who *exchange.Who) (string, bool) {
	switch s.what {
	case "consumer":
		return who.Consumer, true
	case "subject":
		return who.Subject, true
	case "method":
		return who.Method, true
	case "credential":
		return who.Credential, true
	case "groups":
		return list(who.Groups)
	case "scopes":
		return strings.Join(who.Scopes, " "), true // a scope has no space (RFC 6749, section 3.3)
	case "labels":
		return who.Labels[s.name], true
	}
	return scalar(Claim(who.Claims, s.name))
}

// Value returns what is known as it is: a text, a list, or what a claim holds;
// nil when nothing is known.
func (s *Source) Value(who *exchange.Who) any {
	switch s.what {
	case "groups":
		if len(who.Groups) == 0 {
			return nil
		}
		return who.Groups
	case "claims":
		return Claim(who.Claims, s.name)
	}
	if text, _ := s.Text(who); text != "" {
		return text
	}
	return nil
}

// Claim returns a claim by its name, or by the names of the way to it with dots
// between them, nil when there is none.
func Claim(claims map[string]any, name string) any {
	for {
		if v, ok := claims[name]; ok {
			return v
		}
		first, rest, ok := strings.Cut(name, ".")
		if !ok {
			return nil
		}
		if claims, ok = claims[first].(map[string]any); !ok {
			return nil
		}
		name = rest
	}
}

// list joins names with commas. A name with a comma in it could pass for two,
// so that there is no such list.
func list(names []string) (string, bool) {
	for _, n := range names {
		if strings.IndexByte(n, ',') >= 0 {
			return "", false
		}
	}
	return strings.Join(names, ","), true
}

func scalar(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case bool:
		return strconv.FormatBool(v), true
	case int64:
		return strconv.FormatInt(v, 10), true
	case float64:
		return strconv.FormatFloat(v, 'g', -1, 64), true
	case []any:
		names := make([]string, len(v))
		for i, e := range v {
			if _, nested := e.([]any); nested {
				return "", false
			}
			s, ok := scalar(e)
			if !ok {
				return "", false
			}
			names[i] = s
		}
		return list(names)
	}
	return "", false
}
