package live_test

import (
	"os"
	"path/filepath"
	"testing"

	"gatehouse.dev/gatehouse/test/live"
)

func build(t *testing.T) (binary string) {
	t.Helper()
	binary, err := live.Build(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

// serve runs a gateway for as long as the test runs, in a folder that may hold
// files that the settings name. before, unless it is "", is a command of the
// shell that runs it, such as one that sets a limit.
func serve(t *testing.T, binary, dir, settings, before string) *live.Gateway {
	t.Helper()
	file := filepath.Join(dir, "gatehouse.yaml")
	if err := os.WriteFile(file, []byte(settings), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{binary, "run", "-c", file}
	if before != "" {
		args = append([]string{"sh", "-c", before + ` && exec "$@"`, "sh"}, args...)
	}
	g, err := live.Start(args[0], dir, nil, args[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Kill)
	if err := g.Serving(); err != nil {
		t.Fatal(err)
	}
	return g
}
