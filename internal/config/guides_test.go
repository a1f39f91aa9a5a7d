package config_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/config"
)

// The configurations of the guides on upstreams have no fault and no warning.
func TestGuidesOnUpstreams(t *testing.T) {
	for _, name := range []string{"load-balancing.md", "resilience.md"} {
		src, err := os.ReadFile(filepath.Join("../../docs/guides", name))
		if err != nil {
			t.Fatal(err)
		}
		blocks := strings.Split(string(src), "```yaml\n")[1:]
		if len(blocks) == 0 {
			t.Errorf("%s has no configuration", name)
		}
		for _, b := range blocks {
			text, _, _ := strings.Cut(b, "```")
			if _, faults := config.Parse(name, []byte(text), catalog()); len(faults) > 0 {
				t.Errorf("%s:\n%s\n%v", name, text, faults)
			}
		}
	}
}
