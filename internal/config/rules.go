package config

import (
	"reflect"
	"strings"
)

// Field is what the language knows of one field of a struct: its key and its
// rules, which are the tags.
type Field struct {
	Key      string
	Index    int // of the struct field
	Required bool
	Enum     []string // the values that it takes, of a list its entries; none: any
	Min, Max string   // its range in the form of its type, both included; "": none
	File     bool     // a path: a relative one begins at the folder of the file that names it
	Example  string   // a value to show
}

// Fields returns the fields of a struct that have a key, in order.
func Fields(t reflect.Type) []Field {
	var fields []Field
	for i := range t.NumField() {
		sf := t.Field(i)
		key, _, _ := strings.Cut(sf.Tag.Get("yaml"), ",")
		if !sf.IsExported() || key == "" || key == "-" {
			continue
		}
		f := Field{Key: key, Index: i, Required: sf.Tag.Get("required") == "true", File: sf.Tag.Get("file") == "true", Min: sf.Tag.Get("min"), Max: sf.Tag.Get("max"), Example: sf.Tag.Get("example")}
		if e := sf.Tag.Get("enum"); e != "" {
			f.Enum = strings.Split(e, ",")
		}
		fields = append(fields, f)
	}
	return fields
}

// Defaulted is a struct whose zero value is not its default. The decoder calls
// Defaults before it sets what the configuration says; nothing else knows a
// default. Structs within a policy's settings may be Defaulted too.
type Defaulted interface{ Defaults() }

// Default returns a struct of the type with its defaults.
func Default(t reflect.Type) reflect.Value {
	v := reflect.New(t).Elem()
	setDefaults(v)
	return v
}

// setDefaults gives a struct its defaults, inner structs first, so that an
// outer one has the last word.
func setDefaults(v reflect.Value) {
	if v.Kind() != reflect.Struct {
		return
	}
	for i := range v.NumField() {
		if f := v.Field(i); f.Kind() == reflect.Struct && f.CanSet() {
			setDefaults(f)
		}
	}
	if p, ok := v.Addr().Interface().(Defaulted); ok {
		p.Defaults()
	}
}

// setDefaultsOf gives a struct its defaults.
func setDefaultsOf(p any) { setDefaults(reflect.ValueOf(p).Elem()) }
