package extauthz

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/protobuf/types/known/timestamppb"

	"gatehouse.dev/gatehouse/internal/decision"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

var (
	_ policy.Holds      = (*asker)(nil)
	_ policy.OnRequest  = (*asker)(nil)
	_ policy.OnResponse = (*asker)(nil)
)

// asker asks, and does what the service says.
type asker struct {
	client  auth.AuthorizationClient
	url     string
	timeout time.Duration
	open    bool
	body    int64
	headers []string // lower case; none: all
	sets    []string
	answers []string
	context map[string]string
	cache   *decision.Cache[*verdict]
	slot    policy.Slot[state]
	tell    *policy.Teller
	dryRun  bool
}

// state is what the answer to the client gets.
type state struct{ fields []exchange.Field }

// verdict is what a service decided, without what it may not decide.
type verdict struct {
	allowed bool
	request []exchange.Field // set on what goes on
	remove  []string
	answer  []exchange.Field // set on what the client gets
	status  int              // of a refusal
	body    string
}

// HoldRequest is the largest body that is shown.
func (a *asker) HoldRequest() int64 { return a.body }

// HoldResponse is nothing.
func (a *asker) HoldResponse() int64 { return 0 }

// Reaches says which service is asked.
func (a *asker) Reaches(*exchange.Exchange) string { return "asks " + a.url }

func (a *asker) Request(x *exchange.Exchange) policy.Verdict {
	h := &x.Request.Header
	for _, name := range a.sets {
		h.Del(name) // before the service sees it: nobody else may say this
	}
	q, key := a.question(x)
	v, known := a.cache.Get(key)
	if !known {
		ctx, cancel := context.WithTimeout(context.Background(), a.timeout)
		answer, err := a.client.Check(ctx, q)
		cancel()
		if err == nil {
			v, err = a.read(answer)
		}
		switch {
		case err != nil && a.open:
			a.tell.Spared(policy.FailOpen, "a request was let through by fail_open: the service does not decide", "error", err)
			return policy.Next
		case err != nil:
			x.Fail(unavailable.With(err))
			return policy.Stop
		}
		a.cache.Put(key, v)
	}
	if v.allowed {
		for _, name := range v.remove {
			h.Del(name)
		}
		for _, f := range v.request {
			h.Append(f)
		}
		a.slot.Get(x).fields = v.answer
		return policy.Next
	}
	if a.dryRun {
		a.tell.Spared(policy.DryRun, "a request was let through by dry_run", "request_id", x.RequestID(), "status", v.status)
		return policy.Next
	}
	a.refuse(x, v)
	return policy.Stop
}

// refuse answers as the service says. Without a body of its own the answer is
// a problem like any other.
func (a *asker) refuse(x *exchange.Exchange, v *verdict) {
	if v.body == "" && v.status == 403 && len(v.answer) == 0 {
		x.Fail(&refused)
		return
	}
	if v.body == "" {
		p := refused
		p.Status, p.Fields = v.status, v.answer
		x.Fail(&p)
		return
	}
	r := &x.Response
	r.Reset()
	r.Status = v.status
	for _, f := range v.answer {
		r.Header.Append(f)
	}
	r.SetBody([]byte(v.body))
}

// Response adds what the service has for the client.
func (a *asker) Response(x *exchange.Exchange) {
	for _, f := range a.slot.Get(x).fields {
		x.Response.Header.Append(f)
	}
}

// question is what the service is shown, and the key of all that its decision
// is made from. When and under which id a request came is shown as well; it is
// not what decisions that are remembered may rest on.
func (a *asker) question(x *exchange.Exchange) (*auth.CheckRequest, string) {
	r := &x.Request
	path := r.Path
	if r.HasQuery {
		path += "?" + r.Query
	}
	fields := a.shown(&r.Header)
	body, _ := exchange.Held(r.Body)
	http := &auth.AttributeContext_HttpRequest{
		Id: x.RequestID(), Method: r.Method, Path: path, Host: r.Authority, Scheme: r.Scheme, Protocol: r.Proto.String(),
		Headers: fields, Size: r.Length, Query: r.Query,
	}
	if a.body > 0 {
		http.RawBody = body
	}
	q := &auth.CheckRequest{Attributes: &auth.AttributeContext{
		Source:            peer(x.Client.Addr.Addr().Unmap().String(), uint32(x.Client.Addr.Port()), x.Who.Consumer),
		Destination:       peer(x.Client.Listener, 0, ""),
		Request:           &auth.AttributeContext_Request{Time: timestamppb.Now(), Http: http},
		ContextExtensions: a.context,
	}}
	if x.Who.Consumer != "" || a.context != nil {
		q.Attributes.ContextExtensions = maps.Clone(a.context)
		if q.Attributes.ContextExtensions == nil {
			q.Attributes.ContextExtensions = make(map[string]string)
		}
		q.Attributes.ContextExtensions["consumer"] = x.Who.Consumer
	}
	if a.cache == nil {
		return q, ""
	}
	h := sha256.New()
	for _, s := range []string{r.Method, path, r.Authority, r.Scheme, x.Client.IP, x.Client.Listener, x.Who.Consumer} {
		fmt.Fprintf(h, "%d:%s", len(s), s)
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		fmt.Fprintf(h, "%d:%s%d:%s", len(name), name, len(fields[name]), fields[name])
	}
	return q, string(h.Sum(nil))
}

func peer(address string, port uint32, principal string) *auth.AttributeContext_Peer {
	return &auth.AttributeContext_Peer{Principal: principal, Address: &core.Address{Address: &core.Address_SocketAddress{
		SocketAddress: &core.SocketAddress{Address: address, PortSpecifier: &core.SocketAddress_PortValue{PortValue: port}},
	}}}
}

// shown are the fields that the service sees, names in lower case, the lines of
// one joined: a rule sees all of them.
func (a *asker) shown(h *exchange.Header) map[string]string {
	out := make(map[string]string, h.Len())
	for name, value := range h.All() {
		name = strings.ToLower(name)
		if len(a.headers) > 0 && !slices.Contains(a.headers, name) {
			continue
		}
		if before, ok := out[name]; ok {
			sep := ","
			if name == "cookie" {
				sep = "; "
			}
			value = before + sep + value
		}
		out[name] = strings.ToValidUTF8(value, "\uFFFD")
	}
	return out
}

// read takes from an answer what the service may decide.
func (a *asker) read(answer *auth.CheckResponse) (*verdict, error) {
	if answer.GetStatus() == nil {
		return nil, fmt.Errorf("the service answered without a status")
	}
	v := &verdict{allowed: answer.GetStatus().GetCode() == 0}
	if v.allowed {
		ok := answer.GetOkResponse()
		v.request = a.fields(ok.GetHeaders(), a.sets)
		v.answer = a.fields(ok.GetResponseHeadersToAdd(), a.answers)
		for _, name := range ok.GetHeadersToRemove() {
			if policy.CheckField(name) == nil {
				v.remove = append(v.remove, name)
			}
		}
		return v, nil
	}
	denied := answer.GetDeniedResponse()
	if v.status = int(denied.GetStatus().GetCode()); v.status < 300 || v.status > 599 {
		v.status = 403
	}
	if len(denied.GetBody()) <= 64<<10 {
		v.body = denied.GetBody()
	}
	v.answer = a.fields(denied.GetHeaders(), nil)
	return v, nil
}

// fields reads fields that the service sets: those of a list, or, where the
// answer is the service's own, all that a message may carry.
func (a *asker) fields(list []*core.HeaderValueOption, allowed []string) (out []exchange.Field) {
	for _, o := range list {
		name, value := o.GetHeader().GetKey(), o.GetHeader().GetValue()
		if raw := o.GetHeader().GetRawValue(); len(raw) > 0 {
			value = string(raw)
		}
		if policy.CheckField(name) != nil || policy.CheckValue(value) != nil {
			continue
		}
		if allowed != nil && !slices.Contains(allowed, strings.ToLower(name)) {
			a.tell.Warn("the service sets a field that it may not set", "field", name)
			continue
		}
		out = append(out, exchange.Field{Name: name, Value: value, Known: exchange.LookupKnown(name)})
	}
	return out
}
