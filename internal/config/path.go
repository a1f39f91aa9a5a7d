package config

import (
	"strconv"
	"strings"
)

// step is one step of a config path: a key, or an index when that is not
// negative.
type step struct {
	key   string
	index int
}

// joinPath writes a path as routes[1].match.headers.X-Beta; keys that would be
// misread are quoted: query["a.b"].
func joinPath(steps []step) string {
	var b strings.Builder
	for _, s := range steps {
		switch {
		case s.index >= 0:
			b.WriteString("[" + strconv.Itoa(s.index) + "]")
		case !plainKey(s.key):
			b.WriteString("[" + strconv.Quote(s.key) + "]")
		default:
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			b.WriteString(s.key)
		}
	}
	return b.String()
}

func plainKey(key string) bool {
	return key != "" && strings.IndexFunc(key, func(r rune) bool {
		return r != '_' && r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
	}) < 0
}

// splitPath reads what joinPath writes. What it cannot read ends the path: the
// nearest known parent is good enough for a position.
func splitPath(path string) []step {
	var steps []step
	for path != "" {
		if path[0] == '.' {
			path = path[1:]
			continue
		}
		if path[0] != '[' {
			end := strings.IndexAny(path, ".[")
			if end < 0 {
				end = len(path)
			}
			steps = append(steps, step{key: path[:end], index: -1})
			path = path[end:]
			continue
		}
		if quoted, err := strconv.QuotedPrefix(path[1:]); err == nil && strings.HasPrefix(path[1+len(quoted):], "]") {
			key, err := strconv.Unquote(quoted)
			if err != nil {
				return steps
			}
			steps = append(steps, step{key: key, index: -1})
			path = path[len(quoted)+2:]
			continue
		}
		inner, rest, found := strings.Cut(path[1:], "]")
		i, err := strconv.Atoi(inner)
		if !found || err != nil || i < 0 {
			return steps
		}
		steps = append(steps, step{index: i})
		path = rest
	}
	return steps
}
