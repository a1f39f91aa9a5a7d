package certs

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/policy"
)

// authorityBinary builds a real ACME authority, pebble as pinned in
// tools/go.mod, into the build cache.
var authorityBinary = sync.OnceValues(func() (string, error) {
	cmd := exec.Command("go", "tool", "-modfile=tools/go.mod", "-n", "pebble")
	cmd.Dir = "../.."
	out, err := cmd.Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = fmt.Errorf("%w\n%s", err, exit.Stderr)
	}
	return strings.TrimSpace(string(out)), err
})

// ca is a running authority, and what it looks at to validate names: a name
// server, a plain listener and one with TLS.
type ca struct {
	*rig
	root      *issuer
	directory string
	stop      func() // ends it
	out       *logs
	http, tls net.Listener
	dns       string // address of the name server

	mu  sync.Mutex
	txt map[string][]string
}

type caOptions struct {
	validity int // seconds
	eab      map[string]string
}

const (
	macKey  = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
	tsigKey = "c2VjcmV0IG9mIHRoZSBuYW1lIHNlcnZlcg=="
)

// newCA starts an authority that validates the listener x of the rig.
func newCA(t *testing.T, r *rig, o caOptions) *ca {
	t.Helper()
	if testing.Short() {
		t.Skip("building and asking a real authority takes a while")
	}
	binary, err := authorityBinary()
	if err != nil {
		t.Fatal(err)
	}
	c := &ca{rig: r, root: newIssuer(t, "directory"), out: new(logs), txt: make(map[string][]string)}
	r.pair(c.root, "directory", leaf{ips: []net.IP{net.IPv4(127, 0, 0, 1)}})
	r.write("directory.pem", c.root.pem())
	listen := func() net.Listener {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return ln
	}
	c.http, c.tls = listen(), listen()
	c.serve(t)
	c.dns = c.nameServer(t)
	for !c.start(t, binary, listen, o) {
		c.stop() // somebody took its port first
	}
	t.Cleanup(c.stop)
	return c
}

// start runs the authority, and reports false when it ends at once.
func (c *ca) start(t *testing.T, binary string, listen func() net.Listener, o caOptions) bool {
	t.Helper()
	free := listen()
	address := free.Addr().String()
	free.Close()
	port := func(ln net.Listener) int { return ln.Addr().(*net.TCPAddr).Port }
	data, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": address, "certificate": filepath.Join(c.dir, "directory.crt"), "privateKey": filepath.Join(c.dir, "directory.key"),
		"httpPort": port(c.http), "tlsPort": port(c.tls), "retryAfter": map[string]int{"authz": 1, "order": 1},
		"externalAccountBindingRequired": o.eab != nil, "externalAccountMACKeys": o.eab,
		"keyAlgorithm": "ecdsa",
		"profiles":     map[string]any{"default": map[string]any{"description": "the only one", "validityPeriod": o.validity}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(binary, "-config", c.write("pebble.json", data), "-strict", "-dnsserver", c.dns)
	// Every order is validated, and sometimes a nonce is refused as it may be.
	cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_AUTHZREUSE=0", "PEBBLE_WFE_NONCEREJECT=5")
	cmd.Stdout, cmd.Stderr = c.out, c.out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait() // it is killed: that is its error
		close(ended)
	}()
	c.stop = sync.OnceFunc(func() {
		cmd.Process.Kill()
		<-ended
	})
	c.directory = "https://" + address + "/dir"
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: c.root.pool()}, DisableKeepAlives: true}}
	alive := true
	c.until("the authority to answer", func() bool {
		select {
		case <-ended:
			alive = false
			return true
		default:
		}
		resp, err := client.Get(c.directory)
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return alive
}

// until waits for something that another process does. What fails once, on a
// machine that is busy, is tried again after a minute.
func (c *ca) until(what string, done func() bool) {
	c.Helper()
	deadline := time.Now().Add(4 * time.Minute)
	for !done() {
		if time.Now().After(deadline) {
			c.Fatalf("waited for %s in vain\n%s\n%+v\n%s", what, c.logs.text(), c.store.Status(), c.out.text())
		}
		time.Sleep(20 * time.Millisecond) // between two looks
	}
}

// serve answers on both listeners as the front does.
func (c *ca) serve(t *testing.T) {
	plain := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		answer, ok := c.store.HTTPChallenge(req.Host, req.URL.Path)
		if !ok {
			http.NotFound(w, req)
			return
		}
		io.WriteString(w, answer)
	}), ReadHeaderTimeout: time.Minute}
	go plain.Serve(c.http)
	var open sync.WaitGroup
	open.Go(func() {
		for {
			nc, err := c.tls.Accept()
			if err != nil {
				return
			}
			open.Go(func() {
				defer nc.Close()
				ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
				defer cancel()
				set, ok := c.sets.Load("x")
				if !ok {
					return // between two configurations
				}
				conn, facts, err := set.(*Set).Handshake(ctx, nc)
				if err == nil {
					fmt.Fprintf(conn, "%v", facts.Peer != nil)
				} else if !errors.Is(err, ErrChallenge) && strings.Contains(err.Error(), "panic") {
					t.Error(err)
				}
			})
		}
	})
	t.Cleanup(func() {
		plain.Close()
		c.tls.Close()
		open.Wait()
	})
}

// nameServer knows that every name is at 127.0.0.1, and takes updates.
func (c *ca) nameServer(t *testing.T) string {
	t.Helper()
	var udp net.PacketConn
	var tcp net.Listener
	for tcp == nil { // until one port is free for both
		var err error
		if udp, err = net.ListenPacket("udp", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		if tcp, err = net.Listen("tcp", udp.LocalAddr().String()); err != nil {
			udp.Close()
			if !errors.Is(err, syscall.EADDRINUSE) {
				t.Fatal(err)
			}
		}
	}
	secrets := map[string]string{"gatehouse.": tsigKey}
	for _, s := range []*dns.Server{{PacketConn: udp}, {Listener: tcp}} {
		s.Handler, s.TsigSecret, s.MsgAcceptFunc = dns.HandlerFunc(c.resolve), secrets, func(dns.Header) dns.MsgAcceptAction { return dns.MsgAccept }
		go s.ActivateAndServe()
		t.Cleanup(func() { s.Shutdown() })
	}
	return udp.LocalAddr().String()
}

func (c *ca) resolve(w dns.ResponseWriter, q *dns.Msg) {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := new(dns.Msg)
	m.SetReply(q)
	switch {
	case q.Opcode == dns.OpcodeUpdate && (q.IsTsig() == nil || w.TsigStatus() != nil):
		m.Rcode = dns.RcodeNotAuth
	case q.Opcode == dns.OpcodeUpdate:
		for _, rr := range q.Ns {
			txt, ok := rr.(*dns.TXT)
			name := strings.ToLower(rr.Header().Name)
			switch {
			case !ok:
				m.Rcode = dns.RcodeRefused
			case rr.Header().Class == dns.ClassINET:
				c.txt[name] = append(c.txt[name], txt.Txt[0])
			default:
				delete(c.txt, name)
			}
		}
	case q.Question[0].Qtype == dns.TypeA:
		m.Answer = append(m.Answer, &dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1}, A: net.IPv4(127, 0, 0, 1)})
	case q.Question[0].Qtype == dns.TypeTXT:
		for _, value := range c.txt[strings.ToLower(q.Question[0].Name)] {
			m.Answer = append(m.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 1}, Txt: []string{value}})
		}
	}
	if tsig := q.IsTsig(); tsig != nil && w.TsigStatus() == nil {
		m.SetTsig(tsig.Hdr.Name, tsig.Algorithm, 300, time.Now().Unix())
	}
	w.WriteMsg(m)
}

func (l *logs) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.String()
}

// served returns the serial number of what a visitor to a name gets to see, ""
// for nothing.
func (c *ca) served(name string) string {
	conn, err := tls.Dial("tcp", c.tls.Addr().String(), &tls.Config{ServerName: name, InsecureSkipVerify: true})
	if err != nil {
		return ""
	}
	defer conn.Close()
	leaf := conn.ConnectionState().PeerCertificates[0]
	if leaf.VerifyHostname(name) != nil || strings.HasPrefix(leaf.Issuer.CommonName, "servers") {
		return ""
	}
	return leaf.SerialNumber.String()
}

// Both challenges that listeners answer, each alone. The listener wants client
// certificates, which no authority has.
func TestObtain(t *testing.T) {
	for challenge, eab := range map[string]string{"http-01": "", "tls-alpn-01": fmt.Sprintf(", eab: { key_id: kid-1, mac_key: %s }", macKey)} {
		t.Run(challenge, func(t *testing.T) {
			r, servers := newRig(t, Options{}), newIssuer(t, "servers")
			o := caOptions{validity: 3600}
			if eab != "" {
				o.eab = map[string]string{"kid-1": macKey}
			}
			c := newCA(t, r, o)
			r.pair(servers, "a", leaf{names: []string{"a.example"}})
			r.write("p.pem", servers.pem())
			listener := func(domains string) string {
				return fmt.Sprintf(`  - { name: plain, address: ":0" }
  - name: x
    address: ":1"
    tls:
      certificates: [{ cert_file: a.crt, key_file: a.key }]
      client_auth: { mode: request, ca_file: p.pem }
      acme: { email: ops@example.com, domains: [%s], directory: %q, ca_file: directory.pem, storage: state, challenges: [%s]%s }`, domains, c.directory, challenge, eab)
			}
			r.mustApply(listener("Shop.test"))
			if got := c.served("shop.test"); got != "" {
				t.Error("there is a certificate before it was obtained")
			}
			c.until("a certificate", func() bool { return c.served("shop.test") != "" })
			first := c.served("shop.test")
			var found bool
			for _, s := range r.store.Status() {
				if s.Source == c.directory {
					found = s.Names[0] == "shop.test" && s.Error == "" && time.Until(s.Expires) > 50*time.Minute
				}
			}
			if !found {
				t.Errorf("status: %+v", r.store.Status())
			}
			if got := r.mustConnect("x", trusting(servers, "a.example")).serial(); got == 0 {
				t.Error("the certificate from files is gone")
			}
			// Another name is obtained beside it, and one that is no longer
			// wanted is no longer shown.
			r.mustApply(listener("shop.test, pay.test"))
			if c.served("shop.test") != first {
				t.Error("a reload took the certificate away")
			}
			c.until("a second certificate", func() bool { return c.served("pay.test") != "" })
			r.mustApply(listener("pay.test"))
			if c.served("shop.test") != "" {
				t.Error("a name that is no longer listed has its certificate still")
			}
			// Secrets stay out of the log, and files out of reach.
			if strings.Contains(r.logs.text(), macKey) || strings.Contains(r.logs.text(), "PRIVATE KEY") {
				t.Error("the log shows a secret")
			}
			if answer, ok := r.store.HTTPChallenge("pay.test", "/.well-known/acme-challenge/"+strings.Repeat("x", 40)); ok {
				t.Errorf("an answer to a question that nobody asked: %q", answer)
			}
		})
	}
}

// A certificate is renewed before it ends. When the authority is gone the old
// one goes on, through a restart too.
func TestRenew(t *testing.T) {
	r := newRig(t, Options{renewals: 200 * time.Millisecond})
	c := newCA(t, r, caOptions{validity: 12})
	listener := fmt.Sprintf(`  - name: x
    address: ":1"
    tls:
      acme: { email: ops@example.com, domains: shop.test, directory: %q, ca_file: directory.pem, storage: state }`, c.directory)
	r.mustApply(listener)
	c.until("a certificate", func() bool { return c.served("shop.test") != "" })
	first := c.served("shop.test")
	c.until("another certificate", func() bool {
		now := c.served("shop.test")
		if now == "" {
			t.Fatal("there was a moment without a certificate")
		}
		return now != first
	})
	c.stop()
	c.until("a renewal to fail", func() bool { return r.store.Status()[0].Error != "" })
	last := c.served("shop.test")
	if last == "" {
		t.Error("without the authority the certificate is gone")
	}
	r.store.Close()
	again := newRig(t, Options{}).inFolder(r.dir)
	again.mustApply(listener)
	r.sets.Store("x", again.set("x"))
	c.until("the stored certificate", func() bool { return c.served("shop.test") == last })
}

// A certificate for a wildcard, by records in DNS, which are taken away after.
func TestObtainByDNS(t *testing.T) {
	r := newRig(t, Options{})
	c := newCA(t, r, caOptions{validity: 3600})
	listener := func(key string) string {
		return fmt.Sprintf(`  - name: x
    address: ":1"
    tls:
      acme:
        email: ops@example.com
        domains: ["*.shop.test", shop.test]
        directory: %q
        ca_file: directory.pem
        storage: state
        challenges: dns-01
        dns: { server: %q, zone: shop.test, key_name: gatehouse, key: %s }`, c.directory, c.dns, key)
	}
	r.mustApply(listener(tsigKey))
	c.until("both certificates", func() bool { return c.served("any.shop.test") != "" && c.served("shop.test") != "" })
	if c.served("a.b.shop.test") != "" {
		t.Error("a wildcard is one label")
	}
	c.until("the records to be gone", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return len(c.txt) == 0
	})
	// With a key that the name server does not know nothing is set.
	other := &updates{&config.ACMEDNS{Server: c.dns, Zone: "shop.test", KeyName: "gatehouse", Key: policy.NewSecret("b3RoZXI="), Algorithm: "hmac-sha512"}}
	if err := other.Set(t.Context(), "x.shop.test.", "value"); err == nil || len(c.txt) != 0 {
		t.Errorf("an update with another key: %v, %v", err, c.txt)
	}
}

// Those who share a storage obtain a certificate once, whoever the authority
// asks.
func TestSharedStorage(t *testing.T) {
	for _, challenge := range []string{"http-01", "tls-alpn-01"} {
		t.Run(challenge, func(t *testing.T) {
			dir := t.TempDir()
			asked := newRig(t, Options{Storage: newFolder(dir)})
			asking := newRig(t, Options{Storage: newFolder(dir)})
			c := newCA(t, asked, caOptions{validity: 3600})
			asking.dir = asked.dir
			listener := fmt.Sprintf(`  - { name: plain, address: ":0" }
  - name: x
    address: ":1"
    tls: { acme: { email: ops@example.com, domains: shop.test, directory: %q, ca_file: directory.pem, challenges: [%s] } }`, c.directory, challenge)
			asking.mustApply(listener)
			// The one that is asked has nothing to obtain: it waits for the lock.
			c.until("the first to ask", func() bool {
				files, err := filepath.Glob(filepath.Join(dir, "locks", "issue_cert_*"))
				return err == nil && len(files) > 0
			})
			asked.mustApply(listener)
			serial := func(r *rig) string {
				v, err := handshake(r.set("x"), &tls.Config{ServerName: "shop.test", InsecureSkipVerify: true})
				if err != nil {
					return ""
				}
				return v.state.PeerCertificates[0].SerialNumber.String()
			}
			c.until("both to have one certificate", func() bool { return serial(asking) != "" && serial(asking) == serial(asked) })
			if n := asking.logs.count("certificate obtained") + asked.logs.count("certificate obtained"); n != 1 {
				t.Errorf("obtained %d times", n)
			}
		})
	}
}

func TestChallengePaths(t *testing.T) {
	for path, want := range map[string]bool{
		"/.well-known/acme-challenge/abc-_09":                     true,
		"/.well-known/acme-challenge/":                            false,
		"/.well-known/acme-challenge":                             false,
		"/.well-known/acme-challenge/../secret":                   false,
		"/.well-known/acme-challenge/a%2e":                        false,
		"/.well-known/acme-challenge/" + strings.Repeat("a", 300): false,
		"/x/.well-known/acme-challenge/a":                         false,
	} {
		if got := isChallenge(path); got != want {
			t.Errorf("%q: %v", path, got)
		}
	}
}
