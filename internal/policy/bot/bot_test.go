package bot_test

import (
	"testing"

	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

func Test(t *testing.T) {
	policytest.Run(t, policytest.Suite{
		Catalog: all.Catalog(), Kind: "bot",
		Settings: "{ require_user_agent: false }",
	})
}
