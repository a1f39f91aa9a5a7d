package expr

import (
	"cel.dev/cel-go/cel"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// What authentication found, as expressions see it.

// claims of nobody are an empty map: to look at one is an error.
func claims(w *exchange.Who) any { return w.Claims }

func consumerFields() []field {
	list := cel.ListType(cel.StringType)
	return []field{
		{"name", cel.StringType, func(x *exchange.Exchange) any { return x.Who.Consumer }},
		{"subject", cel.StringType, func(x *exchange.Exchange) any { return x.Who.Subject }},
		{"method", cel.StringType, func(x *exchange.Exchange) any { return x.Who.Method }},
		{"groups", list, func(x *exchange.Exchange) any { return x.Who.Groups }},
		{"scopes", list, func(x *exchange.Exchange) any { return x.Who.Scopes }},
		{"labels", texts, func(x *exchange.Exchange) any { return x.Who.Labels }},
	}
}
