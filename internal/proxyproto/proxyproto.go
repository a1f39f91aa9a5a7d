// Package proxyproto owns the PROXY protocol, versions 1 and 2: the few bytes
// before all others by which a proxy that passes connections on tells who
// opened them. It reads and writes those bytes and refuses to touch a
// connection: who is believed, and how long is waited, is for listeners and
// upstreams to say.
//
// Sections are those of HAProxy's "The PROXY protocol", revision of
// 2020-03-05.
package proxyproto

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/netip"
	"strconv"
	"strings"
)

// Header is what a PROXY header says.
type Header struct {
	Version int // 1 or 2
	// Source and Destination are the ends of the connection that is passed on.
	// Both are zero where the header names none: the proxy opened the
	// connection for itself, does not know, or the client came by a Unix socket.
	Source, Destination netip.AddrPort
}

const (
	// MaxSize is how many bytes a header may have. One of version 2 has some
	// hundreds where it carries a client's certificate.
	MaxSize = 4096
	// maxLine is that of version 1, with its line end (section 2.1).
	maxLine = 107
	// fixed is how many bytes of version 2 come before the addresses.
	fixed = 16
	// least is the length of the shortest header there is.
	least = len("PROXY UNKNOWN\r\n")
)

// signature begins every header of version 2 (section 2.2). It is not valid in
// any protocol that a client might speak.
const signature = "\r\n\r\n\x00\r\nQUIT\n"

// Errors of headers. What is wrong in detail is wrapped around them.
var (
	ErrNone      = errors.New("the connection does not begin with a PROXY header")
	ErrMalformed = errors.New("the PROXY header is malformed")
	ErrTooLong   = errors.New("the PROXY header is too long")
)

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}

// Parse reads the header that p begins with. When p holds all of it, size is
// its length. When it does not, size is 0 and more is the number of bytes that
// are missing at least, so that who reads exactly as many never reads beyond
// the header. An error means that no bytes after p could make it a header.
func Parse(p []byte) (h Header, size, more int, err error) {
	switch n := min(len(p), len(signature)); {
	case n == 0:
		return h, 0, least, nil
	case string(p[:n]) == signature[:n]:
		return parse2(p)
	}
	const word = "PROXY "
	if n := min(len(p), len(word)); string(p[:n]) != word[:n] {
		return h, 0, 0, ErrNone
	}
	return parse1(p)
}

// parse1 reads a line (section 2.1).
func parse1(p []byte) (h Header, size, more int, err error) {
	end := bytes.IndexByte(p, '\n')
	if end < 0 {
		if len(p) >= maxLine {
			return h, 0, 0, ErrTooLong
		}
		return h, 0, missing(p), nil
	}
	if end >= maxLine {
		return h, 0, 0, ErrTooLong
	}
	if p[end-1] != '\r' {
		return h, 0, 0, malformed("its line does not end with CR LF")
	}
	h.Version = 1
	line := string(p[len("PROXY ") : end-1])
	if strings.IndexByte(line, '\r') >= 0 {
		return h, 0, 0, malformed("a CR stands within its line")
	}
	family, rest, _ := strings.Cut(line, " ")
	switch family {
	case "UNKNOWN": // what follows is to be ignored
		return h, end + 1, 0, nil
	case "TCP4", "TCP6":
	default:
		return h, 0, 0, malformed("%q is not a protocol", family)
	}
	f := strings.Split(rest, " ")
	if len(f) != 4 {
		return h, 0, 0, malformed("there are %d fields after %s, not 4", len(f), family)
	}
	if h.Source, err = parseEnd(f[0], f[2], family); err == nil {
		h.Destination, err = parseEnd(f[1], f[3], family)
	}
	if err != nil {
		return Header{}, 0, 0, err
	}
	return h, end + 1, 0, nil
}

// missing is how many bytes a line without an end lacks at least. Each field
// that has not begun has a space and a character.
func missing(p []byte) int {
	if p[len(p)-1] == '\r' {
		return 1
	}
	if len(p) < least {
		return least - len(p)
	}
	n := len("\r\n")
	if bytes.HasPrefix(p, []byte("PROXY TCP")) {
		spaces := bytes.Count(p, []byte(" "))
		n += 2 * max(5-spaces, 0)
		if p[len(p)-1] == ' ' {
			n++
		}
	}
	return min(n, maxLine-len(p))
}

func parseEnd(address, port, family string) (end netip.AddrPort, err error) {
	a, err := netip.ParseAddr(address)
	switch {
	case err != nil || a.Zone() != "" || a.Is4() != (family == "TCP4"):
		return end, malformed("%q is not an address for %s", address, family)
	case port == "" || len(port) > 1 && port[0] == '0' || strings.Trim(port, "0123456789") != "":
		return end, malformed("%q is not a port", port)
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return end, malformed("%q is not a port", port)
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), nil
}

// The values of bytes 13 and 14 (section 2.2).
const (
	local = 0x20
	proxy = 0x21

	unspecified = 0x00
	tcp4        = 0x11
	tcp6        = 0x21
	unixStream  = 0x31
)

// addresses is how many bytes the two ends take by family.
func addresses(family byte) int {
	switch family {
	case tcp4:
		return 12
	case tcp6:
		return 36
	case unixStream:
		return 216
	}
	return 0
}

func parse2(p []byte) (h Header, size, more int, err error) {
	if len(p) < fixed {
		return h, 0, fixed - len(p), nil
	}
	command, family := p[12], p[13]
	size = fixed + int(binary.BigEndian.Uint16(p[14:]))
	switch {
	case command != local && command != proxy:
		return h, 0, 0, malformed("version and command are %#02x", command)
	case size > MaxSize:
		return h, 0, 0, fmt.Errorf("%w: it has %d bytes", ErrTooLong, size)
	case command == proxy && family != unspecified && addresses(family) == 0:
		return h, 0, 0, malformed("%#02x is not a family that connects", family)
	case command == proxy && size < fixed+addresses(family):
		return h, 0, 0, malformed("%d bytes are too few for its addresses", size)
	case len(p) < size:
		return h, 0, size - len(p), nil
	}
	p = p[:size]
	h.Version = 2
	if command == local { // what follows is to be ignored
		return h, size, 0, nil
	}
	body := p[fixed:]
	switch family {
	case tcp4:
		h.Source = ends(body[0:4], body[8:10])
		h.Destination = ends(body[4:8], body[10:12])
	case tcp6:
		h.Source = ends(body[0:16], body[32:34])
		h.Destination = ends(body[16:32], body[34:36])
	}
	if family != unspecified {
		if err := checkTLVs(p, fixed+addresses(family)); err != nil {
			return Header{}, 0, 0, err
		}
	}
	return h, size, 0, nil
}

func ends(address, port []byte) netip.AddrPort {
	a, _ := netip.AddrFromSlice(address) // 4 or 16 bytes
	return netip.AddrPortFrom(a.Unmap(), binary.BigEndian.Uint16(port))
}

// checksum is the type of the field that holds one (section 2.2.4).
const checksum = 0x03

// checkTLVs looks at the fields that follow the addresses. Only the checksum is
// of interest; the others must keep within the header.
func checkTLVs(p []byte, at int) error {
	sum := -1
	for i := at; i < len(p); {
		if len(p)-i < 3 {
			return malformed("a field is cut short")
		}
		n := int(binary.BigEndian.Uint16(p[i+1:]))
		if n > len(p)-i-3 {
			return malformed("a field reaches beyond the header")
		}
		if p[i] == checksum {
			if n != 4 || sum >= 0 {
				return malformed("its checksum is not one")
			}
			sum = i + 3
		}
		i += 3 + n
	}
	if sum < 0 {
		return nil
	}
	table := crc32.MakeTable(crc32.Castagnoli)
	c := crc32.Update(0, table, p[:sum])
	c = crc32.Update(c, table, []byte{0, 0, 0, 0})
	c = crc32.Update(c, table, p[sum+4:])
	if c != binary.BigEndian.Uint32(p[sum:]) {
		return malformed("its checksum is wrong")
	}
	return nil
}

// Append appends a header of the version, 1 or 2, that says that a connection
// leads from source to destination. Where one of them has no address the
// header names none.
func Append(b []byte, version int, source, destination netip.AddrPort) []byte {
	known := source.IsValid() && destination.IsValid()
	s, d := source.Addr().Unmap().WithZone(""), destination.Addr().Unmap().WithZone("")
	four := known && s.Is4() && d.Is4()
	if known && !four { // of two families both are written as the longer one
		s, d = netip.AddrFrom16(s.As16()), netip.AddrFrom16(d.As16())
	}
	if version == 1 {
		if !known {
			return append(b, "PROXY UNKNOWN\r\n"...)
		}
		b = append(b, "PROXY TCP"...)
		if four {
			b = append(b, '4', ' ')
		} else {
			b = append(b, '6', ' ')
		}
		b = append(s.AppendTo(b), ' ')
		b = append(d.AppendTo(b), ' ')
		b = append(strconv.AppendUint(b, uint64(source.Port()), 10), ' ')
		b = strconv.AppendUint(b, uint64(destination.Port()), 10)
		return append(b, '\r', '\n')
	}
	b = append(b, signature...)
	b = append(b, proxy)
	switch {
	case !known:
		return append(b, unspecified, 0, 0)
	case four:
		b = append(b, tcp4, 0, byte(addresses(tcp4)))
	default:
		b = append(b, tcp6, 0, byte(addresses(tcp6)))
	}
	b = append(b, s.AsSlice()...)
	b = append(b, d.AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, source.Port())
	return binary.BigEndian.AppendUint16(b, destination.Port())
}
