package ip

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"gatehouse.dev/gatehouse/internal/policy"
)

// The pieces of a GeoIP file (MaxMind DB, version 2.0), as far as a test needs
// them: strings, small numbers and maps.

func text(s string) string { return string(rune(2<<5|len(s))) + s }

func number(n uint32) string {
	b := binary.BigEndian.AppendUint32(nil, n)
	return string([]byte{6<<5 | 4}) + string(b)
}

func mapping(pairs ...string) string {
	return string([]byte{byte(7<<5 | len(pairs)/2)}) + strings.Join(pairs, "")
}

// geoFile writes a file in which 0.0.0.0/1 is in one country, 128.0.0.0/2 in
// another, and the rest in none.
func geoFile(t *testing.T, low, high string) string {
	t.Helper()
	record := func(code string) string {
		return mapping(text("country"), mapping(text("iso_code"), text(code)))
	}
	const nodes = 2
	data := record(low) + record(high)
	at := func(offset int) []byte { // a record that points into the data
		n := nodes + 16 + offset
		return []byte{byte(n >> 16), byte(n >> 8), byte(n)}
	}
	node := func(n int) []byte { return []byte{0, 0, byte(n)} }
	var file []byte
	file = append(append(file, at(0)...), node(1)...)
	file = append(append(file, at(len(record(low)))...), node(nodes)...)
	file = append(file, make([]byte, 16)...)
	file = append(file, data...)
	file = append(file, "\xab\xcd\xefMaxMind.com"...)
	file = append(file, mapping(
		text("binary_format_major_version"), number(2), text("binary_format_minor_version"), number(0),
		text("node_count"), number(nodes), text("record_size"), number(24), text("ip_version"), number(4),
		text("database_type"), text("Test-Country"), text("build_epoch"), number(1_700_000_000),
	)...)
	name := filepath.Join(t.TempDir(), "test.mmdb")
	if err := os.WriteFile(name, file, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func compile(t *testing.T, c *Config, kept map[string]any) (*guard, error) {
	t.Helper()
	p, err := c.Compile(&policy.Env{Keep: func(key string, create func() any) any {
		if kept[key] == nil {
			kept[key] = create()
		}
		return kept[key]
	}})
	if err != nil {
		return nil, err
	}
	return p.(*guard), nil
}

func TestCountries(t *testing.T) {
	kept := make(map[string]any)
	file := geoFile(t, "DE", "AQ")
	for _, c := range []struct {
		allow, deny string
		addr        string
		want        error
	}{
		{"", "AQ", "10.0.0.1", nil},
		{"", "AQ", "130.0.0.1", errCountry},
		{"", "AQ", "200.0.0.1", nil},
		{"DE", "", "10.0.0.1", nil},
		{"DE", "", "130.0.0.1", errOther},
		{"DE", "", "200.0.0.1", errOther},
		{"DE", "", "", errOther},
	} {
		settings := &Config{GeoIPFile: file}
		if c.allow != "" {
			settings.AllowCountries = policy.StringList{c.allow}
		}
		if c.deny != "" {
			settings.DenyCountries = policy.StringList{c.deny}
		}
		g, err := compile(t, settings, kept)
		if err != nil {
			t.Fatal(err)
		}
		addr, _ := netip.ParseAddr(c.addr)
		if got := g.judge(addr); !errors.Is(got, c.want) {
			t.Errorf("%+v: %v", c, got)
		}
	}
	if len(kept) != 1 {
		t.Errorf("the file was read %d times", len(kept))
	}
	// A file of IPv4 alone cannot tell about IPv6: that must not let anybody in.
	g, err := compile(t, &Config{DenyCountries: policy.StringList{"AQ"}, GeoIPFile: file}, kept)
	if err != nil {
		t.Fatal(err)
	}
	if g.judge(netip.MustParseAddr("2001:db8::1")) == nil {
		t.Error("an address that the file cannot look up came through a list of denied countries")
	}
}

func TestBadFiles(t *testing.T) {
	// A file of something else would deny nobody.
	if _, err := compile(t, &Config{DenyCountries: policy.StringList{"AQ"}, GeoIPFile: geoFile(t, "", "")}, make(map[string]any)); err == nil || !strings.Contains(err.Error(), "has no countries") {
		t.Errorf("a file without countries: %v", err)
	}
	if whole, err := os.ReadFile(geoFile(t, "DE", "AQ")); err != nil {
		t.Fatal(err)
	} else {
		// However it is cut or spoilt, it is refused or still tells something; it
		// never lets anybody in that it denied.
		for at := range whole {
			for _, data := range [][]byte{whole[:at], append(append(bytes.Clone(whole[:at]), 0xff), whole[at+1:]...)} {
				file := filepath.Join(t.TempDir(), "spoilt.mmdb")
				if err := os.WriteFile(file, data, 0o600); err != nil {
					t.Fatal(err)
				}
				if g, err := compile(t, &Config{AllowCountries: policy.StringList{"DE"}, GeoIPFile: file}, make(map[string]any)); err == nil && g.judge(netip.MustParseAddr("200.0.0.1")) == nil {
					t.Errorf("spoilt at %d, it lets somebody in whom it does not know", at)
				}
			}
		}
	}
	odd := filepath.Join(t.TempDir(), "odd.mmdb")
	if err := os.WriteFile(odd, []byte("not a database"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{odd: "is not a GeoIP file", t.TempDir(): "no ordinary file", odd + "x": "cannot be read"} {
		_, err := compile(t, &Config{DenyCountries: policy.StringList{"AQ"}, GeoIPFile: name}, make(map[string]any))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}

// TestRanges compares the search with asking every range.
func TestRanges(t *testing.T) {
	address := rapid.Custom(func(t *rapid.T) netip.Addr {
		if rapid.Bool().Draw(t, "six") {
			return netip.AddrFrom16([16]byte{0x20, 0x01, 14: rapid.Byte().Draw(t, "a"), 15: rapid.Byte().Draw(t, "b")})
		}
		return netip.AddrFrom4([4]byte{10, 0, rapid.Byte().Draw(t, "a"), rapid.Byte().Draw(t, "b")})
	})
	prefix := rapid.Custom(func(t *rapid.T) netip.Prefix {
		a := address.Draw(t, "addr")
		return netip.PrefixFrom(a, rapid.IntRange(a.BitLen()-12, a.BitLen()).Draw(t, "bits")).Masked()
	})
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfN(prefix, 0, 20).Draw(t, "list")
		r := newRanges(list)
		for range 20 {
			a, want := address.Draw(t, "asked"), false
			for _, p := range list {
				want = want || p.Contains(a)
			}
			if r.has(a) != want {
				t.Fatalf("%v in %v: %v", a, list, !want)
			}
		}
	})
}
