package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"unicode/utf8"

	"go.yaml.in/yaml/v4"

	"gatehouse.dev/gatehouse/internal/policy"
)

// Bounds of what is read. Beyond them a configuration is refused.
const (
	mostBytes = 16 << 20 // of one file
	mostDepth = 64       // of nested mappings and lists
)

// Load reads a configuration from a file, or from a folder: every *.yaml and
// *.yml in it that is not hidden, in the order of their names, merged by their
// top-level keys. Lists are joined; the same name twice is a fault. With a
// fault that is not a warning the Config is nil or, when the files can be read
// as a whole, Partial.
func Load(path string, cat *policy.Catalog) (*Config, Faults) {
	names, err := Files(path)
	if err != nil {
		return nil, Faults{*err}
	}
	var faults Faults
	parts := make([]*part, 0, len(names))
	for _, name := range names {
		data, err := ReadFile(name, mostBytes)
		if err != nil {
			faults = append(faults, Fault{File: name, Text: "cannot be read: " + plainError(err)})
			continue
		}
		parts = append(parts, &part{name: name, data: data})
	}
	return decode(parts, faults, cat)
}

// Parse reads a configuration from memory. Name stands for the file in faults,
// and its folder is where relative paths of secrets begin.
func Parse(name string, data []byte, cat *policy.Catalog) (*Config, Faults) {
	return decode([]*part{{name: name, data: data}}, nil, cat)
}

// Files lists the files that make up the configuration at path: itself, or what
// is in the folder. Hidden names are left out: Kubernetes keeps the versions of
// a mounted folder under such names, and links to them from the plain ones.
func Files(path string) ([]string, *Fault) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, &Fault{File: path, Text: "cannot be read: " + plainError(err)}
	}
	if !st.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, &Fault{File: path, Text: "cannot be read: " + plainError(err)}
	}
	var names []string
	for _, e := range entries {
		ext := filepath.Ext(e.Name())
		if strings.HasPrefix(e.Name(), ".") || ext != ".yaml" && ext != ".yml" {
			continue
		}
		name := filepath.Join(path, e.Name())
		// What cannot be looked at stays in the list: reading it makes the fault.
		if st, err := os.Stat(name); err != nil || !st.IsDir() {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return nil, &Fault{File: path, Text: "holds no *.yaml file", Hint: "hidden files and folders within it are not read"}
	}
	return names, nil
}

// Open opens a file to be read. A named pipe that nobody writes to is empty: it
// would hold up everything otherwise.
func Open(name string) (*os.File, error) {
	return os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
}

// ReadFile reads a file that has at most so many bytes.
func ReadFile(name string, most int64) ([]byte, error) {
	f, err := Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > most {
		return nil, fmt.Errorf("it is larger than %s", Size(most))
	}
	return data, nil
}

// plainError drops the path from an error of os: the fault names it already.
func plainError(err error) string {
	var p *fs.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}

// part is one file of a configuration.
type part struct {
	name string
	data []byte
	root *yaml.Node // the top mapping; nil until parsed
}

// parse reads the YAML of the part into nodes.
func (p *part) parse() *Fault {
	root, f := p.document()
	if f != nil {
		return f
	}
	switch {
	case root == nil:
		return p.at(1, 1, "holds no configuration", "the shortest one has routes: with a match and an upstream")
	case root.Kind == yaml.ScalarNode && root.Tag == "!!null", root.Kind == yaml.MappingNode && len(root.Content) == 0:
		return p.at(root.Line, root.Column, "holds no configuration", "the shortest one has routes: with a match and an upstream")
	case root.Kind != yaml.MappingNode:
		return p.at(root.Line, root.Column, describe(root)+" stands where the configuration's keys are wanted", "")
	}
	p.root = root
	return nil
}

// document reads the one YAML document of the part, nil when there is none.
func (p *part) document() (*yaml.Node, *Fault) {
	if f := p.readable(); f != nil {
		return nil, f
	}
	l, err := yaml.NewLoader(bytes.NewReader(p.data), yaml.WithUniqueKeys(false), yaml.WithPlugin(limits{}))
	if err != nil {
		return nil, p.syntax(err)
	}
	var doc, next yaml.Node
	switch err := l.Load(&doc); {
	case errors.Is(err, io.EOF):
		return nil, nil
	case err != nil:
		return nil, p.syntax(err)
	}
	switch err := l.Load(&next); {
	case err == nil:
		return nil, p.at(next.Line, next.Column, "a second YAML document begins", "put it into a file of its own; -c takes a folder")
	case !errors.Is(err, io.EOF):
		return nil, p.syntax(err)
	}
	return doc.Content[0], nil
}

// readable refuses bytes that no configuration has, before the YAML parser
// sees them.
func (p *part) readable() *Fault {
	if len(p.data) > mostBytes {
		return p.at(1, 1, "the configuration is larger than "+Size(mostBytes).String(), "")
	}
	if bytes.HasPrefix(p.data, []byte("\xff\xfe")) || bytes.HasPrefix(p.data, []byte("\xfe\xff")) {
		return p.at(1, 1, "the file is UTF-16", "save it as UTF-8")
	}
	line, start := 1, 0
	for i := 0; i < len(p.data); {
		c := p.data[i]
		size := 1
		bad := c < ' ' && c != '\n' && c != '\r' && c != '\t' || c == 0x7f
		if c >= utf8.RuneSelf {
			var r rune
			r, size = utf8.DecodeRune(p.data[i:])
			if r == utf8.RuneError && size == 1 {
				return p.at(line, 1+utf8.RuneCount(p.data[start:i]), fmt.Sprintf("byte 0x%02x is not UTF-8", c), "save the file as UTF-8")
			}
			bad = r >= 0x80 && r < 0xa0 && r != 0x85
		}
		if bad {
			return p.at(line, 1+utf8.RuneCount(p.data[start:i]), fmt.Sprintf("control character 0x%02x", c), `write it as an escape in a "quoted" value`)
		}
		if i += size; c == '\n' {
			line, start = line+1, i
		}
	}
	return nil
}

func (p *part) at(line, col int, text, hint string) *Fault {
	return &Fault{File: p.name, Line: max(line, 1), Col: max(col, 1), Text: concealed(text), Hint: concealed(hint)}
}

// syntax turns an error of the YAML parser into a fault, with a hint for the
// traps that configurations meet.
func (p *part) syntax(err error) *Fault {
	var le *yaml.LoadError
	if !errors.As(err, &le) {
		return p.at(1, 1, "not YAML: "+strings.TrimPrefix(err.Error(), "yaml: "), "")
	}
	f := p.at(le.Mark.Line, le.Mark.Column, "not YAML: "+le.Message, "")
	here, start := p.after(f.Line, f.Col), max(le.ContextMark.Line, 1)
	flow := strings.HasPrefix(le.ContextMsg, "while parsing a flow ")
	name, unknown := strings.CutPrefix(le.Message, "unknown anchor '")
	switch {
	case unknown:
		name = strings.TrimSuffix(name, "' referenced")
		f.Text = fmt.Sprintf("alias %q has no anchor", "*"+name)
		f.Hint = fmt.Sprintf(`a value that begins with * must be quoted: "*%s"`, name)
	case strings.Contains(le.Message, "incompatible YAML document"):
		f.Text, f.Hint = "a %YAML line is not supported", "remove it"
	case strings.HasPrefix(here, "\t"):
		f.Text, f.Hint = "not YAML: a tab stands where the line is indented", "indent with spaces"
	case strings.HasPrefix(here, "@"), strings.HasPrefix(here, "`"), strings.HasPrefix(here, "%"):
		f.Text, f.Hint = "not YAML: "+here[:1]+" cannot begin a value", "quote the value"
	case flow && strings.Contains(p.after(start, le.ContextMark.Column), "${"):
		f.Text, f.Hint = "not YAML: a variable without quotes within { } or [ ]", `write "${NAME}" in quotes`
	case le.Message == "did not find expected node content" && here == "":
		f.Text = "not YAML: the brackets that are open at the end of the file are not closed"
	case flow:
		f.Text = fmt.Sprintf("not YAML: a comma is missing, or the end of the brackets that begin at line %d", start)
	case le.ContextMsg == "while scanning a quoted scalar" && strings.HasSuffix(le.Message, "end of stream"):
		f = p.at(start, le.ContextMark.Column, "not YAML: the quotes that begin here have no end", "")
	case strings.HasPrefix(le.ContextMsg, "while parsing a block "):
		f.Text = fmt.Sprintf("not YAML: the line does not fit the block that begins at line %d", start)
		f.Hint = "keys of one mapping, and the dashes of one list, stand in one column"
	case strings.HasPrefix(le.Message, "mapping values are not allowed"):
		f.Hint = `a value that holds ": " must be quoted; or the indentation is off`
	case le.ContextMsg != "" && !strings.HasPrefix(le.Message, "nested"):
		f.Text += " " + le.ContextMsg
	}
	return f
}

// after returns the rest of a line from a column on.
func (p *part) after(line, col int) string {
	rest := p.data
	for range line - 1 {
		_, rest, _ = bytes.Cut(rest, []byte("\n"))
	}
	rest, _, _ = bytes.Cut(rest, []byte("\n"))
	for range col - 1 {
		_, size := utf8.DecodeRune(rest)
		rest = rest[size:]
	}
	return string(rest)
}

// limits bounds the YAML parser.
type limits struct{}

func (limits) CheckDepth(depth int, _ *yaml.DepthContext) error {
	if depth > mostDepth {
		return fmt.Errorf("nested deeper than %d levels", mostDepth)
	}
	return nil
}

// CheckAlias allows what it is asked: aliases are counted by the decoder.
func (limits) CheckAlias(int, int) error { return nil }

// source is where a configuration came from. The nodes are dropped after
// decoding and made again when a position is asked for, which happens only
// when something is wrong.
type source struct {
	mu      sync.Mutex
	parts   []*part
	secrets []string // files that secrets were read from, or would have been
	digest  string
}

// SecretFiles lists the files that secrets were read from, also those that
// could not be read.
func (c *Config) SecretFiles() []string {
	if c.source == nil {
		return nil
	}
	return slices.Compact(slices.Sorted(slices.Values(c.source.secrets)))
}

// find returns the position of a config path, or of its nearest parent that is
// written somewhere.
func (s *source) find(path string) (file string, line, col int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.parts {
		if p.root == nil && p.parse() != nil {
			return p.name, 1, 1
		}
	}
	steps := splitPath(path)
	if len(steps) == 0 {
		return s.parts[0].name, 1, 1
	}
	var best *yaml.Node
	depth := -1
	for _, p := range s.parts {
		key, n := child(p.root, steps[0])
		if n == nil {
			continue
		}
		rest := steps[1:]
		if len(rest) > 0 && n.Kind == yaml.SequenceNode && rest[0].index >= 0 {
			if i := rest[0].index; i >= len(n.Content) {
				steps[1].index -= len(n.Content) // it is in a later part
				if depth < 0 {
					best, depth, file = key, 0, p.name
				}
				continue
			}
		}
		if node, d := descend(key, n, rest); d > depth {
			best, depth, file = node, d, p.name
		}
		if n.Kind == yaml.SequenceNode && len(rest) > 0 {
			break
		}
	}
	if best == nil {
		return s.parts[0].name, s.parts[0].root.Line, s.parts[0].root.Column
	}
	return file, best.Line, best.Column
}

// descend follows a path as far as it is written. It returns the node at its
// end, and how many steps were taken.
func descend(at, n *yaml.Node, steps []step) (*yaml.Node, int) {
	for i, s := range steps {
		if n.Kind == yaml.AliasNode {
			n = n.Alias
		}
		key, next := child(n, s)
		switch {
		case next == nil && n.Kind == yaml.ScalarNode && n.Line > 0:
			return n, i // of a short form
		case next == nil:
			return at, i
		}
		if key == nil {
			key = next
		}
		at, n = key, next
	}
	if n.Kind == yaml.ScalarNode && n.Line > 0 {
		return n, len(steps)
	}
	return at, len(steps)
}

// child returns what a step leads to: the value, and its key in a mapping.
func child(n *yaml.Node, s step) (key, value *yaml.Node) {
	switch {
	case n.Kind == yaml.SequenceNode && s.index >= 0 && s.index < len(n.Content):
		return nil, n.Content[s.index]
	case n.Kind == yaml.MappingNode && s.index < 0:
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == s.key {
				return n.Content[i], n.Content[i+1]
			}
		}
	}
	return nil, nil
}

// forget drops the nodes.
func (s *source) forget() {
	for _, p := range s.parts {
		p.root = nil
	}
}
