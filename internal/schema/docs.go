package schema

import (
	_ "embed"
	"encoding/json"
	"reflect"
	"strings"
)

// The doc comments of the structs, which the binary has no source to read
// from. TestGenerated writes them.
//
//go:embed docs.json
var comments []byte

// docs are doc comments by the path of the package below internal/, the type
// and the field: "config.Limits.Headers".
type docs map[string]string

func read() docs {
	var d docs
	if err := json.Unmarshal(comments, &d); err != nil {
		panic(err) // a part of the program, which a test reads
	}
	return d
}

// of returns the comment of a type, as one paragraph.
func (d docs) of(t reflect.Type) string { return d[key(t)] }

// field returns the comment of a struct field.
func (d docs) field(t reflect.Type, i int) string { return d[key(t)+"."+t.Field(i).Name] }

func key(t reflect.Type) string { return below(t.PkgPath()) + "." + t.Name() }

// below is the path of a package below internal/.
func below(pkg string) string {
	if _, rest, ok := strings.Cut(pkg, "/internal/"); ok {
		return rest
	}
	return pkg
}
