// Package grpc_test runs the interoperability client of gRPC against its
// interoperability server through the real binary: every case of its list that
// does not need the cloud of one provider. Those left out prove credentials of
// that provider (compute_engine_creds, compute_engine_channel_credentials,
// service_account_creds, jwt_token_creds, per_rpc_creds, oauth2_auth_token,
// google_default_credentials), which to a gateway are a field like any other.
// pick_first_unary asks servers of the test, for it wants an id that the
// interoperability server does not send.
package grpc_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/test/live"
)

// cases is the client's list.
var cases = []string{
	"empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream",
	"timeout_on_sleeping_server", "cancel_after_begin", "cancel_after_first_response",
	"status_code_and_message", "special_status_message", "custom_metadata",
	"unimplemented_method", "unimplemented_service",
	"rpc_soak", "channel_soak", "orca_per_rpc", "orca_oob",
}

// programs are what runs: the gateway, and both ends of gRPC.
type programs struct{ dir, gateway, client, server string }

func build(t *testing.T) programs {
	t.Helper()
	dir := t.TempDir()
	gateway, err := live.Build(dir)
	if err != nil {
		t.Fatal(err)
	}
	const interop = "google.golang.org/grpc/interop/"
	cmd := exec.CommandContext(t.Context(), "go", "build", "-modfile=../../../tools/go.mod", "-o", dir+string(filepath.Separator), interop+"client", interop+"server")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the ends of gRPC: %v\n%s", err, out)
	}
	return programs{dir, gateway, filepath.Join(dir, "client"), filepath.Join(dir, "server")}
}

// certificate writes a certificate for localhost that signs itself.
func (p *programs) certificate(t *testing.T) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	kd, err := x509.MarshalECPrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(p.dir, "localhost.crt"), filepath.Join(p.dir, "localhost.key")
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "EC PRIVATE KEY", Bytes: kd}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// serve starts an interoperability server and returns its port once it
// listens.
func (p *programs) serve(t *testing.T, args ...string) (port string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ = net.SplitHostPort(ln.Addr().String())
	ln.Close()
	var out bytes.Buffer
	cmd := exec.Command(p.server, append(args, "-port="+port)...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the server said:\n%s", &out)
		}
	})
	for end := time.Now().Add(live.Patience); ; time.Sleep(10 * time.Millisecond) {
		nc, err := net.Dial("tcp", "localhost:"+port)
		if err == nil {
			nc.Close()
			return port
		}
		if time.Now().After(end) {
			t.Fatalf("the server does not listen: %v\n%s", err, &out)
		}
	}
}

// start runs the gateway and returns the port of its listener.
func (p *programs) start(t *testing.T, listener, upstream string) (port string) {
	t.Helper()
	return p.startWith(t, listener, upstream, "")
}

// startWith is start with more policies.
func (p *programs) startWith(t *testing.T, listener, upstream, policies string) (port string) {
	t.Helper()
	settings := fmt.Sprintf(`
admin: off
listeners:
  - { name: door, address: "127.0.0.1:0", %s }
upstreams:
  service: { %s }
policies:
  - request_id: {}
%sroutes:
  - { match: "/*", upstream: service }
`, listener, upstream, policies)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "gatehouse.yaml"), []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	g, err := live.Start(p.gateway, dir, nil, "run", "-c", "gatehouse.yaml")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		g.Kill()
		if t.Failed() {
			t.Logf("the gateway said:\n%s", g.Log())
		}
	})
	if err := g.Serving(); err != nil {
		t.Fatal(err)
	}
	_, port, _ = net.SplitHostPort(g.Addresses()["door"])
	return port
}

func TestGRPC(t *testing.T) {
	if testing.Short() {
		t.Skip("the cases take some seconds, and programs have to be built")
	}
	p := build(t)
	t.Run("web", p.testWeb)
	t.Run("interop", p.testInterop)
	t.Run("pick_first_unary", p.testPickFirst)
	t.Run("retry", p.testRetry)
}

// testPickFirst runs the case in which all calls have to reach one server where
// there are several: the gateway keeps a client at his endpoint.
func (p *programs) testPickFirst(t *testing.T) {
	port := p.start(t, "protocols: [h2c]", fmt.Sprintf(`endpoints: ["grpc://%s", "grpc://%s"], balance: { hash: client, slack: 100%% }`,
		serveNamed(t, &named{name: "one"}), serveNamed(t, &named{name: "two"})))
	p.runCase(t, "pick_first_unary", port)
}

// runCase runs a case of the client.
func (p *programs) runCase(t *testing.T, name, port string, args ...string) {
	t.Helper()
	args = append([]string{"-server_host=localhost", "-server_port=" + port, "-test_case=" + name}, args...)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if out, err := exec.CommandContext(ctx, p.client, args...).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func (p *programs) testInterop(t *testing.T) {
	cert, key := p.certificate(t)
	plain := p.serve(t)
	secure := p.serve(t, "-use_tls", "-tls_cert_file="+cert, "-tls_key_file="+key)
	doors := map[string]string{
		"plain":  "protocols: [h2c]",
		"mixed":  "protocols: [http1, h2c]",
		"secure": fmt.Sprintf("tls: { certificates: [{ cert_file: %q, key_file: %q }] }", cert, key),
	}
	services := map[string]string{
		"plain":  fmt.Sprintf(`endpoints: ["grpc://127.0.0.1:%s"]`, plain),
		"secure": fmt.Sprintf(`endpoints: ["grpcs://localhost:%s"], tls: { ca_file: %q }`, secure, cert),
	}
	for _, way := range []struct{ door, to string }{{"plain", "plain"}, {"mixed", "secure"}, {"secure", "plain"}, {"secure", "secure"}} {
		t.Run(way.door+" to "+way.to, func(t *testing.T) {
			t.Parallel()
			port := p.start(t, doors[way.door], services[way.to])
			for _, name := range cases {
				t.Run(name, func(t *testing.T) {
					args := []string{
						"-soak_iterations=10", "-soak_per_iteration_max_acceptable_latency_ms=10000", "-soak_overall_timeout_seconds=30",
					}
					if way.door == "secure" {
						args = append(args, "-use_tls", "-use_test_ca", "-ca_file="+cert)
					}
					if strings.HasPrefix(name, "orca") {
						args = append(args, `-service_config_json={"loadBalancingConfig":[{"test_backend_metrics_load_balancer":{}}]}`)
					}
					p.runCase(t, name, port, args...)
				})
			}
		})
	}
}
