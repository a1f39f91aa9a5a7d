package proxyproto

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"net/netip"
	"strings"
	"testing"
)

func v2(command, family byte, body string) string {
	return signature + string([]byte{command, family, byte(len(body) >> 8), byte(len(body))}) + body
}

const (
	four = "\x0a\x00\x00\x01\x0a\x00\x00\x02\x30\x39\x01\xbb"
	six  = "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x01" + "\x20\x01\x0d\xb8\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02" + "\x30\x39\x01\xbb"
)

// summed is a header with a checksum, right or off by so much.
func summed(off uint32) string {
	h := []byte(v2(proxy, tcp4, four+"\x04\x00\x02ab"+"\x03\x00\x04\x00\x00\x00\x00"))
	sum := crc32.Checksum(h, crc32.MakeTable(crc32.Castagnoli))
	binary.BigEndian.PutUint32(h[len(h)-4:], sum+off)
	return string(h)
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name, in     string
		source, dest string // "" for none
		err          error
	}{
		{"v1 tcp4", "PROXY TCP4 10.0.0.1 10.0.0.2 12345 443\r\n", "10.0.0.1:12345", "10.0.0.2:443", nil},
		{"v1 tcp6", "PROXY TCP6 2001:db8::1 2001:db8::2 12345 443\r\n", "[2001:db8::1]:12345", "[2001:db8::2]:443", nil},
		{"v1 mapped", "PROXY TCP6 ::ffff:10.0.0.1 ::ffff:10.0.0.2 1 2\r\n", "10.0.0.1:1", "10.0.0.2:2", nil},
		{"v1 longest", "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", nil},
		{"v1 unknown", "PROXY UNKNOWN\r\n", "", "", nil},
		{"v1 unknown with addresses", "PROXY UNKNOWN ffff:: ffff:: 65535 65535\r\n", "", "", nil},
		{"v2 tcp4", v2(proxy, tcp4, four), "10.0.0.1:12345", "10.0.0.2:443", nil},
		{"v2 tcp6", v2(proxy, tcp6, six), "[2001:db8::1]:12345", "[2001:db8::2]:443", nil},
		{"v2 local", v2(local, tcp4, four), "", "", nil},
		{"v2 local without addresses", v2(local, 0, ""), "", "", nil},
		{"v2 unspecified", v2(proxy, unspecified, "abc"), "", "", nil},
		{"v2 unix", v2(proxy, unixStream, strings.Repeat("\x00", 216)), "", "", nil},
		{"v2 fields", v2(proxy, tcp4, four+"\x02\x00\x03abc\x04\x00\x00"), "10.0.0.1:12345", "10.0.0.2:443", nil},
		{"v2 checksum", summed(0), "10.0.0.1:12345", "10.0.0.2:443", nil},

		{"http", "GET / HTTP/1.1\r\n", "", "", ErrNone},
		{"tls", "\x16\x03\x01\x00\x05hello...........", "", "", ErrNone},
		{"lower case", "proxy TCP4 10.0.0.1 10.0.0.2 1 2\r\n", "", "", ErrNone},
		{"v1 two spaces", "PROXY TCP4  10.0.0.1 10.0.0.2 1 2\r\n", "", "", ErrMalformed},
		{"v1 space at the end", "PROXY TCP4 10.0.0.1 10.0.0.2 1 2 \r\n", "", "", ErrMalformed},
		{"v1 bare LF", "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\n", "", "", ErrMalformed},
		{"v1 CR within", "PROXY TCP4 10.0.0.1 10.0.0.2 1\r 2\r\n", "", "", ErrMalformed},
		{"v1 leading zero of a port", "PROXY TCP4 10.0.0.1 10.0.0.2 01 2\r\n", "", "", ErrMalformed},
		{"v1 sign of a port", "PROXY TCP4 10.0.0.1 10.0.0.2 +1 2\r\n", "", "", ErrMalformed},
		{"v1 port too large", "PROXY TCP4 10.0.0.1 10.0.0.2 65536 2\r\n", "", "", ErrMalformed},
		{"v1 leading zero of an address", "PROXY TCP4 010.0.0.1 10.0.0.2 1 2\r\n", "", "", ErrMalformed},
		{"v1 other family", "PROXY TCP4 ::1 ::1 1 2\r\n", "", "", ErrMalformed},
		{"v1 zone", "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", "", "", ErrMalformed},
		{"v1 udp", "PROXY UDP4 10.0.0.1 10.0.0.2 1 2\r\n", "", "", ErrMalformed},
		{"v1 a field too few", "PROXY TCP4 10.0.0.1 10.0.0.2 1\r\n", "", "", ErrMalformed},
		{"v1 too long", "PROXY UNKNOWN " + strings.Repeat("x", 100) + "\r\n", "", "", ErrTooLong},
		{"v2 other version", v2(0x11, tcp4, four), "", "", ErrMalformed},
		{"v2 other command", v2(0x22, tcp4, four), "", "", ErrMalformed},
		{"v2 udp", v2(proxy, 0x12, four), "", "", ErrMalformed},
		{"v2 half unspecified", v2(proxy, 0x10, four), "", "", ErrMalformed},
		{"v2 addresses cut", v2(proxy, tcp6, four), "", "", ErrMalformed},
		{"v2 too long", v2(proxy, tcp4, four+strings.Repeat("\x04\x00\x00", 2000)), "", "", ErrTooLong},
		{"v2 field cut", v2(proxy, tcp4, four+"\x04\x00"), "", "", ErrMalformed},
		{"v2 field beyond", v2(proxy, tcp4, four+"\x04\x00\x09abc"), "", "", ErrMalformed},
		{"v2 wrong checksum", summed(1), "", "", ErrMalformed},
		{"v2 short checksum", v2(proxy, tcp4, four+"\x03\x00\x02ab"), "", "", ErrMalformed},
	} {
		const after = "GET /"
		h, size, more, err := Parse([]byte(c.in + after))
		if !errors.Is(err, c.err) || (err == nil) != (c.err == nil) {
			t.Errorf("%s: error %v, want %v", c.name, err, c.err)
			continue
		}
		if err != nil {
			continue
		}
		if size != len(c.in) || more != 0 {
			t.Errorf("%s: size %d and %d more, want %d", c.name, size, more, len(c.in))
		}
		if got := text(h.Source); got != c.source || text(h.Destination) != c.dest {
			t.Errorf("%s: %v to %v", c.name, h.Source, h.Destination)
		}
		readsExactly(t, c.name, c.in)
	}
}

func text(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// readsExactly reads a header as a connection would: what is missing at least,
// until it is whole, and never a byte beyond.
func readsExactly(t *testing.T, name, in string) {
	t.Helper()
	for n := 0; ; {
		_, size, more, err := Parse([]byte(in[:n]))
		switch {
		case err != nil:
			t.Errorf("%s: the first %d bytes: %v", name, n, err)
			return
		case size > 0:
			if n != len(in) {
				t.Errorf("%s: read %d of %d bytes", name, n, len(in))
			}
			return
		case more <= 0 || n+more > len(in):
			t.Errorf("%s: after %d of %d bytes it wants %d more", name, n, len(in), more)
			return
		}
		n += more
	}
}

func TestAppend(t *testing.T) {
	a := netip.MustParseAddrPort
	for _, c := range []struct {
		source, dest netip.AddrPort
		line         string
	}{
		{a("10.0.0.1:1"), a("10.0.0.2:2"), "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n"},
		{a("[::ffff:10.0.0.1]:1"), a("10.0.0.2:2"), "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n"},
		{a("[2001:db8::1]:1"), a("[2001:db8::2]:2"), "PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n"},
		{a("[fe80::1%eth0]:1"), a("[fe80::2]:2"), "PROXY TCP6 fe80::1 fe80::2 1 2\r\n"},
		{a("10.0.0.1:1"), a("[2001:db8::2]:2"), "PROXY TCP6 ::ffff:10.0.0.1 2001:db8::2 1 2\r\n"},
		{netip.AddrPort{}, a("10.0.0.2:2"), "PROXY UNKNOWN\r\n"},
	} {
		if got := string(Append(nil, 1, c.source, c.dest)); got != c.line {
			t.Errorf("%v, %v: %q, want %q", c.source, c.dest, got, c.line)
		}
		for version := 1; version <= 2; version++ {
			b := Append([]byte(nil), version, c.source, c.dest)
			h, size, _, err := Parse(b)
			if err != nil || size != len(b) || h.Version != version {
				t.Errorf("%q: %v, size %d of %d", b, err, size, len(b))
			}
			if want := c.source.Addr().Unmap().WithZone(""); c.source.IsValid() && (h.Source.Addr() != want || h.Source.Port() != c.source.Port() || h.Destination.Port() != c.dest.Port()) {
				t.Errorf("%q: %v", b, h)
			}
		}
	}
}

// What is parsed and written again parses to the same; what is incomplete
// wants at least a byte, and never so many that it could go beyond a header.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET", "PROXY UNKNOWN\r\n", v2(proxy, tcp4, four), v2(proxy, tcp6, six+"\x04\x00\x00"), v2(local, 0, ""), summed(0), "GET / HTTP/1.1\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		h, size, more, err := Parse(p)
		if err != nil {
			return
		}
		if size == 0 {
			if more <= 0 || len(p)+more > MaxSize {
				t.Fatalf("%q wants %d more", p, more)
			}
			return
		}
		if size > len(p) || more != 0 {
			t.Fatalf("%q: size %d, %d more", p, size, more)
		}
		readsExactly(t, "fuzz", string(p[:size]))
		b := Append(nil, h.Version, h.Source, h.Destination)
		again, _, _, err := Parse(b)
		if err != nil || again != h {
			t.Fatalf("%q: %v became %q: %v, %v", p, h, b, again, err)
		}
	})
}
