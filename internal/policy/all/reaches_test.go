package all_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// outside is what a policy has that asks somebody or counts where others see it:
// packages that it imports, and services of the gateway that it asks for.
var outside = []string{
	"gatehouse.dev/gatehouse/internal/fetch", "net/http", "google.golang.org/grpc", "github.com/go-ldap/ldap/v3",
	"service redis", "service durable",
}

// TestReaches makes sure that an explanation runs no step that others would hear
// of: a policy that can reach them says so.
func TestReaches(t *testing.T) {
	dirs, err := os.ReadDir("..")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, dir := range dirs {
		name := dir.Name()
		if !dir.IsDir() || name == "policytest" || name == "all" {
			continue
		}
		uses, says := inspect(t, filepath.Join("..", name))
		if len(uses) == 0 {
			continue
		}
		found++
		if !says {
			t.Errorf("policy %s has %s, and does not implement policy.Reaches", name, strings.Join(uses, " and "))
		}
	}
	if found < 10 {
		t.Errorf("only %d policies reach others: the test looks for the wrong things", found)
	}
}

// inspect returns what a package has of outside, and whether it declares
// Reaches.
func inspect(t *testing.T, dir string) (uses []string, says bool) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	note := func(what string) {
		if slices.Contains(outside, what) && !slices.Contains(uses, what) {
			uses = append(uses, what)
		}
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".go") || strings.HasSuffix(e.Name(), "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(dir, e.Name()), nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(f, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.BasicLit:
				if text, err := strconv.Unquote(n.Value); err == nil {
					note(text) // an import
					note("service " + text)
				}
			case *ast.FuncDecl:
				says = says || n.Name.Name == "Reaches" && n.Recv != nil
			}
			return true
		})
	}
	return uses, says
}
