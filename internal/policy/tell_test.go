package policy_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse.dev/gatehouse/internal/policy"
)

// What is spared is always counted, and logged once a second.
func TestTeller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		counted := make(map[string]int)
		tell := policy.NewTeller(&policy.Env{
			Path: "policies[0]", Log: slog.New(slog.NewTextHandler(&log, nil)),
			Spared: func(reason string) { counted[reason]++ },
		})
		for range 5 {
			tell.Spared(policy.DryRun, "let through", "n", 1)
		}
		time.Sleep(time.Second)
		tell.Spared(policy.FailOpen, "not decided")
		if counted[policy.DryRun] != 5 || counted[policy.FailOpen] != 1 {
			t.Errorf("counted %v", counted)
		}
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if len(lines) != 2 || !strings.Contains(lines[0], "path=policies[0] n=1") || !strings.HasSuffix(lines[1], `msg="not decided" path=policies[0] left_out=4`) {
			t.Errorf("logged:\n%s", log.String())
		}
	})
}
