//go:build linux

// Command bench measures gatehouse beside nginx and HAProxy, all of them in one
// interleaved run on loopback, and prints what each request costs as absolute
// figures and as ratios. With -soak it instead reloads gatehouse many times
// under load and fails when a request, a stream or memory is lost.
//
// It owns the set-up of such a comparison: processors, configurations, the
// upstream, loads, medians. It judges no product but its own, and it does not
// compare figures across machines or runs. See docs/guides/benchmarks.md.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// First arguments of the processes that play a part in the measurement: the
// upstream, the gRPC service, an attack, a proxy of Go's own.
const (
	upstreamMode = "serve-upstream"
	serviceMode  = "serve-calls"
	floodMode    = "serve-flood"
	peerMode     = "serve-peer"
)

// options are the flags.
type options struct {
	run      *regexp.Regexp // which cases
	list     bool           // print the cases and stop
	short    bool           // fewer and shorter rounds
	soak     bool           // the soak instead of the cases
	proxies  []string       // which products, in the order of a round
	binary   string         // a gatehouse to measure instead of the checkout's
	duration time.Duration  // of one measurement
	rounds   int            // measurements of each product in a case
	cores    int            // processors that a proxy may use
	linger   time.Duration  // how long idle connections are kept for a second look
	reloads  int            // in the soak
	limit    time.Duration  // of the whole run
	out      string         // folder of the results
}

func main() {
	// Children ask to be killed when the thread that started them ends, so all
	// are started from this thread, which lives as long as the process.
	runtime.LockOSThread()
	if played, err := play(os.Args[1:]); played {
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// play takes the part that the arguments name, if they do.
func play(args []string) (played bool, err error) {
	switch {
	case len(args) == 2 && args[0] == upstreamMode:
		return true, serveUpstream(args[1])
	case len(args) == 2 && args[0] == serviceMode:
		return true, serveCalls(args[1])
	case len(args) == 3 && args[0] == floodMode:
		return true, serveFlood(args[1], args[2])
	case len(args) == 3 && args[0] == peerMode:
		return true, servePeer(args[1], args[2])
	}
	return false, nil
}

// errUsage says that the flags were wrong and that the user was told so.
var errUsage = errors.New("wrong use")

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	opts, err := parseFlags(args, stderr)
	if err != nil {
		return err
	}
	if opts.list {
		for _, c := range cases() {
			fmt.Fprintf(stdout, "%-14s %s\n", c.name, c.about)
		}
		return nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, opts.limit, fmt.Errorf("the run took longer than -limit %v", opts.limit))
	defer cancel()
	b, err := open(ctx, opts, stdout)
	if err != nil {
		return err
	}
	defer b.close()
	if opts.soak {
		err = b.soak(ctx)
	} else {
		err = b.measure(ctx)
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return fmt.Errorf("stopped early: %w", cause)
	}
	return err
}

func parseFlags(args []string, stderr io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	pattern := f.String("run", "", "only the cases whose name matches this `regexp`")
	proxies := f.String("proxies", "nginx,haproxy,gatehouse", "`products` to measure, in the order of a round; also gatehouse-std")
	f.BoolVar(&o.list, "list", false, "print the cases and stop")
	f.BoolVar(&o.short, "short", false, "a quick look: 2 rounds of 1s unless -rounds and -duration say otherwise")
	f.BoolVar(&o.soak, "soak", false, "reload gatehouse many times under load instead of measuring")
	f.StringVar(&o.binary, "gatehouse", "", "measure this `binary` instead of building ./cmd/gatehouse")
	f.DurationVar(&o.duration, "duration", 0, "length of one measurement (default 4s)")
	f.IntVar(&o.rounds, "rounds", 0, "measurements of each product in a case (default 5; cases that vary little take half of it)")
	f.IntVar(&o.cores, "cores", 1, "processors and workers of each proxy")
	f.DurationVar(&o.linger, "linger", 0, "look at idle connections again after this `time`, e.g. 1m")
	f.IntVar(&o.reloads, "reloads", 1000, "reloads in the soak")
	f.DurationVar(&o.limit, "limit", 25*time.Minute, "longest time that the whole run may take")
	f.StringVar(&o.out, "out", "bench-results", "`folder` for the results as JSON")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, err
		}
		return o, errUsage
	}
	wrong := func(format string, a ...any) (options, error) {
		fmt.Fprintf(stderr, "bench: "+format+"\n", a...)
		return o, errUsage
	}
	if f.NArg() > 0 {
		return wrong("unexpected argument %q", f.Arg(0))
	}
	var err error
	if o.run, err = regexp.Compile(*pattern); err != nil {
		return wrong("-run %q: %v", *pattern, err)
	}
	o.proxies = strings.Split(*proxies, ",")
	for _, name := range o.proxies {
		if p := productNamed(name); p == nil || p.own {
			return wrong("-proxies: there is no product %q", name)
		}
	}
	if o.rounds == 0 {
		o.rounds = 5
		if o.short {
			o.rounds = 2
		}
	}
	if o.duration == 0 {
		o.duration = 4 * time.Second
		if o.short {
			o.duration = time.Second
		}
	}
	if o.rounds < 1 || o.duration < 100*time.Millisecond || o.cores < 1 || o.reloads < 20 {
		return wrong("-rounds and -cores start at 1, -duration at 100ms, -reloads at 20")
	}
	return o, nil
}
