// Package schema makes the JSON Schema and the reference of the configuration
// language from the structs of config and of the policies' settings: their
// tags, their doc comments and their defaults. It owns no rule of the language
// and refuses to have any: what is true of a setting is said at its struct.
package schema

import (
	"encoding"
	"encoding/json"
	"net/netip"
	"reflect"
	"strconv"
	"strings"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/policy"
)

//go:generate go test -run TestGenerated -update .

// ID names the schema.
const ID = "https://gatehouse.dev/schema/gatehouse.schema.json"

// JSON returns the schema of the configuration with the given kinds of
// policies, in JSON Schema 2020-12. It takes whatever the decoder takes; what
// needs a look at more than one value is left to the decoder.
func JSON(cat *policy.Catalog) []byte { return marshal(root(cat, read())) }

func marshal(s object) []byte {
	out, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(err) // maps of strings, numbers and lists
	}
	return append(out, '\n')
}

type object map[string]any

// writer collects the definitions of the structs it meets.
type writer struct {
	cat  *policy.Catalog
	docs docs
	defs object
}

func root(cat *policy.Catalog, d docs) object {
	w := &writer{cat, d, object{}}
	s := w.fields(reflect.TypeFor[config.Config](), config.Default(reflect.TypeFor[config.Config]()))
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["$id"] = ID
	s["title"] = "Gatehouse configuration"
	s["minProperties"] = 1
	s["$defs"] = w.defs
	return s
}

// variable is what takes the place of any value that is not a plain string.
const variable = `\$\{`

// fields describes a mapping with the keys of a struct.
func (w *writer) fields(t reflect.Type, defaults reflect.Value) object {
	properties := object{}
	var required []string
	for _, f := range config.Fields(t) {
		p := w.value(t.Field(f.Index).Type, f)
		if doc := w.docs.field(t, f.Index); doc != "" {
			p["description"] = doc
		}
		if f.Required {
			required = append(required, f.Key)
		}
		if d := shown(defaults.Field(f.Index)); d != nil && !f.Required {
			p["default"] = d
		}
		if f.Example != "" {
			p["examples"] = []any{f.Example}
		}
		properties[f.Key] = p
	}
	s := object{"type": "object", "additionalProperties": false, "properties": properties}
	if doc := w.docs.of(t); doc != "" {
		s["description"] = doc
	}
	if required != nil {
		s["required"] = required
	}
	switch t {
	case reflect.TypeFor[config.Route]():
		s["oneOf"] = []any{needs("upstream"), needs("split"), needs("redirect"), needs("respond")}
	case reflect.TypeFor[config.Upstream]():
		s["anyOf"] = []any{needs("endpoints"), needs("discovery")}
	case reflect.TypeFor[config.Discovery]():
		s["oneOf"] = []any{needs("dns"), needs("srv"), needs("file"), needs("consul"), needs("kubernetes")}
	case reflect.TypeFor[config.Match]():
		s["not"] = needs("path", "path_regex")
	case reflect.TypeFor[config.ValueMatch]():
		s["minProperties"], s["maxProperties"] = 1, 1
	}
	return s
}

func needs(keys ...string) object { return object{"required": keys} }

// value describes what a field of a type takes.
func (w *writer) value(t reflect.Type, f config.Field) object {
	switch t {
	case reflect.TypeFor[policy.Duration]():
		return object{"anyOf": []any{text(`^([0-9]+(ms|s|m|h))+$`), object{"const": 0}, object{"const": "0"}, text(variable)}}
	case reflect.TypeFor[policy.Size]():
		return object{"type": []string{"integer", "string"}, "minimum": 0, "pattern": `^[0-9]+([KMGT]i)?B?$|` + variable}
	case reflect.TypeFor[policy.Rate]():
		return object{"anyOf": []any{text(`^[0-9]+([KMGT]i)?B?/[smhd]$`), object{"const": 0}, object{"const": "0"}, text(variable)}}
	case reflect.TypeFor[policy.Percent]():
		return text(`^[0-9.]+%$|` + variable)
	case reflect.TypeFor[policy.Time]():
		return text(`^[0-9]{4}-[0-9]{2}-[0-9]{2}(T.*)?$|` + variable)
	case reflect.TypeFor[policy.Secret]():
		return w.secret()
	case reflect.TypeFor[policy.StringList]():
		one := w.value(reflect.TypeFor[string](), f)
		return object{"anyOf": []any{one, object{"type": "array", "items": one}}}
	case reflect.TypeFor[netip.Prefix]():
		return text("")
	case reflect.TypeFor[*config.Policy]():
		return w.policy()
	}
	switch t.Kind() {
	case reflect.Pointer:
		return w.value(t.Elem(), f)
	case reflect.Struct:
		return w.ref(t)
	case reflect.Slice:
		return object{"type": "array", "items": w.value(t.Elem(), f)}
	case reflect.Map:
		return object{"type": "object", "additionalProperties": w.value(t.Elem(), f)}
	}
	return scalar(t, f)
}

func text(pattern string) object {
	if pattern == "" {
		return object{"type": "string"}
	}
	return object{"type": "string", "pattern": pattern}
}

func scalar(t reflect.Type, f config.Field) object {
	if len(f.Enum) > 0 {
		values := make([]any, len(f.Enum))
		for i, e := range f.Enum {
			if values[i] = e; t.Kind() != reflect.String {
				values[i] = json.Number(e)
			}
		}
		return object{"anyOf": []any{object{"enum": values}, text(variable)}}
	}
	var s object
	switch t.Kind() {
	case reflect.String:
		s = object{"type": []string{"string", "number", "boolean"}} // plain scalars are taken as they are written
		if f.Required {
			s["minLength"] = 1
		}
		return s
	case reflect.Bool:
		return object{"type": []string{"boolean", "string"}, "pattern": variable}
	case reflect.Float64:
		s = object{"type": []string{"number", "string"}, "pattern": variable}
	default:
		s = object{"type": []string{"integer", "string"}, "pattern": variable}
	}
	if f.Min != "" {
		s["minimum"] = json.Number(f.Min)
	}
	if f.Max != "" {
		s["maximum"] = json.Number(f.Max)
	}
	return s
}

// ref describes a struct by its definition, which is made when it is first met.
func (w *writer) ref(t reflect.Type) object {
	name := name(t)
	if _, ok := w.defs[name]; !ok {
		w.defs[name] = object{} // it may contain itself
		s := w.fields(t, config.Default(t))
		if short := short(t); short != nil {
			s = object{"anyOf": []any{short, s}}
		}
		w.defs[name] = s
	}
	return object{"$ref": "#/$defs/" + name}
}

// short describes the short form of a struct, nil when it has none.
func short(t reflect.Type) object {
	switch {
	case !reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()):
		return nil
	case t == reflect.TypeFor[config.Admin]():
		return object{"anyOf": []any{object{"const": "off"}, text(variable)}}
	case t == reflect.TypeFor[config.Match]():
		return text(`/|` + variable)
	case t == reflect.TypeFor[config.Endpoint]():
		return text(`^(http|https|h2c|grpc|grpcs|tcp)://|` + variable)
	case t == reflect.TypeFor[config.Balance]():
		return object{"anyOf": []any{object{"enum": []string{"round_robin", "random", "least_requests", "ewma"}}, text(variable)}}
	}
	return object{"type": []string{"string", "number", "boolean"}}
}

// name names a definition: Listener, or headers.Config.
func name(t reflect.Type) string {
	if t.PkgPath() == reflect.TypeFor[config.Config]().PkgPath() {
		return t.Name()
	}
	return t.PkgPath()[strings.LastIndexByte(t.PkgPath(), '/')+1:] + "." + t.Name()
}

func (w *writer) secret() object {
	w.defs["Secret"] = object{
		"description": "A secret: the value itself, { env: NAME } or { file: path }.",
		"anyOf": []any{
			object{"type": []string{"string", "number", "boolean"}, "minLength": 1},
			object{"type": "object", "additionalProperties": false, "required": []string{"env"}, "properties": object{"env": object{"type": "string", "minLength": 1, "description": "Name of an environment variable."}}},
			object{"type": "object", "additionalProperties": false, "required": []string{"file"}, "properties": object{"file": object{"type": "string", "minLength": 1, "description": "Path of a file; a relative one begins at the configuration's folder. A newline at its end is left out."}}},
		},
	}
	return object{"$ref": "#/$defs/Secret"}
}

// policy describes an entry of a policies list.
func (w *writer) policy() object {
	if _, ok := w.defs["Policy"]; !ok {
		w.defs["Policy"] = object{}
		kinds := object{}
		for _, k := range w.cat.Kinds() {
			v := reflect.ValueOf(k.New()).Elem()
			name := "policy." + k.Name
			s := w.fields(v.Type(), v)
			if s["required"] == nil {
				s["type"] = []string{"object", "null"}
			}
			w.defs[name] = s
			kinds[k.Name] = object{"$ref": "#/$defs/" + name, "description": k.Doc}
		}
		w.defs["Policy"] = object{
			"description": w.docs.of(reflect.TypeFor[config.Policy]()),
			"type":        "object", "minProperties": 1, "maxProperties": 1,
			"additionalProperties": false, "properties": kinds,
		}
	}
	return object{"$ref": "#/$defs/Policy"}
}

// shown returns a default as the configuration would write it, nil when there
// is none worth showing.
func shown(v reflect.Value) any {
	switch x := v.Interface().(type) {
	case policy.Secret, *config.Admin:
		return nil
	case policy.Duration:
		if x == 0 {
			return "0"
		}
	case netip.Prefix:
		return nil
	}
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		if text, err := m.MarshalText(); err == nil && len(text) > 0 {
			return string(text)
		}
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		if v.String() != "" {
			return v.String()
		}
	case reflect.Int, reflect.Int64, reflect.Int32:
		return json.Number(strconv.FormatInt(v.Int(), 10))
	case reflect.Float64:
		return v.Float()
	case reflect.Bool:
		return v.Bool()
	case reflect.Slice:
		if v.Len() > 0 && v.Type().Elem().Kind() == reflect.String {
			return v.Convert(reflect.TypeFor[[]string]()).Interface()
		}
	}
	return nil
}
