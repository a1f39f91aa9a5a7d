package config

import (
	"net"
	"net/netip"
	"strconv"
	"strings"

	"gatehouse.dev/gatehouse/internal/policy"
)

// checkAddress checks an address to listen on.
func checkAddress(s string) *policy.Fault {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		return checkSocket(s, path)
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		f := &policy.Fault{Text: quote(s) + " is not an address to listen on", Hint: `write "host:port", ":port", "[::1]:port" or "unix:/path"`}
		if _, err := strconv.ParseUint(s, 10, 16); err == nil {
			f.Hint = `write ":` + s + `"`
		} else if isURL(s) {
			f.Hint = "an address has no scheme"
		}
		return f
	}
	if !isPort(port) {
		return &policy.Fault{Text: quote(s) + ": " + quote(port) + " is not a port", Hint: "a port is a number up to 65535"}
	}
	if host == "" {
		return nil
	}
	return checkHost(s, host)
}

// checkSocket checks the path of a Unix socket. 107 bytes is what Linux takes
// (unix(7), sun_path).
func checkSocket(whole, path string) *policy.Fault {
	switch {
	case !strings.HasPrefix(path, "/"):
		return &policy.Fault{Text: quote(whole) + ": the path of a Unix socket begins with /", Hint: "write unix:/run/name.sock"}
	case len(path) > 107:
		return &policy.Fault{Text: quote(whole) + ": the path of a Unix socket has at most 107 bytes"}
	}
	return nil
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && strconv.FormatUint(n, 10) == s
}

// checkHost checks a DNS name or an IP address without brackets.
func checkHost(whole, host string) *policy.Fault {
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	labels := strings.Split(strings.TrimSuffix(host, "."), ".")
	ok := len(host) <= 253
	for _, l := range labels {
		ok = ok && isLabel(l)
	}
	switch last := labels[len(labels)-1]; {
	case !ok:
		return &policy.Fault{Text: quote(whole) + ": " + quote(host) + " is not a host name"}
	case strings.Trim(last, "0123456789") == "":
		return &policy.Fault{Text: quote(whole) + ": " + quote(host) + " is neither an IP address nor a host name"}
	}
	return nil
}

// isLabel takes underscores too: names of containers have them.
func isLabel(s string) bool {
	return s != "" && len(s) <= 63 && s[0] != '-' && s[len(s)-1] != '-' && plainKey(s)
}

// checkURL checks the URL of an endpoint.
func checkURL(s string) *policy.Fault {
	scheme, rest, found := strings.Cut(s, "://")
	switch {
	case found && strings.ContainsRune(rest, '@'): // before anything that quotes the password
		return &policy.Fault{Text: "an endpoint has no user or password in its URL", Hint: "write " + scheme + "://" + rest[strings.LastIndexByte(rest, '@')+1:]}
	case !found:
		f := &policy.Fault{Text: quote(s) + " is not a URL", Hint: "write http://host:port"}
		if checkURL("http://"+s) == nil {
			f.Hint = "write http://" + s
		}
		return f
	case defaultPort(scheme) == "":
		return &policy.Fault{Text: quote(s) + ": " + quote(scheme) + " is not a scheme of endpoints", Hint: "use http, https, h2c, grpc, grpcs or tcp"}
	}
	if path, ok := strings.CutPrefix(rest, "unix:"); ok && !secure(scheme) && scheme != "tcp" {
		return checkSocket(s, path)
	}
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		what := map[byte]string{'/': "a path", '?': "a query", '#': "a fragment"}[rest[i]]
		f := &policy.Fault{Text: quote(s) + ": an endpoint has no " + strings.TrimPrefix(what, "a "), Hint: "write " + scheme + "://" + rest[:i]}
		if rest[i] == '/' && rest[i:] != "/" {
			f.Hint += "; rewrite changes the path of a request"
		}
		return f
	}
	host, port := rest, defaultPort(scheme)
	switch {
	case strings.HasPrefix(rest, "[") && strings.HasSuffix(rest, "]"):
		host = rest[1 : len(rest)-1]
	case strings.Contains(rest, ":"):
		var err error
		if host, port, err = net.SplitHostPort(rest); err != nil {
			return &policy.Fault{Text: quote(s) + ": " + quote(rest) + " is not host:port", Hint: "an IPv6 address stands in brackets: " + scheme + "://[::1]:8080"}
		}
	}
	switch {
	case host == "":
		return &policy.Fault{Text: quote(s) + " has no host", Hint: "write " + scheme + "://host:port"}
	case port == "none":
		return &policy.Fault{Text: quote(s) + " has no port", Hint: "write " + s + ":port"}
	case !isPort(port) || port == "0":
		return &policy.Fault{Text: quote(s) + ": " + quote(port) + " is not a port", Hint: "a port is a number from 1 to 65535"}
	}
	return checkHost(s, host)
}

// secure reports whether TLS runs over an endpoint of that scheme.
func secure(scheme string) bool { return scheme == "https" || scheme == "grpcs" }

// defaultPort returns the port that endpoints of a scheme have where they name
// none, "none" when they must name one, and "" for what is no such scheme.
func defaultPort(scheme string) string {
	switch scheme {
	case "http", "h2c", "grpc":
		return "80"
	case "https", "grpcs":
		return "443"
	case "tcp":
		return "none"
	}
	return ""
}

// checkHostPattern checks a host of a match: a name, an address, or *. and a
// name.
func checkHostPattern(s string) *policy.Fault {
	name := strings.TrimPrefix(s, "*.")
	bare := strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	if _, err := netip.ParseAddr(bare); err == nil && s == name {
		if strings.Contains(bare, ":") && bare == s {
			return &policy.Fault{Text: quote(s) + ": an IPv6 address stands in brackets", Hint: "write [" + s + "]"}
		}
		return nil
	}
	switch {
	case s == "*":
		return &policy.Fault{Text: `"*" is not a host`, Hint: "leave host out to match every host"}
	case isURL(s):
		return &policy.Fault{Text: quote(s) + " is not a host", Hint: "a host has no scheme"}
	case strings.Contains(name, "*"):
		return &policy.Fault{Text: quote(s) + ": * stands for whole labels at the beginning", Hint: "write *.example.com"}
	}
	if host, port, err := net.SplitHostPort(name); err == nil && isPort(port) {
		return &policy.Fault{Text: quote(s) + ": a host is matched without its port", Hint: "write " + strings.TrimSuffix(s, name) + host}
	}
	return checkHost(s, name)
}

// checkHostPort checks the value of a Host field.
func checkHostPort(s string) *policy.Fault {
	if isURL(s) {
		return &policy.Fault{Text: quote(s) + " is not a host", Hint: "a host has no scheme"}
	}
	host := s
	if h, port, err := net.SplitHostPort(s); err == nil {
		if !isPort(port) || port == "0" {
			return &policy.Fault{Text: quote(s) + ": " + quote(port) + " is not a port", Hint: "a port is a number from 1 to 65535"}
		}
		host = h
	} else {
		host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	}
	return checkHost(s, host)
}
