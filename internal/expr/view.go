package expr

import (
	"fmt"
	"net/netip"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"
	"cel.dev/cel-go/interpreter"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// view is an exchange as the activation of an evaluation: it is the exchange
// itself under another type, so that nothing is built for a request.
type view exchange.Exchange

var _ interpreter.Activation = (*view)(nil)

// ResolveName returns the exchange for each of the structs: their fields know
// where to look.
func (v *view) ResolveName(name string) (any, bool) {
	switch name {
	case "request", "route", "client", "consumer":
		return (*exchange.Exchange)(v), true
	case "claims":
		return claims(&v.Who), true
	}
	return nil, false
}

// Parent returns nothing: there is one scope.
func (v *view) Parent() interpreter.Activation { return nil }

var (
	requestType  = cel.ObjectType("gatehouse.Request")
	routeType    = cel.ObjectType("gatehouse.Route")
	clientType   = cel.ObjectType("gatehouse.Client")
	consumerType = cel.ObjectType("gatehouse.Consumer")
	texts        = cel.MapType(cel.StringType, cel.StringType)
)

type field struct {
	name string
	t    *cel.Type
	get  func(x *exchange.Exchange) any
}

// fieldsOf lists the fields of a variable. Maps are views as well.
func fieldsOf(variable string) []field {
	switch variable {
	case "gatehouse.Request":
		return []field{
			{"method", cel.StringType, func(x *exchange.Exchange) any { return x.Request.Method }},
			{"scheme", cel.StringType, func(x *exchange.Exchange) any { return x.Request.Scheme }},
			{"host", cel.StringType, func(x *exchange.Exchange) any { return x.Request.Host }},
			{"path", cel.StringType, func(x *exchange.Exchange) any { return x.Request.Path }},
			{"raw_query", cel.StringType, func(x *exchange.Exchange) any { return x.Request.Query }},
			{"protocol", cel.StringType, func(x *exchange.Exchange) any { return x.Request.Proto.String() }},
			{"size", cel.IntType, func(x *exchange.Exchange) any { return x.Request.Length }},
			{"id", cel.StringType, func(x *exchange.Exchange) any { return x.RequestID() }},
			{"time", cel.TimestampType, func(x *exchange.Exchange) any { return started(x) }},
			{"headers", texts, func(x *exchange.Exchange) any { return mapping{(*headers)(&x.Request.Header)} }},
			{"cookies", texts, func(x *exchange.Exchange) any { return mapping{(*cookies)(&x.Request.Header)} }},
			{"query", texts, func(x *exchange.Exchange) any { return mapping{(*query)(&x.Request)} }},
		}
	case "gatehouse.Route":
		return []field{
			{"name", cel.StringType, func(x *exchange.Exchange) any { return x.Route.Name }},
			{"rest", cel.StringType, func(x *exchange.Exchange) any { return x.Route.Rest }},
			{"params", texts, func(x *exchange.Exchange) any { return mapping{(*params)(&x.Route)} }},
		}
	case "gatehouse.Client":
		return []field{
			{"ip", cel.StringType, func(x *exchange.Exchange) any { return x.Client.IP }},
			{"listener", cel.StringType, func(x *exchange.Exchange) any { return x.Client.Listener }},
			{"tls", cel.BoolType, func(x *exchange.Exchange) any { return x.Client.TLS != nil }},
			{"server_name", cel.StringType, func(x *exchange.Exchange) any { return serverName(x.Client) }},
		}
	case "gatehouse.Consumer":
		return consumerFields()
	}
	return nil
}

// started is the time of day at which the request came, or now where nothing
// was measured.
func started(x *exchange.Exchange) time.Time {
	if x.Times.Start == 0 {
		return time.Now()
	}
	return exchange.Wall(x.Times.Start)
}

func serverName(c *exchange.Client) string {
	if c.TLS == nil {
		return ""
	}
	return c.TLS.ServerName
}

// provider tells the CEL library what fields the variables have.
type provider struct{ *types.Registry }

func (p *provider) FindStructType(name string) (*types.Type, bool) {
	if fieldsOf(name) != nil {
		return types.NewTypeTypeWithParam(types.NewObjectType(name)), true
	}
	return p.Registry.FindStructType(name)
}

func (p *provider) FindStructFieldNames(name string) ([]string, bool) {
	list := fieldsOf(name)
	if list == nil {
		return p.Registry.FindStructFieldNames(name)
	}
	var names []string
	for _, f := range list {
		names = append(names, f.name)
	}
	return names, true
}

func (p *provider) FindStructFieldType(name, key string) (*types.FieldType, bool) {
	for _, f := range fieldsOf(name) {
		if f.name == key {
			return &types.FieldType{
				Type:  f.t,
				IsSet: func(target any) bool { x, ok := target.(*exchange.Exchange); return ok && x != nil },
				GetFrom: func(target any) (any, error) {
					x, ok := target.(*exchange.Exchange)
					if !ok {
						return nil, fmt.Errorf("%s is not there", key)
					}
					return f.get(x), nil
				},
			}, true
		}
	}
	return p.Registry.FindStructFieldType(name, key)
}

// NewValue refuses: the variables are what a request brings.
func (p *provider) NewValue(name string, fields map[string]ref.Val) ref.Val {
	if fieldsOf(name) != nil {
		return types.NewErr("%s cannot be made in an expression", name)
	}
	return p.Registry.NewValue(name, fields)
}

func parseRange(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4In6() || p != p.Masked() {
		return p, fmt.Errorf("%q is not a range of addresses such as 10.0.0.0/8", s)
	}
	return p, nil
}

// readRanges reads the range of each call of inRange once, when a program is
// prepared: look has made sure that all are written out.
func readRanges() *interpreter.RegexOptimization {
	return &interpreter.RegexOptimization{
		Function: "inRange", RegexIndex: 1,
		Factory: func(call interpreter.InterpretableCall, text string) (interpreter.InterpretableCall, error) {
			p, err := parseRange(text)
			if err != nil {
				return nil, err
			}
			return interpreter.NewCall(call.ID(), call.Function(), call.OverloadID(), call.Args(), func(values ...ref.Val) ref.Val {
				return contains(values[0], p)
			}), nil
		},
	}
}

func contains(addr ref.Val, p netip.Prefix) ref.Val {
	a, isText := addr.(types.String)
	if !isText {
		return types.NewErr("inRange compares texts")
	}
	ip, err := netip.ParseAddr(string(a))
	if err != nil {
		return types.NewErr("%q is not an address", string(a))
	}
	return types.Bool(p.Contains(ip.Unmap().WithZone("")))
}

// inRange is a call whose range was not read before, of which there is none.
func inRange(_, text ref.Val) ref.Val {
	return types.NewErr("the range %v was not read", text)
}
