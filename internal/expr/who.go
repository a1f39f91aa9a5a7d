package expr

import (
	"cel.dev/cel-go/cel"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// What authentication found, as expressions see it.

func claims(w *exchange.Who) any { return noClaims }

var noClaims any = map[string]any(nil)

func consumerFields() []field {
	return []field{
		{"name", cel.StringType, func(x *exchange.Exchange) any { return x.Who.Consumer }},
		{"method", cel.StringType, func(x *exchange.Exchange) any { return x.Who.Method }},
		{"groups", cel.ListType(cel.StringType), func(x *exchange.Exchange) any { return x.Who.Groups }},
	}
}
