//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// bench is one run: where things are and what has been measured.
type bench struct {
	opts        options
	out         io.Writer
	dir         string // temporary
	root        string // of the module
	gatehouse   string // the program under test
	cpus        processors
	descriptors uint64
	upstream    string // its address
	played      *process
	service     string // address of the gRPC service, once it runs
	serving     *process
	certificate string // file with a certificate and its key
	machine     machine
	started     int // proxies so far
	port        int // next to try
	failed      int64
}

// open prepares a run: programs, processors, descriptors, the upstream. The
// caller closes it.
func open(ctx context.Context, opts options, out io.Writer) (_ *bench, err error) {
	if opts.soak {
		opts.proxies = []string{"gatehouse"}
	}
	if err := checkPrograms(opts); err != nil {
		return nil, err
	}
	b := &bench{opts: opts, out: out, port: 21000}
	cpus, err := allowed()
	if err != nil {
		return nil, err
	}
	if b.cpus, err = split(cpus, opts.cores); err != nil {
		return nil, err
	}
	if b.descriptors, err = raiseDescriptors(); err != nil {
		return nil, err
	}
	if b.dir, err = os.MkdirTemp("", "gatehouse-bench-"); err != nil {
		return nil, fmt.Errorf("making a temporary folder: %w", err)
	}
	defer func() {
		if err != nil {
			b.close()
		}
	}()
	if b.certificate, err = writeCertificate(b.dir); err != nil {
		return nil, err
	}
	if err := b.build(ctx); err != nil {
		return nil, err
	}
	b.machine = machineFacts(b, len(cpus))
	if err := pin(b.cpus.load); err != nil {
		return nil, err
	}
	b.upstream = b.freeAddress()
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("starting the upstream: %w", err)
	}
	if b.played, err = startProcess(b.dir, "upstream", b.cpus.load, self, upstreamMode, b.upstream); err != nil {
		return nil, err
	}
	up := &running{process: b.played, product: &product{name: "upstream"}, site: site{Address: b.upstream}}
	return b, up.wait(ctx, "/")
}

// close ends what still runs and removes what was written.
func (b *bench) close() {
	for _, p := range []*process{b.played, b.serving} {
		if p != nil {
			p.stop()
		}
	}
	if err := os.RemoveAll(b.dir); err != nil {
		fmt.Fprintln(b.out, "bench: removing the temporary folder:", err)
	}
}

// playService starts the gRPC service, unless it runs.
func (b *bench) playService() error {
	if b.serving != nil {
		return nil
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("starting the gRPC service: %w", err)
	}
	b.service = b.freeAddress()
	b.serving, err = startProcess(b.dir, "service", b.cpus.load, self, serviceMode, b.service)
	return err
}

// build makes the gatehouse to measure, when one is measured.
func (b *bench) build(ctx context.Context) error {
	mod, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return fmt.Errorf("looking for the module: %w", err)
	}
	b.root = filepath.Dir(strings.TrimSpace(string(mod)))
	wanted := false
	for _, name := range b.opts.proxies {
		wanted = wanted || productNamed(name).program == ""
	}
	if !wanted {
		return nil
	}
	if b.gatehouse = b.opts.binary; b.gatehouse != "" {
		if b.gatehouse, err = filepath.Abs(b.gatehouse); err == nil {
			_, err = os.Stat(b.gatehouse)
		}
		if err != nil {
			return fmt.Errorf("looking for -gatehouse: %w", err)
		}
		return nil
	}
	b.gatehouse = filepath.Join(b.dir, "gatehouse")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", b.gatehouse, "./cmd/gatehouse")
	cmd.Dir, cmd.Env = b.root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building gatehouse: %w\n%s", err, out)
	}
	return nil
}

// measure runs the chosen cases, prints their tables and saves the figures.
func (b *bench) measure(ctx context.Context) error {
	b.machine.print(b.out)
	doc := document{
		Time: time.Now().UTC().Truncate(time.Second), Machine: b.machine,
		Rounds: b.opts.rounds, Seconds: b.opts.duration.Seconds(), Cores: b.opts.cores,
	}
	var failure error
	for _, c := range cases() {
		if !b.opts.run.MatchString(c.name) {
			continue
		}
		t, err := c.run(ctx, b)
		if errors.Is(err, errNothing) {
			continue
		}
		if err != nil {
			failure = fmt.Errorf("case %s: %w", c.name, err)
			break
		}
		t.Name, t.About = c.name, c.about
		t.print(b.out)
		doc.Cases = append(doc.Cases, t)
	}
	if len(doc.Cases) > 0 {
		name, err := doc.save(b.root, b.opts.out)
		if err != nil {
			return errors.Join(failure, err)
		}
		fmt.Fprintf(b.out, "\nsaved as %s\n", name)
	}
	if failure == nil && b.failed > 0 {
		failure = fmt.Errorf("%d requests failed: the figures above them are worth nothing", b.failed)
	}
	return failure
}

// subject is what a row of a table is about: a product in a configuration.
type subject struct {
	label   string
	product *product
	site    site
	load    load   // instead of the contest's
	ready   string // path that answers 200 once it serves; "/" by default
}

// contest is a measurement of several subjects in interleaved rounds.
type contest struct {
	subjects []subject
	load     load
	rounds   int
}

// subjects returns the chosen products in one configuration.
func (b *bench) subjects(s site) []subject {
	var all []subject
	for _, name := range b.opts.proxies {
		all = append(all, subject{label: name, product: productNamed(name), site: s})
	}
	return all
}

// start starts every subject. The caller calls the function that it returns,
// also when there was an error.
func (b *bench) start(ctx context.Context, subjects []subject) ([]*running, func(), error) {
	var all []*running
	stop := func() {
		for _, r := range all {
			r.stop()
		}
	}
	for _, s := range subjects {
		path := s.ready
		if path == "" {
			path = "/"
		}
		r, err := b.startProxy(ctx, s.product, s.site, path)
		if err != nil {
			return all, stop, err
		}
		all = append(all, r)
	}
	return all, stop, nil
}

// hold runs a contest: all subjects are up at once, each is warmed up, then
// they are measured in turn, A B C A B C, so that what else happens on the
// machine hits all of them.
func (b *bench) hold(ctx context.Context, c contest) ([]row, error) {
	all, stop, err := b.start(ctx, c.subjects)
	defer stop()
	if err != nil {
		return nil, err
	}
	rows := make([]row, len(all))
	for round := -1; round < c.rounds; round++ {
		for i, r := range all {
			s := c.subjects[i]
			l := c.load
			if s.load != nil {
				l = s.load
			}
			d := b.opts.duration
			if round < 0 {
				d = min(d, time.Second) // the warm-up
			}
			m, err := b.sample(ctx, r, l, d)
			if err != nil {
				return nil, fmt.Errorf("measuring %s: %w", s.label, err)
			}
			if round < 0 {
				continue
			}
			rows[i].Subject = s.label
			rows[i].Rounds = append(rows[i].Rounds, m)
		}
	}
	for i := range rows {
		rows[i].Median = medians(rows[i].Rounds)
	}
	return rows, nil
}

// sample measures one proxy under a load once.
func (b *bench) sample(ctx context.Context, r *running, l load, d time.Duration) (sample, error) {
	if err := r.resetPeak(); err != nil {
		return nil, err
	}
	before, err := r.usage()
	if err != nil {
		return nil, err
	}
	got, err := l.run(ctx, r.site.Address, d)
	if err != nil {
		return nil, err
	}
	after, err := r.usage()
	if err != nil {
		return nil, err
	}
	if got.requests == 0 {
		return nil, errors.New("no request was answered")
	}
	b.failed += got.failed
	cpu := after.cpu - before.cpu
	m := sample{
		cpuPerRequest: micros(cpu) / float64(got.requests),
		busy:          cpu.Seconds() / got.elapsed.Seconds(),
		rate:          float64(got.requests) / got.elapsed.Seconds(),
		p50:           micros(got.latency.p50),
		p99:           micros(got.latency.p99),
		slowest:       micros(got.latency.max),
		rss:           float64(after.rss),
		peak:          float64(after.peak),
		growth:        float64(after.peak - before.rss),
		failures:      float64(got.failed),
	}
	if cpu > 0 {
		m[perCore] = float64(got.requests) / cpu.Seconds()
	}
	if got.bytes > 0 {
		m[throughput] = float64(got.bytes) / got.elapsed.Seconds()
		m[cpuPerGiB] = cpu.Seconds() * (1 << 30) / float64(got.bytes)
	}
	return m, nil
}

func micros(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
