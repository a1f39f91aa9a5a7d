package app

import (
	"context"
	"io"
	"os"
	"os/signal"
	"syscall"
)

// Run serves until SIGTERM or SIGINT, reloads on SIGHUP and when the files
// change, and then drains. A second SIGTERM or SIGINT cuts what is left.
// started, where given, is called once the gateway serves.
func Run(source Source, version string, stderr io.Writer, started func(*App)) error {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)

	limitMemory()
	// What changes while the files are read for the first time is a change too.
	seen := fingerprint(source.Path)
	a, err := New(source, version, stderr)
	if err != nil {
		return err
	}
	if started != nil {
		started(a)
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go paceCollector(ctx)
	reload := make(chan struct{}, 1)
	if source.Path != "" {
		go watch(ctx, source.Path, seen, func() {
			select {
			case reload <- struct{}{}:
			default: // one is due already and will read what is there then
			}
		}, func(err error) {
			a.log.Warn("cannot watch the configuration", "path", source.Path, "error", err)
		})
	}
	for {
		select {
		case <-reload:
			a.Reload()
		case s := <-signals:
			if s == syscall.SIGHUP {
				a.Reload()
				continue
			}
			stop()
			drain, cut := context.WithCancel(context.Background())
			defer cut()
			go func() {
				for {
					select {
					case s := <-signals:
						if s != syscall.SIGHUP {
							cut()
							return
						}
						a.Reopen() // whoever rotates logs does not know of the drain
					case <-drain.Done():
						return
					}
				}
			}()
			return a.Drain(drain)
		}
	}
}
