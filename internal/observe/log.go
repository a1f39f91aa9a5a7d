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
	"context"
	"io"
	"log/slog"
	"sync/atomic"

	"gatehouse.dev/gatehouse/internal/config"
)

// Log is the log of the gateway's own events. Control bytes in messages and
// values are escaped in both formats.
type Log struct {
	*slog.Logger
	level slog.LevelVar
	json  atomic.Bool
}

// NewLog returns a log that writes to w.
func NewLog(cfg config.Log, w io.Writer) *Log {
	l := new(Log)
	l.Configure(cfg)
	o := &slog.HandlerOptions{Level: &l.level}
	l.Logger = slog.New(either{
		json: slog.NewJSONHandler(escaper{w, `\u00`}, o),
		text: slog.NewTextHandler(escaper{w, `\x`}, o),
		pick: &l.json,
	})
	return l
}

// Configure changes level and format, also for loggers derived from the log.
func (l *Log) Configure(cfg config.Log) {
	l.level.Set(logLevel(cfg.Level))
	l.json.Store(cfg.Format == "json")
}

// either writes in the format that is picked at the time.
type either struct {
	json, text slog.Handler
	pick       *atomic.Bool
}

func (e either) Enabled(ctx context.Context, level slog.Level) bool {
	return e.text.Enabled(ctx, level)
}

func (e either) Handle(ctx context.Context, r slog.Record) error {
	if e.pick.Load() {
		return e.json.Handle(ctx, r)
	}
	return e.text.Handle(ctx, r)
}

func (e either) WithAttrs(attrs []slog.Attr) slog.Handler {
	return either{e.json.WithAttrs(attrs), e.text.WithAttrs(attrs), e.pick}
}

func (e either) WithGroup(name string) slog.Handler {
	return either{e.json.WithGroup(name), e.text.WithGroup(name), e.pick}
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
