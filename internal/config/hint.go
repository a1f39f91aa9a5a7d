package config

import (
	"slices"
	"strings"
)

// nearest returns the candidate that was most likely meant by a word, or "".
func nearest(word string, candidates []string) string {
	plain := flatten(word)
	best, least := "", 1+min(3, (len(plain)+1)/3)
	for _, c := range candidates {
		if d := distance(plain, flatten(c), least); d < least {
			best, least = c, d
		}
	}
	if best != "" {
		return best
	}
	for _, c := range candidates { // another form of the same word
		n := 0
		for f := flatten(c); n < len(plain) && n < len(f) && plain[n] == f[n]; {
			n++
		}
		if n >= max(4, len(plain)*3/4) {
			return c
		}
	}
	return ""
}

// flatten drops what people write differently without meaning anything else.
func flatten(s string) string {
	return strings.NewReplacer("_", "", "-", "", " ", "").Replace(strings.ToLower(s))
}

// distance is the number of single-letter edits between two words, where
// swapping two neighbours counts as one. It gives up at limit.
func distance(a, b string, limit int) int {
	if d := len(a) - len(b); d >= limit || -d >= limit || len(a) > 64 || len(b) > 64 {
		return limit
	}
	var rows [3][65]int
	before, last, row := &rows[0], &rows[1], &rows[2]
	for j := range len(b) + 1 {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

// meant returns the hint for an unknown word.
func meant(word string, candidates []string) string {
	if c := nearest(word, candidates); c != "" {
		return "did you mean " + quote(c) + "?"
	}
	if len(candidates) > 0 && len(candidates) <= 12 {
		return "known here: " + strings.Join(candidates, ", ")
	}
	return ""
}

// later tells whether a word belongs to the language, but to a part of it that
// this version does not have. What is a type of this package, or the name of
// a field whose values are meant, or "policy".
func later(what, word string) bool {
	var words string
	switch what {
	case "Config":
		words = "cluster tests"
	case "Observe":
		words = "tracing"
	case "policy":
		words = "cache compress"
	}
	return slices.Contains(strings.Fields(words), word)
}
