package observe

import (
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// A line never holds what may be a secret: no query, of which a token may be a
// part, neither the request's nor that of Referer, and no other field of the
// head than User-Agent and Referer.

const (
	// mostPath and mostText bound what a client may put into one line, in
	// bytes before escaping.
	mostPath = 2048
	mostText = 512
)

// lineClock turns monotonic readings into times of day. It is set anew for
// each batch, so that it follows the wall clock where that is corrected.
type lineClock struct {
	offset int64  // wall time minus exchange.Now, in nanoseconds
	second int64  // the second that text stands for
	date   string // RFC 3339 up to the second
	common string // as the common log format writes it
}

func (c *lineClock) set() { c.offset = time.Now().UnixNano() - exchange.Now() }

// at returns the time of day of a reading, with both texts ready. It allocates
// once a second.
func (c *lineClock) at(mono int64) (ms int64) {
	wall := mono + c.offset
	if second := wall / 1e9; second != c.second || c.date == "" {
		t := time.Unix(second, 0).UTC()
		c.second, c.date, c.common = second, t.Format("2006-01-02T15:04:05"), t.Format("02/Jan/2006:15:04:05 +0000")
	}
	return wall % 1e9 / 1e6
}

// began returns when the exchange began, or the nearest that is known.
func began(x *exchange.Exchange) int64 {
	switch {
	case x.Times.Start != 0:
		return x.Times.Start
	case x.Times.End != 0:
		return x.Times.End
	}
	return exchange.Now()
}

// appendJSON appends the exchange as one JSON object and a newline. Fields that
// do not apply are left out.
func appendJSON(b []byte, x *exchange.Exchange, clock *lineClock) []byte {
	start := began(x)
	ms := clock.at(start)
	b = append(b, `{"time":"`...)
	b = append(b, clock.date...)
	b = append(b, '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10), 'Z', '"')
	b = appendField(b, `,"request_id":`, x.RequestID(), mostText)
	b = appendText(b, `,"client":`, x.Client.IP, mostText)
	b = appendField(b, `,"listener":`, x.Client.Listener, mostText)
	r := &x.Request
	b = appendText(b, `,"method":`, r.Method, mostText)
	b = appendText(b, `,"host":`, r.Host, mostText)
	b = appendText(b, `,"path":`, withoutQuery(r.RawPath), mostPath)
	b = appendText(b, `,"proto":`, r.Proto.String(), mostText)
	if r.Proto < exchange.TCP {
		b = append(b, `,"status":`...)
		b = strconv.AppendInt(b, int64(x.Response.Status), 10)
	}
	if p := x.Problem; p != nil {
		b = appendField(b, `,"code":`, p.Code, mostText)
		b = append(b, `,"side":"`...)
		b = append(b, p.Side.String()...)
		b = append(b, '"')
		if p.Cause != nil {
			b = appendText(b, `,"cause":`, p.Cause.Error(), mostText)
		}
	}
	if x.Response.Truncated {
		b = append(b, `,"truncated":true`...)
	}
	b = appendText(b, `,"route":`, x.Route.Name, mostText)
	b = appendText(b, `,"consumer":`, x.Who.Consumer, mostText)
	if u := &x.Upstream; u.Name != "" {
		b = appendField(b, `,"upstream":`, u.Name, mostText)
		b = appendText(b, `,"endpoint":`, u.Endpoint, mostText)
		b = append(b, `,"attempts":`...)
		b = strconv.AppendInt(b, int64(u.Attempts), 10)
		if x.Times.Sent != 0 && x.Times.FirstByte >= x.Times.Sent {
			b = append(b, `,"upstream_duration":`...)
			b = appendSeconds(b, x.Times.FirstByte-x.Times.Sent)
		}
	}
	b = append(b, `,"bytes_in":`...)
	b = strconv.AppendInt(b, r.Received, 10)
	b = append(b, `,"bytes_out":`...)
	b = strconv.AppendInt(b, x.Response.Sent, 10)
	b = append(b, `,"duration":`...)
	b = appendSeconds(b, max(x.Times.End-start, 0))
	b = appendText(b, `,"user_agent":`, r.Header.Known(exchange.UserAgent), mostText)
	b = appendText(b, `,"referer":`, referer(x), mostPath)
	return append(b, '}', '\n')
}

// appendText is appendField, and nothing where there is no value.
func appendText(b []byte, key, value string, most int) []byte {
	if value == "" {
		return b
	}
	return appendField(b, key, value, most)
}

func appendField(b []byte, key, value string, most int) []byte {
	b = append(b, key...)
	if value = cut(value, most); !plain(value) {
		return exchange.AppendJSONString(b, value)
	}
	b = append(b, '"')
	b = append(b, value...)
	return append(b, '"')
}

// plain reports whether a text stands for itself between quotes: printable ASCII
// without quote and backslash. It looks at eight bytes at a time, since
// nearly all texts are, and looking is most of the work of a line.
func plain(s string) bool {
	const low, high = 0x0101010101010101, 0x8080808080808080
	i := 0
	for ; i+8 <= len(s); i += 8 {
		v := uint64(s[i]) | uint64(s[i+1])<<8 | uint64(s[i+2])<<16 | uint64(s[i+3])<<24 |
			uint64(s[i+4])<<32 | uint64(s[i+5])<<40 | uint64(s[i+6])<<48 | uint64(s[i+7])<<56
		// Of each byte only the highest bit counts. Where a byte is zero, or
		// less than what is taken from it, the subtraction sets that bit; what
		// it borrows can only touch a byte above one that is found already.
		quote, back, del := v^low*'"', v^low*'\\', v^low*0x7f
		if (v|(v-low*' ')|(quote-low)|(back-low)|(del-low))&high != 0 {
			return simple(s[i:])
		}
	}
	return simple(s[i:])
}

// simple is plain, byte by byte.
func simple(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < ' ' || c >= 0x7f || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

// cut bounds a text, at the beginning of a character.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for i := range utf8.UTFMax {
		if utf8.RuneStart(s[most-i]) {
			return s[:most-i]
		}
	}
	return s[:most]
}

// withoutQuery cuts a query or fragment off.
func withoutQuery(s string) string {
	if i := strings.IndexByte(s, '?'); i >= 0 {
		s = s[:i]
	}
	if i := strings.IndexByte(s, '#'); i >= 0 {
		s = s[:i]
	}
	return s
}

// referer returns the request's Referer without its query, and nothing of one
// with credentials in it.
func referer(x *exchange.Exchange) string {
	s := x.Request.Header.Known(exchange.Referer)
	if s == "" {
		return ""
	}
	s = withoutQuery(s)
	authority := s
	if i := strings.Index(s, "//"); i >= 0 {
		authority = s[i+2:]
	}
	if i := strings.IndexByte(authority, '/'); i >= 0 {
		authority = authority[:i]
	}
	if strings.IndexByte(authority, '@') >= 0 {
		return ""
	}
	return s
}

// appendSeconds appends a duration in nanoseconds as seconds with six digits.
func appendSeconds(b []byte, ns int64) []byte {
	us := ns / 1000
	b = strconv.AppendInt(b, us/1e6, 10)
	b = append(b, '.')
	rest := us % 1e6
	for div := int64(1e5); div > 0; div /= 10 {
		b = append(b, byte('0'+rest/div%10))
	}
	return b
}

// appendCombined appends the exchange in the combined log format and a
// newline.
func appendCombined(b []byte, x *exchange.Exchange, clock *lineClock) []byte {
	clock.at(began(x))
	r := &x.Request
	b = appendWord(b, x.Client.IP)
	b = append(b, " - "...)
	b = appendWord(b, x.Who.Consumer)
	b = append(b, " ["...)
	b = append(b, clock.common...)
	b = append(b, `] "`...)
	if r.Method == "" {
		b = append(b, '-') // nothing of the request could be read
	} else {
		b = appendEscaped(b, r.Method, mostText, ' ')
		b = append(b, ' ')
		b = appendEscaped(b, withoutQuery(r.RawPath), mostPath, ' ')
		b = append(b, ' ')
		b = append(b, r.Proto.String()...)
	}
	b = append(b, `" `...)
	b = strconv.AppendInt(b, int64(x.Response.Status), 10)
	b = append(b, ' ')
	if x.Response.Sent == 0 {
		b = append(b, '-')
	} else {
		b = strconv.AppendInt(b, x.Response.Sent, 10)
	}
	b = append(b, ` "`...)
	b = appendQuoted(b, referer(x), mostPath)
	b = append(b, `" "`...)
	b = appendQuoted(b, r.Header.Known(exchange.UserAgent), mostText)
	return append(b, '"', '\n')
}

// appendWord appends a value that a space ends, and a hyphen where there is
// none.
func appendWord(b []byte, s string) []byte {
	if s == "" {
		return append(b, '-')
	}
	return appendEscaped(b, s, mostText, '!')
}

// appendQuoted appends a value that a quote ends, and a hyphen where there is
// none.
func appendQuoted(b []byte, s string, most int) []byte {
	if s == "" {
		return append(b, '-')
	}
	return appendEscaped(b, s, most, ' ')
}

// appendEscaped appends a text in which whatever could end the value, break the
// line or steer a terminal is written \xHH, as log readers know it. lowest is
// the first character that stands for itself.
func appendEscaped(b []byte, s string, most int, lowest byte) []byte {
	const hexDigits = "0123456789abcdef"
	s = cut(s, most)
	if lowest == ' ' && plain(s) {
		return append(b, s...)
	}
	start := 0
	for i := 0; i < len(s); i++ {
		if c := s[i]; c < lowest || c >= 0x7f || c == '"' || c == '\\' {
			b = append(b, s[start:i]...)
			b = append(b, '\\', 'x', hexDigits[c>>4], hexDigits[c&15])
			start = i + 1
		}
	}
	return append(b, s[start:]...)
}
