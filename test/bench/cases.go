//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// benchCase is one entry of the table of cases.
type benchCase struct {
	name, about string
	run         func(context.Context, *bench) (*table, error)
}

// cases returns what is measured, in this order.
func cases() []benchCase {
	const mib, gib = 1 << 20, 1 << 30
	return []benchCase{
		{
			"plain", "an answer of 488 bytes, 64 keep-alive connections, as fast as it goes",
			saturated(site{}, "/", budget{Subject: "gatehouse", Metric: cpuPerRequest, Against: "nginx", AtMost: 0.95}),
		},
		{"beside-go", "the same beside a proxy made of Go's own net/http and httputil that does nothing else", besideGo},
		{"half-rate", "the same at a fixed rate, half of what the slowest of them can do", halfRate},
		{"close", "the same with a new connection for each request", closing},
		{"down-1KiB", "answers of 1 KiB", saturated(site{}, "/bytes/1024")},
		{"down-64KiB", "answers of 64 KiB, 16 connections", bodies(transfer{connections: 16, down: 64 << 10})},
		{"down-1MiB", "answers of 1 MiB, 16 connections", bodies(transfer{connections: 16, down: mib})},
		{"down-1GiB", "answers of 1 GiB, one after the other; growth has to stay flat", bodies(transfer{connections: 1, down: gib}, flat...)},
		{"up-1MiB", "requests of 1 MiB, 16 connections", bodies(transfer{connections: 16, up: mib})},
		{"up-1GiB", "requests of 1 GiB, one after the other; growth has to stay flat", bodies(transfer{connections: 1, up: gib}, flat...)},
		{"idle", "idle keep-alive connections, each of which has had an answer", idle(site{}, 6<<10)},
		{
			"everything", "API key, rate limit, request id, access log to a file, header rules and metrics in gatehouse; the others do none of it",
			saturated(site{Everything: true}, "/", budget{Subject: "gatehouse", Metric: cpuPerRequest, Against: "nginx", AtMost: 1.10}),
		},
		{"routes", "gatehouse with 10 and with 10,000 routes, asked for in turn", routes},
		{"reload", "gatehouse reloads 10,000 routes, idle and under 1,000 requests a second", reload},
		{"https-h1", "as plain, over TLS", secured},
		{"https-h2", "HTTP/2 over TLS, 8 connections with 10 streams each, to an upstream of HTTP/1.1", multiplexed},
		{"tls-handshakes", "a new TLS 1.3 connection with a whole handshake for each request, ECDSA over P-256", shaking},
		{"tls-idle", "as idle, over TLS 1.3", idle(site{TLS: true}, 20<<10)},
		{"grpc-unary", "gRPC calls of 100 bytes each way over HTTP/2 without TLS, 8 connections with 10 streams each", calls},
		{"flood", "gatehouse under attacks by HTTP/2 beside a good client of 500 requests a second", flooded},
	}
}

// flat is the budget of a large body: memory does not follow its size.
var flat = []budget{
	{Subject: "gatehouse", Metric: growth, AtMost: 16 << 20},
	{Subject: "gatehouse", Metric: throughput, Against: "nginx", AtLeast: 1},
}

// rivals are what the figures are compared to.
func rivals() []string { return []string{"nginx", "haproxy"} }

// manyConnections are kept busy in the cases about small answers.
const manyConnections = 64

// fast is wrk with many connections.
func (b *bench) fast(paths ...string) wrk {
	return wrk{connections: manyConnections, paths: paths, threads: b.opts.cores, dir: b.dir}
}

// few is the number of rounds in a case whose figures vary little.
func (b *bench) few() int { return (b.opts.rounds + 1) / 2 }

func saturated(s site, path string, budgets ...budget) func(context.Context, *bench) (*table, error) {
	return func(ctx context.Context, b *bench) (*table, error) {
		rounds := b.opts.rounds
		if len(budgets) == 0 {
			rounds = b.few()
		}
		rows, err := b.hold(ctx, contest{b.subjects(s), b.fast(path), rounds})
		if err != nil {
			return nil, err
		}
		return newTable(rows, []metric{cpuPerRequest, rate, p50, p99, rss, peak, busy}, rivals(), budgets...), nil
	}
}

func closing(ctx context.Context, b *bench) (*table, error) {
	w := b.fast("/")
	w.closing = true
	rows, err := b.hold(ctx, contest{b.subjects(site{}), w, b.few()})
	if err != nil {
		return nil, err
	}
	return newTable(rows, []metric{cpuPerRequest, rate, p50, p99, rss, peak, busy}, rivals()), nil
}

func bodies(l transfer, budgets ...budget) func(context.Context, *bench) (*table, error) {
	return func(ctx context.Context, b *bench) (*table, error) {
		rows, err := b.hold(ctx, contest{b.subjects(site{}), l, b.few()})
		if err != nil {
			return nil, err
		}
		return newTable(rows, []metric{cpuPerGiB, throughput, p50, p99, rss, peak, growth, busy}, rivals(), budgets...), nil
	}
}

// halfRate first finds out what each can do, then gives all of them the same
// rate, so that their latencies can be compared.
func halfRate(ctx context.Context, b *bench) (*table, error) {
	most, err := b.saturation(ctx)
	if err != nil {
		return nil, err
	}
	l := paced{connections: manyConnections, rate: max(1, int(most/2)), path: "/"}
	rows, err := b.hold(ctx, contest{b.subjects(site{}), l, b.opts.rounds})
	if err != nil {
		return nil, err
	}
	return newTable(rows, []metric{rate, cpuPerRequest, p50, p99, slowest, busy}, rivals(),
		budget{Subject: "gatehouse", Metric: p99, Against: "nginx", AtMost: 1}), nil
}

// saturation is the rate that the slowest of the products reaches.
func (b *bench) saturation(ctx context.Context) (float64, error) {
	rows, err := b.hold(ctx, contest{b.subjects(site{}), b.fast("/"), 1})
	if err != nil {
		return 0, fmt.Errorf("finding the rate: %w", err)
	}
	slowest := rows[0].Median[rate]
	for _, r := range rows {
		slowest = min(slowest, r.Median[rate])
	}
	return slowest, nil
}

// idleConnections are opened in the case of that name, as far as descriptors
// allow.
const idleConnections = 10000

// idle returns what starts each product anew, so that memory of earlier work hides nothing.
func idle(s site, most float64) func(context.Context, *bench) (*table, error) {
	return func(ctx context.Context, b *bench) (*table, error) {
		n := min(idleConnections, int(b.descriptors)-500)
		columns := []metric{perConn, rss, peak}
		if b.opts.linger > 0 {
			columns = append(columns, perConnLater)
		}
		var rows []row
		for _, s := range b.subjects(s) {
			m, err := b.idleSample(ctx, s, n)
			if err != nil {
				return nil, fmt.Errorf("measuring %s with %d connections: %w", s.label, n, err)
			}
			rows = append(rows, row{s.label, m, []sample{m}})
		}
		return newTable(rows, columns, rivals(), budget{Subject: "gatehouse", Metric: perConn, AtMost: most}), nil
	}
}

func (b *bench) idleSample(ctx context.Context, s subject, n int) (sample, error) {
	r, err := b.startProxy(ctx, s.product, s.site, "/")
	if err != nil {
		return nil, err
	}
	defer r.stop()
	if err := pause(ctx, time.Second); err != nil {
		return nil, err
	}
	before, err := r.usage()
	if err != nil {
		return nil, err
	}
	conns, err := park(ctx, r.site, n)
	defer closeAll(conns)
	if err != nil {
		return nil, err
	}
	const settle = 3 * time.Second // buffers are given back, accounts are settled
	if err := pause(ctx, settle); err != nil {
		return nil, err
	}
	after, err := r.usage()
	if err != nil {
		return nil, err
	}
	each := func(u usage) float64 { return float64(u.rss-before.rss) / float64(n) }
	m := sample{perConn: each(after), rss: float64(after.rss), peak: float64(after.peak)}
	if b.opts.linger > 0 {
		if err := pause(ctx, b.opts.linger); err != nil {
			return nil, err
		}
		later, err := r.usage()
		if err != nil {
			return nil, err
		}
		m[perConnLater] = each(later)
	}
	if lost := countLost(conns); lost > 0 {
		return nil, fmt.Errorf("%d connections were closed by the proxy", lost)
	}
	return m, nil
}

func closeAll(conns []net.Conn) {
	for _, c := range conns {
		c.Close()
	}
}

// countLost says how many connections have ended. Idle ones have nothing to
// say but that.
func countLost(conns []net.Conn) int {
	lost := 0
	for _, c := range conns {
		if t, ok := c.(*tls.Conn); ok {
			c = t.NetConn()
		}
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err == nil {
			control := raw.Control(func(fd uintptr) {
				_, _, err = unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT)
			})
			err = errors.Join(err, control)
		}
		if !errors.Is(err, unix.EAGAIN) {
			lost++
		}
	}
	return lost
}

// prefixes names n routes.
func prefixes(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = "/service-" + strconv.Itoa(i)
	}
	return all
}

// routes compares gatehouse with itself: the table of routes has to be flat.
func routes(ctx context.Context, b *bench) (*table, error) {
	var c contest
	if !b.measures("gatehouse") {
		return nil, errNothing
	}
	for _, n := range []int{10, 10000} {
		all := prefixes(n)
		var paths []string
		for i := 0; i < n; i += max(1, n/1000) {
			paths = append(paths, all[i]+"/items/42")
		}
		c.subjects = append(c.subjects, subject{
			label: strconv.Itoa(n) + " routes", product: productNamed("gatehouse"),
			site: site{Routes: all}, load: b.fast(paths...), ready: paths[0],
		})
	}
	c.rounds = b.opts.rounds
	rows, err := b.hold(ctx, c)
	if err != nil {
		return nil, err
	}
	return newTable(rows, []metric{cpuPerRequest, rate, p50, p99, rss, peak, busy}, []string{"10 routes"},
		budget{Subject: "10000 routes", Metric: cpuPerRequest, Against: "10 routes", AtMost: 1.10}), nil
}

// measures reports whether a product was chosen.
func (b *bench) measures(product string) bool {
	for _, name := range b.opts.proxies {
		if name == product {
			return true
		}
	}
	return false
}
