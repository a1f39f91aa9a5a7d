package router

import (
	"fmt"
	"net/netip"
	"strings"

	"gatehouse.dev/gatehouse/internal/config"
)

// host is a compiled host pattern: a name in lower case, a suffix that begins
// with a dot for *.suffix, or "" for every host.
type host string

const anyHost host = ""

func (h host) wildcard() bool { return h != "" && h[0] == '.' }

func (h host) String() string {
	switch {
	case h == anyHost:
		return "any host"
	case h.wildcard():
		return "*" + string(h)
	}
	return string(h)
}

// match reports whether the pattern takes the host of a request.
func (h host) match(name string) bool {
	if h.wildcard() {
		return len(name) > len(h) && strings.HasSuffix(name, string(h))
	}
	return h == anyHost || string(h) == name
}

// parseHosts reads match.host. A host that stands twice counts once.
func parseHosts(list config.StringList) ([]host, []*fault) {
	if len(list) == 0 {
		return []host{anyHost}, nil
	}
	var faults []*fault
	seen := make(map[host]bool, len(list))
	hosts := make([]host, 0, len(list))
	for i, text := range list {
		h, why, hint := parseHost(text)
		switch {
		case why != "":
			faults = append(faults, &fault{field: fmt.Sprintf("match.host[%d]", i), text: "host " + quote(text) + " " + why, hint: hint})
		case !seen[h]:
			seen[h] = true
			hosts = append(hosts, h)
		}
	}
	return hosts, faults
}

func parseHost(text string) (h host, why, hint string) {
	name := strings.ToLower(text)
	if strings.HasPrefix(name, "[") {
		a, err := netip.ParseAddr(strings.TrimSuffix(name[1:], "]"))
		if err != nil || !strings.HasSuffix(name, "]") || !a.Is6() || a.Zone() != "" {
			return "", "is not an IPv6 address in brackets", "write it like " + quote("[2001:db8::1]") + ", without a port"
		}
		return host("[" + a.String() + "]"), "", "" // the one spelling that requests are given
	}
	if name == "*" {
		return "", "stands for every host", "leave host out, or name a domain like " + quote("*.example.com")
	}
	bare, wild := strings.CutPrefix(name, "*.")
	switch {
	case strings.Contains(bare, "*"):
		return "", "has a * that is not its whole first label", "write it like " + quote("*.example.com")
	case strings.Contains(bare, "/"):
		return "", "holds a slash", "the path goes under match.path"
	case strings.Contains(bare, ":"):
		name, _, _ := strings.Cut(text, ":")
		return "", "has a port, which is not part of what is matched", "write " + quote(name)
	case strings.HasSuffix(bare, ".") && bare != ".":
		return "", "ends in a dot", "write " + quote(strings.TrimSuffix(text, "."))
	case len(bare) > 253:
		return "", "is longer than 253 characters", ""
	}
	for label := range strings.SplitSeq(bare, ".") {
		if label == "" {
			return "", "has an empty label", ""
		}
		for i := 0; i < len(label); i++ {
			c := label[i]
			if c > 0x7f {
				return "", "holds a character outside ASCII", "write the name as it is in DNS, like " + quote("xn--bcher-kva.example")
			}
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return "", "holds " + quote(string(c)), "labels are letters, digits, hyphens and underscores"
			}
		}
	}
	if wild {
		return host("." + bare), "", ""
	}
	return host(name), "", ""
}
