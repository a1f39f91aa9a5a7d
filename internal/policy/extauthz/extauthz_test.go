package extauthz_test

import (
	"context"
	"encoding/pem"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	envoytype "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	status "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	grpcstatus "google.golang.org/grpc/status"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

// service decides by the path that it is shown.
type service struct {
	auth.UnimplementedAuthorizationServer
	asked atomic.Int64
	last  atomic.Pointer[auth.CheckRequest]
}

func option(name, value string) *core.HeaderValueOption {
	return &core.HeaderValueOption{Header: &core.HeaderValue{Key: name, Value: value}}
}

func (s *service) Check(ctx context.Context, q *auth.CheckRequest) (*auth.CheckResponse, error) {
	s.asked.Add(1)
	s.last.Store(q)
	denied := &status.Status{Code: int32(codes.PermissionDenied)}
	switch path := q.GetAttributes().GetRequest().GetHttp().GetPath(); {
	case path == "/", strings.HasPrefix(path, "/allow"), strings.HasPrefix(path, "/cached"), strings.HasPrefix(path, "/dry"):
		return &auth.CheckResponse{Status: &status.Status{}, HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: &auth.OkHttpResponse{
			Headers:              []*core.HeaderValueOption{option("X-User", "ada"), option("X-Forwarded-For", "1.2.3.4"), option("Content-Length", "7"), option("X-Odd", "a\r\nb: c")},
			HeadersToRemove:      []string{"X-Secret", "Host"},
			ResponseHeadersToAdd: []*core.HeaderValueOption{option("X-Decision", "yes"), option("Set-Cookie", "a=b")},
		}}}, nil
	case strings.HasPrefix(path, "/plain"):
		return &auth.CheckResponse{Status: denied}, nil
	case strings.HasPrefix(path, "/login"):
		return &auth.CheckResponse{Status: denied, HttpResponse: &auth.CheckResponse_DeniedResponse{DeniedResponse: &auth.DeniedHttpResponse{
			Status: &envoytype.HttpStatus{Code: 302}, Headers: []*core.HeaderValueOption{option("Location", "/sign-in"), option("Transfer-Encoding", "x")}, Body: "go and sign in",
		}}}, nil
	case strings.HasPrefix(path, "/body"):
		if string(q.GetAttributes().GetRequest().GetHttp().GetRawBody()) == "open sesame" {
			return &auth.CheckResponse{Status: &status.Status{}}, nil
		}
		return &auth.CheckResponse{Status: denied}, nil
	case strings.HasPrefix(path, "/sized"):
		if q.GetAttributes().GetRequest().GetHttp().GetSize() < 5 {
			return &auth.CheckResponse{Status: &status.Status{}}, nil
		}
		return &auth.CheckResponse{Status: denied}, nil
	case strings.HasPrefix(path, "/both"):
		return &auth.CheckResponse{Status: &status.Status{}, HttpResponse: &auth.CheckResponse_DeniedResponse{DeniedResponse: &auth.DeniedHttpResponse{}}}, nil
	case strings.HasPrefix(path, "/query"):
		return &auth.CheckResponse{Status: &status.Status{}, HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: &auth.OkHttpResponse{QueryParametersToRemove: []string{"admin"}}}}, nil
	case strings.HasPrefix(path, "/error"):
		return &auth.CheckResponse{Status: denied, HttpResponse: &auth.CheckResponse_ErrorResponse{ErrorResponse: &auth.DeniedHttpResponse{}}}, nil
	case strings.HasPrefix(path, "/exhausted"):
		return nil, grpcstatus.Error(codes.ResourceExhausted, "the message is too large")
	case strings.HasPrefix(path, "/internal"):
		return nil, grpcstatus.Error(codes.Internal, "nil pointer")
	case strings.HasPrefix(path, "/away"):
		return nil, grpcstatus.Error(codes.Unavailable, "starting")
	case strings.HasPrefix(path, "/empty"):
		return &auth.CheckResponse{}, nil
	case strings.HasPrefix(path, "/slow"):
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return &auth.CheckResponse{Status: denied, HttpResponse: &auth.CheckResponse_DeniedResponse{DeniedResponse: &auth.DeniedHttpResponse{Status: &envoytype.HttpStatus{Code: 401}, Headers: []*core.HeaderValueOption{option("WWW-Authenticate", "Basic")}}}}, nil
}

func serve(t *testing.T) (*service, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s, server := new(service), grpc.NewServer()
	auth.RegisterAuthorizationServer(server, s)
	go func() { _ = server.Serve(l) }()
	t.Cleanup(server.Stop)
	return s, l.Addr().String()
}

func Test(t *testing.T) {
	_, address := serve(t)
	policytest.Run(t, policytest.Suite{
		Catalog: all.Catalog(), Kind: "ext_authz",
		Settings: "{ url: 'grpc://" + address + "', fail_open: true, timeout: 5s }", Allocs: 500,
	})
}

func TestDecisions(t *testing.T) {
	s, address := serve(t)
	settings := "url: 'grpc://" + address + "', timeout: 5s, sets: [X-User], answers: [X-Decision], headers: [X-Token, X-Secret], context: { zone: eu }"
	text := `
routes:
  - { match: /body, upstream: http://up, policies: [ ext_authz: { ` + settings + `, body: 20 } ] }
  - { match: /cached, upstream: http://up, policies: [ ext_authz: { ` + settings + `, cache_ttl: 1m } ] }
  - { match: /slow, upstream: http://up, policies: [ ext_authz: { url: 'grpc://` + address + `', timeout: 50ms } ] }
  - { match: /slow-open, upstream: http://up, policies: [ ext_authz: { url: 'grpc://` + address + `', timeout: 50ms, fail_open: true } ] }
  - { match: /dead, upstream: http://up, policies: [ ext_authz: { url: 'grpc://127.0.0.1:1', timeout: 1s } ] }
  - { match: /other-dry, upstream: http://up, policies: [ ext_authz: { ` + settings + `, dry_run: true } ] }
  - { match: /*, upstream: http://up, policies: [ ext_authz: { ` + settings + ` } ] }
`
	r := policytest.NewRig(t, all.Catalog(), text, nil)
	defer r.Close()
	field := func(name, value string) exchange.Field { return exchange.Field{Name: name, Value: value} }
	for _, c := range []struct {
		request policytest.Request
		status  int
		check   func(a *policytest.Answer, got *policytest.Received) string
	}{
		{
			request: policytest.Request{Target: "/allow?a=b", Header: []exchange.Field{field("X-User", "eve"), field("X-Token", "t1"), field("X-Token", "t2"), field("X-Secret", "s"), field("Cookie", "c=1")}}, status: 200,
			check: func(a *policytest.Answer, got *policytest.Received) string {
				q := s.last.Load().GetAttributes()
				http := q.GetRequest().GetHttp()
				switch {
				case got.Header.Get("X-User") != "ada" || got.Header.Get("X-Secret") != "" || got.Header.Get("X-Odd") != "":
					return "the service received " + got.String()
				case strings.Contains(got.Header.Get("X-Forwarded-For"), "1.2.3.4"):
					return "a field that the gateway asserts was changed"
				case a.Header.Get("X-Decision") != "yes" || a.Header.Get("Set-Cookie") != "":
					return "the client received " + a.String()
				case http.GetPath() != "/allow?a=b" || http.GetMethod() != "GET" || http.GetHost() != "gateway.test" || http.GetHeaders()["x-token"] != "t1, t2":
					return "the service was shown " + http.String()
				case http.GetHeaders()["cookie"] != "" || q.GetContextExtensions()["zone"] != "eu" || q.GetSource().GetAddress().GetSocketAddress().GetAddress() != "192.0.2.1":
					return "the service was shown " + q.String()
				}
				return ""
			},
		},
		{request: policytest.Request{Target: "/plain"}, status: 403},
		{request: policytest.Request{Target: "/empty"}, status: 503},
		{request: policytest.Request{Target: "/anything"}, status: 401, check: func(a *policytest.Answer, _ *policytest.Received) string {
			if a.Header.Get("WWW-Authenticate") != "Basic" {
				return a.String()
			}
			return ""
		}},
		{request: policytest.Request{Target: "/login"}, status: 302, check: func(a *policytest.Answer, _ *policytest.Received) string {
			if a.Header.Get("Location") != "/sign-in" || a.Body != "go and sign in" || a.Header.Get("Transfer-Encoding") != "" {
				return a.String()
			}
			return ""
		}},
		{request: policytest.Request{Method: "POST", Target: "/body", Body: "open sesame"}, status: 200},
		{request: policytest.Request{Method: "POST", Target: "/body", Body: "open barley"}, status: 403},
		{request: policytest.Request{Method: "POST", Target: "/body", Body: strings.Repeat("x", 21), Chunked: true}, status: 413},
		{request: policytest.Request{Target: "/slow"}, status: 503},
		{request: policytest.Request{Target: "/slow-open"}, status: 200},
		{request: policytest.Request{Target: "/dead"}, status: 503},
		{request: policytest.Request{Target: "/other-dry"}, status: 200},
	} {
		r.Received()
		a := r.Do(c.request)
		if a.Status != c.status {
			t.Errorf("%s: %v, want %d", c.request.Target, a, c.status)
			continue
		}
		if all := r.Received(); c.check != nil {
			var got *policytest.Received
			if len(all) > 0 {
				got = all[0]
			}
			if text := c.check(a, got); text != "" {
				t.Errorf("%s: %s", c.request.Target, text)
			}
		}
	}
	twoCallers(t, s, r)
	r.Errors()
}

// What a client can bring about is no reason to let a request pass, also with
// fail_open: that is for a service that is not there.
func TestFailOpen(t *testing.T) {
	_, address := serve(t)
	r := policytest.NewRig(t, all.Catalog(), "routes: [ { match: /*, upstream: http://up, policies: [ ext_authz: { url: 'grpc://"+address+"', timeout: 5s, fail_open: true } ] } ]", nil)
	defer r.Close()
	for target, want := range map[string]int{
		"/both": 503, "/query": 503, "/error": 503, "/exhausted": 503, "/internal": 503, "/empty": 503, "/plain": 403, "/away": 200, "/allow": 200,
		"/plain/%FF": 403, "/plain?a=\xff": 403,
	} {
		if a := r.Do(policytest.Request{Target: target}); a.Status != want {
			t.Errorf("%q: %v, want %d", target, a, want)
		}
	}
	r.Errors()
}

// A decision is remembered for requests of which all is the same that the
// service was shown: the size of the body and the body too.
func TestCacheKey(t *testing.T) {
	s, address := serve(t)
	settings := "url: 'grpc://" + address + "', timeout: 5s, headers: [X-Token], cache_ttl: 1m"
	r := policytest.NewRig(t, all.Catalog(), `
routes:
  - { match: /sized, upstream: http://up, policies: [ ext_authz: { `+settings+` } ] }
  - { match: /body, upstream: http://up, policies: [ ext_authz: { `+settings+`, body: 20 } ] }
`, nil)
	defer r.Close()
	for _, c := range []struct {
		target, body string
		want         int
	}{
		{"/sized", "1234", 200},
		{"/sized", "12345", 403},
		{"/sized", "4321", 200},
		{"/body", "open sesame", 200},
		{"/body", "open barley", 403},
		{"/body", "open sesame", 200},
	} {
		if a := r.Do(policytest.Request{Method: "POST", Target: c.target, Body: c.body}); a.Status != c.want {
			t.Errorf("%s %s: %v, want %d", c.target, c.body, a, c.want)
		}
	}
	if n := s.asked.Load(); n != 4 {
		t.Errorf("the service was asked %d times", n)
	}
}

// Over TLS the service has to be who the settings say.
func TestTLS(t *testing.T) {
	certified := httptest.NewUnstartedServer(nil)
	certified.StartTLS()
	defer certified.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer(grpc.Creds(credentials.NewServerTLSFromCert(&certified.TLS.Certificates[0])))
	auth.RegisterAuthorizationServer(server, new(service))
	go func() { _ = server.Serve(l) }()
	defer server.Stop()
	file := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certified.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	text := `
routes:
  - { match: /allow, upstream: http://up, policies: [ ext_authz: { url: 'grpcs://` + l.Addr().String() + `', ca_file: ` + file + `, timeout: 5s } ] }
  - { match: /system, upstream: http://up, policies: [ ext_authz: { url: 'grpcs://` + l.Addr().String() + `', timeout: 5s } ] }
  - { match: /plain, upstream: http://up, policies: [ ext_authz: { url: 'grpc://` + l.Addr().String() + `', timeout: 5s } ] }
`
	r := policytest.NewRig(t, all.Catalog(), text, nil)
	defer r.Close()
	for target, want := range map[string]int{"/allow": 200, "/system": 503, "/plain": 503} {
		if a := r.Do(policytest.Request{Target: target}); a.Status != want {
			t.Errorf("%s: %v, want %d", target, a, want)
		}
	}
}

// The addresses that the gateway asks for itself are those of all its rooms.
func TestAddresses(t *testing.T) {
	r := policytest.NewRig(t, all.Catalog(), "routes: [ { match: /*, upstream: http://up, policies: [ ext_authz: { url: 'grpc://169.254.169.254:80', timeout: 5s } ] } ]", nil)
	defer r.Close()
	if a := r.Do(policytest.Request{Target: "/"}); a.Status != 503 || !strings.Contains(a.Problem.Error(), "link-local") {
		t.Errorf("%v: %v", a, a.Problem)
	}
}

// twoCallers asks for two callers in turns, whose decisions are kept.
func twoCallers(t *testing.T, s *service, r *policytest.Rig) {
	t.Helper()
	before := s.asked.Load()
	for i := range 20 {
		token := exchange.Field{Name: "X-Token", Value: string(rune('a' + i%2))}
		if a := r.Do(policytest.Request{Target: "/cached", Header: []exchange.Field{token}}); a.Status != 200 {
			t.Errorf("%v", a)
		}
	}
	if n := s.asked.Load() - before; n != 2 {
		t.Errorf("two callers were decided %d times", n)
	}
}

// TestHeals: the service may come later.
func TestHeals(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	r := policytest.NewRig(t, all.Catalog(), "routes: [ { match: /*, upstream: http://up, policies: [ ext_authz: { url: 'grpc://"+address+"', timeout: 100ms } ] } ]", nil)
	defer r.Close()
	if a := r.Do(policytest.Request{Target: "/allow"}); a.Status != 503 {
		t.Fatalf("%v", a)
	}
	if l, err = net.Listen("tcp", address); err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	auth.RegisterAuthorizationServer(server, new(service))
	go func() { _ = server.Serve(l) }()
	defer server.Stop()
	for deadline := time.Now().Add(20 * time.Second); r.Do(policytest.Request{Target: "/allow"}).Status != 200; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not heal")
		}
	}
}
