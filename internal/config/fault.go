package config

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Fault is one thing wrong with a configuration, and where.
type Fault struct {
	File    string `json:"file"`
	Line    int    `json:"line"` // from 1; 0 when the fault has no place in a file
	Col     int    `json:"col"`  // from 1, in characters
	Path    string `json:"path,omitempty"`
	Text    string `json:"text"`              // the value quoted, and the rule
	Hint    string `json:"hint,omitempty"`    // what to write instead
	Warning bool   `json:"warning,omitempty"` // the configuration can be used all the same
}

// Error returns the fault on one line:
//
//	gatehouse.yaml:12:7: routes[1].policies[0].rate_limit.limit: "x" is not a rate (write 100/s)
func (f Fault) Error() string {
	var b strings.Builder
	if place := f.place(); place != "" {
		b.WriteString(place + ": ")
	}
	if f.Warning {
		b.WriteString("warning: ")
	}
	if f.Path != "" {
		b.WriteString(f.Path + ": ")
	}
	b.WriteString(f.Text)
	if f.Hint != "" {
		b.WriteString(" (" + f.Hint + ")")
	}
	return b.String()
}

// concealed leaves out of a text what stands before the @ of a URL, in whatever
// shape: it may be a password, and faults are logged and shown.
func concealed(text string) string {
	if !strings.Contains(text, "@") {
		return text
	}
	words := strings.SplitAfter(text, " ")
	for i, word := range words {
		at := strings.LastIndexByte(word, '@')
		if at < 0 || !strings.Contains(word[:at], ":") {
			continue
		}
		from := len(word) - len(strings.TrimLeft(word, `("'`))
		if j := strings.Index(word[:at], "://"); j >= 0 {
			from = j + len("://")
		}
		words[i] = word[:from] + "…" + word[at:]
	}
	return strings.Join(words, "")
}

func (f Fault) place() string {
	if f.Line == 0 {
		return f.File
	}
	return strings.TrimPrefix(f.File+":", ":") + strconv.Itoa(f.Line) + ":" + strconv.Itoa(f.Col)
}

// Faults are all the things wrong with a configuration.
type Faults []Fault

// Error returns the faults one per line, without a newline at the end.
func (f Faults) Error() string {
	lines := make([]string, len(f))
	for i, one := range f {
		lines[i] = one.Error()
	}
	return strings.Join(lines, "\n")
}

// Fatal tells whether any of the faults is not just a warning.
func (f Faults) Fatal() bool {
	return slices.ContainsFunc(f, func(one Fault) bool { return !one.Warning })
}

// Sort orders the faults by file and position.
func (f Faults) Sort() {
	slices.SortStableFunc(f, func(a, b Fault) int {
		return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Col, b.Col))
	})
}

// mostFaults bounds what is reported of one configuration: a file of another
// kind than a configuration has a fault on every line.
const mostFaults = 200

// bounded cuts a list that is too long, and says so in its last fault.
func (f Faults) bounded() Faults {
	if len(f) <= mostFaults {
		return f
	}
	last := f[mostFaults]
	f = f[:mostFaults:mostFaults]
	return append(f, Fault{File: last.File, Line: last.Line, Col: last.Col, Text: fmt.Sprintf("too many faults: only the first %d are shown", mostFaults)})
}
