// Package key owns the question which requests are counted together: the "by"
// of limits and quotas. It knows no limit, and it refuses to keep what
// identifies a client: a key is a hash, or a text that is hashed before it
// leaves the gateway.
package key

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/maphash"
	"strconv"
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/expr"
	"gatehouse.dev/gatehouse/internal/policy"
)

// By says what requests are counted together by. The zero By is the client.
type By struct {
	kind  kind
	field string        // of byHeader
	expr  *expr.Program // of byExpr
}

type kind uint8

const (
	byClient kind = iota
	byConsumer
	byRoute
	byHeader
	byExpr
)

// Parse reads client, consumer, route, header:NAME, claim:NAME or an
// expression.
func Parse(s string) (By, *policy.Fault) {
	word, name, named := strings.Cut(s, ":")
	switch {
	case s == "client":
		return By{}, nil
	case s == "consumer":
		return By{kind: byConsumer}, nil
	case s == "route":
		return By{kind: byRoute}, nil
	case named && word == "header":
		return By{kind: byHeader, field: name}, policy.CheckField(name)
	case named && word == "claim":
		if name == "" || len(name) > 200 {
			return By{}, &policy.Fault{Text: fmt.Sprintf("%q names no claim", s), Hint: "write claim:tenant"}
		}
		s = "claims[" + strconv.Quote(name) + "]"
	}
	p, err := expr.Compile(s, expr.Text)
	if err != nil {
		return By{}, &policy.Fault{Text: fmt.Sprintf("%q is neither client, consumer, route, header:NAME, claim:NAME nor an expression: %v", s, err)}
	}
	return By{kind: byExpr, expr: p}, nil
}

// Stage is where a policy that counts by s runs: at the edge when all that
// counts is the client's address, so that a flood is turned away before
// anything is done for it.
func Stage(s string) policy.Stage {
	if s == "client" {
		return policy.Edge
	}
	return policy.Admit
}

// Shared reports whether all requests of a route are counted together, and not
// those of somebody.
func (b By) Shared() bool { return b.kind == byRoute }

// The first byte says what a key is of, so that a header cannot be taken for
// an address.
const (
	ofClient byte = iota
	ofConsumer
	ofRoute
	ofHeader
	ofExpr
)

// Hash names the key of a request. The seed is secret: a client cannot find
// keys that fall together. A request without the consumer, header or value is
// counted by its client.
func (b By) Hash(x *exchange.Exchange, seed maphash.Seed) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	switch b.kind {
	case byConsumer:
		if name := caller(x); name != "" {
			h.WriteByte(ofConsumer)
			h.WriteString(name)
			return h.Sum64()
		}
	case byRoute:
		h.WriteByte(ofRoute)
		h.WriteString(x.Route.Name)
		return h.Sum64()
	case byHeader:
		// All lines count: a client cannot choose which one is looked at.
		found := false
		h.WriteByte(ofHeader)
		for v := range x.Request.Header.Values(b.field) {
			found = true
			h.WriteString(v)
			h.WriteByte(0)
		}
		if found {
			return h.Sum64()
		}
		h.Reset()
	case byExpr:
		if text, err := b.expr.Text(x); err == nil {
			h.WriteByte(ofExpr)
			h.WriteString(text)
			return h.Sum64()
		}
	}
	h.WriteByte(ofClient)
	network := client(x)
	h.Write(network[:])
	return h.Sum64()
}

// Text is Hash for what is shared by several gateways: the same on each of
// them.
func (b By) Text(x *exchange.Exchange) string {
	switch b.kind {
	case byConsumer:
		if name := caller(x); name != "" {
			return "consumer\x00" + name
		}
	case byRoute:
		return "route\x00" + x.Route.Name
	case byHeader:
		all, found := "header", false
		for v := range x.Request.Header.Values(b.field) {
			all, found = all+"\x00"+v, true
		}
		if found {
			return all
		}
	case byExpr:
		if text, err := b.expr.Text(x); err == nil {
			return "expr\x00" + text
		}
	}
	network := client(x)
	return "client\x00" + string(network[:])
}

// caller is the consumer, or whom the proof names where no consumer is known:
// names are an issuer's own, and another may give the same to somebody else.
func caller(x *exchange.Exchange) string {
	if x.Who.Consumer != "" {
		return x.Who.Consumer
	}
	if x.Who.Subject != "" {
		issuer, _ := x.Who.Claims["iss"].(string)
		return "\x00" + x.Who.Method + "\x00" + issuer + "\x00" + x.Who.Subject
	}
	return ""
}

// client returns the address that counts as one client: all of IPv4, and of
// IPv6 the /64, which is what one subscriber has.
func client(x *exchange.Exchange) [16]byte {
	addr := x.Client.Addr.Addr()
	a := addr.As16()
	if addr.Is6() && !addr.Is4In6() {
		clear(a[8:])
	}
	return a
}

// Digest shortens a text, and keeps what it says out of stores and their logs.
func Digest(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:16])
}
