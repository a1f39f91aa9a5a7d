// Package observe owns what the gateway tells about itself: its own log, the
// metrics, and the writer of the access log. It counts and writes what other
// rooms say and decides nothing about a request. Prometheus stays behind its
// own types: nobody else sees one.
//
// Nothing here makes a request wait: counters are spread over shards, so that
// two requests seldom write the same cache line, and lines of the access log
// are gathered in memory and dropped when the disk does not keep up.
package observe

import (
	"io"
	"log/slog"

	"gatehouse.dev/gatehouse/internal/config"
)

// NewLogger returns the log of the gateway's own events. Control bytes in
// messages and values are escaped in both formats.
func NewLogger(cfg config.Log, w io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: logLevel(cfg.Level)}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(escaper{w, `\u00`}, o))
	}
	return slog.New(slog.NewTextHandler(escaper{w, `\x`}, o))
}

func logLevel(s string) slog.Level {
	switch s {
	case "debug":
		return slog.LevelDebug
	case "warn":
		return slog.LevelWarn
	case "error":
		return slog.LevelError
	}
	return slog.LevelInfo
}

// escaper escapes what the handlers let pass and a terminal obeys: DEL in both
// formats, and in JSON the control characters U+0080 to U+009F. They can stand
// only inside a value, so that the bytes alone tell where to escape.
type escaper struct {
	w      io.Writer
	escape string // what precedes the two digits of a character
}

// Write writes one line. It reports the length of p, not of what it became.
func (e escaper) Write(p []byte) (int, error) {
	const hexDigits = "0123456789abcdef"
	var out []byte
	start := 0
	for i := 0; i < len(p); i++ {
		c, n := p[i], 1
		if c == 0xc2 && i+1 < len(p) && p[i+1] >= 0x80 && p[i+1] < 0xa0 {
			c, n = p[i+1], 2
		} else if c != 0x7f {
			continue
		}
		out = append(out, p[start:i]...)
		out = append(append(out, e.escape...), hexDigits[c>>4], hexDigits[c&15])
		i += n - 1
		start = i + 1
	}
	if out == nil {
		return e.w.Write(p)
	}
	if _, err := e.w.Write(append(out, p[start:]...)); err != nil {
		return 0, err
	}
	return len(p), nil
}
