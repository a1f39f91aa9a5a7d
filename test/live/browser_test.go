package live_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"gatehouse.dev/gatehouse/internal/demo"
	"gatehouse.dev/gatehouse/test/live"
)

// shopSettings put the sample shop behind TLS, with a page that loads from it.
const shopSettings = `
listeners:
  - name: web
    address: '127.0.0.1:0'
    protocols: [http1, http2, http3]
    tls: { certificates: [ { cert_file: site.crt, key_file: site.key } ] }
admin: off
routes:
  - match: /
    respond: { status: 200, body: '<title>shop</title>', headers: { Content-Type: text/html } }
  - match: /products/*
    upstream: http://%s
  - match: /stock/*
    upstream: http://%s
`

// TestBrowser loads the sample shop with a real browser, which chooses by
// itself what it speaks: HTTP/2, and HTTP/3 when it is told that it may.
func TestBrowser(t *testing.T) {
	at := make(map[string]string)
	err := demo.Start(t.Context(), func(instance, _ string) (net.Listener, error) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err == nil {
			at[instance] = ln.Addr().String()
		}
		return ln, err
	})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	pin := certificate(t, dir)
	g := serve(t, build(t), dir, fmt.Sprintf(shopSettings, at["products-1"], at["inventory-1"]), "")
	web := g.Addresses()["web"]
	for _, c := range []struct {
		protocol string // as the browser calls it
		options  []chromedp.ExecAllocatorOption
	}{
		{"h2", []chromedp.ExecAllocatorOption{chromedp.Flag("disable-quic", true)}},
		{"h3", []chromedp.ExecAllocatorOption{chromedp.Flag("enable-quic", true), chromedp.Flag("origin-to-force-quic-on", web)}},
	} {
		t.Run(c.protocol, func(t *testing.T) {
			ctx := live.Browser(t, append(c.options, chromedp.Flag("ignore-certificate-errors-spki-list", pin))...)
			if err := chromedp.Do(ctx, chromedp.Navigate("https://"+web+"/")); err != nil {
				t.Fatal(err)
			}
			for _, step := range []struct{ what, script, want string }{
				{"the page", `performance.getEntriesByType("navigation")[0].nextHopProtocol`, c.protocol},
				{"many answers at once", `Promise.all([...Array(50).keys()].map(i => fetch("/products/" + (i % 4 + 1)).then(r => r.json())))
					.then(all => all.map(p => p.name).includes("Candle") && all.length + " products")`, "50 products"},
				{"what they came by", `[...new Set(performance.getEntriesByType("resource").map(e => e.nextHopProtocol))].join()`, c.protocol},
				{"events", `new Promise((ok, no) => { const s = new EventSource("/stock/ticker?count=3&every=1ms"); let n = 0;
					s.addEventListener("stock", e => { if (++n == 3) { s.close(); ok(n + " events, last " + e.lastEventId) } }); s.onerror = no })`, "3 events, last 3"},
				{"a WebSocket", `new Promise((ok, no) => { const s = new WebSocket("wss://" + location.host + "/stock/live");
					s.onopen = () => s.send("hello"); s.onmessage = e => ok(e.data); s.onerror = no })`, "hello"},
			} {
				got, err := chromedp.Run(ctx, chromedp.Evaluate[string](step.script, func(p *runtime.EvaluateParams) { p.AwaitPromise = new(true) }))
				if err != nil || got != step.want {
					t.Errorf("%s: %q, %v, want %q", step.what, got, err, step.want)
				}
			}
		})
	}
}

// certificate writes site.crt and site.key for 127.0.0.1 into a folder, and
// returns the hash of the public key by which a browser can be told to trust
// it: HTTP/3 is not tried with a certificate that only a user has let pass.
func certificate(t *testing.T, dir string) (pin string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "shop"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"site.crt": {Type: "CERTIFICATE", Bytes: der}, "site.key": {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(public)
	return base64.StdEncoding.EncodeToString(sum[:])
}
