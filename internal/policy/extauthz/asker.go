package extauthz

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gatehouse.dev/gatehouse/internal/decision"
	"gatehouse.dev/gatehouse/internal/exchange"
)

// asker speaks the service's protocol.
type asker struct {
	url     string
	client  auth.AuthorizationClient
	context map[string]string
}

// question is a request as the service is shown it. What is not set yet, when
// and under which id it came and from which port, is nothing that a decision may
// rest on.
type question struct {
	client auth.AuthorizationClient
	check  *auth.CheckRequest
	id     string
	port   uint32
}

var (
	_ decision.Service  = (*asker)(nil)
	_ decision.Question = (*question)(nil)
)

// Reaches says which service is asked.
func (a *asker) Reaches(*exchange.Exchange) string { return "asks " + a.url }

// Ask shows a request. Texts of the protocol are UTF-8, whatever a client sends.
func (a *asker) Ask(x *exchange.Exchange, fields map[string]string, body []byte) (decision.Question, error) {
	r := &x.Request
	path := r.Path
	if r.HasQuery {
		path += "?" + r.Query
	}
	for name, value := range fields {
		fields[name] = text(value)
	}
	context := a.context
	if x.Who.Consumer != "" || a.context != nil {
		if context = maps.Clone(a.context); context == nil {
			context = make(map[string]string)
		}
		context["consumer"] = x.Who.Consumer
	}
	return &question{a.client, &auth.CheckRequest{Attributes: &auth.AttributeContext{
		Source:      peer(x.Client.Addr.Addr().Unmap().String(), x.Who.Consumer),
		Destination: peer(x.Client.Listener, ""),
		Request: &auth.AttributeContext_Request{Http: &auth.AttributeContext_HttpRequest{
			Method: text(r.Method), Path: text(path), Host: text(r.Authority), Scheme: text(r.Scheme), Protocol: r.Proto.String(),
			Headers: fields, Size: r.Length, Query: text(r.Query), RawBody: body,
		}},
		ContextExtensions: context,
	}}, x.RequestID(), uint32(x.Client.Addr.Port())}, nil
}

func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func peer(address, principal string) *auth.AttributeContext_Peer {
	return &auth.AttributeContext_Peer{Principal: principal, Address: &core.Address{Address: &core.Address_SocketAddress{
		SocketAddress: &core.SocketAddress{Address: address},
	}}}
}

// Key is what the service is shown.
func (q *question) Key() ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.Marshal(q.check)
}

// Answer asks the service.
func (q *question) Answer(ctx context.Context) (*decision.Verdict, error) {
	a := q.check.GetAttributes()
	a.GetRequest().Time = timestamppb.Now()
	a.GetRequest().GetHttp().Id = q.id
	a.GetSource().GetAddress().GetSocketAddress().PortSpecifier = &core.SocketAddress_PortValue{PortValue: q.port}
	answer, err := q.client.Check(ctx, q.check)
	switch status.Code(err) {
	case codes.OK:
		return read(answer)
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return nil, decision.Silent(err)
	}
	// It is there, and something of the request may be why it does not decide.
	return nil, err
}

// read takes from an answer what the service decides.
func read(answer *auth.CheckResponse) (*decision.Verdict, error) {
	if answer.GetStatus() == nil {
		return nil, errors.New("the service answered without a status")
	}
	v := &decision.Verdict{Allow: answer.GetStatus().GetCode() == int32(codes.OK)}
	if v.Allow {
		if answer.GetDeniedResponse() != nil || answer.GetErrorResponse() != nil {
			return nil, fmt.Errorf("the service allows, and answers with %T", answer.GetHttpResponse())
		}
		ok := answer.GetOkResponse()
		if len(ok.GetQueryParametersToSet()) > 0 || len(ok.GetQueryParametersToRemove()) > 0 {
			return nil, errors.New("the service changes the query, which it may not")
		}
		v.Request, v.Answer, v.Remove = fields(ok.GetHeaders()), fields(ok.GetResponseHeadersToAdd()), ok.GetHeadersToRemove()
		return v, nil
	}
	if answer.GetErrorResponse() != nil {
		return nil, errors.New("the service answers that it failed")
	}
	denied := answer.GetDeniedResponse()
	v.Status, v.Answer = int(denied.GetStatus().GetCode()), fields(denied.GetHeaders())
	if len(denied.GetBody()) <= largestBody {
		v.Body = denied.GetBody()
	}
	return v, nil
}

// largestBody is the largest body in bytes that a refusal may have.
const largestBody = 64 << 10

func fields(list []*core.HeaderValueOption) []exchange.Field {
	var out []exchange.Field
	for _, o := range list {
		f := exchange.Field{Name: o.GetHeader().GetKey(), Value: o.GetHeader().GetValue()}
		if raw := o.GetHeader().GetRawValue(); len(raw) > 0 {
			f.Value = string(raw)
		}
		out = append(out, f)
	}
	return out
}
