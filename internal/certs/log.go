package certs

import (
	"context"
	"log/slog"
	"maps"
	"slices"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// libraryLog gives the ACME library a log that ends in ours. What it tells of
// its normal work is for debugging. What it calls an error is a warning here:
// it will try again, and the old certificate goes on.
func libraryLog(log *slog.Logger) *zap.Logger { return zap.New(&bridge{log: log}) }

// bridge writes entries of the library to a slog.Logger.
type bridge struct {
	log    *slog.Logger
	fields []zapcore.Field
}

func level(l zapcore.Level) slog.Level {
	if l >= zapcore.WarnLevel {
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

func (b *bridge) Enabled(l zapcore.Level) bool {
	return b.log.Enabled(context.Background(), level(l))
}

func (b *bridge) With(fields []zapcore.Field) zapcore.Core {
	return &bridge{b.log, append(b.fields[:len(b.fields):len(b.fields)], fields...)}
}

func (b *bridge) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(e.Level) {
		return ce.AddCore(e, b)
	}
	return ce
}

func (b *bridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	m := zapcore.NewMapObjectEncoder()
	for _, list := range [][]zapcore.Field{b.fields, fields} {
		for _, f := range list {
			f.AddTo(m)
		}
	}
	attrs := make([]slog.Attr, 0, len(m.Fields))
	for _, k := range slices.Sorted(maps.Keys(m.Fields)) {
		attrs = append(attrs, slog.Any(k, m.Fields[k]))
	}
	b.log.LogAttrs(context.Background(), level(e.Level), "acme: "+e.Message, attrs...)
	return nil
}

func (b *bridge) Sync() error { return nil }
