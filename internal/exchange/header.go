package exchange

import "iter"

// Field is one field line of a message head or trailer.
type Field struct {
	Name  string // as it was received or set; compared without case
	Value string // without surrounding white space
	Known Known  // Other when the name is not a well-known one
}

// Header is an ordered list of field lines. It keeps order, case and
// repetition. Every name and value is an ordinary string and may be kept after
// the exchange has ended.
//
// The zero Header is empty and ready for use. A Header is not safe for
// concurrent use.
type Header struct {
	fields []Field
	set    uint64 // bit k is set when a field whose Known is k may be present
}

// Reset empties the header and keeps its memory.
func (h *Header) Reset() {
	clear(h.fields) // lets go of the strings
	h.fields = h.fields[:0]
	h.set = 0
}

// Len returns the number of field lines.
func (h *Header) Len() int { return len(h.fields) }

// Fields returns the field lines in order. The slice is valid, and must not be
// changed, until the header is next changed.
func (h *Header) Fields() []Field { return h.fields }

// All yields every field line in order.
func (h *Header) All() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for i := range h.fields {
			if !yield(h.fields[i].Name, h.fields[i].Value) {
				return
			}
		}
	}
}

// Has reports whether a field of that well-known name is present.
func (h *Header) Has(k Known) bool {
	return h.set&(1<<k) != 0
}

// Known returns the value of the first field line with that well-known name,
// or the empty string.
func (h *Header) Known(k Known) string {
	if h.set&(1<<k) == 0 {
		return ""
	}
	for i := range h.fields {
		if h.fields[i].Known == k {
			return h.fields[i].Value
		}
	}
	return ""
}

// Only returns the value of the one field line with that well-known name, and how
// many such lines there are.
func (h *Header) Only(k Known) (value string, lines int) {
	if h.set&(1<<k) == 0 {
		return "", 0
	}
	for i := range h.fields {
		if f := &h.fields[i]; f.Known == k {
			value = f.Value
			lines++
		}
	}
	return value, lines
}

// Count returns how many field lines have that well-known name.
func (h *Header) Count(k Known) int {
	if h.set&(1<<k) == 0 {
		return 0
	}
	n := 0
	for i := range h.fields {
		if h.fields[i].Known == k {
			n++
		}
	}
	return n
}

// Get returns the value of the first field line named name, or the empty
// string. Names are compared without case (RFC 9110, section 5.1).
func (h *Header) Get(name string) string {
	if i := h.find(name, 0); i >= 0 {
		return h.fields[i].Value
	}
	return ""
}

// Lookup is Get and tells an absent field from an empty one.
func (h *Header) Lookup(name string) (string, bool) {
	if i := h.find(name, 0); i >= 0 {
		return h.fields[i].Value, true
	}
	return "", false
}

// Values yields the values of all field lines named name, in order.
func (h *Header) Values(name string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for i := h.find(name, 0); i >= 0; i = h.find(name, i+1) {
			if !yield(h.fields[i].Value) {
				return
			}
		}
	}
}

// find returns the index of the first field named name at or after from, or -1.
func (h *Header) find(name string, from int) int {
	k := LookupKnown(name)
	if k != Other {
		if h.set&(1<<k) == 0 {
			return -1
		}
		for i := from; i < len(h.fields); i++ {
			if h.fields[i].Known == k {
				return i
			}
		}
		return -1
	}
	for i := from; i < len(h.fields); i++ {
		f := &h.fields[i]
		if f.Known == Other && EqualFold(f.Name, name) {
			return i
		}
	}
	return -1
}

// Add appends a field line.
func (h *Header) Add(name, value string) {
	h.Append(Field{Name: name, Value: value, Known: LookupKnown(name)})
}

// AddKnown appends a field line with the usual spelling of a well-known name.
func (h *Header) AddKnown(k Known, value string) {
	h.Append(Field{Name: k.String(), Value: value, Known: k})
}

// Append appends a field line whose Known is already right. Parsers use it.
func (h *Header) Append(f Field) {
	if f.Known != Other {
		h.set |= 1 << f.Known
	}
	h.fields = append(h.fields, f)
}

// Set gives the field that one value: the first line of that name keeps its
// place, others are removed; where there is none, a line is appended.
func (h *Header) Set(name, value string) {
	h.replace(h.find(name, 0), Field{Name: name, Value: value, Known: LookupKnown(name)})
}

// SetKnown is Set for a well-known name.
func (h *Header) SetKnown(k Known, value string) {
	i := -1
	if h.set&(1<<k) != 0 {
		i = h.find(k.String(), 0)
	}
	h.replace(i, Field{Name: k.String(), Value: value, Known: k})
}

func (h *Header) replace(i int, f Field) {
	if i < 0 {
		h.Append(f)
		return
	}
	h.fields[i] = f
	out := i + 1
	for j := i + 1; j < len(h.fields); j++ {
		if !h.fields[j].same(f) {
			h.fields[out] = h.fields[j]
			out++
		}
	}
	h.truncate(out)
}

func (f *Field) same(o Field) bool {
	return f.Known == o.Known && (f.Known != Other || EqualFold(f.Name, o.Name))
}

// Del removes every field line of that name.
func (h *Header) Del(name string) { h.DelLooked(name, LookupKnown(name)) }

// DelLooked is Del for a name that LookupKnown was asked about beforehand.
func (h *Header) DelLooked(name string, k Known) {
	if k != Other {
		h.DelKnown(k)
		return
	}
	for i := range h.fields {
		if f := &h.fields[i]; f.Known == Other && EqualFold(f.Name, name) {
			h.delFrom(i, name)
			return
		}
	}
}

// delFrom removes the line at i, and all of that name behind it.
func (h *Header) delFrom(i int, name string) {
	out := i
	for i++; i < len(h.fields); i++ {
		if f := &h.fields[i]; f.Known != Other || !EqualFold(f.Name, name) {
			h.fields[out] = *f
			out++
		}
	}
	h.truncate(out)
}

// DelKnown removes every field line of that well-known name.
func (h *Header) DelKnown(k Known) {
	if h.set&(1<<k) != 0 {
		h.DelSet(1 << k)
	}
}

// DelSet removes every field line whose well-known name is in the set, a sum
// of k.Bit() values. One pass removes them all.
func (h *Header) DelSet(set uint64) {
	if h.set&set == 0 {
		return
	}
	set &^= Other.Bit()
	fields, out := h.fields, 0
	// What stands before the first one stays where it is.
	for out < len(fields) && set>>(fields[out].Known&63)&1 == 0 {
		out++
	}
	for i := out + 1; i < len(fields); i++ {
		if f := &fields[i]; set>>(f.Known&63)&1 == 0 {
			fields[out] = *f
			out++
		}
	}
	h.truncate(min(out, len(fields)))
	h.set &^= set
}

// DelFunc removes every field line for which del answers true.
func (h *Header) DelFunc(del func(*Field) bool) {
	out := 0
	var set uint64
	for i := range h.fields {
		if f := &h.fields[i]; !del(f) {
			if f.Known != Other {
				set |= 1 << f.Known
			}
			if out != i {
				h.fields[out] = *f
			}
			out++
		}
	}
	h.truncate(out)
	h.set = set
}

func (h *Header) truncate(n int) {
	clear(h.fields[n:])
	h.fields = h.fields[:n]
}

// CopyFrom makes h hold the same field lines as src.
func (h *Header) CopyFrom(src *Header) {
	h.Reset()
	h.fields = append(h.fields, src.fields...)
	h.set = src.set
}

// EqualFold compares two field names, or other ASCII tokens, without case.
// Bytes above 0x7f compare as they are.
func EqualFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := 0; i < len(a); i++ {
		if x, y := a[i], b[i]; x != y && lower(x) != lower(y) {
			return false
		}
	}
	return true
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c | 0x20
	}
	return c
}

// HasToken reports whether a comma-separated list (RFC 9110, section 5.6.1)
// contains token, compared without case.
func HasToken(list, token string) bool {
	for t := range Tokens(list) {
		if EqualFold(t, token) {
			return true
		}
	}
	return false
}

// Tokens yields the elements of a comma-separated list, trimmed; empty
// elements are passed over.
func Tokens(list string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for len(list) > 0 {
			i := 0
			for i < len(list) && list[i] != ',' {
				i++
			}
			t := trimOWS(list[:i])
			if t != "" && !yield(t) {
				return
			}
			if i == len(list) {
				return
			}
			list = list[i+1:]
		}
	}
}

func trimOWS(s string) string {
	for len(s) > 0 && (s[0] == ' ' || s[0] == '\t') {
		s = s[1:]
	}
	for len(s) > 0 && (s[len(s)-1] == ' ' || s[len(s)-1] == '\t') {
		s = s[:len(s)-1]
	}
	return s
}
