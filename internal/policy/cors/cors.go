// Package cors is the policy that answers browsers which ask whether a page of
// another origin may read an answer. It owns preflights and the
// Access-Control fields, and refuses settings that look right and are not: any
// origin with credentials, the origin null, wildcards over registries, plain
// http beside credentials.
//
// CORS loosens what browsers enforce. It protects nothing by itself: requests
// of other origins still reach the service.
package cors

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/publicsuffix"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "cors".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "cors", Stage: policy.Edge,
		New: func() policy.Config { return &Config{MaxAge: policy.Duration(5 * time.Second)} },
		Doc: "Lets pages of other origins read answers, as browsers ask for it.",
	}
}

// Config says who may read what.
type Config struct {
	// Origins that may read answers: https://shop.example.com, https://*.example.com for one or more labels, https://localhost:* for any port, or * alone for every origin.
	Origins policy.StringList `yaml:"origins" required:"true" example:"https://shop.example.com"`
	// Methods beside GET, HEAD and POST, which need no leave. * alone for all.
	Methods policy.StringList `yaml:"methods" example:"PUT"`
	// Request fields that pages may set beside those that need no leave. * alone for all; Authorization has to be named beside it.
	Headers policy.StringList `yaml:"headers" example:"Content-Type"`
	// Fields of the answer that pages may read beside those that they can read anyway. * alone for all.
	ExposeHeaders policy.StringList `yaml:"expose_headers" example:"X-Total"`
	// Let browsers send cookies and other credentials along.
	Credentials bool `yaml:"credentials"`
	// How long a browser may remember the answer to a preflight; 0 is not at all.
	MaxAge policy.Duration `yaml:"max_age" max:"24h"`
	// Allow origins of plain http beside credentials or as wildcards. Whoever can change what passes over the network can be such an origin.
	InsecureOrigins bool `yaml:"insecure_origins"`
	// Allow wildcards over whole registries such as https://*.github.io. Anybody can be such an origin.
	PublicSuffixes bool `yaml:"public_suffixes"`
}

// Compile checks the settings and renders what the fields will be.
func (c *Config) Compile(*policy.Env) (policy.Policy, error) {
	p := &answerer{exact: make(map[string]struct{}), credentials: c.Credentials}
	var faults []error
	add := func(field string, f *policy.Fault) {
		if f != nil {
			f.Field = field
			faults = append(faults, f)
		}
	}
	each := func(key string, list []string, one func(s string) *policy.Fault) {
		seen := make(map[string]bool)
		for i, s := range list {
			f := one(s)
			if f == nil && seen[strings.ToLower(s)] {
				f = &policy.Fault{Text: fmt.Sprintf("%q stands twice", s)}
			}
			seen[strings.ToLower(s)] = true
			add(fmt.Sprintf("%s[%d]", key, i), f)
		}
	}
	if len(c.Origins) == 0 {
		add("origins", &policy.Fault{Text: "no origin is allowed", Hint: "name one, or remove the policy"})
	}
	each("origins", c.Origins, func(s string) *policy.Fault { return c.origin(p, s) })
	each("methods", c.Methods, func(s string) *policy.Fault { return c.method(p, s) })
	each("headers", c.Headers, func(s string) *policy.Fault { return c.header(p, s) })
	each("expose_headers", c.ExposeHeaders, func(s string) *policy.Fault { return c.exposed(s) })
	if c.MaxAge.D()%time.Second != 0 {
		add("max_age", &policy.Fault{Text: fmt.Sprintf("%s is not a whole number of seconds", c.MaxAge)})
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	slices.Sort(p.headers)
	p.expose = strings.Join(c.ExposeHeaders, ", ")
	p.maxAge = strconv.FormatInt(int64(c.MaxAge.D()/time.Second), 10)
	return p, nil
}

// origin reads one origin, and refuses what would let in more than it seems to.
func (c *Config) origin(p *answerer, s string) *policy.Fault {
	switch {
	case s == "*":
		p.any = true
		switch {
		case len(c.Origins) > 1:
			return &policy.Fault{Text: `"*" stands beside other origins`, Hint: "write it alone, or name the origins"}
		case c.Credentials:
			return &policy.Fault{Text: "credentials are allowed for every origin", Hint: "name the origins, or remove credentials"}
		}
		return nil
	case exchange.EqualFold(s, "null"):
		return &policy.Fault{Text: `the origin "null" is that of any sandboxed page: anybody can have it`, Hint: "remove it"}
	}
	scheme, rest, ok := strings.Cut(s, "://")
	host, port := rest, ""
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, ']') {
		host, port = rest[:i], rest[i+1:]
		if f := checkPort(s, scheme, port); f != nil {
			return f
		}
	}
	wild := strings.HasPrefix(host, "*.")
	name := strings.TrimPrefix(host, "*.")
	switch {
	case !ok || scheme == "" || host == "":
		return &policy.Fault{Text: fmt.Sprintf("%q is not an origin", s), Hint: "write https://host, with the port where it is not the usual one"}
	case strings.ContainsAny(rest, "/?#@"):
		return &policy.Fault{Text: fmt.Sprintf("%q is more than an origin", s), Hint: "write scheme, host and port only"}
	case strings.ToLower(s) != s:
		return &policy.Fault{Text: fmt.Sprintf("%q never matches: origins are in lower case", s), Hint: "write " + strings.ToLower(s)}
	case strings.Trim(scheme, "abcdefghijklmnopqrstuvwxyz0123456789+-.") != "":
		return &policy.Fault{Text: fmt.Sprintf("%q is not an origin: %q is no scheme", s, scheme)}
	case strings.Contains(name, "*"):
		return &policy.Fault{Text: fmt.Sprintf("%q: a wildcard stands for whole labels at the beginning, or for a port", s), Hint: "write https://*.example.com"}
	case !isHost(name):
		return &policy.Fault{Text: fmt.Sprintf("%q is not an origin: %q is no host", s, name), Hint: "names outside ASCII are written xn--..."}
	}
	addr, err := netip.ParseAddr(strings.Trim(name, "[]"))
	isAddr := err == nil
	local := name == "localhost" || isAddr && addr.IsLoopback()
	switch suffix, icann := publicsuffix.PublicSuffix(name); {
	case wild && isAddr:
		return &policy.Fault{Text: fmt.Sprintf("%q: an address has no labels", s)}
	case wild && suffix == name && !c.PublicSuffixes && (icann || strings.Contains(name, ".") || name != "localhost"):
		return &policy.Fault{Text: fmt.Sprintf("%q: anybody can have a name below %s", s, name), Hint: "name the hosts, or set public_suffixes"}
	case scheme == "http" && !local && (c.Credentials || wild) && !c.InsecureOrigins:
		return &policy.Fault{Text: fmt.Sprintf("%q: an origin of plain http can be anybody on the network", s), Hint: "write https, or set insecure_origins"}
	}
	if !wild && port != "*" {
		p.exact[s] = struct{}{}
		return nil
	}
	o := pattern{prefix: scheme + "://", host: name, anyPort: port == "*"}
	if wild {
		o.host, o.wild = "."+name, true
	}
	if port != "" && port != "*" {
		o.port = ":" + port
	}
	p.patterns = append(p.patterns, o)
	return nil
}

func checkPort(s, scheme, port string) *policy.Fault {
	if port == "*" {
		return nil
	}
	n, err := strconv.ParseUint(port, 10, 16)
	switch {
	case err != nil || n == 0 || port[0] == '0':
		return &policy.Fault{Text: fmt.Sprintf("%q is not an origin: %q is no port", s, port)}
	case scheme == "https" && n == 443 || scheme == "http" && n == 80:
		return &policy.Fault{Text: fmt.Sprintf("%q never matches: browsers leave the usual port out", s), Hint: "write " + strings.TrimSuffix(s, ":"+port)}
	}
	return nil
}

func isHost(s string) bool {
	if inner, ok := strings.CutPrefix(s, "["); ok {
		a, err := netip.ParseAddr(strings.TrimSuffix(inner, "]"))
		return err == nil && a.Is6() && a.Zone() == "" && "["+a.String()+"]" == s
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return len(s) <= 253
}

// method reads a method. CONNECT, TRACE and TRACK can never be sent by a page
// (Fetch, section 2.2.1).
func (c *Config) method(p *answerer, s string) *policy.Fault {
	upper := strings.ToUpper(s)
	switch {
	case s == "*":
		p.anyMethod = true
		if len(c.Methods) > 1 {
			return &policy.Fault{Text: `"*" stands beside other methods`, Hint: "write it alone"}
		}
		return nil
	case !policy.IsToken(s):
		return &policy.Fault{Text: fmt.Sprintf("%q is not a method", s)}
	case upper == "CONNECT" || upper == "TRACE" || upper == "TRACK":
		return &policy.Fault{Text: fmt.Sprintf("browsers do not let pages send %s", s), Hint: "remove it"}
	case upper != s:
		return &policy.Fault{Text: fmt.Sprintf("%q is not %q: methods have case", s, upper), Hint: "write " + upper}
	}
	p.methods = append(p.methods, s)
	return nil
}

// header reads the name of a request field. Some no page can set (Fetch,
// section 2.2.2).
func (c *Config) header(p *answerer, s string) *policy.Fault {
	lower := strings.ToLower(s)
	switch {
	case s == "*":
		p.anyHeader = true
		if len(c.Headers) > 1 && (len(c.Headers) > 2 || !slices.ContainsFunc(c.Headers, func(h string) bool { return exchange.EqualFold(h, "Authorization") })) {
			return &policy.Fault{Text: `"*" stands beside other fields`, Hint: "write it alone, or with Authorization"}
		}
		return nil
	case !policy.IsToken(s):
		return &policy.Fault{Text: fmt.Sprintf("%q is not a field name", s)}
	case slices.Contains(forbidden(), lower) || strings.HasPrefix(lower, "sec-") || strings.HasPrefix(lower, "proxy-"):
		return &policy.Fault{Text: fmt.Sprintf("browsers do not let pages set %s", s), Hint: "remove it"}
	case strings.HasPrefix(lower, "access-control-"):
		return &policy.Fault{Text: fmt.Sprintf("%s is a field of CORS itself", s), Hint: "remove it"}
	}
	p.headers = append(p.headers, lower)
	return nil
}

func (c *Config) exposed(s string) *policy.Fault {
	switch {
	case s == "*" && c.Credentials:
		return &policy.Fault{Text: `with credentials browsers take "*" for a field of that name`, Hint: "name the fields"}
	case s == "*" && len(c.ExposeHeaders) > 1:
		return &policy.Fault{Text: `"*" stands beside other fields`, Hint: "write it alone"}
	case s == "*":
		return nil
	case !policy.IsToken(s):
		return &policy.Fault{Text: fmt.Sprintf("%q is not a field name", s)}
	case exchange.EqualFold(s, "set-cookie") || exchange.EqualFold(s, "set-cookie2"):
		return &policy.Fault{Text: fmt.Sprintf("browsers do not let pages read %s", s), Hint: "remove it"}
	}
	return nil
}

func forbidden() []string {
	return []string{
		"accept-charset", "accept-encoding", "connection", "content-length", "cookie", "cookie2", "date", "dnt",
		"expect", "host", "keep-alive", "origin", "referer", "set-cookie", "te", "trailer", "transfer-encoding", "upgrade", "via",
	}
}

var refused = exchange.Problem{
	Status: 403, Code: "cors_refused", Side: exchange.SideClient,
	Detail: "Pages of this origin may not make this request.",
}
