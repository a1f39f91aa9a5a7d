package config

import (
	"bytes"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Fault makes a fault of something found out later, for example when a policy
// is compiled. The position is that of the config path, for example
// "routes[1].policies[0].rate_limit.limit", or of its nearest parent that is
// written somewhere.
func (c *Config) Fault(path, text, hint string) Fault {
	path = strings.TrimRight(path, ".")
	f := Fault{Path: path, Text: concealed(text), Hint: concealed(hint)}
	if c.source != nil {
		f.File, f.Line, f.Col = c.source.find(path)
	}
	return f
}

// Digest names what a configuration says: 12 hex digits of the SHA-256 of its
// canonical form. Values of secrets take part in it, as do those of
// environment variables; comments, order of keys and spelled-out defaults do
// not.
func (c *Config) Digest() string {
	if c.source == nil {
		return digest(c)
	}
	c.source.mu.Lock()
	defer c.source.mu.Unlock()
	if c.source.digest == "" {
		c.source.digest = digest(c)
	}
	return c.source.digest
}

func digest(c *Config) string { return digestOf(c)[:12] }

// digestOf names what a part of a configuration says.
func digestOf(part any) string {
	w := &canonical{fingerprints: true}
	w.value(reflect.ValueOf(part))
	sum := sha256.Sum256(w.Bytes())
	return hex.EncodeToString(sum[:])
}

// Marshal returns the canonical form of a configuration: JSON, which Parse
// reads, of all that is not a default, with short forms and environment
// variables resolved. Secrets that came from the environment or a file are
// written as the reference that they were; others are hidden, and make a form
// that Parse refuses.
func (c *Config) Marshal() []byte {
	w := new(canonical)
	w.value(reflect.ValueOf(c))
	var out bytes.Buffer
	// The writer below produces nothing but JSON.
	_ = json.Indent(&out, w.Bytes(), "", "  ")
	out.WriteByte('\n')
	return out.Bytes()
}

// Settings returns what a policy is set to, as JSON: all that is not a default.
// Secrets are written as Marshal writes them.
func Settings(p *Policy) []byte {
	w := new(canonical)
	w.fields(reflect.ValueOf(p.Config).Elem(), reflect.ValueOf(p.Kind.New()).Elem())
	return w.Bytes()
}

// canonical writes values as JSON with the keys of the language, in the order
// of the structs.
type canonical struct {
	bytes.Buffer
	fingerprints bool // write hashes of secrets, to notice changes
}

func (w *canonical) value(v reflect.Value) {
	switch x := v.Interface().(type) {
	case Secret:
		w.secret(x)
		return
	case *Policy:
		w.WriteByte('{')
		w.text(x.Kind.Name)
		w.WriteByte(':')
		w.fields(reflect.ValueOf(x.Config).Elem(), reflect.ValueOf(x.Kind.New()).Elem())
		w.WriteByte('}')
		return
	case *Admin:
		if x.Off {
			w.text("off")
			return
		}
	case encoding.TextMarshaler:
		// The types with a text form are values: none of theirs fails.
		text, _ := x.MarshalText()
		w.text(string(text))
		return
	}
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			w.WriteString("null")
			return
		}
		w.value(v.Elem())
	case reflect.Struct:
		w.fields(v, Default(v.Type()))
	case reflect.Map:
		w.mapping(v)
	case reflect.Slice:
		w.WriteByte('[')
		for i := range v.Len() {
			if i > 0 {
				w.WriteByte(',')
			}
			w.value(v.Index(i))
		}
		w.WriteByte(']')
	case reflect.String:
		w.text(v.String())
	default:
		w.plain(v.Interface())
	}
}

// fields writes the fields of a struct that differ from their defaults.
func (w *canonical) fields(v, defaults reflect.Value) {
	w.WriteByte('{')
	first := true
	for i := range v.NumField() {
		name, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		if name == "" || name == "-" || reflect.DeepEqual(v.Field(i).Interface(), defaults.Field(i).Interface()) {
			continue
		}
		if !first {
			w.WriteByte(',')
		}
		first = false
		w.text(name)
		w.WriteByte(':')
		if v.Field(i).Kind() == reflect.Struct && v.Field(i).NumField() > 0 && !marshals(v.Field(i)) {
			w.fields(v.Field(i), defaults.Field(i))
			continue
		}
		w.value(v.Field(i))
	}
	w.WriteByte('}')
}

func marshals(v reflect.Value) bool {
	_, ok := v.Interface().(encoding.TextMarshaler)
	return ok
}

func (w *canonical) mapping(v reflect.Value) {
	keys := make([]string, 0, v.Len())
	for _, k := range v.MapKeys() {
		keys = append(keys, k.String())
	}
	slices.Sort(keys)
	w.WriteByte('{')
	for i, k := range keys {
		if i > 0 {
			w.WriteByte(',')
		}
		w.plain(k) // keys are taken as they are: no variables are put into them
		w.WriteByte(':')
		w.value(v.MapIndex(reflect.ValueOf(k)))
	}
	w.WriteByte('}')
}

func (w *canonical) secret(s Secret) {
	env, file := s.Origin()
	switch {
	case w.fingerprints:
		w.text(s.Fingerprint())
	case env != "":
		w.plain(map[string]string{"env": env})
	case file != "":
		w.plain(map[string]string{"file": file})
	default:
		w.text(s.String())
	}
}

// text writes a string so that no variable is put into it when it is read.
func (w *canonical) text(s string) {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' || c == '$' {
			w.plain(strings.ReplaceAll(s, "${", "$${"))
			return
		}
	}
	w.WriteByte('"')
	w.WriteString(s)
	w.WriteByte('"')
}

func (w *canonical) plain(x any) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	// Strings, numbers and truth values: nothing that could fail.
	_ = e.Encode(x)
	b.Truncate(b.Len() - 1) // the newline
	if !bytes.ContainsFunc(b.Bytes(), escaped) {
		w.Write(b.Bytes())
		return
	}
	for _, r := range b.String() {
		if escaped(r) {
			fmt.Fprintf(w, `\u%04x`, r)
		} else {
			w.WriteRune(r)
		}
	}
}

// escaped tells the characters that JSON takes as they are and YAML does not
// (YAML 1.2.2 section 5.1).
func escaped(r rune) bool {
	return r >= 0x7f && r < 0xa0 || r == 0xfeff || r == 0xfffe || r == 0xffff
}
