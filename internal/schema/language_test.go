package schema

import (
	"encoding"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

// The configurations that the project shows are valid, and whole: each is
// taken by the decoder too.
func TestExamples(t *testing.T) {
	cat := shipped()
	if len(cat.Kinds()) == 0 {
		t.Skip("the examples use policies, and none is shipped")
	}
	s := compile(t, cat)
	texts := make(map[string]string)
	for _, pattern := range []string{"../../examples/*.yaml", "../../examples/*/*.yaml"} {
		for _, name := range glob(t, pattern) {
			texts[name] = readText(t, name)
		}
	}
	block := regexp.MustCompile("(?ms)^```yaml\n(.*?)^```")
	for _, pattern := range []string{"../../README.md", "../../docs/guides/*.md", "../policy/*/README.md"} {
		for _, name := range glob(t, pattern) {
			for i, m := range block.FindAllStringSubmatch(readText(t, name), -1) {
				if strings.Contains("\n"+m[1], "\nroutes:") {
					texts[name+" block "+string(rune('1'+i))] = m[1]
				}
			}
		}
	}
	if len(texts) == 0 {
		t.Fatal("no example was found")
	}
	for name, text := range texts {
		names, defaults := policytest.Secrets(text)
		for _, name := range names {
			t.Setenv(name, policytest.Secret)
		}
		if defaults != nil {
			t.Errorf("%s: secrets have defaults: %v", name, defaults)
		}
		if _, faults := config.Parse(name, []byte(text), cat); faults.Fatal() {
			t.Errorf("%v", faults)
			continue
		}
		if err := validate(t, s, text); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func readText(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// Every setting of the language has a comment, and tags that its own type can
// read.
func TestRulesOfAllFields(t *testing.T) {
	d := read()
	seen := make(map[reflect.Type]bool)
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		switch typ.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			walk(typ.Elem())
			return
		case reflect.Struct:
		default:
			return
		}
		if seen[typ] {
			return
		}
		seen[typ] = true
		for _, f := range config.Fields(typ) {
			ft := typ.Field(f.Index).Type
			if d.field(typ, f.Index) == "" {
				t.Errorf("%s.%s has no comment", typ, f.Key)
			}
			for _, limit := range []string{f.Min, f.Max} {
				if limit == "" {
					continue
				}
				if u, ok := reflect.New(ft).Interface().(encoding.TextUnmarshaler); ok {
					if err := u.UnmarshalText([]byte(limit)); err != nil {
						t.Errorf("%s.%s: %v", typ, f.Key, err)
					}
				} else if strings.Trim(limit, "-0123456789.") != "" {
					t.Errorf("%s.%s: limit %q is no number", typ, f.Key, limit)
				}
			}
			if v := shown(config.Default(typ).Field(f.Index)); len(f.Enum) > 0 && v != nil && ft.Kind() == reflect.String && !strings.Contains(strings.Join(f.Enum, ",")+",", v.(string)+",") {
				t.Errorf("%s.%s: default %v is not one of its values", typ, f.Key, v)
			}
			walk(ft)
		}
	}
	walk(reflect.TypeFor[config.Config]())
	for _, k := range shipped().Kinds() {
		walk(reflect.TypeOf(k.New()))
		if k.Doc == "" {
			t.Errorf("policy %s has no doc", k.Name)
		}
	}
}
