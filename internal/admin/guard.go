package admin

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// guard refuses what a browser may have been made to send by a page of another
// origin.
type guard struct {
	name string // host of the configured address, when it is a name
	unix bool   // no browser reaches a unix socket
	next http.Handler
}

func newGuard(address string, next http.Handler) *guard {
	g := &guard{next: next}
	if strings.HasPrefix(address, "unix:") {
		g.unix = true
		return g
	}
	if host, _, err := net.SplitHostPort(address); err == nil {
		g.name = host
	}
	return g
}

// ServeHTTP answers, or refuses to.
func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	switch {
	case !g.unix && !g.knows(r.Host):
		// RFC 9110, section 15.5.20: not for this server.
		refuse(w, http.StatusMisdirectedRequest, "host_refused", "This address answers to IP addresses, to localhost and to the host name in admin.address.")
	case foreign(r):
		refuse(w, http.StatusForbidden, "origin_refused", "This address does not answer to pages of other origins.")
	default:
		g.next.ServeHTTP(w, r)
	}
}

// knows reports whether a Host field names this server: by an IP address, which
// nobody can point elsewhere, by localhost, or by the configured name. Simple
// probes speak HTTP/1.0 and send none; every browser does.
func (g *guard) knows(authority string) bool {
	if authority == "" {
		return true
	}
	host := authority
	if h, _, err := net.SplitHostPort(authority); err == nil {
		host = h
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	// A zone may be any text, and no Host field needs one.
	if ip, err := netip.ParseAddr(host); err == nil && ip.Zone() == "" {
		return true
	}
	host = strings.TrimSuffix(host, ".")
	return strings.EqualFold(host, "localhost") || g.name != "" && strings.EqualFold(host, strings.TrimSuffix(g.name, "."))
}

// foreign reports whether a request comes from a page of another origin: its
// browser says so. Another port of the same host is one too.
func foreign(r *http.Request) bool {
	for _, site := range r.Header.Values("Sec-Fetch-Site") {
		if site != "same-origin" && site != "none" {
			return true
		}
	}
	for _, origin := range r.Header.Values("Origin") {
		if _, host, ok := strings.Cut(origin, "://"); !ok || !strings.EqualFold(host, r.Host) {
			return true
		}
	}
	return false
}
