// Package h1 owns HTTP/1.1 and 1.0: the grammar of heads, the framing of
// bodies, and the state machine of a connection in both directions (RFC 9110,
// RFC 9112). It reads every message in exactly one way or refuses it, and
// writes every message anew. It knows no configuration, no policy and no
// route, and it never guesses what a malformed message meant.
package h1

import (
	"bytes"
	"encoding/binary"
	"math/bits"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// Malformed is the error of a message that breaks the grammar, or that two
// readers could understand differently. It says what is wrong. The connection
// must be closed: where the next message would begin is not certain.
type Malformed string

func (m Malformed) Error() string { return "malformed message: " + string(m) }

// ErrTooManyFields is the error of a head or trailer section with more field
// lines than its limit.
const ErrTooManyFields = Malformed("too many field lines")

// Eight bytes at a time.
const (
	ones = 0x0101010101010101
	tops = 0x8080808080808080
)

// control returns the index of the first byte of b, at or after i, that no
// field value may hold: a control character other than tab, or DEL (RFC 9110,
// section 5.5). It returns len(b) when there is none.
func control(b []byte, i int) int {
	for {
		for ; i+8 <= len(b); i += 8 {
			x := binary.LittleEndian.Uint64(b[i:])
			del := x ^ 0x7f*ones
			// The lowest mark is exact; higher ones may come from a borrow.
			if m := ((x-0x20*ones)&^x | (del-ones)&^del) & tops; m != 0 {
				i += bits.TrailingZeros64(m) / 8
				break
			}
		}
		for i < len(b) && (b[i] >= 0x20 && b[i] != 0x7f) {
			i++
		}
		if i == len(b) || b[i] != '\t' {
			return i
		}
		i++
	}
}

// FindHead returns the size of the head at the start of b, its final empty
// line included, or 0 while it is incomplete. seen is how much of b was there
// at an earlier call that found no end. What can never become a head is found
// at once, so that nobody waits for an end that cannot come.
func FindHead(b []byte, seen int) (size int, err error) {
	// The line that was incomplete is looked at again.
	start := bytes.LastIndexByte(b[:seen], '\n') + 1
	for {
		k := bytes.IndexByte(b[start:], '\n')
		if k < 0 {
			break
		}
		switch {
		case k == 0 || b[start+k-1] != '\r':
			return 0, Malformed("line ends in LF without CR")
		case k == 1 && start > 0:
			return start + 2, nil
		case k == 1:
			return 0, Malformed("head begins with an empty line")
		}
		start += k + 1
	}
	// A CR can only be the last byte of an incomplete line.
	if k := bytes.IndexByte(b[start:], '\r'); k >= 0 && start+k+1 < len(b) {
		return 0, Malformed("CR without LF")
	}
	if len(b) > 0 && !exchange.InToken(b[0]) {
		return 0, Malformed("first byte is none of HTTP/1")
	}
	return 0, nil
}

// special holds the fields that are never put into a Header, because they say
// where a message ends, to whom it goes and what the connection does.
type special struct {
	lengths, codings, hosts, expects, upgrades int

	length, coding, host, expect, upgrade string
}

const (
	framingFields = 1<<exchange.ContentLength | 1<<exchange.TransferEncoding
	requestFields = framingFields | 1<<exchange.Host | 1<<exchange.Expect | 1<<exchange.Upgrade
)

func (sp *special) take(k exchange.Known, value string) {
	switch k {
	case exchange.ContentLength:
		sp.lengths++
		sp.length = value
	case exchange.TransferEncoding:
		sp.codings++
		sp.coding = value
	case exchange.Host:
		sp.hosts++
		sp.host = value
	case exchange.Expect:
		sp.expects++
		sp.expect = value
	case exchange.Upgrade:
		sp.upgrades++
		sp.upgrade = value
	}
}

// parseFields cuts the field lines out of s, which holds the same bytes as b,
// from index i to the final empty line. Those in the set taken go to sp, the
// others to h. It refuses what RFC 9112, section 5, lets a server refuse:
// folded lines, white space before the colon, names that are no tokens,
// control characters in values.
func parseFields(b []byte, s string, i, most int, taken uint64, h *exchange.Header, sp *special) error {
	for n := 0; b[i] != '\r'; n++ {
		if n == most {
			return ErrTooManyFields
		}
		name := i
		for exchange.InToken(b[i]) {
			i++
		}
		if b[i] != ':' || i == name {
			return badName(b[name:], i-name)
		}
		colon := i
		i++
		for b[i] == ' ' || b[i] == '\t' {
			i++
		}
		value := i
		i = control(b, i)
		if b[i] != '\r' || b[i+1] != '\n' {
			return badValue(b[i])
		}
		end := i
		for end > value && (b[end-1] == ' ' || b[end-1] == '\t') {
			end--
		}
		i += 2
		known := exchange.LookupKnown(s[name:colon])
		if taken&(1<<known) != 0 {
			sp.take(known, s[value:end])
			continue
		}
		h.Append(exchange.Field{Name: s[name:colon], Value: s[value:end], Known: known})
	}
	if b[i+1] != '\n' {
		return badValue('\r')
	}
	return nil
}

func badName(line []byte, i int) error {
	switch space := line[i] == ' ' || line[i] == '\t'; {
	case space && i == 0:
		return Malformed("folded field line")
	case space:
		return Malformed("white space in or after a field name")
	case i == 0 && line[i] == ':':
		return Malformed("field line without a name")
	case line[i] == '\r':
		return Malformed("field line without a colon")
	}
	return Malformed("field name is not a token")
}

func badValue(c byte) error {
	switch c {
	case '\r':
		return Malformed("CR without LF")
	case '\n':
		return Malformed("line ends in LF without CR")
	case 0:
		return Malformed("field value holds a NUL")
	}
	return Malformed("field value holds a control character")
}

// connectionHas reports whether a Connection field holds an option.
func connectionHas(h *exchange.Header, option string) bool {
	if !h.Has(exchange.Connection) {
		return false
	}
	for _, f := range h.Fields() {
		if f.Known == exchange.Connection && exchange.HasToken(f.Value, option) {
			return true
		}
	}
	return false
}

// ends reports whether the connection ends with this message (RFC 9112,
// section 9.3).
func ends(h *exchange.Header, p exchange.Proto) bool {
	if p == exchange.HTTP10 {
		return !connectionHas(h, "keep-alive") || connectionHas(h, "close")
	}
	return connectionHas(h, "close")
}
