package mtls_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/url"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

func Test(t *testing.T) {
	policytest.Run(t, policytest.Suite{Catalog: all.Catalog(), Kind: "mtls", Settings: "{ optional: true }"})
}

func certificate(t *testing.T, cn string, dns ...string) *x509.Certificate {
	t.Helper()
	return named(t, cn, func(c *x509.Certificate) { c.DNSNames = dns })
}

func named(t *testing.T, cn string, names func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: cn, Organization: []string{"Partner"}}}
	names(template)
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestCertificates(t *testing.T) {
	bySubject, bySAN, byThumb, unknown := certificate(t, "mobile"), certificate(t, "x", "a.example", "Batch.example"), certificate(t, "y"), certificate(t, "eve")
	peer := func(c *x509.Certificate) *exchange.Certificate {
		return exchange.NewCertificate([]*x509.Certificate{c})
	}
	r := policytest.NewRig(t, all.Catalog(), `
listeners: [ { address: ":1", trusted_proxies: [ 10.0.0.0/8 ] } ]
consumers:
  - name: mobile
    credentials: [ certificate: { subject: "CN=mobile,O=Partner" } ]
  - name: batch
    credentials: [ certificate: { san: batch.EXAMPLE } ]
  - name: thumb
    credentials: [ certificate: { thumbprint: "`+peer(byThumb).Thumbprint()+`" } ]
routes:
  - match: /
    policies: [ mtls: { headers: { X-Who: consumer, X-Sub: subject } } ]
    upstream: http://up
  - match: /any
    policies: [ mtls: { any: true, headers: { X-Who: consumer, X-Sub: subject } } ]
    upstream: http://up
  - match: /proxy
    policies: [ mtls: { forwarded: true, headers: { X-Who: consumer } } ]
    upstream: http://up
`, nil)
	defer r.Close()
	encoded := url.PathEscape(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: bySAN.Raw})))
	for _, c := range []struct {
		name, path, from string
		cert             *x509.Certificate
		xfcc             string
		status           int
		who              string
	}{
		{"subject", "/", "192.0.2.1", bySubject, "", 200, "mobile"},
		{"san", "/", "192.0.2.1", bySAN, "", 200, "batch"},
		{"thumbprint", "/", "192.0.2.1", byThumb, "", 200, "thumb"},
		{"unknown", "/", "192.0.2.1", unknown, "", 401, ""},
		{"none", "/", "192.0.2.1", nil, "", 401, ""},
		{"any", "/any", "192.0.2.1", unknown, "", 200, ""},
		{"forwarded, where it is not taken", "/", "10.0.0.1", nil, `Subject="CN=mobile,O=Partner"`, 401, ""},
		{"forwarded by anybody", "/proxy", "192.0.2.1", nil, `Subject="CN=mobile,O=Partner"`, 401, ""},
		{"forwarded subject", "/proxy", "10.0.0.1", nil, `By=spiffe://x;Subject="CN=mobile,O=Partner";URI=`, 200, "mobile"},
		{"forwarded hash", "/proxy", "10.0.0.1", nil, `Hash=` + peer(byThumb).Thumbprint(), 200, "thumb"},
		{"forwarded certificate", "/proxy", "10.0.0.1", nil, `Subject="CN=mobile,O=Partner";Cert="` + encoded + `"`, 200, "batch"},
		{"the last of two", "/proxy", "10.0.0.1", nil, `Subject="CN=mobile,O=Partner",DNS=batch.example`, 200, "batch"},
		{"an empty last one", "/proxy", "10.0.0.1", nil, `Subject="CN=mobile,O=Partner",`, 401, ""},
		{"a comma within quotes", "/proxy", "10.0.0.1", nil, `Subject="x",Subject="CN=mobile,O=Partner"`, 200, "mobile"},
		{"a quote that is not closed", "/proxy", "10.0.0.1", nil, `Subject="CN=mobile,O=Partner`, 401, ""},
		{"an escaped quote", "/proxy", "10.0.0.1", nil, `Subject="a\",Subject=\"CN=mobile,O=Partner"`, 401, ""},
		{"two subjects", "/proxy", "10.0.0.1", nil, `Subject="CN=eve";Subject="CN=mobile,O=Partner"`, 401, ""},
		{"two subjects in two cases", "/proxy", "10.0.0.1", nil, `subject="CN=eve";SUBJECT="CN=mobile,O=Partner"`, 401, ""},
		{"two certificates", "/proxy", "10.0.0.1", nil, `Cert="` + encoded + `";Cert="` + url.PathEscape(string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: unknown.Raw}))) + `"`, 401, ""},
		{"two hashes", "/proxy", "10.0.0.1", nil, `Hash=` + peer(byThumb).Thumbprint() + `;Hash=` + peer(unknown).Thumbprint(), 401, ""},
		{"a hash of another length", "/proxy", "10.0.0.1", nil, `Hash=` + peer(byThumb).Thumbprint()[:40], 401, ""},
		{"a hash in capitals", "/proxy", "10.0.0.1", nil, `Hash=` + strings.ToUpper(peer(byThumb).Thumbprint()), 200, "thumb"},
		{"the first hides the last in a quote", "/proxy", "10.0.0.1", nil, `Subject="CN=mobile,O=Partner";A=",By=x;Subject="CN=eve"`, 401, ""},
		{"the first ends in an escape", "/proxy", "10.0.0.1", nil, `Subject="CN=mobile,O=Partner";A="\,Subject="CN=eve"`, 401, ""},
		{"the first hides an empty last", "/proxy", "10.0.0.1", nil, `Subject="CN=mobile,O=Partner";A=",By=x;Subject="";URI=spiffe://x`, 401, ""},
		{"text after a quote", "/proxy", "10.0.0.1", nil, `Subject="CN=mobile,O=Partner"x`, 401, ""},
		{"a part without a value", "/proxy", "10.0.0.1", nil, `Subject="CN=mobile,O=Partner";x`, 401, ""},
		{"one that is too long", "/proxy", "10.0.0.1", nil, `A=` + strings.Repeat("a", 32<<10) + `,Subject="CN=mobile,O=Partner"`, 401, ""},
		{"the connection's counts for more", "/proxy", "10.0.0.1", unknown, `Subject="CN=mobile,O=Partner"`, 401, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := *r.Client(c.from+":1000", r.Config.Listeners[0])
			if c.cert != nil {
				client.TLS = &exchange.TLS{Peer: peer(c.cert)}
			}
			q := policytest.Request{Target: c.path, Client: &client, Header: []exchange.Field{{Name: "X-Who", Value: "admin"}}}
			if c.xfcc != "" {
				q.Header = append(q.Header, exchange.Field{Name: "X-Forwarded-Client-Cert", Value: c.xfcc})
			}
			a := r.Do(q)
			got := r.Received()
			if a.Status != c.status || (len(got) == 1) != (c.status == 200) {
				t.Fatalf("answer %d: %v", a.Status, a.Problem)
			}
			if c.status == 200 {
				if h := &got[0].Header; h.Get("X-Who") != c.who || h.Get("X-Forwarded-Client-Cert") != "" {
					t.Errorf("the service is told %q, %q", h.Get("X-Who"), h.Get("X-Forwarded-Client-Cert"))
				}
			}
		})
	}
}

// TestNames has certificates whose names say the same as a credential and are
// of another type.
func TestNames(t *testing.T) {
	r := policytest.NewRig(t, all.Catalog(), `
listeners: [ { address: ":1", trusted_proxies: [ 10.0.0.0/8 ] } ]
consumers:
  - name: dns
    credentials: [ certificate: { san: a.example } ]
  - name: uri
    credentials: [ certificate: { san: "uri:spiffe://trust/Admin" } ]
  - name: email
    credentials: [ certificate: { san: ann@example.com } ]
  - name: ip
    credentials: [ certificate: { san: 192.0.2.1 } ]
routes:
  - match: /*
    policies: [ mtls: { forwarded: true, headers: { X-Who: consumer } } ]
    upstream: http://up
`, nil)
	defer r.Close()
	uri := func(text string) func(*x509.Certificate) {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return func(c *x509.Certificate) { c.URIs = []*url.URL{u} }
	}
	dns := func(name string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.DNSNames = []string{name} }
	}
	email := func(name string) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.EmailAddresses = []string{name} }
	}
	for _, c := range []struct {
		name  string
		names func(*x509.Certificate)
		xfcc  string
		who   string
	}{
		{"dns", dns("A.example"), "", "dns"},
		{"uri", uri("SPIFFE://Trust/Admin"), "", "uri"},
		{"email", email("ann@EXAMPLE.com"), "", "email"},
		{"ip", func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(192, 0, 2, 1)} }, "", "ip"},
		{"a URI of another case", uri("spiffe://trust/admin"), "", ""},
		{"a URI that is the DNS name", uri("a.example"), "", ""},
		{"a URI that looks typed", uri("dns:a.example"), "", ""},
		{"an address as DNS name", dns("192.0.2.1"), "", ""},
		{"an e-mail address of another case", email("Ann@example.com"), "", ""},
		{"forwarded DNS", nil, "DNS=a.example", "dns"},
		{"forwarded URI", nil, "URI=spiffe://trust/Admin", "uri"},
		{"forwarded DNS that is the URI", nil, "DNS=spiffe://trust/Admin", ""},
		{"forwarded DNS that looks typed", nil, "DNS=uri:spiffe://trust/Admin", ""},
		{"forwarded URI that is the DNS name", nil, "URI=a.example", ""},
		{"forwarded URI that looks typed", nil, "URI=dns:a.example", ""},
		{"forwarded DNS that is the e-mail address", nil, "DNS=ann@example.com", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			client := *r.Client("10.0.0.1:1000", r.Config.Listeners[0])
			q := policytest.Request{Target: "/", Client: &client}
			if c.names != nil {
				client.TLS = &exchange.TLS{Peer: exchange.NewCertificate([]*x509.Certificate{named(t, "x", c.names)})}
			} else {
				q.Header = []exchange.Field{{Name: "X-Forwarded-Client-Cert", Value: c.xfcc}}
			}
			a := r.Do(q)
			got := r.Received()
			switch {
			case c.who == "" && (a.Status != 401 || len(got) != 0):
				t.Errorf("answer %d", a.Status)
			case c.who != "" && (a.Status != 200 || got[0].Header.Get("X-Who") != c.who):
				t.Errorf("answer %d, %v", a.Status, a.Problem)
			}
		})
	}
}
