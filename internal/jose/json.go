package jose

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// deepest is how many levels of lists and objects a token may have.
const deepest = 32

var errNotJSON = errors.New("this is not a JSON object")

// Object reads a JSON object strictly: names that stand twice, text that is
// not UTF-8, or halves of characters, and anything after the object are refused, since another reader
// could see something else in them (RFC 8725, section 2.4). Values are string,
// bool, int64, float64, nil, []any and map[string]any.
func Object(data []byte) (map[string]any, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("the JSON is not UTF-8")
	}
	if halves(data) {
		return nil, errors.New("the JSON has half a character")
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	first, err := d.Token()
	if err != nil || first != json.Delim('{') {
		return nil, errNotJSON
	}
	m, err := object(d, 1)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("something follows the JSON object")
	}
	return m, nil
}

// halves tells whether one of two escapes that stand for a character together is
// without the other (RFC 8259, section 8.2): all of them would read the same.
func halves(data []byte) bool {
	for i := 0; i+1 < len(data); i++ {
		if data[i] != '\\' {
			continue
		}
		i++
		first, ok := escape(data[i:])
		if !ok || !utf16.IsSurrogate(first) {
			continue
		}
		if i += 5; i >= len(data) || data[i] != '\\' {
			return true
		}
		i++
		if second, ok := escape(data[i:]); !ok || utf16.DecodeRune(first, second) == utf8.RuneError {
			return true
		}
	}
	return false
}

// escape reads what follows a backslash, if it is a character's number.
func escape(data []byte) (r rune, ok bool) {
	if len(data) < 5 || data[0] != 'u' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(data[1:5]), 16, 16)
	return rune(n), err == nil
}

func object(d *json.Decoder, depth int) (map[string]any, error) {
	m := make(map[string]any)
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return nil, errNotJSON
		}
		if _, twice := m[name]; twice {
			return nil, fmt.Errorf("the name %q stands twice", name)
		}
		if m[name], err = value(d, depth); err != nil {
			return nil, err
		}
	}
	if _, err := d.Token(); err != nil { // the closing brace
		return nil, errNotJSON
	}
	return m, nil
}

func value(d *json.Decoder, depth int) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, errNotJSON
	}
	switch v := t.(type) {
	case json.Number:
		return number(v)
	case json.Delim:
		if depth >= deepest {
			return nil, fmt.Errorf("the JSON has more than %d levels", deepest)
		}
		if v == '{' {
			return object(d, depth+1)
		}
		list := []any{}
		for d.More() {
			e, err := value(d, depth+1)
			if err != nil {
				return nil, err
			}
			list = append(list, e)
		}
		if _, err := d.Token(); err != nil {
			return nil, errNotJSON
		}
		return list, nil
	}
	return t, nil
}

// number keeps whole numbers whole: an id with 18 digits is not a float.
func number(n json.Number) (any, error) {
	if !strings.ContainsAny(n.String(), ".eE") {
		if i, err := n.Int64(); err == nil {
			return i, nil
		}
	}
	f, err := n.Float64()
	if err != nil {
		return nil, fmt.Errorf("%q is no number", n.String())
	}
	return f, nil
}
