package signature

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/identify"
)

// base writes what a signature signs (RFC 9421, section 2.5).
func base(x *exchange.Exchange, components []item, p params) ([]byte, error) {
	b := make([]byte, 0, 512)
	seen := make(map[string]bool, len(components))
	for _, c := range components {
		name, ok := c.value.(string)
		if !ok || name == "" || name != strings.ToLower(name) {
			return nil, errors.New("a component has no name in lower case")
		}
		id := string(appendItem(nil, c))
		if seen[id] {
			return nil, fmt.Errorf("component %s stands twice", id)
		}
		seen[id] = true
		value, err := component(x, name, c.params)
		if err != nil {
			return nil, fmt.Errorf("component %s: %w", id, err)
		}
		if strings.ContainsAny(value, "\r\n") {
			return nil, fmt.Errorf("component %s has a line break", id)
		}
		b = append(append(b, id...), ": "...)
		b = append(append(b, value...), '\n')
	}
	b = append(b, `"@signature-params": `...)
	return appendList(b, components, p), nil
}

func component(x *exchange.Exchange, name string, p params) (string, error) {
	if strings.HasPrefix(name, "@") {
		return derived(x, name, p)
	}
	var key string
	bytes := false
	for _, one := range p {
		switch v := one.value.(type) {
		case string:
			if one.name != "key" {
				return "", fmt.Errorf("parameter %q is not supported", one.name)
			}
			key = v
		case bool:
			if one.name != "bs" || !v {
				return "", fmt.Errorf("parameter %q is not supported", one.name)
			}
			bytes = true
		default:
			return "", fmt.Errorf("parameter %q is not supported", one.name)
		}
	}
	lines := field(x, name)
	switch {
	case lines == nil:
		return "", errors.New("the request has no such field")
	case key != "" && bytes:
		return "", errors.New("its parameters exclude each other")
	case key != "":
		return keyed(strings.Join(lines, ", "), key)
	case bytes: // RFC 9421, section 2.1.3
		for i, l := range lines {
			lines[i] = ":" + base64.StdEncoding.EncodeToString([]byte(l)) + ":"
		}
	}
	return strings.Join(lines, ", "), nil
}

// field returns the values of a field as the client sent it. Those that the
// protocols keep for themselves are told by what they mean.
func field(x *exchange.Exchange, name string) (lines []string) {
	r := &x.Request
	switch name {
	case "host":
		return []string{r.Authority}
	case "content-length":
		if r.Length >= 0 {
			return []string{strconv.FormatInt(r.Length, 10)}
		}
		return nil
	}
	for v := range r.Header.Values(name) {
		lines = append(lines, strings.Trim(v, " \t"))
	}
	return lines
}

// keyed returns one member of a dictionary (RFC 9421, section 2.1.2).
func keyed(text, key string) (string, error) {
	d, err := dictionary(text)
	if err != nil {
		return "", err
	}
	for _, m := range d {
		if m.name != key {
			continue
		}
		if m.isList {
			return string(appendList(nil, m.list, m.item.params)), nil
		}
		return string(appendItem(nil, m.item)), nil
	}
	return "", errors.New("the field has no such member")
}

// derived returns a component that is no field (RFC 9421, section 2.2).
func derived(x *exchange.Exchange, name string, p params) (string, error) {
	r := &x.Request
	if name != "@query-param" && len(p) > 0 {
		return "", errors.New("its parameters are not supported")
	}
	target := r.RawPath
	if r.HasQuery {
		target += "?" + r.Query
	}
	switch name {
	case "@method":
		return r.Method, nil
	case "@authority":
		return authority(x), nil
	case "@scheme":
		scheme, _, _ := strings.Cut(identify.Origin(x), "://")
		return strings.ToLower(scheme), nil
	case "@target-uri":
		scheme, _, _ := strings.Cut(identify.Origin(x), "://")
		return strings.ToLower(scheme) + "://" + authority(x) + target, nil
	case "@request-target":
		return target, nil
	case "@path":
		return r.RawPath, nil
	case "@query":
		return "?" + r.Query, nil
	case "@query-param":
		return queryParam(r.Query, p)
	}
	return "", errors.New("there is no such component in a request")
}

// authority is in lower case and without the usual port of its scheme.
func authority(x *exchange.Exchange) string {
	a := strings.ToLower(x.Request.Authority)
	if strings.HasPrefix(identify.Origin(x), "https://") {
		return strings.TrimSuffix(a, ":443")
	}
	return strings.TrimSuffix(a, ":80")
}

// queryParam returns a parameter, decoded and encoded again (RFC 9421, section
// 2.2.8). One that stands twice is refused.
func queryParam(query string, p params) (string, error) {
	v, ok := p.get("name")
	name, text := v.(string)
	if !ok || !text || len(p) != 1 {
		return "", errors.New("it needs the name of a parameter")
	}
	want, err := url.QueryUnescape(name)
	if err != nil {
		return "", errors.New("its name is not well encoded")
	}
	found, value := false, ""
	for piece := range strings.SplitSeq(query, "&") {
		k, v, _ := strings.Cut(piece, "=")
		k, err := url.QueryUnescape(k)
		if err != nil {
			return "", errors.New("the query is not well encoded")
		}
		if k != want {
			continue
		}
		if found {
			return "", errors.New("the parameter stands twice")
		}
		if value, err = url.QueryUnescape(v); err != nil {
			return "", errors.New("the query is not well encoded")
		}
		found = true
	}
	if !found {
		return "", errors.New("the request has no such parameter")
	}
	// Of what is escaped in forms Go and the RFC disagree on these.
	return strings.NewReplacer("+", "%20", "~", "%7E", "%2A", "*").Replace(url.QueryEscape(value)), nil
}
