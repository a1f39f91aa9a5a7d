//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// load sends requests to an address for a time.
type load interface {
	run(ctx context.Context, address string, d time.Duration) (result, error)
}

// result is what a load saw.
type result struct {
	requests int64         // answered as they should
	failed   int64         // refused, cut, late or answered otherwise
	elapsed  time.Duration // from the first request to the last answer
	bytes    int64         // of bodies, both directions; 0 where nobody counted
	latency  latency
}

// latency is the distribution of the times to answer.
type latency struct{ p50, p99, max time.Duration }

// latencyOf sorts the times and takes what is asked of them.
func latencyOf(times []time.Duration) latency {
	if len(times) == 0 {
		return latency{}
	}
	slices.Sort(times)
	at := func(share float64) time.Duration { return times[int(share*float64(len(times)-1))] }
	return latency{at(0.5), at(0.99), at(1)}
}

// browser is what a browser sends along, and the key of the one case that asks
// for it: so that the requests are the same in all.
var browser = [...][2]string{
	{"User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"},
	{"Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"},
	{"Accept-Language", "en-US,en;q=0.5"},
	{"Accept-Encoding", "gzip, deflate, br"},
	{"Referer", "https://shop.example.com/products"},
	{"Cookie", "session=5f2b7c1e9a; theme=dark; consent=1"},
	{"Sec-Fetch-Dest", "document"},
	{"Sec-Fetch-Mode", "navigate"},
	{"Sec-Fetch-Site", "same-origin"},
	{"X-API-Key", apiKey},
}

// requestHead makes the head of a request as a browser sends it. A negative
// length means that there is no body.
func requestHead(path string, length int64) []byte {
	method := "GET"
	if length >= 0 {
		method = "POST"
	}
	b := fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: shop.example.com\r\n", method, path)
	for _, f := range browser {
		b = fmt.Appendf(b, "%s: %s\r\n", f[0], f[1])
	}
	if length >= 0 {
		b = fmt.Appendf(b, "Content-Type: application/octet-stream\r\nContent-Length: %d\r\n", length)
	}
	return append(b, "\r\n"...)
}

// wrk is the program of that name, which sends as fast as answers come.
type wrk struct {
	connections int
	paths       []string // asked for in turn
	closing     bool     // each request on a connection of its own
	secure      bool     // over TLS
	threads     int
	dir         string // for a script, needed with several paths
}

func (w wrk) run(ctx context.Context, address string, d time.Duration) (result, error) {
	args := []string{
		"--latency", "--timeout", "10s",
		"-t", strconv.Itoa(w.threads), "-c", strconv.Itoa(w.connections),
		"-d", strconv.Itoa(max(1, int(d.Round(time.Second)/time.Second))) + "s",
		"-H", "Host: shop.example.com",
	}
	for _, f := range browser {
		args = append(args, "-H", f[0]+": "+f[1])
	}
	if w.closing {
		args = append(args, "-H", "Connection: close")
	}
	path := w.paths[0]
	if len(w.paths) > 1 {
		script, err := w.script()
		if err != nil {
			return result{}, err
		}
		defer os.Remove(script)
		args = append(args, "-s", script)
	}
	scheme := "http://"
	if w.secure {
		scheme = "https://"
	}
	cmd := exec.CommandContext(ctx, "wrk", append(args, scheme+address+path)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return result{}, fmt.Errorf("running wrk: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return parseWrk(string(out))
}

// script writes a script that asks for the paths in turn, prepared beforehand
// so that it costs little.
func (w wrk) script() (string, error) {
	var b strings.Builder
	b.WriteString("local requests, at = {}, 0\nfunction init()\n  for path in string.gmatch([[")
	b.WriteString(strings.Join(w.paths, " "))
	b.WriteString("]], '%S+') do requests[#requests+1] = wrk.format('GET', path) end\nend\n" +
		"function request()\n  at = at % #requests + 1\n  return requests[at]\nend\n")
	name := filepath.Join(w.dir, "paths.lua")
	if err := os.WriteFile(name, []byte(b.String()), 0o600); err != nil {
		return "", fmt.Errorf("writing a script for wrk: %w", err)
	}
	return name, nil
}

var (
	wrkTotal   = regexp.MustCompile(`(?m)^\s*(\d+) requests in ([\d.]+[a-z]+),`)
	wrkShare   = regexp.MustCompile(`(?m)^\s*(\d+)%\s+([\d.]+[a-z]+)[ \t]*$`)
	wrkSockets = regexp.MustCompile(`Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)`)
	wrkStatus  = regexp.MustCompile(`Non-2xx or 3xx responses: (\d+)`)
	wrkMax     = regexp.MustCompile(`(?m)^\s*Latency\s+\S+\s+\S+\s+(\S+)`)
)

// parseWrk reads what wrk prints with --latency.
func parseWrk(out string) (result, error) {
	var r result
	wrong := func(what string) (result, error) {
		return result{}, fmt.Errorf("reading the output of wrk: no %s in %q", what, out)
	}
	total := wrkTotal.FindStringSubmatch(out)
	if total == nil {
		return wrong("total")
	}
	all, err := strconv.ParseInt(total[1], 10, 64)
	if err != nil {
		return wrong("number of requests")
	}
	if r.elapsed, err = wrkTime(total[2]); err != nil {
		return wrong("time")
	}
	for _, m := range wrkShare.FindAllStringSubmatch(out, -1) {
		t, err := wrkTime(m[2])
		if err != nil {
			return wrong("latency")
		}
		switch m[1] {
		case "50":
			r.latency.p50 = t
		case "99":
			r.latency.p99 = t
		}
	}
	if m := wrkMax.FindStringSubmatch(out); m != nil {
		if r.latency.max, err = wrkTime(m[1]); err != nil {
			return wrong("longest latency")
		}
	}
	var status int64
	if m := wrkStatus.FindStringSubmatch(out); m != nil {
		if status, err = strconv.ParseInt(m[1], 10, 64); err != nil {
			return wrong("number of statuses")
		}
	}
	r.requests, r.failed = all-status, status
	if m := wrkSockets.FindStringSubmatch(out); m != nil {
		for _, text := range m[1:] {
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				return wrong("number of socket errors")
			}
			r.failed += n
		}
	}
	return r, nil
}

// wrkTime reads a time as wrk writes it; its minutes and hours are as Go's.
func wrkTime(text string) (time.Duration, error) { return time.ParseDuration(text) }

// transfer moves bodies, each connection one after the other. It is gentler
// than wrk, which reads 8 KiB at a time.
type transfer struct {
	connections int
	down        int64 // bytes of an answer's body
	up          int64 // bytes of a request's body, when down is 0
}

func (t transfer) run(ctx context.Context, address string, d time.Duration) (result, error) {
	var (
		mu     sync.Mutex
		wg     sync.WaitGroup
		total  result
		times  []time.Duration
		start  = time.Now()
		reason error
	)
	for range t.connections {
		wg.Go(func() {
			mine, requests, err := t.connection(ctx, address, start.Add(d))
			mu.Lock()
			defer mu.Unlock()
			times = append(times, mine...)
			total.requests += requests
			if err != nil {
				total.failed++
				reason = err
			}
		})
	}
	wg.Wait()
	total.elapsed = time.Since(start)
	total.bytes = total.requests * max(t.down, t.up)
	total.latency = latencyOf(times)
	if total.requests == 0 {
		return total, fmt.Errorf("moving bodies: %w", reason)
	}
	return total, nil
}

// connection moves bodies over one connection until the deadline, but at least
// one.
func (t transfer) connection(ctx context.Context, address string, until time.Time) (times []time.Duration, requests int64, err error) {
	c, err := new(net.Dialer).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, 0, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	buf := make([]byte, 256<<10)
	for requests == 0 || time.Now().Before(until) {
		start := time.Now()
		if err := t.exchange(c, buf); err != nil {
			return times, requests, err
		}
		times = append(times, time.Since(start))
		requests++
	}
	return times, requests, nil
}

func (t transfer) exchange(c net.Conn, buf []byte) error {
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	head := requestHead("/bytes/"+strconv.FormatInt(t.down, 10), -1)
	want := t.down
	if t.up > 0 {
		head, want = requestHead("/upload", t.up), smallBody
	}
	if _, err := c.Write(head); err != nil {
		return err
	}
	for left := t.up; left > 0; {
		n, err := c.Write(buf[:min(left, int64(len(buf)))])
		if err != nil {
			return err
		}
		left -= int64(n)
	}
	n, err := readHead(c, buf)
	if err != nil {
		return err
	}
	a, size, ok := parseAnswer(buf[:n])
	if !ok || a.status != 200 || a.length != want {
		return fmt.Errorf("an answer of %d bytes was asked for, this came: %.200q", want, buf[:n])
	}
	for left := want - int64(n-size); left > 0; {
		n, err := c.Read(buf[:min(left, int64(len(buf)))])
		if err != nil {
			return err
		}
		left -= int64(n)
	}
	return nil
}

// readHead reads until a head is whole and returns how much came, which may
// include some of the body.
func readHead(r io.Reader, buf []byte) (int, error) {
	for n := 0; n < len(buf); {
		more, err := r.Read(buf[n:])
		n += more
		if _, _, ok := parseAnswer(buf[:n]); ok {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
	return 0, errors.New("the head of an answer does not end")
}

// answer is what the loads look at in the head of an answer.
type answer struct {
	status  int
	length  int64 // Content-Length, or -1
	closing bool  // the connection ends after it
}

// parseAnswer reads the head of an answer and says how many bytes it has; ok is
// false when it is not whole yet or no answer.
func parseAnswer(b []byte) (a answer, size int, ok bool) {
	text := string(b[:min(len(b), 4<<10)])
	end := strings.Index(text, "\r\n\r\n")
	if end < 0 || !strings.HasPrefix(text, "HTTP/1.1 ") || len(text) < 12 {
		return a, 0, false
	}
	a.length = -1
	var err error
	if a.status, err = strconv.Atoi(text[9:12]); err != nil {
		return a, 0, false
	}
	for line := range strings.SplitSeq(text[:end], "\r\n") {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch {
		case strings.EqualFold(name, "Content-Length"):
			if a.length, err = strconv.ParseInt(value, 10, 64); err != nil {
				return a, 0, false
			}
		case strings.EqualFold(name, "Connection"):
			a.closing = strings.EqualFold(value, "close")
		}
	}
	return a, end + 4, true
}

// park opens connections, asks for one small answer on each, and leaves them
// open. The caller closes them, also when it gets an error.
func park(ctx context.Context, s site, n int) ([]net.Conn, error) {
	var (
		mu    sync.Mutex
		wg    sync.WaitGroup
		conns []net.Conn
		first error
	)
	const openers = 32
	for i := range openers {
		wg.Go(func() {
			buf := make([]byte, 16<<10)
			for k := i; k < n && ctx.Err() == nil; k += openers {
				c, err := parkOne(ctx, s, k, buf)
				mu.Lock()
				if c != nil {
					conns = append(conns, c)
				}
				if err != nil && first == nil {
					first = fmt.Errorf("idle connection %d: %w", k+1, err)
				}
				stop := first != nil
				mu.Unlock()
				if stop {
					return
				}
			}
		})
	}
	wg.Wait()
	if first == nil && ctx.Err() != nil {
		first = context.Cause(ctx)
	}
	return conns, first
}

// parkOne takes one of several source addresses, so that ports do not run short.
func parkOne(ctx context.Context, s site, k int, buf []byte) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+k%8))}, Timeout: 10 * time.Second}
	c, err := s.dial(ctx, d)
	if err != nil {
		return nil, err
	}
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return c, err
	}
	return c, transfer{down: smallBody}.exchange(c, buf)
}
