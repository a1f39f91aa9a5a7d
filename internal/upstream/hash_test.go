package upstream

import (
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// TestHashOfExpression: what is hashed may be an expression.
func TestHashOfExpression(t *testing.T) {
	f, err := hashOf(`request.query.tenant + "/" + request.method`)
	if err != nil {
		t.Fatal(err)
	}
	key := func(query string) uint64 {
		return f(&exchange.Exchange{Request: exchange.Request{Method: "GET", Query: query}})
	}
	if key("tenant=a&x=1") != key("x=2&tenant=a") || key("tenant=a") == key("tenant=b") {
		t.Error("the expression is not what is hashed")
	}
	if _, err := hashOf("request.nothing"); err == nil {
		t.Error("a wrong expression is taken")
	}
}
