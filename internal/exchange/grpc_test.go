package exchange

import (
	"testing"
	"time"
)

func TestGRPCIsRecognised(t *testing.T) {
	for value, want := range map[string]bool{
		"application/grpc": true, "Application/GRPC": true, "application/grpc+proto": true, "application/grpc;charset=utf-8": true,
		"application/grpc-web": true, "application/grpc-web-text+proto": true,
		"": false, "application/grp": false, "application/grpcx": false, "application/json": false, "text/application/grpc": false,
	} {
		var r Request
		r.Header.Set("Content-Type", value)
		if r.GRPC() != want {
			t.Errorf("%q: %v", value, !want)
		}
	}
}

func TestGRPCProblem(t *testing.T) {
	x := Get()
	defer Put(x)
	x.Request.Header.Set("Content-Type", "application/grpc+proto; a=b")
	x.Fail(&Problem{
		Status: 503, Code: "busy", Detail: "50 % of it is naïve.", Retry: 1500 * time.Millisecond,
		Fields: []Field{{Name: "X-Why", Value: "load"}},
	})
	x.Render()
	r := &x.Response
	if r.Status != 200 || r.Length != 0 || !r.Local {
		t.Errorf("%d, length %d", r.Status, r.Length)
	}
	for name, want := range map[string]string{
		"Content-Type": "application/grpc+proto", "grpc-status": "14", "X-Why": "load",
		"grpc-message": "busy: 50 %25 of it is na%C3%AFve.", "grpc-retry-pushback-ms": "1500",
	} {
		if got := r.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestGRPCStatus(t *testing.T) {
	for status, want := range map[int]int{400: 13, 401: 16, 403: 7, 404: 12, 408: 4, 413: 8, 418: 2, 429: 8, 499: 1, 500: 13, 502: 14, 503: 14, 504: 4} {
		if got := GRPCStatus(status); got != want {
			t.Errorf("%d: %d, want %d", status, got, want)
		}
	}
}

// A body that broke off can still end with a status where trailers exist.
func TestEndGRPC(t *testing.T) {
	x := Get()
	defer Put(x)
	x.Request.Header.Set("Content-Type", "application/grpc")
	x.Request.Proto, x.Response.Length = HTTP2, Unknown
	x.Problem = &Problem{Status: 504, Code: "late"}
	if !x.EndGRPC() || x.Response.Trailer.Get("grpc-status") != "4" {
		t.Errorf("%v", x.Response.Trailer)
	}
	for name, change := range map[string]func(){
		"HTTP/1.1": func() { x.Request.Proto = HTTP11 },
		"counted":  func() { x.Request.Proto, x.Response.Length = HTTP2, 5 },
		"gRPC-Web": func() { // its trailer is part of the body
			x.Response.Length = Unknown
			x.Response.Header.Set("Content-Type", "Application/gRPC-Web+proto")
		},
		"nobody": func() {
			x.Response.Header.Reset()
			x.Response.Length, x.Problem = Unknown, &Problem{Status: StatusClientGone}
		},
	} {
		if change(); x.EndGRPC() {
			t.Error(name)
		}
	}
}
