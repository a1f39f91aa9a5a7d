package identify

import (
	"errors"
	"net/url"
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Place is where a credential stands in a request: in one header field, with or
// without a scheme, in one query parameter or in one cookie.
type Place struct {
	Header string // name of a field
	Scheme string // what stands before the credential in the field, "" for nothing
	Query  string
	Cookie string

	known exchange.Known
	text  string
}

// ErrTwice says that a request has two credentials where one is wanted: who
// reads the first and who reads the last would disagree.
var ErrTwice = errors.New("the credential stands in the request more than once")

// ErrLong says that a credential is longer than any that could be right.
var ErrLong = errors.New("the credential is too long")

// Compile checks the names, which stand at the given keys of the settings.
func (p *Place) Compile(header, query, cookie string) []error {
	var faults []error
	n := 0
	for _, s := range []struct{ key, name string }{{header, p.Header}, {query, p.Query}, {cookie, p.Cookie}} {
		if s.name == "" {
			continue
		}
		if n++; n > 1 {
			faults = append(faults, &policy.Fault{Field: s.key, Text: "the credential has more than one place", Hint: "give one of " + header + ", " + query + " and " + cookie})
		}
	}
	if p.Header != "" {
		if f := policy.CheckField(p.Header); f != nil {
			f.Field = header
			faults = append(faults, f)
		}
		p.known = exchange.LookupKnown(p.Header)
		p.text = "header " + strings.ToLower(p.Header)
	}
	if strings.ContainsAny(p.Cookie, "=;, \t\"") {
		faults = append(faults, &policy.Fault{Field: cookie, Text: "this is not a name of a cookie"})
	}
	switch {
	case p.Query != "":
		p.text = "query " + p.Query
	case p.Cookie != "":
		p.text = "cookie " + p.Cookie
	}
	return faults
}

// String names the place, for refusals.
func (p *Place) String() string { return p.text }

// Find returns the credential, "" when there is none.
func (p *Place) Find(r *exchange.Request, most int) (value string, err error) {
	switch {
	case p.Header != "":
		value, err = p.inHeader(&r.Header)
	case p.Query != "":
		value, err = queryValue(r.Query, p.Query)
	default:
		value, err = CookieValue(&r.Header, p.Cookie)
	}
	if err == nil && len(value) > most {
		return "", ErrLong
	}
	return value, err
}

func (p *Place) inHeader(h *exchange.Header) (value string, err error) {
	// A second line counts whatever its scheme is: who reads only one of them
	// must not read another one than we do.
	found := 0
	if p.known != exchange.Other {
		value, found = h.Only(p.known)
	} else {
		for value = range h.Values(p.Header) {
			found++
		}
	}
	if found > 1 {
		return "", ErrTwice
	}
	if found == 0 || p.Scheme == "" {
		return value, nil
	}
	n := len(p.Scheme)
	if len(value) <= n || !exchange.EqualFold(value[:n], p.Scheme) || value[n] != ' ' {
		return "", nil
	}
	return strings.TrimLeft(value[n:], " "), nil
}

// Remove takes the credential out of the request.
func (p *Place) Remove(r *exchange.Request) {
	switch {
	case p.Header != "" && p.Scheme == "":
		r.Header.DelLooked(p.Header, p.known)
	case p.Header != "":
		removeScheme(&r.Header, p.Header, p.Scheme)
	case p.Query != "":
		r.Query = withoutParameter(r.Query, p.Query)
		r.HasQuery = r.HasQuery && r.Query != ""
	default:
		RemoveCookie(&r.Header, p.Cookie)
	}
}

// removeScheme takes a field out of a request of which any line has a scheme.
func removeScheme(h *exchange.Header, name, scheme string) {
	n := len(scheme)
	for v := range h.Values(name) {
		if len(v) >= n && exchange.EqualFold(v[:n], scheme) {
			h.Del(name)
			return
		}
	}
}

// queryValue returns the value of a query parameter.
func queryValue(query, name string) (value string, err error) {
	found := false
	for query != "" {
		var piece string
		piece, query, _ = strings.Cut(query, "&")
		if !names(piece, name) {
			continue
		}
		if found {
			return "", ErrTwice
		}
		found = true
		_, raw, _ := strings.Cut(piece, "=")
		if value, err = url.QueryUnescape(raw); err != nil {
			return "", errors.New("the parameter is not well encoded")
		}
	}
	return value, nil
}

// names tells whether a piece of a query has a name, in any encoding of it.
func names(piece, name string) bool {
	key, _, _ := strings.Cut(piece, "=")
	if key == name {
		return true
	}
	if strings.IndexByte(key, '%') < 0 && strings.IndexByte(key, '+') < 0 {
		return false
	}
	plain, err := url.QueryUnescape(key)
	return err == nil && plain == name
}

func withoutParameter(query, name string) string {
	var kept []string
	for piece := range strings.SplitSeq(query, "&") {
		if !names(piece, name) {
			kept = append(kept, piece)
		}
	}
	return strings.Join(kept, "&")
}

// CookieValue returns the value of a cookie, "" when there is none, ErrTwice
// when there are several: a neighbouring domain may have set one of them.
func CookieValue(h *exchange.Header, name string) (value string, err error) {
	if !h.Has(exchange.Cookie) {
		return "", nil
	}
	found := false
	for _, f := range h.Fields() {
		if f.Known != exchange.Cookie {
			continue
		}
		for rest := f.Value; rest != ""; {
			var piece string
			piece, rest, _ = strings.Cut(rest, ";")
			k, v, _ := strings.Cut(strings.Trim(piece, " \t"), "=")
			if strings.TrimRight(k, " \t") != name {
				continue
			}
			if found {
				return "", ErrTwice
			}
			found, value = true, strings.Trim(v, " \t")
		}
	}
	if n := len(value); n >= 2 && value[0] == '"' && value[n-1] == '"' {
		value = value[1 : n-1]
	}
	return value, nil
}

// RemoveCookie takes a cookie out of a request.
func RemoveCookie(h *exchange.Header, name string) {
	RemoveCookies(h, func(n string) bool { return n == name })
}

// RemoveCookies takes the cookies out of a request whose names are meant.
func RemoveCookies(h *exchange.Header, meant func(name string) bool) {
	if !h.Has(exchange.Cookie) {
		return
	}
	var lines []string
	hit := false
	for _, f := range h.Fields() {
		if f.Known != exchange.Cookie {
			continue
		}
		var kept []string
		for piece := range strings.SplitSeq(f.Value, ";") {
			k, _, _ := strings.Cut(strings.Trim(piece, " \t"), "=")
			if meant(strings.TrimRight(k, " \t")) {
				hit = true
				continue
			}
			kept = append(kept, piece)
		}
		if line := strings.Trim(strings.Join(kept, ";"), " \t"); line != "" {
			lines = append(lines, line)
		}
	}
	if !hit {
		return
	}
	h.DelKnown(exchange.Cookie)
	for _, line := range lines {
		h.AddKnown(exchange.Cookie, line)
	}
}
