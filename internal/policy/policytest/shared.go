package policytest

import (
	"log/slog"
	"testing"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/redis"
	"gatehouse.dev/gatehouse/internal/redis/redistest"
)

// Shared connects a gateway to a server that others are connected to as well,
// for as long as the test runs, and waits until it answers.
func Shared(t testing.TB, server *redistest.Server) *redis.Store {
	t.Helper()
	cfg := new(config.Redis)
	cfg.Defaults()
	cfg.URL = "redis://" + server.Address
	s, err := redis.New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	redistest.Until(t, "the server answers", s.Ready)
	return s
}

// Services offers a policy one thing under a name.
func Services(name string, service any) func(name string) any {
	return func(asked string) any {
		if asked == name {
			return service
		}
		return nil
	}
}
