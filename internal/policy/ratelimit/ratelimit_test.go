package ratelimit_test

import (
	"context"
	"errors"
	"testing"

	"gatehouse.dev/gatehouse/internal/limit"
	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

func Test(t *testing.T) {
	policytest.Run(t, policytest.Suite{
		Catalog: all.Catalog(), Kind: "rate_limit",
		Settings: "{ limit: 1000000/s, burst: 1000000, by: client }", Services: services,
	})
}

func BenchmarkPlain(b *testing.B) {
	for name, policies := range map[string]string{
		"none":     "[]",
		"client":   "[ rate_limit: { limit: 1000000/s } ]",
		"header":   `[ rate_limit: { limit: 1000000/s, by: "header:User-Agent" } ]`,
		"two":      "[ rate_limit: { limits: [ { limit: 1000000/s }, { limit: 10000000/m, by: route } ] } ]",
		"expr":     `[ rate_limit: { limit: 1000000/s, by: 'request.method + client.ip' } ]`,
		"headless": "[ rate_limit: { limit: 1000000/s, headers: false } ]",
	} {
		b.Run(name, func(b *testing.B) {
			serve := policytest.Plain(b, all.Catalog(), "routes: [ { match: /*, upstream: http://up, policies: "+policies+" } ]", nil)
			b.ReportAllocs()
			for b.Loop() {
				serve()
			}
		})
	}
}

// never is a store that does not answer.
type never struct{}

func (never) Take(context.Context, []limit.Call) error { return errors.New("down") }
func (never) Add(context.Context, []limit.Call) error  { return errors.New("down") }

func services(name string) any {
	if name == "redis" {
		return never{}
	}
	return nil
}
