package exchange

import "net/netip"

// This file is what an address means that a name, or somebody else, leads the
// gateway to.

// Plain returns the address that a packet to a goes to: without a zone, and that
// of IPv4 where it stands within one of IPv6 (RFC 4291, section 2.5.5.2; RFC
// 6052, section 2.1).
func Plain(a netip.Addr) netip.Addr {
	a = a.WithZone("").Unmap()
	if nat64 := netip.MustParsePrefix("64:ff9b::/96"); nat64.Contains(a) {
		b := a.As16()
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return a
}

// Nowhere reports whether no service can be at a plain address.
func Nowhere(a netip.Addr) bool {
	return !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// LinkLocal reports whether a plain address is one of the link, or that of a
// cloud's metadata service, of which most are: there the secrets of a machine
// are to be had.
func LinkLocal(a netip.Addr) bool {
	switch a.String() {
	case "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd20:ce::254":
		return true
	}
	return a.IsLinkLocalUnicast() || netip.MustParsePrefix("fd00:ec2::/32").Contains(a)
}
