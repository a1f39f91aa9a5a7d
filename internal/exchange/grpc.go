package exchange

import (
	"strconv"
	"strings"
)

// This file is what gRPC is told of a problem: a status in place of an HTTP
// one. The names are those of gRPC's own documents, "gRPC over HTTP2" and
// "Status codes and their use in gRPC".

const typeGRPC = "application/grpc"

// GRPC reports whether the request is one of gRPC, or of gRPC-Web.
func (r *Request) GRPC() bool {
	t := r.Header.Known(ContentType)
	if len(t) < len(typeGRPC) || !EqualFold(t[:len(typeGRPC)], typeGRPC) {
		return false
	}
	rest := t[len(typeGRPC):]
	return rest == "" || rest[0] == '+' || rest[0] == ';' || rest[0] == ' ' || isWeb(t)
}

func isWeb(contentType string) bool {
	const web = typeGRPC + "-web"
	return len(contentType) >= len(web) && EqualFold(contentType[:len(web)], web)
}

// GRPCStatus is the status of gRPC that stands for a problem's.
func GRPCStatus(status int) int {
	switch status {
	case StatusClientGone:
		return 1 // CANCELLED
	case 408, 504:
		return 4 // DEADLINE_EXCEEDED
	case 403, 451:
		return 7 // PERMISSION_DENIED
	case 413, 429, 431:
		return 8 // RESOURCE_EXHAUSTED
	case 412:
		return 9 // FAILED_PRECONDITION
	case 409:
		return 10 // ABORTED
	case 404, 405, 501:
		return 12 // UNIMPLEMENTED
	case 400, 411, 414, 415, 417, 500:
		return 13 // INTERNAL
	case 421, 425, 502, 503:
		return 14 // UNAVAILABLE
	case 401:
		return 16 // UNAUTHENTICATED
	}
	return 2 // UNKNOWN
}

// appendStatus appends the fields that tell a problem.
func appendStatus(h *Header, p *Problem) {
	h.Set("grpc-status", strconv.Itoa(GRPCStatus(p.Status)))
	h.Set("grpc-message", grpcMessage(p.Code+": "+p.Detail))
	if p.Retry > 0 {
		h.Set("grpc-retry-pushback-ms", strconv.FormatInt(p.Retry.Milliseconds(), 10))
	}
}

// renderGRPC gives the exchange an answer that has nothing but its status.
func (x *Exchange) renderGRPC() {
	r, p := &x.Response, x.Problem
	kind, _, _ := strings.Cut(x.Request.Header.Known(ContentType), ";")
	r.Reset()
	r.Status = 200
	r.Header.AddKnown(ContentType, strings.TrimSpace(kind))
	for _, f := range p.Fields {
		r.Header.Append(f)
	}
	appendStatus(&r.Header, p)
	r.SetBody(nil)
	if p.Close {
		r.Close = true
	}
}

// EndGRPC gives the answer, whose head is sent and whose body broke off, the
// trailer that tells why. It reports false when that cannot be told, as in an
// answer of gRPC-Web: browsers show no trailer, and it would pass for whole.
func (x *Exchange) EndGRPC() bool {
	r, p := &x.Response, x.Problem
	if p == nil || p.Status == StatusClientGone || x.Request.Proto < HTTP2 || r.Length >= 0 || !x.Request.GRPC() || isWeb(r.Header.Known(ContentType)) {
		return false
	}
	r.Trailer.Reset()
	appendStatus(&r.Trailer, p)
	return true
}

// grpcMessage percent-encodes what is not printable ASCII.
func grpcMessage(s string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	for i := range len(s) {
		if c := s[i]; c >= ' ' && c <= '~' && c != '%' {
			b.WriteByte(c)
		} else {
			b.WriteString("%" + hex[c>>4:c>>4+1] + hex[c&15:c&15+1])
		}
	}
	return b.String()
}
