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
	// Two channels: reloads that are asked for again and again must not take the
	// place of the end.
	hangups, ends := make(chan os.Signal, 1), make(chan os.Signal, 2)
	signal.Notify(hangups, syscall.SIGHUP)
	signal.Notify(ends, syscall.SIGTERM, syscall.SIGINT)
	defer signal.Stop(hangups)
	defer signal.Stop(ends)

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
	changes := make(chan struct{}, 1)
	refollow := func() {}
	if source.Path != "" {
		f := follow(ctx, seen, func() {
			select {
			case changes <- struct{}{}:
			default: // one is due already and will read what is there then
			}
		}, func(err error) {
			a.log.Warn("cannot watch the configuration", "path", source.Path, "error", err)
		})
		refollow = func() { f.files(a.Files()) }
		refollow()
	}
	for {
		select {
		case <-changes:
			a.Reload(false)
			refollow()
		case <-hangups:
			a.Reload(true)
			refollow()
		case <-ends:
			stop()
			drain, cut := context.WithCancel(context.Background())
			defer cut()
			go func() {
				for {
					select {
					case <-ends:
						cut()
						return
					case <-hangups:
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
