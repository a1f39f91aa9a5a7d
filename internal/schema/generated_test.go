package schema

import (
	"bytes"
	"encoding/json"
	"flag"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/policy"
)

var update = flag.Bool("update", false, "write the generated files anew")

// TestGenerated keeps the generated files true to the source. With -update it
// writes them: that is what "make generate" runs.
func TestGenerated(t *testing.T) {
	cat := shipped()
	d := extract(t, cat)
	text, err := json.MarshalIndent(d, "", "\t")
	if err != nil {
		t.Fatal(err)
	}
	keep(t, "docs.json", append(text, '\n'))
	reference := "../../docs/reference"
	keep(t, filepath.Join(reference, "gatehouse.schema.json"), marshal(root(cat, d)))
	made := pages(cat, d)
	for name, page := range made {
		keep(t, filepath.Join(reference, name), page)
	}
	old, err := filepath.Glob(filepath.Join(reference, "policies", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range old {
		if made["policies/"+filepath.Base(name)] != nil {
			continue
		}
		if *update {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
			continue
		}
		t.Errorf("%s describes a policy that does not exist: run make generate", name)
	}
	for _, k := range cat.Kinds() {
		readme(t, k, d)
	}
}

// keep compares a file with what it should be, or writes it.
func keep(t *testing.T, name string, want []byte) {
	t.Helper()
	have, err := os.ReadFile(name)
	if err == nil && bytes.Equal(have, want) {
		return
	}
	if !*update {
		t.Errorf("%s is stale: run make generate", name)
		return
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, want, 0o644); err != nil {
		t.Fatal(err)
	}
}

// readme keeps the table of settings in a policy's README, between two
// comments.
func readme(t *testing.T, k *policy.Kind, d docs) {
	const begin, end = "<!-- config: made by \"make generate\" -->\n", "<!-- end of config -->\n"
	name := filepath.Join("..", below(reflect.TypeOf(k.New()).Elem().PkgPath()), "README.md")
	text, err := os.ReadFile(name)
	if err != nil {
		t.Errorf("policy %s: %v", k.Name, err)
		return
	}
	before, rest, found := strings.Cut(string(text), begin)
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		return
	}
	keep(t, name, []byte(before+begin+"\n"+block(k, d)+"\n"+end+after))
}

// extract reads the doc comments of all structs in the packages that the
// language is made of.
func extract(t *testing.T, cat *policy.Catalog) docs {
	t.Helper()
	packages := map[string]bool{reflect.TypeFor[policy.Use]().PkgPath(): true}
	for _, t := range settings(reflect.TypeFor[config.Config](), nil) {
		packages[t.PkgPath()] = true
	}
	for _, k := range cat.Kinds() {
		for _, t := range settings(reflect.TypeOf(k.New()).Elem(), nil) {
			packages[t.PkgPath()] = true
		}
	}
	d := make(docs)
	for _, pkg := range slices.Sorted(maps.Keys(packages)) {
		files, err := filepath.Glob(filepath.Join("..", below(pkg), "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments|parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			collect(d, below(pkg), f)
		}
	}
	return d
}

// settings returns a struct of settings and those that it is made of.
func settings(t reflect.Type, seen []reflect.Type) []reflect.Type {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice || t.Kind() == reflect.Map {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || slices.Contains(seen, t) || t == reflect.TypeFor[policy.Use]() {
		return seen
	}
	fields := config.Fields(t)
	if len(fields) > 0 || seen == nil {
		seen = append(seen, t)
	}
	for _, f := range fields {
		seen = settings(t.Field(f.Index).Type, seen)
	}
	return seen
}

func collect(d docs, pkg string, f *ast.File) {
	for _, decl := range f.Decls {
		gen, ok := decl.(*ast.GenDecl)
		if !ok || gen.Tok != token.TYPE {
			continue
		}
		for _, spec := range gen.Specs {
			ts := spec.(*ast.TypeSpec)
			st, ok := ts.Type.(*ast.StructType)
			if !ok || !keyed(st) && ts.Name.Name != "Use" {
				continue
			}
			doc := ts.Doc
			if doc == nil {
				doc = gen.Doc
			}
			name := pkg + "." + ts.Name.Name
			note(d, name, doc)
			for _, field := range st.Fields.List {
				for _, n := range field.Names {
					if field.Tag == nil {
						continue
					}
					doc := field.Doc
					if doc == nil {
						doc = field.Comment
					}
					note(d, name+"."+n.Name, doc)
				}
			}
		}
	}
}

// keyed tells whether a struct belongs to the language.
func keyed(st *ast.StructType) bool {
	for _, f := range st.Fields.List {
		if f.Tag != nil && strings.Contains(f.Tag.Value, "yaml:") {
			return true
		}
	}
	return false
}

// note keeps the first paragraph of a comment on one line.
func note(d docs, name string, doc *ast.CommentGroup) {
	if doc == nil {
		return
	}
	first, _, _ := strings.Cut(strings.TrimSpace(doc.Text()), "\n\n")
	d[name] = strings.Join(strings.Fields(first), " ")
}
