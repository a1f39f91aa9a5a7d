package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var code = regexp.MustCompile(`Status:\s+([a-zA-Z0-9.]+),\s*Code:\s+"([a-z_]+)"`)

// TestProblemCodes compares the guide's table of codes with the code.
func TestProblemCodes(t *testing.T) {
	guide, err := os.ReadFile(filepath.Join(root, "docs/guides/observability.md"))
	if err != nil {
		t.Fatal(err)
	}
	defined := make(map[string]bool)
	err = filepath.WalkDir(filepath.Join(root, "internal"), func(path string, _ fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		src, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, m := range code.FindAllStringSubmatch(string(src), -1) {
			status := strings.Replace(m[1], "exchange.StatusClientGone", "499", 1)
			defined[m[2]] = true
			if row := "| `" + m[2] + "` | " + status + " |"; !strings.Contains(string(guide), row) {
				t.Errorf("%s: the guide on observability has no row %q", path, row)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z_]+)` \\| [0-9]{3} \\|").FindAllStringSubmatch(string(guide), -1) {
		if !defined[m[1]] {
			t.Errorf("the guide on observability lists the code %q, and nothing has it", m[1])
		}
	}
}
