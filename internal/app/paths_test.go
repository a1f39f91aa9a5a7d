package app

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/config"
)

// Every path of the language begins at the folder of the file that names it:
// what is called a file or a folder is marked as one.
func TestPathsAreMarked(t *testing.T) {
	seen := make(map[reflect.Type]bool)
	var walk func(reflect.Type, string)
	walk = func(typ reflect.Type, at string) {
		switch typ.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			walk(typ.Elem(), at)
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
			field := typ.Field(f.Index)
			name := f.Key == "file" || f.Key == "folder" || strings.HasSuffix(f.Key, "_file") || strings.HasSuffix(f.Key, "_folder")
			if name && field.Type.Kind() == reflect.String && !f.File {
				t.Errorf("%s.%s is a path without the tag file", at, f.Key)
			}
			walk(field.Type, at+"."+f.Key)
		}
	}
	walk(reflect.TypeFor[config.Config](), "")
	for _, k := range Catalog().Kinds() {
		walk(reflect.TypeOf(k.New()), k.Name)
	}
	if len(seen) < 60 {
		t.Errorf("only %d structs were looked at", len(seen))
	}
}

// So does that of the access log.
func TestAccessLogIsBesideTheConfiguration(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "gatehouse.yaml")
	write(t, file, "listeners: [{ address: '127.0.0.1:0' }]\nadmin: off\nobserve: { access_log: { output: access.log } }\nroutes: []\n")
	a, err := New(Source{Path: file}, "test", t.Output())
	if err != nil {
		t.Fatal(err)
	}
	a.Close(context.Background())
	if _, err := os.Stat(filepath.Join(dir, "access.log")); err != nil {
		t.Error(err)
	}
	for _, output := range []string{"stdout", "stderr"} {
		cfg, faults := config.Parse(file, []byte(fmt.Sprintf("observe: { access_log: { output: %s } }\nroutes: []\n", output)), Catalog())
		if len(faults) > 0 || cfg.Observe.AccessLog.Output != output {
			t.Errorf("%s becomes %+v, %v", output, cfg.Observe.AccessLog, faults)
		}
	}
}
