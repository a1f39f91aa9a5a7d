package grpc_test

import (
	"context"
	"net"
	"testing"

	"google.golang.org/grpc"
	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

// named is a server that says its name when it is asked for, which the
// interoperability server does not.
type named struct {
	testgrpc.UnimplementedTestServiceServer
	name string
}

func (s *named) UnaryCall(_ context.Context, in *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	out := &testgrpc.SimpleResponse{Payload: &testgrpc.Payload{Type: in.GetResponseType(), Body: make([]byte, in.GetResponseSize())}}
	if in.GetFillServerId() {
		out.ServerId = s.name
	}
	return out, nil
}

// serveNamed starts such a server and returns its address.
func serveNamed(t *testing.T, name string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	testgrpc.RegisterTestServiceServer(s, &named{name: name})
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
