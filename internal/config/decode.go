package config

import (
	"encoding"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v4"

	"gatehouse.dev/gatehouse/internal/policy"
)

// mostAliased bounds how many nodes are read through aliases.
const mostAliased = 100_000

// decode turns the parts of a configuration into a Config. It goes on after a
// fault, and reports all of them.
func decode(parts []*part, faults Faults, cat *policy.Catalog) (*Config, Faults) {
	d := &decoder{cat: cat, faults: faults, layouts: make(map[reflect.Type]*layout), places: make(map[string]Fault)}
	cfg := &Config{source: &source{parts: parts}}
	setDefaults(reflect.ValueOf(cfg).Elem())
	whole := len(faults) == 0
	for _, p := range parts {
		if f := p.parse(); f != nil {
			d.faults, whole = append(d.faults, *f), false
			continue
		}
		d.part = p
		d.document(p.root, reflect.ValueOf(cfg).Elem())
	}
	if whole {
		// With a part missing, what it defines would be reported as missing.
		cfg.complete()
		d.faults = append(d.faults, check(cfg, d.faults)...)
	}
	cfg.source.secrets = d.secrets
	cfg.source.forget()
	d.faults.Sort()
	d.faults = d.faults.bounded()
	switch {
	case !d.faults.Fatal():
		return cfg, d.faults
	case !whole || len(d.faults) > mostFaults:
		return nil, d.faults
	}
	cfg.leaveOut(d.faults)
	return cfg, d.faults
}

// decoder walks nodes and structs side by side.
type decoder struct {
	cat     *policy.Catalog
	part    *part
	path    []step
	faults  Faults
	layouts map[reflect.Type]*layout
	places  map[string]Fault // where the keys of the upper two levels stand, over all parts
	first   int              // index of the first entry of the next list, which is joined to those of earlier parts
	foreign bool             // somebody else writes the file: variables of the environment are not for him
	depth   int
	secrets []string // files of secrets
	aliased int      // nodes read through aliases
	inAlias int
}

// layout is what the decoder knows of a struct.
type layout struct {
	fields []Field
	index  map[string]int
	keys   []string
}

func (d *decoder) layout(t reflect.Type) *layout {
	if l := d.layouts[t]; l != nil {
		return l
	}
	l := &layout{fields: Fields(t), index: make(map[string]int)}
	for i, f := range l.fields {
		l.index[f.Key] = i
		l.keys = append(l.keys, f.Key)
	}
	d.layouts[t] = l
	return l
}

func (d *decoder) fault(n *yaml.Node, text, hint string) {
	if len(d.faults) > mostFaults {
		return
	}
	d.faults = append(d.faults, Fault{File: d.part.name, Line: max(n.Line, 1), Col: max(n.Column, 1), Path: joinPath(d.path), Text: concealed(text), Hint: concealed(hint)})
}

// faultAt is fault for a key below the present path.
func (d *decoder) faultAt(n *yaml.Node, key, text, hint string) {
	d.push(step{key: key, index: -1})
	d.fault(n, text, hint)
	d.pop()
}

func (d *decoder) push(s step) { d.path = append(d.path, s) }
func (d *decoder) pop()        { d.path = d.path[:len(d.path)-1] }

// document decodes the top mapping of a part into a Config that may hold what
// earlier parts said.
func (d *decoder) document(n *yaml.Node, v reflect.Value) {
	d.fields(n, v, func(key *yaml.Node, f *Field, value *yaml.Node) {
		into := v.Field(f.Index)
		switch into.Kind() {
		case reflect.Slice:
			d.first = into.Len()
			d.value(value, into, f)
			d.first = 0
		case reflect.Struct, reflect.Map:
			d.value(value, into, f)
		default:
			if d.once(key) {
				d.value(value, into, f)
			}
		}
	})
}

// once makes sure that a key, the last step of the path, stands in one part
// only.
func (d *decoder) once(key *yaml.Node) bool {
	at := joinPath(d.path)
	if f, ok := d.places[at]; ok {
		d.fault(key, fmt.Sprintf("%s stands twice, first at %s", quote(key.Value), f.place()), "")
		return false
	}
	d.places[at] = Fault{File: d.part.name, Line: key.Line, Col: key.Column}
	return true
}

// value decodes a node into v. What f says holds for scalars, in lists too.
func (d *decoder) value(n *yaml.Node, v reflect.Value, f *Field) {
	n, leave := d.enter(n)
	if n == nil {
		return
	}
	defer leave()
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" && plain(n) {
		hint := "remove the key, or give it a value"
		if v.Kind() == reflect.Slice {
			hint = "remove the key, or write [] for an empty list"
		}
		d.fault(n, "has no value", hint)
		return
	}
	switch into := v.Addr().Interface().(type) {
	case *Secret:
		d.secret(n, into)
		return
	case *StringList:
		d.stringList(n, into, f)
		return
	case *netip.Prefix:
		d.prefix(n, into)
		return
	case **Policy:
		*into = d.policy(n)
		return
	case encoding.TextUnmarshaler:
		if n.Kind == yaml.ScalarNode {
			d.unmarshal(n, v, into, f)
			return
		}
	}
	switch v.Kind() {
	case reflect.Pointer:
		p := reflect.New(v.Type().Elem())
		setDefaults(p.Elem())
		d.value(n, p.Elem(), f)
		v.Set(p)
	case reflect.Struct:
		d.fields(n, v, func(key *yaml.Node, f *Field, value *yaml.Node) {
			if len(d.path) != 2 || d.once(key) {
				d.value(value, v.Field(f.Index), f)
			}
		})
	case reflect.Map:
		d.mapping(n, v, f)
	case reflect.Slice:
		d.list(n, v, f)
	default:
		d.scalar(n, v, f)
	}
}

// enter looks through aliases and tags and counts the depth. It returns nil
// after a fault, else the node and what to call in the end.
func (d *decoder) enter(n *yaml.Node) (*yaml.Node, func()) {
	if d.depth >= mostDepth {
		d.fault(n, fmt.Sprintf("nested deeper than %d levels", mostDepth), "")
		return nil, nil
	}
	alias := 0
	if n.Kind == yaml.AliasNode {
		n, alias = n.Alias, 1
	}
	if d.inAlias+alias > 0 {
		if d.aliased++; d.aliased > mostAliased {
			if d.aliased == mostAliased+1 {
				d.fault(n, fmt.Sprintf("aliases stand for more than %d values", mostAliased), "write them out, or split the configuration")
			}
			return nil, nil
		}
	}
	if n.Style&yaml.TaggedStyle != 0 {
		d.fault(n, "tag "+quote(n.Tag)+" is not supported", "remove the tag")
		return nil, nil
	}
	d.depth++
	d.inAlias += alias
	return n, func() { d.depth--; d.inAlias -= alias }
}

// fields walks a mapping whose keys are the fields of a struct.
func (d *decoder) fields(n *yaml.Node, v reflect.Value, each func(key *yaml.Node, f *Field, value *yaml.Node)) {
	if n.Kind != yaml.MappingNode {
		d.wrong(n, v.Type())
		return
	}
	l := d.layout(v.Type())
	var few [24]bool
	seen := few[:]
	if len(l.fields) > len(few) {
		seen = make([]bool, len(l.fields))
	}
	broken := false
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if !d.key(n, i) {
			broken = true
			continue
		}
		if first := earlier(n, i); first != nil {
			d.twice(key, first)
			continue
		}
		at, known := l.index[key.Value]
		if !known {
			d.unknown(key, v.Type(), l)
			if at, near := l.index[nearest(key.Value, l.keys)]; near {
				seen[at] = true // do not call it missing as well
			}
			continue
		}
		seen[at] = true
		d.push(step{key: key.Value, index: -1})
		each(key, &l.fields[at], value)
		d.pop()
	}
	for i := range l.fields {
		if f := &l.fields[i]; f.Required && !seen[i] && !broken {
			d.fault(n, fmt.Sprintf("%s is missing", quote(f.Key)), "")
		}
	}
}

func (d *decoder) unknown(key *yaml.Node, t reflect.Type, l *layout) {
	if later(t.Name(), key.Value) && t.PkgPath() == reflect.TypeFor[Config]().PkgPath() {
		d.faultAt(key, key.Value, fmt.Sprintf("%s is not available in this version", quote(key.Value)), "remove it")
		return
	}
	d.faultAt(key, key.Value, "unknown key "+quote(key.Value), meant(key.Value, l.keys))
}

// earlier returns the same key at an earlier place. It looks no further than
// where a struct's keys can stand, which is what its callers have.
func earlier(n *yaml.Node, i int) *yaml.Node {
	for j := 0; j < min(i, 128); j += 2 {
		if n.Content[j].Value == n.Content[i].Value {
			return n.Content[j]
		}
	}
	return nil
}

// key checks the key at n.Content[i]: a plain name.
func (d *decoder) key(n *yaml.Node, i int) bool {
	key := n.Content[i]
	switch {
	case key.Kind != yaml.ScalarNode || key.Style&yaml.TaggedStyle != 0:
		d.fault(key, describe(key)+" stands where a key is wanted", "quote a value that begins with {, [, & or *")
		return false
	case key.Tag == "!!merge":
		d.fault(key, "merge keys (<<) are not supported", "write the keys out, or use an alias for a whole value")
		return false
	case key.Value == "":
		d.fault(key, "a key is empty", "")
		return false
	}
	return true
}

func (d *decoder) twice(key, first *yaml.Node) {
	d.faultAt(key, key.Value, fmt.Sprintf("key %s stands twice, first at line %d", quote(key.Value), first.Line), "remove one of the two")
}

// mapping decodes a mapping with keys of the user's choice.
func (d *decoder) mapping(n *yaml.Node, v reflect.Value, f *Field) {
	if n.Kind != yaml.MappingNode {
		d.wrong(n, v.Type())
		return
	}
	if v.IsNil() {
		v.Set(reflect.MakeMapWithSize(v.Type(), len(n.Content)/2))
	}
	seen := make(map[string]*yaml.Node, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if !d.key(n, i) {
			continue
		}
		if first := seen[key.Value]; first != nil {
			d.twice(key, first)
			continue
		}
		seen[key.Value] = key
		d.push(step{key: key.Value, index: -1})
		if len(d.path) != 2 || d.once(key) {
			e := reflect.New(v.Type().Elem()).Elem()
			setDefaults(e)
			d.value(value, e, f)
			v.SetMapIndex(reflect.ValueOf(key.Value), e)
		}
		d.pop()
	}
}

// list decodes a list. What v holds below d.first stays.
func (d *decoder) list(n *yaml.Node, v reflect.Value, f *Field) {
	first := d.first
	d.first = 0
	if n.Kind != yaml.SequenceNode {
		d.wrong(n, v.Type())
		return
	}
	out := reflect.MakeSlice(v.Type(), first+len(n.Content), first+len(n.Content))
	reflect.Copy(out, v.Slice(0, first))
	for i, c := range n.Content {
		d.push(step{index: first + i})
		e := out.Index(first + i)
		setDefaults(e)
		d.value(c, e, f)
		d.pop()
	}
	v.Set(out)
}

// policy decodes an entry of a policies list: a mapping with one key, the kind.
func (d *decoder) policy(n *yaml.Node) *Policy {
	if n.Kind == yaml.ScalarNode {
		d.fault(n, describe(n)+" stands where a policy is wanted", "write "+n.Value+": {}")
		return nil
	}
	if n.Kind != yaml.MappingNode || len(n.Content) == 0 {
		d.fault(n, describe(n)+" stands where a policy is wanted", "write the policy's name and its settings: request_id: {}")
		return nil
	}
	if len(n.Content) > 2 {
		d.fault(n.Content[2], "a second key in one policy: "+quote(n.Content[2].Value), "begin each policy with \"- \"; indent its settings below its name")
		return nil
	}
	if !d.key(n, 0) {
		return nil
	}
	key, value := n.Content[0], n.Content[1]
	kind, rank := d.cat.Lookup(key.Value)
	if kind == nil {
		if later("policy", key.Value) {
			d.faultAt(key, key.Value, "policy "+quote(key.Value)+" is not available in this version", "remove it")
			return nil
		}
		var names []string
		for _, k := range d.cat.Kinds() {
			names = append(names, k.Name)
		}
		d.faultAt(key, key.Value, "unknown policy "+quote(key.Value), meant(key.Value, names))
		return nil
	}
	p := &Policy{Kind: kind, Rank: rank, Config: kind.New()}
	d.push(step{key: key.Value, index: -1})
	defer d.pop()
	if value.Kind == yaml.ScalarNode && value.Tag == "!!null" && plain(value) {
		value = &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map", Line: key.Line, Column: key.Column}
	}
	v := reflect.ValueOf(p.Config)
	if v.Kind() != reflect.Pointer {
		d.fault(key, fmt.Sprintf("policy %s cannot be configured: its config is no pointer", quote(key.Value)), "")
		return nil
	}
	d.value(value, v.Elem(), &Field{})
	return p
}

// secret decodes a secret: text, { env: NAME } or { file: path }.
func (d *decoder) secret(n *yaml.Node, into *Secret) {
	if n.Kind == yaml.ScalarNode {
		text, _, ok := d.text(n)
		if !ok {
			return
		}
		d.report(n, into.UnmarshalText([]byte(text)))
		return
	}
	if n.Kind != yaml.MappingNode || len(n.Content) != 2 {
		d.fault(n, describe(n)+" stands where a secret is wanted", "write the secret itself, { env: NAME } or { file: path }")
		return
	}
	key, value := n.Content[0], n.Content[1]
	if key.Value != "env" && key.Value != "file" {
		d.unknown(key, reflect.TypeFor[Secret](), &layout{keys: []string{"env", "file"}})
		return
	}
	d.push(step{key: key.Value, index: -1})
	defer d.pop()
	var name string
	faults := len(d.faults)
	if d.value(value, reflect.ValueOf(&name).Elem(), &Field{}); len(d.faults) > faults {
		return
	}
	if key.Value == "env" {
		if !envName(name) { // it may be the secret itself
			d.fault(value, "this does not name an environment variable", "names are letters, digits and _")
			return
		}
		v, found := lookupEnv(name)
		switch {
		case !found:
			d.fault(value, "environment variable "+quote(name)+" is not set", "")
		case v == "":
			d.fault(value, "environment variable "+quote(name)+" is empty", "")
		}
		*into = policy.SecretFromEnv(name, v)
		return
	}
	if !d.isPath(value, name) {
		return
	}
	path := name
	if !filepath.IsAbs(path) {
		path = filepath.Join(filepath.Dir(d.part.name), path)
	}
	d.secrets = append(d.secrets, path)
	data, err := ReadFile(path, 1<<20)
	v := strings.TrimSuffix(strings.TrimSuffix(string(data), "\n"), "\r")
	switch {
	case err != nil:
		d.fault(value, fmt.Sprintf("secret file %q cannot be read: %s", path, plainError(err)), "")
	case v == "":
		d.fault(value, fmt.Sprintf("secret file %q is empty", path), "")
	}
	*into = policy.SecretFromFile(name, v)
}

func (d *decoder) stringList(n *yaml.Node, into *StringList, f *Field) {
	if n.Kind == yaml.ScalarNode {
		one := make(StringList, 1)
		d.scalar(n, reflect.ValueOf(&one[0]).Elem(), f)
		*into = one
		return
	}
	if n.Kind != yaml.SequenceNode {
		d.wrong(n, reflect.TypeFor[StringList]())
		return
	}
	list := make([]string, 0)
	d.list(n, reflect.ValueOf(&list).Elem(), f)
	*into = list
}

// wrong reports a node of the wrong shape.
func (d *decoder) wrong(n *yaml.Node, t reflect.Type) {
	hint := ""
	switch {
	case t == reflect.TypeFor[[]*Policy]() && n.Kind == yaml.MappingNode:
		hint = `begin each policy with "- "`
	case t == reflect.TypeFor[StringList]():
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.String:
		hint = "write it in [ ]"
	case t.Kind() == reflect.Slice:
		hint = `begin each entry with "- "`
	}
	d.fault(n, fmt.Sprintf("%s stands where %s is wanted", describe(n), wanted(t)), hint)
}

// report turns an error of a value into a fault.
func (d *decoder) report(n *yaml.Node, err error) bool {
	if err == nil {
		return true
	}
	var f *policy.Fault
	if !errors.As(err, &f) {
		f = &policy.Fault{Text: err.Error()}
	}
	d.fault(n, f.Text, f.Hint)
	return false
}

// describe names what a node is.
func describe(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	if n.Tag == "!!null" && plain(n) {
		return "nothing"
	}
	return quote(n.Value)
}

// wanted names what a type is written as.
func wanted(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[StringList]():
		return "a string or a list of strings"
	case t.Kind() == reflect.Slice:
		return "a list"
	case t.Kind() == reflect.Map, t.Kind() == reflect.Struct && (t.NumField() == 0 || len(Fields(t)) > 0):
		return "a mapping"
	}
	switch t {
	case reflect.TypeFor[Duration]():
		return "a duration such as 5s"
	case reflect.TypeFor[Size]():
		return "a size such as 64KiB"
	case reflect.TypeFor[Rate]():
		return "a rate such as 100/s"
	case reflect.TypeFor[Percent]():
		return "a share such as 20%"
	case reflect.TypeFor[netip.Prefix]():
		return "an address range such as 10.0.0.0/8"
	}
	switch t.Kind() {
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int64, reflect.Int32, reflect.Uint32, reflect.Uint64:
		return "a whole number"
	case reflect.Float64:
		return "a number"
	}
	return "a string"
}
