package h1

import (
	"bytes"
	"io"
	"strings"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// Limits of the chunked coding that no honest sender meets.
const (
	maxChunkLine    = 1024     // bytes of one chunk's size and extensions
	maxExtensions   = 16 << 10 // bytes of extensions in one body
	maxSizeDigits   = 16       // leading zeros included
	maxTrailerBytes = 8 << 10
	maxChunk        = 1<<62 - 1
)

// ChunkedBody decodes the chunked coding piece by piece (RFC 9112, section
// 7.1). The zero value with MaxTrailers set stands at the start of a body. A
// body that ended or failed must not be decoded further.
type ChunkedBody struct {
	MaxTrailers int // most trailer fields

	left       int64 // bytes of the current chunk that are still to come
	extensions int   // bytes of extensions so far
	state      chunkState
}

type chunkState uint8

const (
	atSize chunkState = iota
	inData
	afterData
	inTrailer
)

// Decode takes bytes from the front of p. It returns how many it took, and a
// piece of the body among them, which may be empty. When it took none, it
// needs to see the same bytes again with more after them; it never needs more
// than BufferSize at once. The body's end is io.EOF, and then the trailer
// fields are in t; every other error is a Malformed. Extensions are read over:
// they concern this hop only.
func (c *ChunkedBody) Decode(p []byte, t *exchange.Header) (data []byte, taken int, err error) {
	for taken < len(p) {
		rest := p[taken:]
		n := 0
		switch c.state {
		case atSize:
			n, err = c.size(rest)
		case inData:
			n = int(min(c.left, int64(len(rest))))
			if c.left -= int64(n); c.left == 0 {
				c.state = afterData
			}
			return rest[:n], taken + n, nil
		case afterData:
			n, err = c.endOfData(rest)
		case inTrailer:
			n, err = c.trailer(rest, t)
		}
		taken += n
		if n == 0 || err != nil {
			return nil, taken, err
		}
	}
	return nil, taken, nil
}

// size reads a chunk's first line.
func (c *ChunkedBody) size(p []byte) (int, error) {
	end := bytes.IndexByte(p, '\n')
	if end < 0 && len(p) <= maxChunkLine {
		end = bytes.IndexByte(p, '\r')
		if end >= 0 && end != len(p)-1 {
			return 0, Malformed("CR without LF in a chunk's size line")
		}
		return 0, nil
	}
	if end < 0 || end > maxChunkLine {
		return 0, Malformed("chunk's size line is too long")
	}
	if end == 0 || p[end-1] != '\r' {
		return 0, Malformed("chunk's size line ends in LF without CR")
	}
	line := p[:end-1]
	var size int64
	i := 0
	for ; i < len(line); i++ {
		d, ok := hexDigit(line[i])
		if !ok {
			break
		}
		if i == maxSizeDigits || size > maxChunk>>4 {
			return 0, Malformed("chunk size is too large")
		}
		size = size<<4 | int64(d)
	}
	if i == 0 {
		return 0, Malformed("chunk size is not a hexadecimal number")
	}
	if err := c.extension(line[i:]); err != nil {
		return 0, err
	}
	c.left, c.state = size, inData
	if size == 0 {
		c.state = inTrailer
	}
	return end + 1, nil
}

// extension checks what follows a chunk's size.
func (c *ChunkedBody) extension(e []byte) error {
	if len(e) == 0 {
		return nil
	}
	if e[0] != ';' {
		return Malformed("chunk size is followed by neither an extension nor CRLF")
	}
	if control(e, 0) != len(e) {
		return Malformed("chunk extension holds a control character")
	}
	if c.extensions += len(e); c.extensions > maxExtensions {
		return Malformed("too many chunk extensions")
	}
	return nil
}

func (c *ChunkedBody) endOfData(p []byte) (int, error) {
	if p[0] != '\r' || len(p) > 1 && p[1] != '\n' {
		return 0, Malformed("chunk is longer than its size")
	}
	if len(p) < 2 {
		return 0, nil
	}
	c.state = atSize
	return 2, nil
}

// trailer reads the trailer section (RFC 9112, section 7.1.2) once it is
// there as a whole.
func (c *ChunkedBody) trailer(p []byte, t *exchange.Header) (int, error) {
	if p[0] == '\r' {
		switch {
		case len(p) < 2:
			return 0, nil
		case p[1] != '\n':
			return 0, Malformed("CR without LF in the trailer section")
		}
		return 2, io.EOF
	}
	end, err := FindHead(p, 0)
	if err != nil {
		return 0, err
	}
	if end > maxTrailerBytes || end == 0 && len(p) > maxTrailerBytes {
		return 0, Malformed("trailer section is too large")
	}
	if end == 0 {
		return 0, nil
	}
	if err := parseFields(p, string(p[:end]), 0, c.MaxTrailers, 0, t, nil); err != nil {
		return 0, err
	}
	t.DelFunc(func(f *exchange.Field) bool { return !mayTrail(f) })
	return end, io.EOF
}

// headOnly are the fields that say how a message is framed, routed, trusted or
// to be handled: they have no meaning after the body, and some reader would
// merge them into the head (RFC 9110, section 6.5.1).
const headOnly = 1<<exchange.AltSvc | 1<<exchange.Authorization | 1<<exchange.CacheControl |
	1<<exchange.Connection | 1<<exchange.ContentEncoding | 1<<exchange.ContentLength |
	1<<exchange.ContentRange | 1<<exchange.ContentType | 1<<exchange.Cookie | 1<<exchange.Expect |
	1<<exchange.Forwarded | 1<<exchange.HTTP2Settings | 1<<exchange.Host | 1<<exchange.KeepAlive |
	1<<exchange.Location | 1<<exchange.MaxForwards | 1<<exchange.Origin | 1<<exchange.ProxyAuthenticate |
	1<<exchange.ProxyAuthorization | 1<<exchange.ProxyConnection | 1<<exchange.Range |
	1<<exchange.RetryAfter | 1<<exchange.SetCookie | 1<<exchange.StrictTransportSecurity |
	1<<exchange.TE | 1<<exchange.Trailer | 1<<exchange.TransferEncoding | 1<<exchange.Upgrade |
	1<<exchange.Vary | 1<<exchange.Via | 1<<exchange.WWWAuthenticate | 1<<exchange.XAPIKey |
	1<<exchange.XForwardedFor | 1<<exchange.XForwardedHost | 1<<exchange.XForwardedPort |
	1<<exchange.XForwardedProto | 1<<exchange.XRealIP | 1<<exchange.XForwardedClientCert

// mayTrail reports whether a field may stand in a trailer section. A name with
// an underscore is another spelling of one with a hyphen to some readers.
func mayTrail(f *exchange.Field) bool {
	const forwarded = "X-Forwarded-"
	return f.Known.Bit()&headOnly == 0 && strings.IndexByte(f.Name, '_') < 0 &&
		(len(f.Name) < len(forwarded) || !exchange.EqualFold(f.Name[:len(forwarded)], forwarded))
}

// MayTrail reports whether a field may be sent in a trailer section.
func MayTrail(f *exchange.Field) bool { return mayTrail(f) && exchange.IsToken(f.Name) }

func hexDigit(c byte) (byte, bool) {
	switch {
	case exchange.IsDigit(c):
		return c - '0', true
	case 'a' <= c|0x20 && c|0x20 <= 'f':
		return c | 0x20 - 'a' + 10, true
	}
	return 0, false
}
