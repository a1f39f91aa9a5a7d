package discover

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"

	"gatehouse.dev/gatehouse/internal/config"
)

// zone is a name server on loopback, over UDP and TCP, whose records a test
// sets.
type zone struct {
	mu      sync.Mutex
	records map[string][]string // by name and type
	fail    map[string]int      // codes by name and type
	asked   map[string]int      // by network
	port    string
}

func newZone(t *testing.T) *zone {
	t.Helper()
	z := &zone{records: make(map[string][]string), fail: make(map[string]int), asked: make(map[string]int)}
	packets, ln := bothSockets(t)
	_, z.port, _ = net.SplitHostPort(ln.Addr().String())
	for _, s := range []*dns.Server{{PacketConn: packets, Handler: z}, {Listener: ln, Handler: z}} {
		up := make(chan struct{})
		s.NotifyStartedFunc = func() { close(up) }
		done := make(chan error, 1)
		go func() { done <- s.ActivateAndServe() }()
		<-up
		t.Cleanup(func() {
			if err := errors.Join(s.Shutdown(), <-done); err != nil {
				t.Error(err)
			}
		})
	}
	return z
}

// bothSockets listens on one port by UDP and TCP. A port that is free for one
// may be taken for the other.
func bothSockets(t *testing.T) (net.PacketConn, net.Listener) {
	t.Helper()
	var last error
	for range 100 {
		packets, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ln, err := net.Listen("tcp", packets.LocalAddr().String())
		if err == nil {
			return packets, ln
		}
		packets.Close()
		last = err
	}
	t.Fatal(last)
	return nil, nil
}

func (z *zone) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	z.mu.Lock()
	defer z.mu.Unlock()
	network := w.RemoteAddr().Network()
	z.asked[network]++
	m := new(dns.Msg).SetReply(q)
	key := q.Question[0].Name + " " + dns.TypeToString[q.Question[0].Qtype]
	if m.Rcode = z.fail[key]; m.Rcode == 0 {
		for _, text := range z.records[key] {
			r, err := dns.NewRR(text)
			if err != nil {
				panic(err)
			}
			m.Answer = append(m.Answer, r)
		}
	}
	if network == "udp" {
		m.Truncate(dnsSize)
	}
	_ = w.WriteMsg(m) // a client that left
}

func (z *zone) set(key string, records ...string) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.records[key] = records
}

// resolver returns one that asks the zone, with a system that knows nothing.
func (z *zone) resolver(t *testing.T, hosts string) *DNS {
	t.Helper()
	file := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(file, []byte(hosts), 0o600); err != nil {
		t.Fatal(err)
	}
	return &DNS{
		settings: func() (*dns.ClientConfig, error) {
			c, err := dns.ClientConfigFromReader(strings.NewReader("nameserver 127.0.0.1\nsearch shop.example\n"))
			c.Port = z.port
			return c, err
		},
		hosts: file,
		system: &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
			return nil, errors.New("the system's resolver was asked")
		}},
	}
}

func TestAddresses(t *testing.T) {
	z := newZone(t)
	z.set("a.example. A", "a.example. 30 IN A 10.0.0.1", "a.example. 20 IN A 10.0.0.2")
	z.set("a.example. AAAA", "a.example. 40 IN AAAA 2001:db8::1")
	z.set("short.shop.example. A", "short.shop.example. 9 IN A 10.0.0.3")
	z.set("alias.example. A", "alias.example. 5 IN CNAME real.example.", "real.example. 60 IN A 10.0.0.4", "other.example. 1 IN A 10.6.6.6")
	z.set("zero.example. A", "zero.example. 0 IN A 10.0.0.5")
	z.set("half.example. A", "half.example. 5 IN A 10.0.0.6")
	z.fail["half.example. AAAA"] = dns.RcodeServerFailure
	z.set("listed.example. A", "listed.example. 5 IN A 10.6.6.6")
	var many []string
	for i := range 200 {
		many = append(many, fmt.Sprintf("many.example. 7 IN A 10.0.1.%d", i))
	}
	z.set("many.example. A", many...)
	d := z.resolver(t, "# none\n192.0.2.1 other Listed.example # here\n")
	for name, want := range map[string]string{
		"a.example":     "[10.0.0.1 10.0.0.2 2001:db8::1] 20s",
		"short":         "[10.0.0.3] 9s",
		"alias.example": "[10.0.0.4] 5s",
		"zero.example":  "[10.0.0.5] 1s",
	} {
		found, good, err := d.Addresses(t.Context(), name)
		if got := fmt.Sprint(found, good); got != want || err != nil {
			t.Errorf("%s: %s, %v, not %s", name, got, err, want)
		}
	}
	found, good, err := d.Addresses(t.Context(), "many.example")
	z.mu.Lock()
	streams := z.asked["tcp"]
	z.mu.Unlock()
	if len(found) != 200 || good != 7*time.Second || err != nil || streams == 0 {
		t.Errorf("an answer that does not fit into a packet: %d addresses, %v, %v", len(found), good, err)
	}
	for _, name := range []string{"none.example", "half.example", "listed.example"} {
		if found, good, err := d.Addresses(t.Context(), name); err == nil || good != 0 {
			t.Errorf("%s: %v, %v, though it is the system's", name, found, good)
		}
	}
	d.settings = func() (*dns.ClientConfig, error) { return nil, errors.New("no such file") }
	if _, _, err := d.Addresses(t.Context(), "a.example"); err == nil {
		t.Error("without settings the system is not asked")
	}
}

// Records are followed as soon as they are no longer good, however long the
// interval is.
func TestServicesAreFollowed(t *testing.T) {
	z := newZone(t)
	const name = "_http._tcp.shop.example"
	z.set(name+". SRV", name+". 1 IN SRV 10 5 8080 a.shop.example.", name+". 300 IN SRV 20 1 8081 b.shop.example.")
	s, err := New(&config.Discovery{SRV: name, Scheme: "http", Interval: config.Duration(time.Hour)}, z.resolver(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	lists := make(chan []*config.Endpoint)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Watch(ctx, func(found []*config.Endpoint, err error) time.Duration {
			if err != nil {
				t.Error(err)
			}
			select {
			case lists <- found:
			case <-ctx.Done():
			}
			return 0
		})
	}()
	if first := <-lists; len(first) != 2 || first[0].URL != "http://a.shop.example:8080" || first[0].Weight != 5 || first[1].Priority != 1 {
		t.Errorf("found %v", first)
	}
	z.set(name+". SRV", name+". 1 IN SRV 10 5 8080 c.shop.example.")
	for next := range lists {
		if len(next) == 1 && next[0].URL == "http://c.shop.example:8080" {
			break
		}
	}
	cancel()
	<-done
}

// A name is resolved again when its addresses are no longer good, a second
// later at most; interval is the longest time.
func TestNamesAreFollowed(t *testing.T) {
	for _, test := range []struct {
		interval, good, from, upto time.Duration
	}{
		{time.Hour, 2 * time.Second, 2 * time.Second, 3 * time.Second},
		{time.Hour, time.Millisecond, time.Second, 2 * time.Second},
		{5 * time.Second, time.Hour, 4500 * time.Millisecond, 5500 * time.Millisecond},
		{5 * time.Second, 0, 4500 * time.Millisecond, 5500 * time.Millisecond},
		{100 * time.Millisecond, time.Second, 90 * time.Millisecond, 110 * time.Millisecond},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, err := New(&config.Discovery{DNS: "a.example:80", Scheme: "http", Interval: config.Duration(test.interval)}, nil)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			begin, times := time.Now(), 0
			s.Watch(ctx, func([]*config.Endpoint, error) time.Duration {
				if times++; times == 2 {
					if d := time.Since(begin); d < test.from || d > test.upto {
						t.Errorf("interval %v, good for %v: asked again after %v", test.interval, test.good, d)
					}
					cancel()
				}
				return test.good
			})
		})
	}
}
