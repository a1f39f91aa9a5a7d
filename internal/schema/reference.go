package schema

import (
	"encoding"
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"strings"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Reference returns the pages of the reference by their names below
// docs/reference: configuration.md, and policies/NAME.md for each kind.
func Reference(cat *policy.Catalog) map[string][]byte { return pages(cat, read()) }

func pages(cat *policy.Catalog, d docs) map[string][]byte {
	out := make(map[string][]byte)
	for _, k := range cat.Kinds() {
		out["policies/"+k.Name+".md"] = policyPage(k, d)
	}
	p := &page{docs: d, seen: make(map[reflect.Type]bool)}
	p.WriteString(generated + `# Configuration

Every key of the configuration, with its type and its default. [The language](../guides/configuration.md) itself, the forms of values, and how files are merged have a guide of their own; ` + "`gatehouse schema`" + ` prints the same as a JSON Schema for editors.

`)
	p.section("Top level", "", reflect.TypeFor[config.Config](), config.Default(reflect.TypeFor[config.Config]()), 2)
	p.WriteString("## Policies\n\n" + d.markdown(d.of(reflect.TypeFor[config.Policy]())) + "\n\n| policy | stage | does |\n|---|---|---|\n")
	for _, k := range cat.Kinds() {
		fmt.Fprintf(p, "| [`%s`](policies/%s.md) | %s | %s |\n", k.Name, k.Name, k.Stage, d.markdown(k.Doc))
	}
	out["configuration.md"] = []byte(p.String())
	return out
}

const generated = "<!-- Made from the source by \"make generate\". -->\n\n"

func policyPage(k *policy.Kind, d docs) []byte {
	v := reflect.ValueOf(k.New()).Elem()
	p := &page{docs: d, seen: make(map[reflect.Type]bool)}
	fmt.Fprintf(p, "%s# %s\n\n%s\n\n", generated, k.Name, d.markdown(k.Doc))
	if _, ok := k.New().(policy.Staged); ok {
		p.WriteString("Its stage follows from its settings.")
	} else {
		fmt.Fprintf(p, "Stage: %s.", k.Stage)
	}
	if _, ok := k.New().(policy.Repeatable); ok {
		p.WriteString(" It may stand at several levels, and all are in force.")
	} else {
		p.WriteString(" Where it stands at several levels the innermost one counts.")
	}
	p.WriteString("\n\n")
	p.section("Settings", k.Name, v.Type(), v, 2)
	return []byte(p.alone())
}

// ConfigBlock returns the table of a policy's settings for its README.
func ConfigBlock(k *policy.Kind) string { return block(k, read()) }

func block(k *policy.Kind, d docs) string {
	v := reflect.ValueOf(k.New()).Elem()
	p := &page{docs: d, seen: make(map[reflect.Type]bool)}
	p.section("", k.Name, v.Type(), v, 3)
	return p.alone()
}

// alone is the page without links to parts that it does not have.
func (p *page) alone() string {
	return strings.TrimRight(strings.ReplaceAll(p.String(), "[policies](#policies)", "policies"), "\n") + "\n"
}

type page struct {
	strings.Builder
	docs docs
	seen map[reflect.Type]bool
}

// section writes the table of a struct, and then those of the structs in it.
func (p *page) section(title, path string, t reflect.Type, defaults reflect.Value, level int) {
	p.seen[t] = true
	if title != "" {
		fmt.Fprintf(p, "%s %s\n\n", strings.Repeat("#", level), title)
	}
	if doc := p.docs.of(t); doc != "" && title != "" {
		p.WriteString(p.docs.markdown(doc) + "\n\n")
	}
	fields := config.Fields(t)
	if len(fields) == 0 {
		p.WriteString("There is nothing to set.\n\n")
		return
	}
	p.WriteString("| key | type | default | |\n|---|---|---|---|\n")
	type child struct {
		path string
		t    reflect.Type
		v    reflect.Value
	}
	var children []child
	for _, f := range fields {
		ft := t.Field(f.Index).Type
		what, inner, suffix := p.kind(ft, f)
		value := ""
		if d := shown(defaults.Field(f.Index)); f.Required {
			value = "required"
		} else if d != nil {
			value = fmt.Sprintf("`%v`", d)
		}
		doc := p.docs.markdown(p.docs.field(t, f.Index))
		if f.Example != "" {
			doc += " Example: `" + cell(f.Example) + "`."
		}
		fmt.Fprintf(p, "| `%s` | %s | %s | %s |\n", f.Key, what, value, strings.TrimSpace(doc))
		if inner != nil && !p.seen[inner] {
			p.seen[inner] = true
			v := config.Default(inner)
			if ft == inner {
				v = defaults.Field(f.Index)
			}
			children = append(children, child{strings.TrimPrefix(path+"."+f.Key+suffix, "."), inner, v})
		}
	}
	p.WriteString("\n")
	for _, c := range children {
		p.section("`"+c.path+"`", c.path, c.t, c.v, max(level, 3))
	}
}

// kind names the type of a field, and returns the struct that is described
// on its own, with what leads to it in a path.
func (p *page) kind(t reflect.Type, f config.Field) (what string, inner reflect.Type, suffix string) {
	limits := ""
	switch {
	case len(f.Enum) > 0:
		values := make([]string, len(f.Enum))
		for i, e := range f.Enum {
			values[i] = "`" + e + "`"
		}
		limits = ": " + strings.Join(values, ", ")
	case f.Min != "" && f.Max != "":
		limits = ", " + f.Min + " to " + f.Max
	case f.Min != "":
		limits = ", at least " + f.Min
	case f.Max != "":
		limits = ", at most " + f.Max
	}
	switch t {
	case reflect.TypeFor[policy.Duration]():
		return "duration" + limits, nil, ""
	case reflect.TypeFor[policy.Size]():
		return "size" + limits, nil, ""
	case reflect.TypeFor[policy.Rate]():
		return "rate" + limits, nil, ""
	case reflect.TypeFor[policy.Percent]():
		return "share" + limits, nil, ""
	case reflect.TypeFor[policy.Time]():
		return "moment", nil, ""
	case reflect.TypeFor[policy.Secret]():
		return "secret", nil, ""
	case reflect.TypeFor[policy.StringList]():
		return "string or list of strings" + limits, nil, ""
	case reflect.TypeFor[netip.Prefix]():
		return "address range", nil, ""
	case reflect.TypeFor[*config.Policy]():
		return "[policies](#policies)", nil, ""
	}
	switch t.Kind() {
	case reflect.Pointer:
		return p.kind(t.Elem(), f)
	case reflect.Slice:
		what, inner, _ = p.kind(t.Elem(), f)
		if t.Elem() == reflect.TypeFor[*config.Policy]() {
			return "list of " + what, nil, ""
		}
		return "list of " + plural(what), inner, "[]"
	case reflect.Map:
		what, inner, _ = p.kind(t.Elem(), f)
		return "mapping of names to " + plural(what), inner, ".NAME"
	case reflect.Struct:
		if reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]()) {
			return "string or mapping", t, ""
		}
		return "mapping", t, ""
	case reflect.Bool:
		return "true or false", nil, ""
	case reflect.Int, reflect.Int32, reflect.Int64:
		return "number" + limits, nil, ""
	case reflect.Float64:
		return "number, with fraction" + limits, nil, ""
	}
	return "string" + limits, nil, ""
}

func plural(what string) string {
	switch {
	case strings.HasPrefix(what, "string or mapping"):
		return "strings or mappings"
	case strings.HasPrefix(what, "string"):
		return "strings" + strings.TrimPrefix(what, "string")
	case strings.HasPrefix(what, "number"):
		return "numbers" + strings.TrimPrefix(what, "number")
	}
	return what + "s"
}

// markdown turns a comment into Markdown: what is in quotes is code, and the
// rest means nothing but itself.
func (docs) markdown(comment string) string {
	parts := regexp.MustCompile(`"[^"]+"`).Split(comment, -1)
	codes := regexp.MustCompile(`"[^"]+"`).FindAllString(comment, -1)
	var b strings.Builder
	for i, part := range parts {
		b.WriteString(strings.NewReplacer("*", `\*`, "_", `\_`, "|", `\|`, "<", `\<`).Replace(part))
		if i < len(codes) {
			b.WriteString("`" + cell(strings.Trim(codes[i], `"`)) + "`")
		}
	}
	return b.String()
}

// cell makes code fit into a table.
func cell(code string) string { return strings.ReplaceAll(code, "|", `\|`) }
