package gatehouse_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"
)

const (
	longestFile     = 600 // lines
	longestFunction = 90
)

// long lists what may be longer, each with its reason: "file" or
// "file function".
var long = map[string]string{}

func TestLength(t *testing.T) {
	needed := make(map[string]bool)
	check := func(name string, lines, most int) {
		if lines <= most {
			return
		}
		needed[name] = true
		if long[name] == "" {
			t.Errorf("%s has %d lines, more than %d: divide it, or say in length_test.go why not", name, lines, most)
		}
	}
	for _, file := range goFiles(t) {
		src, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		set := token.NewFileSet()
		f, err := parser.ParseFile(set, file, src, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		if ast.IsGenerated(f) {
			continue
		}
		check(file, strings.Count(string(src), "\n"), longestFile)
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok {
				lines := set.Position(fn.End()).Line - set.Position(fn.Pos()).Line + 1
				check(fmt.Sprint(file, " ", fn.Name.Name), lines, longestFunction)
			}
		}
	}
	for name := range long {
		if !needed[name] {
			t.Errorf("%s is no longer too long: remove its entry", name)
		}
	}
}
