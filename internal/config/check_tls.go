package config

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/internal/policy"
)

// listener checks what a listener speaks, and notes the upstreams in use.
func (k *checker) listener(at string, l *Listener, used map[string]bool) {
	if l.ProxyProtocol && len(l.TrustedProxies) == 0 && !strings.HasPrefix(l.Address, "unix:") && !k.known[at+".trusted_proxies"] {
		k.fault(at+".proxy_protocol", "the listener trusts nobody to tell who the client is", "name those who send the PROXY header in trusted_proxies")
	}
	if k.known[at+".protocol"] {
		return
	}
	if l.Protocol != "http" {
		k.passing(at, l, used)
		return
	}
	if l.Upstream != "" {
		k.fault(at+".upstream", "upstream has no effect on a listener with protocol http", "write protocol: tcp, or let a route name the upstream")
	}
	if l.Routes != nil {
		k.fault(at+".routes", "routes of a listener are for protocol tls", "routes of HTTP stand at the top")
	}
	if !k.known[at+".protocols"] {
		k.protocols(at, l)
	}
	if l.RedirectHTTPS {
		switch {
		case l.TLS != nil:
			k.fault(at+".redirect_https", "the listener has TLS itself", "redirect_https belongs to a plain listener")
		case k.c.HTTPS() == nil && !k.knownTLS():
			k.fault(at+".redirect_https", "there is no listener with TLS to redirect to", "add one with tls")
		}
	}
	if l.TLS != nil {
		k.tls(at+".tls", l)
	}
}

// knownTLS tells whether the settings of some listener could not be read.
func (k *checker) knownTLS() bool {
	for i := range k.c.Listeners {
		if k.known[fmt.Sprintf("listeners[%d].tls", i)] || k.known[fmt.Sprintf("listeners[%d].protocol", i)] {
			return true
		}
	}
	return false
}

func (k *checker) protocols(at string, l *Listener) {
	if l.Protocols != nil && len(l.Protocols) == 0 {
		k.fault(at+".protocols", "the listener speaks no version of HTTP", "leave protocols out for the default")
	}
	unix := strings.HasPrefix(l.Address, "unix:")
	for i, p := range l.Protocols {
		here := fmt.Sprintf("%s.protocols[%d]", at, i)
		switch {
		case slices.Contains(l.Protocols[:i], p):
			k.fault(here, quote(p)+" stands twice", "")
		case l.Engine == "std" && (p == "http2" || p == "h2c"):
			k.fault(here, "engine std does not speak "+p+", only http1 and http3", "remove it, or use engine native")
		case k.known[at+".tls"]:
		case p == "http2" && l.TLS == nil:
			k.fault(here, "http2 needs tls", "add tls, or write h2c for HTTP/2 without it")
		case p == "http3" && l.TLS == nil:
			k.fault(here, "http3 needs tls", "add tls with a certificate")
		case p == "http3" && unix:
			k.fault(here, "http3 runs over UDP, and the address is a Unix socket", "")
		case p == "http3" && l.ProxyProtocol:
			k.fault(here, "http3 has no PROXY header", "give http3 a listener without proxy_protocol")
		case p == "h2c" && l.TLS != nil:
			k.fault(here, "h2c is HTTP/2 without TLS, and the listener has it", "write http2")
		}
	}
}

// passing checks a listener that opens nothing.
func (k *checker) passing(at string, l *Listener, used map[string]bool) {
	for _, e := range []struct {
		key string
		set bool
	}{
		{"protocols", l.Protocols != nil},
		{"tls", l.TLS != nil},
		{"redirect_https", l.RedirectHTTPS},
		{"policies", len(l.Policies) > 0},
		{"routes", l.Protocol == "tcp" && l.Routes != nil},
	} {
		if e.set {
			k.fault(at+"."+e.key, e.key+" has no effect on a listener with protocol "+l.Protocol, "remove it")
		}
	}
	if l.Upstream == "" && (l.Protocol == "tcp" || len(l.Routes) == 0) && !k.known[at] {
		k.fault(at, "the listener passes connections to nobody", map[string]string{"tcp": "give it an upstream", "tls": "give it routes, or an upstream"}[l.Protocol])
	}
	k.tcpUpstream(at+".upstream", l.Upstream, used)
	seen := make(map[string]string)
	for i, r := range l.Routes {
		if r == nil {
			continue
		}
		here := fmt.Sprintf("%s.routes[%d]", at, i)
		if len(r.SNI) == 0 && !k.known[here] {
			k.fault(here+".sni", "the route has no name", "")
		}
		for j, name := range r.SNI {
			place := fmt.Sprintf("%s.sni[%d]", here, j)
			k.report(place, checkServerName(name))
			if first, ok := seen[strings.ToLower(name)]; ok {
				k.fault(place, fmt.Sprintf("%s stands twice, first at %s", quote(name), k.place(first)), "")
				continue
			}
			seen[strings.ToLower(name)] = place
		}
		k.tcpUpstream(here+".upstream", r.Upstream, used)
	}
}

// tcpUpstream checks a reference to an upstream that takes connections.
func (k *checker) tcpUpstream(path, name string, used map[string]bool) {
	if name == "" || k.known[path] {
		return
	}
	before := len(k.faults)
	if k.upstream(path, name, used); len(k.faults) > before {
		return
	}
	u := k.c.Upstream(name)
	if u == nil {
		return
	}
	for _, e := range u.Endpoints {
		if e != nil && e.URL != "" && !strings.HasPrefix(e.URL, "tcp://") {
			k.fault(path, fmt.Sprintf("upstream %s has the endpoint %s, which does not take connections as they are", quote(name), quote(e.URL)), "its endpoints must be tcp://host:port")
			return
		}
	}
}

// httpUpstream reports an upstream of a route that does not speak HTTP.
func (k *checker) httpUpstream(path, name string) {
	u := k.c.Upstream(name)
	if name == "" || u == nil {
		return
	}
	for _, e := range u.Endpoints {
		if e != nil && strings.HasPrefix(e.URL, "tcp://") {
			k.fault(path, fmt.Sprintf("upstream %s has the endpoint %s, which does not speak HTTP", quote(name), quote(e.URL)), "tcp endpoints are for listeners with protocol tcp or tls")
			return
		}
	}
}

// checkServerName checks a name that a client may ask for (RFC 6066 section 3):
// no address.
func checkServerName(s string) *policy.Fault {
	if net.ParseIP(strings.Trim(s, "[]")) != nil {
		return &policy.Fault{Text: quote(s) + " is an address: clients ask for names alone"}
	}
	return checkHostPattern(s)
}

func (k *checker) tls(at string, l *Listener) {
	t := l.TLS
	if len(t.Certificates) == 0 && t.ACME == nil && !k.known[at+".certificates"] && !k.known[at+".acme"] {
		k.fault(at, "TLS needs a certificate", "give it certificates, or acme")
	}
	k.ciphers(at, l)
	if t.EarlyData && !l.Speaks("http3") && !k.known[at+".early_data"] {
		k.fault(at+".early_data", "early_data is for http3, which the listener does not speak", "add http3 to protocols")
	}
	if t.ClientAuth.Mode != "none" && t.ClientAuth.CAFile == "" && !k.known[at+".client_auth"] {
		k.fault(at+".client_auth", "nothing says which client certificates are good", "add ca_file")
	}
	if t.ClientAuth.Mode == "none" && !k.known[at+".client_auth"] {
		if t.ClientAuth.CAFile != "" {
			k.fault(at+".client_auth.ca_file", "no client is asked for a certificate", "add mode: require, or mode: request")
		}
		if t.ForwardClientCert {
			k.fault(at+".forward_client_cert", "no client is asked for a certificate", "add client_auth with a mode")
		}
	}
	seen := make(map[string]string)
	for i, c := range t.Certificates {
		if c == nil || c.CertFile == "" {
			continue
		}
		here := fmt.Sprintf("%s.certificates[%d].cert_file", at, i)
		if first, ok := seen[c.CertFile]; ok {
			k.fault(here, fmt.Sprintf("%s stands twice, first at %s", quote(c.CertFile), k.place(first)), "")
		}
		seen[c.CertFile] = here
	}
	if t.ACME != nil {
		k.acme(at+".acme", t.ACME)
	}
}

// ciphers checks the list of suites. HTTP/2 must have one that RFC 9113
// section 9.2.2 does not prohibit: those with authenticated encryption.
func (k *checker) ciphers(at string, l *Listener) {
	modern := 0
	for i, name := range l.TLS.Ciphers {
		here := fmt.Sprintf("%s.ciphers[%d]", at, i)
		if _, ok := Cipher(name); ok {
			if !strings.Contains(name, "_CBC_") {
				modern++
			}
			continue
		}
		modern++ // whatever was meant
		var names []string
		for _, s := range tls.CipherSuites() {
			if s.Name == name {
				k.fault(here, quote(name)+" belongs to TLS 1.3, whose suites are all in use", "remove it")
			}
			names = append(names, s.Name)
		}
		if slices.Contains(names, name) {
			continue
		}
		if slices.ContainsFunc(tls.InsecureCipherSuites(), func(s *tls.CipherSuite) bool { return s.Name == name }) {
			k.fault(here, quote(name)+" is not safe", "remove it")
			continue
		}
		hint := "names are those of IANA, such as TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"
		if near := nearest(name, names); near != "" {
			hint = "did you mean " + quote(near) + "?"
		}
		k.fault(here, quote(name)+" is not a cipher suite", hint)
	}
	switch {
	case l.TLS.Ciphers == nil || k.known[at+".ciphers"]:
	case l.TLS.MinVersion == "1.3":
		k.fault(at+".ciphers", "the suites are those of TLS 1.2, which min_version excludes", "remove ciphers")
	case len(l.TLS.Ciphers) == 0:
		k.fault(at+".ciphers", "no cipher suite is left", "leave ciphers out for the default")
	case modern == 0 && l.Speaks("http2"):
		k.fault(at+".ciphers", "http2 must not use any of these suites (RFC 9113 section 9.2.2)", "add TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 or another with GCM")
	}
}

func (k *checker) acme(at string, a *ACME) {
	if u, err := url.Parse(a.Directory); !k.known[at+".directory"] && (err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil) {
		k.fault(at+".directory", quote(a.Directory)+" is not the URL of an ACME directory", "write https://host/path")
	}
	if a.Email != "" && (!strings.Contains(a.Email, "@") || strings.ContainsAny(a.Email, " \t,<>")) {
		k.fault(at+".email", quote(a.Email)+" is not an e-mail address", "")
	}
	dns := slices.Contains(a.Challenges, "dns-01")
	switch {
	case k.known[at+".challenges"]:
	case len(a.Challenges) == 0:
		k.fault(at+".challenges", "no challenge is left", "leave challenges out for the default")
	case dns && len(a.Challenges) > 1:
		k.fault(at+".challenges", "dns-01 stands beside other challenges", "write dns-01 alone, or leave it out")
	case dns && a.DNS == nil && !k.known[at+".dns"]:
		k.fault(at+".challenges", "dns-01 needs a name server that takes updates", "add dns")
	case !dns && a.DNS != nil:
		k.fault(at+".dns", "dns has no effect without dns-01", "write challenges: [dns-01]")
	case slices.Equal(a.Challenges, []string{"http-01"}) && !k.plainListener():
		k.fault(at+".challenges", "http-01 is answered on plain listeners, and there is none", "add a listener with address \":80\", or tls-alpn-01")
	}
	if len(a.Domains) == 0 && !k.known[at] {
		k.fault(at+".domains", "acme has no name to have a certificate for", "")
	}
	seen := make(map[string]bool)
	for i, name := range a.Domains {
		here := fmt.Sprintf("%s.domains[%d]", at, i)
		k.report(here, checkServerName(name))
		switch lower := strings.ToLower(name); {
		case seen[lower]:
			k.fault(here, quote(name)+" stands twice", "")
		case strings.HasPrefix(name, "*.") && !dns && !k.known[at+".challenges"]:
			k.fault(here, quote(name)+": a certificate for a wildcard needs dns-01", "write challenges: [dns-01] and dns")
		default:
			seen[lower] = true
		}
	}
	if a.EAB != nil && a.EAB.MACKey.IsSet() && !base64url(a.EAB.MACKey.Reveal()) {
		k.fault(at+".eab.mac_key", "the key is not base64url", "write it as the authority shows it")
	}
	if d := a.DNS; d != nil {
		if host, port, err := net.SplitHostPort(d.Server); d.Server != "" && (err != nil || host == "" || !isPort(port) || port == "0") {
			k.fault(at+".dns.server", quote(d.Server)+" is not host:port", "write 10.0.0.53:53")
		}
		if d.Zone != "" {
			k.report(at+".dns.zone", checkHost(d.Zone, d.Zone))
		}
		for i, name := range a.Domains {
			if zone := "." + strings.ToLower(strings.TrimSuffix(d.Zone, ".")); d.Zone != "" && !strings.HasSuffix("."+strings.ToLower(name), zone) {
				k.fault(fmt.Sprintf("%s.domains[%d]", at, i), fmt.Sprintf("%s is not in the zone %s", quote(name), quote(d.Zone)), "")
			}
		}
	}
}

func base64url(s string) bool {
	return len(s) >= 16 && strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

// plainListener tells whether one of the listeners speaks HTTP without TLS.
func (k *checker) plainListener() bool {
	return slices.ContainsFunc(k.c.Listeners, func(l *Listener) bool { return l != nil && l.Protocol == "http" && l.TLS == nil })
}

// upstreamTLS checks how connections to an upstream are protected.
func (k *checker) upstreamTLS(at string, u *Upstream) {
	t := u.TLS
	if t == nil {
		return
	}
	secure := slices.ContainsFunc(u.Endpoints, func(e *Endpoint) bool {
		return e != nil && (strings.HasPrefix(e.URL, "https://") || strings.HasPrefix(e.URL, "grpcs://"))
	})
	if !secure && len(u.Endpoints) > 0 && !k.known[at] {
		k.fault(at+".tls", "none of the endpoints speaks TLS", "write their URLs with https or grpcs")
	}
	if t.ServerName != "" {
		if net.ParseIP(t.ServerName) == nil {
			k.report(at+".tls.server_name", checkHost(t.ServerName, t.ServerName))
		}
	}
	switch here := at + ".tls"; {
	case k.known[here]:
	case t.CertFile != "" && t.KeyFile == "":
		k.fault(here+".cert_file", "the certificate has no key", "add key_file")
	case t.CertFile == "" && t.KeyFile != "":
		k.fault(here+".key_file", "the key has no certificate", "add cert_file")
	case !t.Verify && (t.CAFile != "" || t.ServerName != ""):
		k.fault(here+".verify", "ca_file and server_name have no effect when nothing is verified", "remove verify: false")
	case !t.Verify:
		k.warn(here+".verify", "the certificates of the endpoints are not verified: anybody on the way can read and change everything", "give a ca_file instead")
	}
}
