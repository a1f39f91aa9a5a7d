package discover

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// DNS looks up names and says for how long the answers are good, which the
// system's resolver does not tell. It asks the servers of /etc/resolv.conf.
// What stands in the hosts file, and what the servers have no answer for, is
// the system's: it may know other sources.
type DNS struct {
	settings func() (*dns.ClientConfig, error)
	hosts    string // file
	system   *net.Resolver
}

// NewDNS returns a resolver with the settings of this machine. They are read
// again for each look-up.
func NewDNS() *DNS {
	return &DNS{
		settings: func() (*dns.ClientConfig, error) { return dns.ClientConfigFromFile("/etc/resolv.conf") },
		hosts:    "/etc/hosts", system: net.DefaultResolver,
	}
}

const (
	dnsTry     = 2 * time.Second // the longest time for one server to answer
	dnsSize    = 1232            // bytes of an answer over UDP, which no path divides
	mostHosts  = 1 << 20         // bytes of the hosts file that are looked at
	mostCNAMEs = 16
)

// LookupNetIP returns the addresses of a name.
func (d *DNS) LookupNetIP(ctx context.Context, network, host string) ([]netip.Addr, error) {
	found, _, err := d.Addresses(ctx, host)
	return found, err
}

// Addresses returns the addresses of a name and how long they are good, 0 when
// that is not known.
func (d *DNS) Addresses(ctx context.Context, host string) (found []netip.Addr, good time.Duration, err error) {
	if !d.inHosts(host) {
		if found, good, err = d.ask(ctx, host); err == nil && len(found) > 0 {
			return found, good, nil
		}
	}
	found, err = d.system.LookupNetIP(ctx, "ip", host)
	return found, 0, err
}

func (d *DNS) ask(ctx context.Context, host string) (found []netip.Addr, good time.Duration, err error) {
	settings, err := d.settings()
	if err != nil {
		return nil, 0, err
	}
	for _, name := range settings.NameList(host) {
		type answer struct {
			records []dns.RR
			good    time.Duration
			err     error
		}
		six := make(chan answer, 1)
		go func() {
			records, good, err := exchange(ctx, settings, name, dns.TypeAAAA)
			six <- answer{records, good, err}
		}()
		four, good, err := exchange(ctx, settings, name, dns.TypeA)
		other := <-six
		// Half of an answer would look like endpoints that are gone.
		if err := errors.Join(err, other.err); err != nil {
			return nil, 0, err
		}
		for _, r := range slices.Concat(four, other.records) {
			var a netip.Addr
			switch r := r.(type) {
			case *dns.A:
				a, _ = netip.AddrFromSlice(r.A)
			case *dns.AAAA:
				a, _ = netip.AddrFromSlice(r.AAAA)
			}
			if a.IsValid() {
				found = append(found, a.Unmap())
			}
		}
		if len(found) > 0 {
			return found, min(good, other.good), nil
		}
	}
	return nil, 0, nil
}

// LookupSRV returns the SRV records of a name.
func (d *DNS) LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error) {
	if service != "" || proto != "" {
		return d.system.LookupSRV(ctx, service, proto, name)
	}
	found, _, err := d.Services(ctx, name)
	return name, found, err
}

// Services returns the SRV records of a name and how long they are good, 0 when
// that is not known.
func (d *DNS) Services(ctx context.Context, name string) (found []*net.SRV, good time.Duration, err error) {
	settings, err := d.settings()
	if err == nil {
		for _, full := range settings.NameList(name) {
			var records []dns.RR
			if records, good, err = exchange(ctx, settings, full, dns.TypeSRV); err != nil {
				break
			}
			for _, r := range records {
				if s, ok := r.(*dns.SRV); ok {
					found = append(found, &net.SRV{Target: s.Target, Port: s.Port, Priority: s.Priority, Weight: s.Weight})
				}
			}
			if len(found) > 0 {
				return found, good, nil
			}
		}
	}
	_, found, err = d.system.LookupSRV(ctx, "", "", name)
	return found, 0, err
}

// exchange asks one server after the other until one answers. That there is no
// such name or record is an answer without records.
func exchange(ctx context.Context, settings *dns.ClientConfig, name string, kind uint16) (records []dns.RR, good time.Duration, err error) {
	err = errors.New("there is no name server")
	for range max(min(settings.Attempts, 3), 1) {
		for _, server := range settings.Servers {
			var m *dns.Msg
			if m, err = query(ctx, net.JoinHostPort(server, settings.Port), name, kind); err == nil {
				records, good = ofName(m, name, kind)
				return records, good, nil
			}
			if ctx.Err() != nil {
				return nil, 0, err
			}
		}
	}
	return nil, 0, err
}

// query asks one server, over TCP when the answer does not fit into a packet.
func query(ctx context.Context, server, name string, kind uint16) (*dns.Msg, error) {
	q := new(dns.Msg)
	q.SetQuestion(name, kind)
	q.SetEdns0(dnsSize, false)
	for _, network := range []string{"udp", "tcp"} {
		c := &dns.Client{Net: network, UDPSize: dnsSize, Timeout: dnsTry}
		m, _, err := c.ExchangeContext(ctx, q, server)
		if err != nil {
			return nil, fmt.Errorf("asking %s for %s of %q: %w", server, dns.TypeToString[kind], name, err)
		}
		if len(m.Question) != 1 || !strings.EqualFold(m.Question[0].Name, name) || m.Question[0].Qtype != kind {
			return nil, fmt.Errorf("%s answers another question than %s of %q", server, dns.TypeToString[kind], name)
		}
		if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
			return nil, fmt.Errorf("%s answers %s to %s of %q", server, dns.RcodeToString[m.Rcode], dns.TypeToString[kind], name)
		}
		if !m.Truncated {
			return m, nil
		}
	}
	return nil, fmt.Errorf("the answer of %s to %s of %q is cut off", server, dns.TypeToString[kind], name)
}

// ofName returns an answer's records of a kind that belong to a name, or to
// what it is an alias of, and the shortest time for which one of them is good.
func ofName(m *dns.Msg, name string, kind uint16) (found []dns.RR, good time.Duration) {
	ttl := uint32(math.MaxInt32)
	for range mostCNAMEs {
		alias := ""
		for _, r := range m.Answer {
			h := r.Header()
			if !strings.EqualFold(h.Name, name) {
				continue
			}
			switch c, ok := r.(*dns.CNAME); {
			case h.Rrtype == kind:
				found = append(found, r)
				ttl = min(ttl, h.Ttl)
			case ok:
				alias = c.Target
				ttl = min(ttl, h.Ttl)
			}
		}
		if found != nil || alias == "" {
			break
		}
		name = alias
	}
	return found, max(time.Duration(ttl), 1) * time.Second // 0 would say that it is not known
}

// inHosts tells whether a name stands in the hosts file, which has the last
// word.
func (d *DNS) inHosts(name string) bool {
	f, err := os.Open(d.hosts)
	if err != nil {
		return false // a system without one
	}
	defer f.Close()
	name = strings.TrimSuffix(name, ".")
	read := 0
	for lines := bufio.NewScanner(f); lines.Scan() && read < mostHosts; {
		line := lines.Text()
		read += len(line)
		line, _, _ = strings.Cut(line, "#")
		if fields := strings.Fields(line); len(fields) > 1 && slices.ContainsFunc(fields[1:], func(s string) bool { return strings.EqualFold(s, name) }) {
			return true
		}
	}
	return false
}
