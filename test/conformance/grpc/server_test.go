package grpc_test

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
	"google.golang.org/grpc/status"
)

// named is a server that says its name when it is asked for, which the
// interoperability server does not.
type named struct {
	testgrpc.UnimplementedTestServiceServer
	name  string
	away  atomic.Bool // it answers UNAVAILABLE
	asked atomic.Int64
}

func (s *named) UnaryCall(_ context.Context, in *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	if s.asked.Add(1); s.away.Load() {
		return nil, status.Error(codes.Unavailable, "away")
	}
	out := &testgrpc.SimpleResponse{Payload: &testgrpc.Payload{Type: in.GetResponseType(), Body: make([]byte, in.GetResponseSize())}}
	if in.GetFillServerId() {
		out.ServerId = s.name
	}
	return out, nil
}

// serveNamed starts such a server and returns its address.
func serveNamed(t *testing.T, n *named) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(s, n)
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Stop()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return ln.Addr().String()
}

// testRetry has one of two servers be away: nobody who calls is told, as long
// as the other one is there. The bodies of calls have no length.
func (p *programs) testRetry(t *testing.T) {
	away, there := new(named), new(named)
	away.away.Store(true)
	port := p.start(t, "protocols: [h2c]", fmt.Sprintf(
		`endpoints: ["grpc://%s", "grpc://%s"], retry: { on: [UNAVAILABLE], methods: [POST], budget: 100%% }`,
		serveNamed(t, away), serveNamed(t, there)))
	conn, err := grpc.NewClient("127.0.0.1:"+port, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDisableRetry())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := testgrpc.NewTestServiceClient(conn)
	const calls = 10
	for i := range calls {
		in := &testgrpc.SimpleRequest{ResponseSize: int32(i), Payload: &testgrpc.Payload{Body: make([]byte, 1000*i)}}
		if out, err := client.UnaryCall(t.Context(), in); err != nil || len(out.GetPayload().GetBody()) != i {
			t.Errorf("call %d: %v, %v", i, out, err)
		}
	}
	if away.asked.Load() == 0 || there.asked.Load() != calls {
		t.Errorf("%d calls came to who is away, %d to who is there", away.asked.Load(), there.asked.Load())
	}
	// There is nobody left to be asked instead.
	there.away.Store(true)
	if _, err := client.UnaryCall(t.Context(), new(testgrpc.SimpleRequest)); status.Code(err) != codes.Unavailable || status.Convert(err).Message() != "away" {
		t.Errorf("answered %v", err)
	}
}
