package upstream

import (
	"bytes"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	grpccreds "google.golang.org/grpc/credentials"
	grpchealth "google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/proto"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
)

// status waits until the only endpoint has that state, and returns why.
func (r *rig) state(want string) string {
	r.t.Helper()
	var last EndpointStatus
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if last = r.u.Status().Endpoints[0]; last.State == want && last.Reason != "" {
			return last.Reason
		}
	}
	r.t.Fatalf("the endpoint is %s (%s), want %s", last.State, last.Reason, want)
	return ""
}

func TestHealthByGRPC(t *testing.T) {
	for _, scheme := range []string{"grpc", "grpcs", "https", "h2c"} {
		t.Run(scheme, func(t *testing.T) {
			a := newAuthority(t)
			var options []grpc.ServerOption
			if strings.HasSuffix(scheme, "s") {
				creds, err := grpccreds.NewServerTLSFromFile(a.issue("127.0.0.1", nil))
				if err != nil {
					t.Fatal(err)
				}
				options = append(options, grpc.Creds(creds))
			}
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			s, h := grpc.NewServer(options...), grpchealth.NewServer()
			grpc_health_v1.RegisterHealthServer(s, h)
			served := make(chan error, 1)
			go func() { served <- s.Serve(ln) }()
			t.Cleanup(func() {
				s.Stop()
				if err := <-served; err != nil {
					t.Error(err)
				}
			})
			cfg := settings(scheme + "://" + ln.Addr().String())
			cfg.TLS = &config.UpstreamTLS{Verify: true, CAFile: a.file}
			cfg.Health = &config.Health{
				Type: "grpc", Service: "shop.v1.Products", Expect: config.StringList{"200"}, Path: "/",
				Interval: config.Duration(20 * time.Millisecond), Timeout: config.Duration(5 * time.Second), Healthy: 1, Unhealthy: 1,
			}
			r := newRig(t, cfg)
			if why := r.state("unhealthy"); why != `gRPC status "5"` { // there is no such service
				t.Error(why)
			}
			h.SetServingStatus("shop.v1.Products", grpc_health_v1.HealthCheckResponse_SERVING)
			if why := r.state("healthy"); why != "SERVING" {
				t.Error(why)
			}
			h.SetServingStatus("shop.v1.Products", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
			if why := r.state("unhealthy"); why != "NOT_SERVING" {
				t.Error(why)
			}
			r.u.Retire()
		})
	}
}

func TestHealthByStatusOverHTTP2(t *testing.T) {
	for name, alpn := range map[string][]string{"h2c": nil, "https": {"h2"}, "https by HTTP/1.1": {"http/1.1"}} {
		t.Run(name, func(t *testing.T) {
			s := newWeb(t, helloWeb, nil, alpn...)
			r := newRig(t, s.settings(func(c *config.Upstream) {
				c.Health = &config.Health{
					Path: "/healthz", Expect: config.StringList{"200"}, Healthy: 1, Unhealthy: 1,
					Interval: config.Duration(20 * time.Millisecond), Timeout: config.Duration(5 * time.Second),
				}
			}))
			if why := r.state("healthy"); why != "status 200" {
				t.Error(why)
			}
			r.u.Retire()
		})
	}
}

// A service that is asked and does not answer is given up in time.
func TestHealthByGRPCIsGivenUp(t *testing.T) {
	s := newFrames(t, func(c *framed) {
		c.begin()
		c.next()
		<-c.over
	})
	cfg := settings(s.url2())
	cfg.Health = &config.Health{
		Type: "grpc", Expect: config.StringList{"200"}, Path: "/", Healthy: 1, Unhealthy: 1,
		Interval: config.Duration(20 * time.Millisecond), Timeout: config.Duration(50 * time.Millisecond),
	}
	r := newRig(t, cfg)
	if why := r.state("unhealthy"); why != "no answer within 50ms" {
		t.Error(why)
	}
	r.u.Retire()
}

func TestHealthQuestion(t *testing.T) {
	for _, service := range []string{"", "a", "shop.v1.Products", strings.Repeat("long", 100)} {
		q := healthQuestion(service)
		var m grpc_health_v1.HealthCheckRequest
		if err := proto.Unmarshal(q[5:], &m); err != nil || m.GetService() != service || int(q[4])+int(q[3])<<8 != len(q)-5 {
			t.Errorf("%q: %v, %v", q, &m, err)
		}
	}
}

func TestHealthAnswers(t *testing.T) {
	serving := []byte{0, 0, 0, 0, 2, 8, 1}
	for name, c := range map[string]struct {
		status       int
		body         []byte
		head, trails string
		want         string
	}{
		"serving":               {200, serving, "", "0", ""},
		"with unknown fields":   {200, []byte{0, 0, 0, 0, 7, 8, 1, 18, 3, 'a', 'b', 'c'}, "", "0", ""},
		"not serving":           {200, []byte{0, 0, 0, 0, 2, 8, 2}, "", "0", "NOT_SERVING"},
		"nothing said":          {200, []byte{0, 0, 0, 0, 0}, "", "0", "UNKNOWN"},
		"something new":         {200, []byte{0, 0, 0, 0, 2, 8, 9}, "", "0", "status 9"},
		"no message":            {200, nil, "", "0", errHealthAnswer.Error()},
		"two messages":          {200, append(serving, serving...), "", "0", errHealthAnswer.Error()},
		"compressed":            {200, []byte{1, 0, 0, 0, 2, 8, 1}, "", "0", errHealthAnswer.Error()},
		"cut field":             {200, []byte{0, 0, 0, 0, 1, 8}, "", "0", errHealthAnswer.Error()},
		"longer than its field": {200, []byte{0, 0, 0, 0, 2, 18, 200}, "", "0", errHealthAnswer.Error()},
		"unimplemented":         {200, nil, "12", "", `gRPC status "12"`},
		"no status":             {200, serving, "", "", `gRPC status ""`},
		"another protocol":      {404, nil, "", "", "status 404"},
		"too long":              {200, make([]byte, maxHealthAnswer+1), "", "0", errHealthAnswer.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			var r exchange.Response
			r.Status, r.Body = c.status, exchange.Bytes(bytes.Clone(c.body))
			if c.head != "" {
				r.Header.Add("grpc-status", c.head)
			}
			if c.trails != "" {
				r.Trailer.Add("grpc-status", c.trails)
			}
			_, err := healthAnswer(&r)
			if c.want == "" && err != nil || c.want != "" && (err == nil || err.Error() != c.want) {
				t.Errorf("have %v, want %q", err, c.want)
			}
		})
	}
}

// What is read is what the library for the format reads, or is refused.
func FuzzHealthStatus(f *testing.F) {
	for _, m := range []string{"", "\x08\x01", "\x08\x02\x08\x01", "\x12\x03abc\x08\x01", "\x0d1234", "\x0912345678", "\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "\x0b\x08\x01\x0c"} {
		f.Add([]byte(m))
	}
	f.Fuzz(func(t *testing.T, m []byte) {
		if len(m) > 200 {
			return
		}
		status, err := healthStatus(append([]byte{0, 0, 0, 0, byte(len(m))}, m...))
		if err != nil {
			return
		}
		var want grpc_health_v1.HealthCheckResponse
		if err := proto.Unmarshal(m, &want); err != nil {
			if status == 1 {
				t.Fatalf("SERVING is read from %q, which is not valid: %v", m, err)
			}
			return
		}
		if int32(status) != int32(want.GetStatus()) {
			t.Fatalf("%d is read from %q, want %d", status, m, want.GetStatus())
		}
	})
}
