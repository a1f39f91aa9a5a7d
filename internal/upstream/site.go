package upstream

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"gatehouse.dev/gatehouse/internal/config"
)

// site is an endpoint as it was configured. A name may stand for several
// addresses, each of which becomes an endpoint that shares the site's weight.
type site struct {
	network  string // "tcp" or "unix"
	scheme   scheme
	host     string // what a Host field names it by
	weight   int
	zone     string
	priority int

	name string // what is resolved, "" for an address
	port string

	addresses []string // to connect to; of a name: the last good answer
	finding   *finding // keeps those of a name that was configured
}

// hostport is what is resolved, with its port.
func (s *site) hostport() string { return net.JoinHostPort(s.name, s.port) }

// scheme is what an endpoint speaks. tcp stands for http: nothing is said over
// it that the gateway would have to understand.
type scheme string

const (
	plainHTTP1  scheme = "http"
	secureHTTP  scheme = "https" // ALPN decides between HTTP/2 and HTTP/1.1
	plainHTTP2  scheme = "h2c"   // without being asked: RFC 9113, section 3.3
	plainGRPC   scheme = "grpc"
	secureHTTP2 scheme = "grpcs"
)

func (s scheme) secure() bool { return s == secureHTTP || s == secureHTTP2 }

// shares reports whether connections are HTTP/2, or may be.
func (s scheme) shares() bool { return s != plainHTTP1 }

// only reports whether HTTP/2 is all that is spoken.
func (s scheme) only() bool { return s == plainGRPC || s == secureHTTP2 }

// schemeOf reads the scheme of an endpoint's URL.
func schemeOf(s string) (scheme, bool) {
	out := scheme(strings.ToLower(s))
	if out == "tcp" {
		out = plainHTTP1
	}
	return out, slices.Contains([]scheme{plainHTTP1, secureHTTP, plainHTTP2, plainGRPC, secureHTTP2}, out)
}

// parseSite reads an endpoint's URL: scheme://host:port, or scheme://unix:/path
// where no TLS is involved.
func parseSite(c *config.Endpoint) (*site, error) {
	fault := func(why string) error { return fmt.Errorf("endpoint %q: %s", c.URL, why) }
	name, rest, ok := strings.Cut(c.URL, "://")
	if !ok {
		return nil, fault("is not a URL such as http://host:port")
	}
	speaks, ok := schemeOf(name)
	if !ok {
		return nil, fault(fmt.Sprintf("scheme %q is none of http, https, h2c, grpc, grpcs and tcp", name))
	}
	s := &site{
		network: "tcp", scheme: speaks,
		weight: max(c.Weight, 1), zone: c.Zone, priority: c.Priority,
	}
	if path, ok := strings.CutPrefix(rest, "unix:"); ok && !s.scheme.secure() {
		if !strings.HasPrefix(path, "/") {
			return nil, fault("path of a unix socket is not absolute")
		}
		s.network, s.host, s.addresses = "unix", "localhost", []string{path}
		return s, nil
	}
	s.host = strings.TrimSuffix(rest, "/")
	if strings.ContainsAny(s.host, "/?#@ ") || s.host == "" {
		return nil, fault("has something beside a host and a port")
	}
	usual := "80"
	if s.scheme.secure() {
		usual = "443"
	}
	host, port, err := splitPort(s.host, usual)
	if err != nil {
		return nil, fault(err.Error())
	}
	if a, err := netip.ParseAddr(host); err == nil {
		s.addresses = []string{net.JoinHostPort(a.String(), port)}
		return s, nil
	}
	if strings.ContainsAny(host, "[]:%") {
		return nil, fault("host is neither a name nor an address")
	}
	s.name, s.port = host, port
	return s, nil
}

// splitPort splits host and port; the port is the usual one when there is none.
func splitPort(hostport, usual string) (host, port string, err error) {
	host, port = hostport, usual
	if i := strings.LastIndexByte(hostport, ':'); i > strings.LastIndexByte(hostport, ']') {
		host, port = hostport[:i], hostport[i+1:]
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", "", fmt.Errorf("port %q is not between 1 and 65535", port)
	}
	if strings.HasPrefix(host, "[") && strings.HasSuffix(host, "]") {
		if a, err := netip.ParseAddr(host[1 : len(host)-1]); err != nil || !a.Is6() {
			return "", "", fmt.Errorf("%q is not an IPv6 address", host)
		}
		host = host[1 : len(host)-1]
	} else if strings.Contains(host, ":") {
		return "", "", fmt.Errorf("IPv6 address %q is not in brackets", host)
	}
	if host == "" {
		return "", "", fmt.Errorf("there is no host")
	}
	return host, port, nil
}
