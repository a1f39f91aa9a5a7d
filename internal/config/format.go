package config

import (
	"math"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Format writes a configuration in its canonical layout: two spaces for each
// level, lists indented below their key, at most one blank line, no spaces at
// the ends of lines. Keys stay in their order, and comments, quotes and the
// layout within a line stay as they are. What is formatted is not changed by
// being formatted again. The faults have no file; what cannot be parsed is not
// formatted.
//
// The layout is made line by line from the text, since nodes know nothing of
// blank lines; the result is then parsed and compared with the original, and
// laid out again. A file with which that goes wrong is refused, not harmed.
func Format(data []byte) ([]byte, Faults) {
	before := &part{data: data}
	if f := before.parse(); f != nil {
		return nil, Faults{*f}
	}
	text := strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(strings.TrimPrefix(string(data), "\ufeff"))
	out := laidOut(text)
	after := &part{data: []byte(out)}
	if bad := after.parse(); bad != nil || laidOut(out) != out {
		return nil, Faults{*before.at(1, 1, "cannot be laid out: a value in it is written in too unusual a way", `write values on one line, in "quotes" or as a block with |`)}
	}
	if n := differ(before.root, after.root, 0); n != nil {
		return nil, Faults{*before.at(n.Line, n.Column, "cannot be laid out without changing this value", `write it on one line, in "quotes" or as a block with |`)}
	}
	return after.data, nil
}

func laidOut(text string) string {
	f := &formatter{in: strings.Split(text, "\n")}
	for f.at < len(f.in) {
		f.next()
	}
	f.comments(-1, 0)
	return strings.Join(f.out, "\n") + "\n"
}

// differ returns the first node of a that is not the same in b.
func differ(a, b *yaml.Node, depth int) *yaml.Node {
	if a.Kind != b.Kind || a.Tag != b.Tag || a.Value != b.Value || a.Anchor != b.Anchor || a.Style != b.Style || len(a.Content) != len(b.Content) || depth > 2*mostDepth {
		return a
	}
	for i := range a.Content {
		if n := differ(a.Content[i], b.Content[i], depth+1); n != nil {
			return n
		}
	}
	return nil
}

// formatter lays out lines. Its stack has the blocks that are open: where they
// are indented in the original, and where they go.
type formatter struct {
	in    []string
	at    int
	out   []string
	blank bool // a blank line stands before the next one
	stack []block
	held  []comment
}

type block struct {
	old, new int
	list     bool
}

type comment struct {
	indent int
	text   string
	blank  bool
}

// next handles the next line, or lines that belong together.
func (f *formatter) next() {
	line := f.in[f.at]
	body := strings.TrimLeft(line, " ")
	indent := len(line) - len(body)
	switch trimmed := strings.TrimSpace(body); {
	case trimmed == "":
		f.blank = true
		f.at++
	case trimmed[0] == '#':
		f.held = append(f.held, comment{indent, trimmed, f.blank})
		f.blank = false
		f.at++
	case indent == 0 && (trimmed == "---" || trimmed == "..." || trimmed[0] == '%'):
		f.comments(0, 0)
		f.emit(0, trimmed)
		f.at++
	default:
		f.entry(indent, body)
	}
}

func (f *formatter) emit(indent int, text string) {
	if f.blank && len(f.out) > 0 {
		f.out = append(f.out, "")
	}
	f.blank = false
	if text == "" {
		indent = 0
	}
	f.out = append(f.out, strings.Repeat(" ", indent)+text)
}

// open returns the block that a line's part at column col belongs to.
func (f *formatter) open(col int, list bool) block {
	for n := len(f.stack); n > 0; n-- {
		top := f.stack[n-1]
		if top.old < col || top.old == col && (list || !top.list) {
			break
		}
		f.stack = f.stack[:n-1]
	}
	b := block{old: col, list: list}
	if n := len(f.stack); n > 0 {
		top := f.stack[n-1]
		if top.old == col && top.list == list {
			return top
		}
		b.new = top.new + 2
	}
	f.stack = append(f.stack, b)
	return b
}

// entry lays out a line that begins an entry of a mapping or list, and the
// lines that its value goes on to.
func (f *formatter) entry(indent int, body string) {
	stack := slices.Clone(f.stack)
	col, start := indent, -1
	prefix := ""
	for body == "-" || strings.HasPrefix(body, "- ") {
		b := f.open(col, true)
		if start < 0 {
			start = b.new
		}
		rest := strings.TrimLeft(body[1:], " ")
		col += len(body) - len(rest)
		body = rest
		prefix += "- "
		if body == "" || body[0] == '#' {
			break
		}
	}
	lex := lexer{token: true}
	var b block
	if body != "" && body[0] != '#' {
		b = f.open(col, false)
		if start < 0 {
			start = b.new
		}
		lex.line(body)
	}
	body = trimmed(body, lex.quote)
	now := f.stack
	f.stack = stack
	f.comments(indent, start)
	f.stack = now
	if body == "" {
		prefix = strings.TrimRight(prefix, " ")
	}
	f.emit(start, prefix+body)
	f.at++
	switch {
	case lex.block != "":
		f.scalar(b, &lex)
	case lex.quote != 0 || lex.depth > 0:
		f.goOn(b, &lex)
	case lex.plain:
		f.words(b, &lex)
	}
}

// parent returns the block whose entry a value belongs to: the mapping of its
// key, or else the block that the value stands in.
func (f *formatter) parent(b block, lex *lexer) block {
	if lex.keyed {
		return b
	}
	if n := len(f.stack); n > 1 {
		return f.stack[n-2]
	}
	return block{old: -1, new: -2}
}

// words lays out the further lines of a value without quotes. Nothing in them
// means anything but itself, and blank lines between them count.
func (f *formatter) words(b block, lex *lexer) {
	parent := f.parent(b, lex)
	for parent.old >= 0 {
		next := f.at
		for next < len(f.in) && strings.TrimSpace(f.in[next]) == "" {
			next++
		}
		if next == len(f.in) {
			return
		}
		body := strings.TrimLeft(f.in[next], " ")
		if len(f.in[next])-len(body) <= parent.old || strings.TrimLeft(body, "\t")[0] == '#' {
			return
		}
		for ; f.at < next; f.at++ {
			f.out = append(f.out, "")
		}
		f.emit(parent.new+2, strings.TrimSpace(body))
		f.at++
		if strings.Contains(body, " #") || strings.Contains(body, "\t#") {
			return // nothing goes on after a comment
		}
	}
}

// trimmed drops spaces at the end of a line, which mean nothing, unless the line
// ends within double quotes and the first of them is escaped.
func trimmed(body string, quote byte) string {
	s := strings.TrimRight(body, " \t")
	if quote == '"' && strings.HasSuffix(s, `\`) {
		return body
	}
	return s
}

// goOn lays out the further lines of a quoted value or one in brackets: they
// move as far as their entry moved.
func (f *formatter) goOn(b block, lex *lexer) {
	least := b.new
	if lex.keyed {
		least++
	}
	for f.at < len(f.in) && (lex.quote != 0 || lex.depth > 0) {
		line := f.in[f.at]
		f.at++
		body := strings.TrimLeft(line, " \t")
		indent := max(len(line)-len(body)+b.new-b.old, 0)
		quoted := lex.quote != 0
		if quoted {
			indent = max(indent, least) // brackets may close at their key
		}
		lex.line(body)
		body = trimmed(body, lex.quote)
		if body == "" && !quoted {
			f.blank = true
			continue
		}
		if body == "" {
			f.out = append(f.out, "")
			continue
		}
		f.emit(indent, body)
	}
}

// scalar lays out the lines of a block scalar. Its parent is the mapping of
// its key, or the list that it is an item of.
func (f *formatter) scalar(b block, lex *lexer) {
	parent := f.parent(b, lex)
	end := f.at // after the last line that is not blank
	base, given := -1, strings.ContainsAny(lex.block, "123456789")
	for i := f.at; i < len(f.in); i++ {
		body := strings.TrimLeft(f.in[i], " ")
		indent := len(f.in[i]) - len(body)
		if body == "" {
			continue
		}
		if indent <= parent.old || !given && base > indent {
			break
		}
		if base < 0 {
			base = indent
		}
		end = i + 1
	}
	move := parent.new + 2 - base
	switch {
	case given:
		move, base = parent.new-parent.old, 0
	case base < 0: // nothing but blank lines
		move, base = 0, math.MaxInt
	}
	if strings.Contains(lex.block, "+") {
		for end < len(f.in)-1 && strings.TrimSpace(f.in[end]) == "" {
			end++
		}
	}
	for ; f.at < end; f.at++ {
		line := f.in[f.at]
		body := strings.TrimLeft(line, " ")
		indent := len(line) - len(body)
		if body == "" && indent <= base {
			line = ""
		} else {
			line = strings.Repeat(" ", max(indent+move, 0)) + body
		}
		f.out = append(f.out, line)
	}
}

// comments lays out the held comments before a line that was indented by from
// and is indented by to. One that was deeper than the line belongs to a block
// before it.
func (f *formatter) comments(from, to int) {
	after := f.blank
	for _, c := range f.held {
		indent := to
		if c.indent > from {
			indent = f.home(c)
		}
		f.blank = c.blank
		f.emit(indent, c.text)
	}
	f.held = f.held[:0]
	f.blank = after
}

// home returns where a comment goes that follows the open blocks. Of a list
// and its mapping at the same column, an entry that is commented out belongs to
// the list.
func (f *formatter) home(c comment) int {
	entry := strings.HasPrefix(strings.TrimLeft(c.text, "# "), "-")
	indent := 0
	for _, b := range f.stack {
		switch {
		case b.old < c.indent:
			indent = b.new + 2
		case b.old == c.indent && (!b.list || entry || indent == b.new):
			indent = b.new
		}
	}
	return indent
}

// lexer follows what spans lines: quotes, brackets and block scalars.
type lexer struct {
	quote byte   // the open quote
	depth int    // of open brackets
	token bool   // a value may begin here
	keyed bool   // there was a key outside of brackets
	plain bool   // the line ends within a value without quotes
	block string // the header of a block scalar
}

// line reads a line, or its part after dashes.
func (l *lexer) line(s string) {
	for i := 0; i < len(s); i++ {
		c := s[i]
		ends := i+1 == len(s) || s[i+1] == ' ' || s[i+1] == '\t'
		switch {
		case l.quote == '"' && c == '\\':
			i++
		case l.quote != 0:
			if c == '\'' && l.quote == c && i+1 < len(s) && s[i+1] == c {
				i++
			} else if c == l.quote {
				l.quote = 0
			}
		case c == ' ' || c == '\t':
		case c == '#' && (i == 0 || s[i-1] == ' ' || s[i-1] == '\t'):
			l.plain = false
			return
		case l.token && (c == '"' || c == '\''):
			l.quote, l.token = c, false
		case (l.token || l.depth > 0) && (c == '[' || c == '{'):
			l.depth++
			l.token = true
		case l.depth > 0 && (c == ']' || c == '}'):
			l.depth--
			l.token = false
		case l.depth > 0 && c == ',':
			l.token = true
		case c == ':' && (ends || l.depth > 0 && i > 0 && (s[i-1] == '"' || s[i-1] == '\'')):
			l.token, l.plain = true, false
			l.keyed = l.keyed || l.depth == 0
		case l.token && (c == '&' || c == '!' || c == '*'):
			for i+1 < len(s) && !strings.ContainsRune(" \t,]}", rune(s[i+1])) {
				i++
			}
		case l.token && l.depth == 0 && (c == '|' || c == '>'):
			l.block, _, _ = strings.Cut(s[i:], "#")
			return
		case l.token && c == '?' && ends:
		default:
			l.plain = l.depth == 0 && (l.plain || l.token)
			l.token = false
		}
	}
}
