package app

import (
	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/observe"
)

// accessLog is the access-log writer together with the settings it was opened
// with. A reload that leaves the settings alone keeps the writer.
type accessLog struct {
	cfg    config.AccessLog
	writer *observe.AccessLog
}

// openLogs returns the present access log when its settings stay, or a new
// one.
func (a *App) openLogs(cfg *config.Config) (*accessLog, error) {
	want := cfg.Observe.AccessLog
	if a.logs != nil && a.logs.cfg == want {
		return a.logs, nil
	}
	w, err := observe.NewAccessLog(want, a.metrics)
	if err != nil {
		return nil, err
	}
	return &accessLog{want, w}, nil
}

// reopen opens the file again, so that a rotated one is let go.
func (l *accessLog) reopen() error { return l.writer.Reopen() }

// release closes the writer unless next goes on with it. Exchanges that still
// run under the old snapshot may write to a closed log: their lines are
// written through at once.
func (l *accessLog) release(next *accessLog) {
	if l != nil && l != next {
		l.writer.Close()
	}
}

// service gives policies what they may ask for by name.
func (a *App) service(name string) any {
	switch name {
	case "access_log":
		return a.logs.writer
	case "redis":
		if a.stores.redis != nil {
			return a.stores.redis.store
		}
	case "durable":
		if a.stores.data != nil {
			return a.stores.data.store
		}
	case "consumers":
		return a.callers
	}
	return nil
}
