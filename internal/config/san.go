package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"strings"
)

// SAN returns the one form of a subject alternative name that others of the
// same meaning have too: its type, "dns:", "email:", "uri:" or "ip:", and the
// name. Where text has no type it follows from what the name looks like. Names
// of different types are never the same, whatever they say.
func SAN(text string) (string, error) {
	kind, name, typed := strings.Cut(text, ":")
	kind = strings.ToLower(kind)
	if !typed || kind != "dns" && kind != "email" && kind != "uri" && kind != "ip" {
		kind, name = guessSAN(text), text
	}
	wrong := func() (string, error) { return "", fmt.Errorf("%s is no name of type %s", quote(name), kind) }
	switch kind {
	case "ip":
		addr, err := netip.ParseAddr(name)
		if err != nil || addr.Zone() != "" {
			return wrong()
		}
		name = addr.Unmap().String()
	case "email": // the domain has no case (RFC 5280, section 7.5)
		i := strings.LastIndexByte(name, '@')
		if i <= 0 || i == len(name)-1 {
			return wrong()
		}
		name = name[:i] + strings.ToLower(name[i:])
	case "uri": // neither have scheme and host (RFC 5280, section 7.4)
		u, err := url.Parse(name)
		if err != nil || u.Scheme == "" {
			return wrong()
		}
		u.Scheme, u.Host = strings.ToLower(u.Scheme), strings.ToLower(u.Host)
		name = u.String()
	default:
		if name == "" || strings.ContainsAny(name, "@:/ ") {
			return wrong()
		}
		name = strings.ToLower(name)
	}
	return kind + ":" + name, nil
}

func guessSAN(text string) string {
	_, notIP := netip.ParseAddr(text)
	switch {
	case notIP == nil:
		return "ip"
	case strings.Contains(text, ":"):
		return "uri"
	case strings.Contains(text, "@"):
		return "email"
	}
	return "dns"
}
