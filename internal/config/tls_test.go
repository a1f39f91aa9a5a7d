package config_test

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
)

const secured = `
upstreams:
  products:
    endpoints: ["https://10.0.0.11", "h2c://10.0.0.12", "grpc://10.0.0.13:9000", "grpcs://[::1]:9443"]
    tls: { ca_file: internal.pem, server_name: products.internal, cert_file: gw.crt, key_file: /keys/gw.key }
  pg: { endpoints: ["tcp://10.0.0.14:5432"] }
listeners:
  - address: ":8080"
    redirect_https: true
    protocols: [http1, h2c]
  - name: public
    address: ":8443"
    protocols: [http1, http2, http3]
    tls:
      min_version: "1.2"
      ciphers: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]
      certificates:
        - { cert_file: shop.crt, key_file: ../shop.key, ocsp_file: shop.ocsp }
      acme:
        email: ops@example.com
        domains: [shop.example.com]
        directory: https://acme.example/dir
        eab: { key_id: k, mac_key: zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W }
        ca_file: ca.pem
        storage: state
      client_auth: { mode: require, ca_file: partners.pem }
      session_tickets: { rotate: 12h }
      forward_client_cert: true
      handshake_timeout: 3s
    trusted_proxies: [10.0.0.0/8]
  - { address: ":5432", protocol: tcp, upstream: pg, proxy_protocol: true, trusted_proxies: [10.0.0.1] }
  - address: ":9443"
    protocol: tls
    routes:
      - { sni: [db.example.com, "*.db.example.com"], upstream: pg }
    upstream: tcp://10.0.0.15:8443
routes:
  - { match: /*, upstream: products }
`

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "gatehouse.yaml")
	if err := os.WriteFile(name, []byte(secured), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, faults := config.Load(name, catalog())
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	in := func(name string) string { return filepath.Join(dir, name) }
	got := cfg.Listeners[1].TLS
	if got.ACME == nil || !got.ACME.EAB.MACKey.IsSet() {
		t.Fatalf("%+v", got.ACME)
	}
	want := &config.TLS{
		MinVersion:   "1.2",
		Ciphers:      config.StringList{"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"},
		Certificates: []*config.Certificate{{CertFile: in("shop.crt"), KeyFile: filepath.Join(filepath.Dir(dir), "shop.key"), OCSPFile: in("shop.ocsp")}},
		ACME: &config.ACME{
			Email: "ops@example.com", Domains: config.StringList{"shop.example.com"}, Directory: "https://acme.example/dir",
			EAB: &config.EAB{KeyID: "k", MACKey: got.ACME.EAB.MACKey}, CAFile: in("ca.pem"),
			Challenges: config.StringList{"http-01", "tls-alpn-01"}, Storage: in("state"),
		},
		ClientAuth:        config.ClientAuth{Mode: "require", CAFile: in("partners.pem")},
		SessionTickets:    config.SessionTickets{Enabled: true, Rotate: config.Duration(12 * time.Hour)},
		ForwardClientCert: true,
		HandshakeTimeout:  config.Duration(3 * time.Second),
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
	if u := cfg.Upstreams["products"].TLS; *u != (config.UpstreamTLS{CAFile: in("internal.pem"), ServerName: "products.internal", CertFile: in("gw.crt"), KeyFile: "/keys/gw.key", Verify: true}) {
		t.Errorf("%+v", u)
	}
	if cfg.HTTPS() != cfg.Listeners[1] {
		t.Errorf("HTTPS: %+v", cfg.HTTPS())
	}
	if r := cfg.Listeners[3].Routes[0]; len(r.SNI) != 2 || r.Upstream != "pg" {
		t.Errorf("%+v", r)
	}
	if strings.Contains(string(cfg.Marshal()), got.ACME.EAB.MACKey.Reveal()) {
		t.Error("the canonical form shows a secret")
	}
}

// The canonical form of relative paths is read as the same files from
// anywhere.
func TestPathsAreReadAgain(t *testing.T) {
	text := strings.ReplaceAll(secured, "mac_key: zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W", "mac_key: { env: MAC }")
	t.Setenv("MAC", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W")
	a, faults := config.Parse("conf/gatehouse.yaml", []byte(text), catalog())
	if len(faults) > 0 {
		t.Fatal(faults)
	}
	b, faults := config.Parse("elsewhere/gatehouse.yaml", a.Marshal(), catalog())
	if len(faults) > 0 {
		t.Fatalf("%v\n%s", faults, a.Marshal())
	}
	if a.Digest() != b.Digest() {
		t.Errorf("%s\nis read again as\n%s", a.Marshal(), b.Marshal())
	}
}

func TestVersionsOfHTTP(t *testing.T) {
	pair := &config.TLS{}
	for _, c := range []struct {
		l    config.Listener
		want []string
	}{
		{config.Listener{Protocol: "http"}, []string{"http1"}},
		{config.Listener{Protocol: "http", TLS: pair}, []string{"http1", "http2"}},
		{config.Listener{Protocol: "http", TLS: pair, Protocols: []string{"http3"}}, []string{"http3"}},
		{config.Listener{Protocol: "http", Protocols: []string{"http1", "h2c"}}, []string{"http1", "h2c"}},
		{config.Listener{Protocol: "tcp"}, nil},
	} {
		var got []string
		for _, v := range []string{"http1", "http2", "http3", "h2c"} {
			if c.l.Speaks(v) {
				got = append(got, v)
			}
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%+v speaks %v, want %v", c.l, got, c.want)
		}
	}
}
