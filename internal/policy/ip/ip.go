// Package ip is the policy that allows and refuses clients by their address,
// and by the country that a GeoIP file places it in. It owns the lookup; whose
// address is meant, behind trusted proxies, was settled before.
package ip

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/oschwald/maxminddb-golang/v2"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "ip".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "ip", Stage: policy.Edge,
		New: func() policy.Config { return &Config{} },
		Doc: "Allows and refuses clients by address and country.",
	}
}

// Config says who may come. What is denied is refused whatever else says.
// Where something is allowed, everybody else is refused.
type Config struct {
	// Addresses and ranges that may come.
	Allow []netip.Prefix `yaml:"allow" example:"10.0.0.0/8"`
	// Addresses and ranges that may not.
	Deny []netip.Prefix `yaml:"deny" example:"192.0.2.0/24"`
	// Countries that may come, by their two-letter codes.
	AllowCountries policy.StringList `yaml:"allow_countries" example:"DE"`
	// Countries that may not.
	DenyCountries policy.StringList `yaml:"deny_countries" example:"AQ"`
	// A GeoIP file in MaxMind's format that has countries.
	GeoIPFile string `yaml:"geoip_file" file:"true" example:"/var/lib/GeoIP/GeoLite2-Country.mmdb"`
	// Only log what would be refused.
	DryRun bool `yaml:"dry_run"`
}

// largestFile bounds the GeoIP file, which is kept in memory.
const largestFile = 512 << 20

// Compile sorts the ranges and reads the file, unless it is the same as before.
func (c *Config) Compile(env *policy.Env) (policy.Policy, error) {
	g := &guard{allow: newRanges(c.Allow), deny: newRanges(c.Deny), limited: len(c.Allow)+len(c.AllowCountries) > 0}
	if c.DryRun {
		g.tell = policy.NewTeller(env)
	}
	var faults []error
	fault := func(field, text, hint string) {
		faults = append(faults, &policy.Fault{Field: field, Text: text, Hint: hint})
	}
	countries := func(key string, list []string) map[country]bool {
		if len(list) == 0 {
			return nil
		}
		set := make(map[country]bool)
		for i, s := range list {
			if len(s) != 2 || strings.Trim(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
				hint := "write DE"
				if len(s) == 2 && strings.ToUpper(s) != s {
					hint = "write " + strings.ToUpper(s)
				}
				fault(fmt.Sprintf("%s[%d]", key, i), fmt.Sprintf("%q is not the code of a country", s), hint)
				continue
			}
			set[country(s)] = true
		}
		return set
	}
	g.allowCountries, g.denyCountries = countries("allow_countries", c.AllowCountries), countries("deny_countries", c.DenyCountries)
	geo := g.allowCountries != nil || g.denyCountries != nil
	switch {
	case len(c.Allow)+len(c.Deny)+len(c.AllowCountries)+len(c.DenyCountries) == 0:
		fault("", "nobody is allowed or denied", "write allow: [10.0.0.0/8] or deny: [192.0.2.0/24]")
	case geo && c.GeoIPFile == "":
		fault("geoip_file", "there is no file that tells countries", "name a GeoLite2-Country.mmdb")
	case !geo && c.GeoIPFile != "":
		fault("geoip_file", "the file is not used: no country is named", "remove it, or name countries")
	case geo:
		db, err := open(env, c.GeoIPFile)
		if err != nil {
			fault("geoip_file", err.Error(), "")
		}
		g.db = db
	}
	return g, errors.Join(faults...)
}

// open reads a file. Policies that name the same state of it share it.
func open(env *policy.Env, path string) (*maxminddb.Reader, error) {
	s, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, fmt.Errorf("GeoIP file %q cannot be read: %w", path, errors.Unwrap(err))
	case !s.Mode().IsRegular():
		return nil, fmt.Errorf("GeoIP file %q is no ordinary file", path)
	case s.Size() > largestFile:
		return nil, fmt.Errorf("GeoIP file %q is larger than %d MiB", path, largestFile>>20)
	}
	v := env.Keep(fmt.Sprintf("geoip %s %d %d", path, s.Size(), s.ModTime().UnixNano()), func() any {
		data, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("GeoIP file %q cannot be read: %w", path, errors.Unwrap(err))
		}
		db, err := maxminddb.OpenBytes(data)
		if err != nil {
			return fmt.Errorf("%q is not a GeoIP file: %w", path, err)
		}
		if !hasCountries(db) {
			return fmt.Errorf("GeoIP file %q has no countries", path)
		}
		return db
	})
	if err, bad := v.(error); bad {
		return nil, err
	}
	db, ok := v.(*maxminddb.Reader)
	if !ok {
		return nil, fmt.Errorf("GeoIP file %q was not read", path)
	}
	return db, nil
}

// looked is how many networks of a file are asked for a country at most.
const looked = 10_000

// hasCountries tells a file of countries from one of something else, such as
// networks' owners, in which nobody would be found to be denied.
func hasCountries(db *maxminddb.Reader) bool {
	n := 0
	for network := range db.Networks() {
		if code, err := countryOf(network); err == nil && code != "" {
			return true
		}
		if n++; n >= looked {
			break
		}
	}
	return false
}

func countryOf(r maxminddb.Result) (code country, err error) {
	err = r.DecodePath(&code, "country", "iso_code")
	return code, err
}

var refused = exchange.Problem{
	Status: 403, Code: "address_refused", Side: exchange.SideClient,
	Detail: "Requests from this address are not taken.",
}

var _ policy.OnRequest = (*guard)(nil)

type country string

type guard struct {
	allow, deny                   ranges
	limited                       bool // somebody is allowed, so all others are not
	db                            *maxminddb.Reader
	allowCountries, denyCountries map[country]bool
	tell                          *policy.Teller // of a dry run
}

func (g *guard) Request(x *exchange.Exchange) policy.Verdict {
	addr := x.Client.Addr.Addr().Unmap().WithZone("")
	err := g.judge(addr)
	if err == nil {
		return policy.Next
	}
	if g.tell != nil {
		g.tell.Spared(policy.DryRun, "a request was let through by dry_run", "request_id", x.RequestID(), "client", x.Client.IP, "reason", err)
		return policy.Next
	}
	x.Fail(refused.With(err))
	return policy.Stop
}

var (
	errDenied  = errors.New("the address is denied")
	errCountry = errors.New("the country is denied")
	errOther   = errors.New("the address is not among those allowed")
)

// judge returns why an address may not come. One that no list knows, or that
// the file has no country for, is not allowed where only some are.
func (g *guard) judge(addr netip.Addr) error {
	if g.deny.has(addr) {
		return errDenied
	}
	var where country
	if g.db != nil {
		var err error
		if where, err = g.country(addr); err != nil && g.denyCountries != nil {
			return err // a file that cannot be read must not let anybody in
		}
		if g.denyCountries[where] {
			return errCountry
		}
	}
	if !g.limited || g.allow.has(addr) || g.allowCountries[where] {
		return nil
	}
	return errOther
}

func (g *guard) country(addr netip.Addr) (country, error) {
	if !addr.IsValid() {
		return "", nil
	}
	code, err := countryOf(g.db.Lookup(addr))
	if err != nil {
		return "", fmt.Errorf("GeoIP file: %w", err)
	}
	return code, nil
}

// ranges are sorted and do not overlap.
type ranges []span

type span struct{ first, last netip.Addr }

// newRanges joins what overlaps, so that one search decides.
func newRanges(list []netip.Prefix) ranges {
	spans := make(ranges, len(list))
	for i, p := range list {
		spans[i] = span{p.Masked().Addr(), lastOf(p)}
	}
	slices.SortFunc(spans, func(a, b span) int { return cmp.Or(a.first.Compare(b.first), b.last.Compare(a.last)) })
	out := spans[:0]
	for _, s := range spans {
		if n := len(out); n > 0 && out[n-1].last.Compare(s.first) >= 0 && out[n-1].last.BitLen() == s.first.BitLen() {
			if s.last.Compare(out[n-1].last) > 0 {
				out[n-1].last = s.last
			}
			continue
		}
		out = append(out, s)
	}
	return out
}

func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func (r ranges) has(a netip.Addr) bool {
	if !a.IsValid() {
		return false
	}
	i, found := slices.BinarySearchFunc(r, a, func(s span, a netip.Addr) int { return s.first.Compare(a) })
	return found || i > 0 && r[i-1].last.Compare(a) >= 0
}
