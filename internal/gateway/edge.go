package gateway

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// hopByHop are the fields that speak of one connection only (RFC 9110, section
// 7.6.1), the framing fields, which the protocols write anew, and the proxy
// fields, which are meant for us and not for the service.
var hopByHop = exchange.Connection.Bit() | exchange.KeepAlive.Bit() | exchange.ProxyConnection.Bit() |
	exchange.TE.Bit() | exchange.TransferEncoding.Bit() | exchange.Upgrade.Bit() |
	exchange.HTTP2Settings.Bit() | exchange.ContentLength.Bit() | exchange.Host.Bit() |
	exchange.Expect.Bit() | exchange.ProxyAuthorization.Bit()

// notNamed are the fields that a Connection option cannot take away: who
// routes, frames, authenticates or tells clients apart by them must see what
// was sent. A client could otherwise have a trusted proxy's word removed.
var notNamed = hopByHop | exchange.Asserted | exchange.Authorization.Bit() | exchange.Cookie.Bit() | exchange.CacheControl.Bit()

// cleanRequest removes what must not reach a policy or a service, and sets the
// forwarding fields.
func cleanRequest(x *exchange.Exchange) {
	h := &x.Request.Header
	dropNamed(h)
	trailers := h.Has(exchange.TE) && exchange.HasToken(h.Known(exchange.TE), "trailers")
	f := forwarding{}
	if x.Client.Trusted {
		f.believe(x)
		if h.Has(exchange.XForwardedClientCert) {
			x.ForwardedCert = joined(h, exchange.XForwardedClientCert)
		}
	}
	h.DelSet(hopByHop | exchange.Asserted)
	dropUnderscored(h)
	if trailers {
		h.AddKnown(exchange.TE, "trailers")
	}
	f.set(x)
}

// dropNamed removes the fields that the Connection field names.
func dropNamed(h *exchange.Header) {
	if !h.Has(exchange.Connection) {
		return
	}
	named := false
	for _, f := range h.Fields() {
		if f.Known == exchange.Connection && !plainConnection(f.Value) {
			named = true
		}
	}
	if !named {
		return
	}
	var names []string
	for v := range h.Values("Connection") {
		for name := range exchange.Tokens(v) {
			if k := exchange.LookupKnown(name); k == exchange.Other || notNamed&k.Bit() == 0 {
				names = append(names, strings.ToLower(name))
			}
		}
	}
	slices.Sort(names) // there may be thousands of them
	h.DelFunc(func(f *exchange.Field) bool {
		_, found := slices.BinarySearch(names, strings.ToLower(f.Name))
		return found
	})
}

// plainConnection tells the values that name no field apart without looking
// closer: nearly all requests carry one of them.
func plainConnection(v string) bool {
	return v == "" || exchange.EqualFold(v, "keep-alive") || exchange.EqualFold(v, "close") || exchange.EqualFold(v, "upgrade")
}

// dropUnderscored removes fields whose name has an underscore: many services
// read it as a hyphen, so that X_Forwarded_For would pass for the field that
// only the gateway may set.
func dropUnderscored(h *exchange.Header) {
	for i := range h.Fields() {
		if f := &h.Fields()[i]; f.Known == exchange.Other && strings.IndexByte(f.Name, '_') >= 0 {
			h.DelFunc(func(f *exchange.Field) bool {
				return f.Known == exchange.Other && strings.IndexByte(f.Name, '_') >= 0
			})
			return
		}
	}
}

// cleanResponse removes the fields of the upstream's connection. Framing
// fields are in no answer: the protocol writes them from Length.
func cleanResponse(r *exchange.Response) {
	dropNamed(&r.Header)
	set := hopByHop
	if r.Status == 101 {
		set &^= exchange.Upgrade.Bit()
	}
	r.Header.DelSet(set)
}

// forwarding is what trusted proxies said of the way here.
type forwarding struct {
	chain     string // X-Forwarded-For so far
	forwarded string // Forwarded so far
	host      string
	port      string
	proto     string
}

// believe takes over the forwarding fields of a trusted peer. The client is
// the last address that is not itself a trusted proxy, read from the near end:
// what stands before it could have been written by anybody.
//
// Most proxies write X-Forwarded-For and pass Forwarded on as it came. Where
// both are there and tell of different clients, Forwarded is not believed.
func (f *forwarding) believe(x *exchange.Exchange) {
	h := &x.Request.Header
	f.chain = joined(h, exchange.XForwardedFor)
	f.forwarded = joined(h, exchange.Forwarded)
	if v := h.Known(exchange.XForwardedHost); h.Count(exchange.XForwardedHost) == 1 && plainHost(v) {
		f.host = v
	}
	if v := h.Known(exchange.XForwardedPort); h.Count(exchange.XForwardedPort) == 1 && plainPort(v) {
		f.port = v
	}
	if v := h.Known(exchange.XForwardedProto); h.Count(exchange.XForwardedProto) == 1 && (v == "http" || v == "https") {
		f.proto = v
	}
	addr, ok := lastUntrusted(f.chain, x.Client.Proxies)
	if f.forwarded != "" {
		other, also := lastUntrusted(forwardedFor(f.forwarded), x.Client.Proxies)
		switch {
		case f.chain == "":
			addr, ok = other, also
		case ok != also || addr != other:
			f.forwarded = ""
		}
	}
	if !ok {
		f.chain, f.forwarded = "", ""
		return
	}
	c := *x.Client
	c.Addr = netip.AddrPortFrom(addr, 0)
	c.IP = addr.String()
	x.Client = &c
}

// joined returns the lines of a field as one list.
func joined(h *exchange.Header, k exchange.Known) string {
	if h.Count(k) < 2 {
		return h.Known(k)
	}
	return strings.Join(slices.Collect(h.Values(k.String())), ", ")
}

// plainHost tells a host, with or without a port, from what merely could not
// be told apart from one by everybody who reads it.
func plainHost(v string) bool {
	return v != "" && len(v) <= 261 && strings.IndexFunc(v, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && !strings.ContainsRune("-._:[]", r)
	}) < 0
}

func plainPort(v string) bool {
	n, err := strconv.ParseUint(v, 10, 16)
	return err == nil && n > 0 && v[0] != '0'
}

// lastUntrusted walks a list of addresses from its end and returns the first
// that is not in proxies, or the farthest one when all are. Something that is
// no address ends the walk: nothing before it can be believed.
func lastUntrusted(chain string, proxies []netip.Prefix) (last netip.Addr, ok bool) {
	for chain != "" {
		item := chain
		if i := strings.LastIndexByte(chain, ','); i >= 0 {
			item, chain = chain[i+1:], chain[:i]
		} else {
			chain = ""
		}
		addr, valid := parseNode(strings.Trim(item, " \t"))
		if !valid {
			return last, ok
		}
		last, ok = addr, true
		if !contains(proxies, addr) {
			return last, ok
		}
	}
	return last, ok
}

func contains(prefixes []netip.Prefix, a netip.Addr) bool {
	for _, p := range prefixes {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// parseNode reads an address as proxies write it: bare, with a port, or an
// IPv6 address in brackets.
func parseNode(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	if err != nil {
		if inner, ok := strings.CutPrefix(s, "["); ok && strings.HasSuffix(inner, "]") {
			a, err = netip.ParseAddr(strings.TrimSuffix(inner, "]"))
			if err != nil || !a.Is6() {
				return netip.Addr{}, false
			}
		} else {
			ap, err := netip.ParseAddrPort(s)
			if err != nil {
				return netip.Addr{}, false
			}
			a = ap.Addr()
		}
	}
	return a.Unmap().WithZone(""), true
}

// forwardedFor turns the for= parameters of a Forwarded field (RFC 7239,
// section 5.2) into a list like X-Forwarded-For. Commas separate elements even
// where what came first left a quote open: the near end is the one that counts,
// and an address has none.
func forwardedFor(v string) string {
	var list []string
	for element := range exchange.Tokens(v) {
		node := "unknown"
		seen := false
		for pair := range strings.SplitSeq(element, ";") {
			name, value, _ := strings.Cut(strings.Trim(pair, " \t"), "=")
			if !exchange.EqualFold(name, "for") {
				continue
			}
			if seen {
				node = "unknown" // which of the two is meant nobody can say
				break
			}
			seen, node = true, value
			if len(value) > 1 && value[0] == '"' && value[len(value)-1] == '"' {
				node = value[1 : len(value)-1]
			}
		}
		list = append(list, node)
	}
	return strings.Join(list, ", ")
}

// set writes the forwarding fields that the service sees.
func (f *forwarding) set(x *exchange.Exchange) {
	h, c, r := &x.Request.Header, x.Client, &x.Request
	peer := c.IP
	if f.chain != "" || f.forwarded != "" {
		peer = ""
		if a := c.Peer.Addr(); a.IsValid() { // a unix socket's is not
			peer = a.Unmap().WithZone("").String()
		}
	}
	chain := f.chain
	if chain == "" && c.IP != peer {
		chain = c.IP // Forwarded alone told of the client
	}
	switch {
	case chain != "" && peer != "":
		h.AddKnown(exchange.XForwardedFor, chain+", "+peer)
	case chain != "" || peer != "":
		h.AddKnown(exchange.XForwardedFor, chain+peer)
	}
	if c.IP != "" {
		h.AddKnown(exchange.XRealIP, c.IP)
	}
	h.AddKnown(exchange.XForwardedProto, or(f.proto, r.Scheme))
	if host := or(f.host, r.Authority); host != "" {
		h.AddKnown(exchange.XForwardedHost, host)
	}
	if port := or(f.port, c.Port); port != "" {
		h.AddKnown(exchange.XForwardedPort, port)
	}
	before := f.forwarded
	if before == "" && c.IP != peer {
		before = "for=" + node(c.IP)
	}
	h.AddKnown(exchange.Forwarded, element(before, peer, r))
	h.AddKnown(exchange.Via, via(r.Proto))
	if c.ForwardCert && c.TLS != nil && c.TLS.Peer != nil {
		h.AddKnown(exchange.ClientCert, c.TLS.Peer.Field())
	}
}

// element appends this hop to the Forwarded field (RFC 7239, section 4).
func element(before, peer string, r *exchange.Request) string {
	if before != "" {
		before += ", "
	}
	if r.Authority == "" { // HTTP/1.0 has no need of one
		return before + "for=" + node(peer) + ";proto=" + r.Scheme
	}
	return before + "for=" + node(peer) + ";proto=" + r.Scheme + `;host="` + r.Authority + `"`
}

// node writes an address as Forwarded wants it (RFC 7239, section 6).
func node(ip string) string {
	switch {
	case ip == "":
		return "unknown" // a unix socket
	case strings.IndexByte(ip, ':') >= 0:
		return `"[` + ip + `]"`
	}
	return ip
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// via names the protocol the message came by (RFC 9110, section 7.6.3).
func via(p exchange.Proto) string {
	switch p {
	case exchange.HTTP10:
		return "1.0 gatehouse"
	case exchange.HTTP2:
		return "2 gatehouse"
	case exchange.HTTP3:
		return "3 gatehouse"
	}
	return "1.1 gatehouse"
}
