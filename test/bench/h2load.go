//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// h2load is the program of that name, which speaks HTTP/2 and sends as fast as
// answers come.
type h2load struct {
	connections int
	streams     int    // at once on each connection
	scheme      string // https, or http for HTTP/2 without TLS
	path        string
	call        []byte // POSTs this as a gRPC call
	threads     int
	dir         string // for what it logs
}

func (l h2load) run(ctx context.Context, address string, d time.Duration) (result, error) {
	log := filepath.Join(l.dir, "h2load.log")
	defer os.Remove(log)
	args := []string{
		"-D", strconv.FormatInt(d.Milliseconds(), 10) + "ms",
		"-c", strconv.Itoa(l.connections), "-m", strconv.Itoa(l.streams), "-t", strconv.Itoa(l.threads),
		"--log-file=" + log, "-H", ":authority: " + siteName,
	}
	if l.call != nil {
		name := filepath.Join(l.dir, "call")
		if err := os.WriteFile(name, l.call, 0o600); err != nil {
			return result{}, fmt.Errorf("writing a call for h2load: %w", err)
		}
		defer os.Remove(name)
		args = append(args, "-d", name, "-H", "content-type: application/grpc", "-H", "te: trailers")
	} else {
		for _, f := range browser {
			args = append(args, "-H", strings.ToLower(f[0])+": "+f[1])
		}
	}
	cmd := exec.CommandContext(ctx, "h2load", append(args, l.scheme+"://"+address+l.path)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.CombinedOutput()
	if err != nil {
		return result{}, fmt.Errorf("running h2load: %w: %s", err, strings.TrimSpace(string(out)))
	}
	r, err := parseH2load(string(out))
	if err != nil {
		return result{}, err
	}
	text, err := os.ReadFile(log)
	if err != nil {
		return result{}, fmt.Errorf("reading the log of h2load: %w", err)
	}
	times, err := parseH2loadLog(text)
	r.latency = latencyOf(times)
	return r, err
}

var (
	h2loadTotal = regexp.MustCompile(`(?m)^finished in ([\d.]+[a-z]+),`)
	h2loadCount = regexp.MustCompile(`(?m)^requests: \d+ total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout`)
)

// parseH2load reads what h2load prints in the end. What was under way when the
// time was over is in none of its counts.
func parseH2load(out string) (result, error) {
	var r result
	total, count := h2loadTotal.FindStringSubmatch(out), h2loadCount.FindStringSubmatch(out)
	if total == nil || count == nil {
		return r, fmt.Errorf("reading the output of h2load: no total in %q", out)
	}
	var err error
	if r.elapsed, err = time.ParseDuration(total[1]); err != nil {
		return r, fmt.Errorf("reading the output of h2load: %w", err)
	}
	var n [4]int64
	for i := range n {
		if n[i], err = strconv.ParseInt(count[i+1], 10, 64); err != nil {
			return r, fmt.Errorf("reading the output of h2load: %w", err)
		}
	}
	r.requests = n[0]
	r.failed = max(n[1], n[2]+n[3]) // of which the first is the sum
	return r, nil
}

// parseH2loadLog reads the times to answer: a line for each request with its
// start, its status and its time, both times in microseconds.
func parseH2loadLog(text []byte) ([]time.Duration, error) {
	var times []time.Duration
	for line := range bytes.Lines(text) {
		fields := bytes.Fields(line)
		if len(fields) < 3 {
			return nil, fmt.Errorf("reading the log of h2load: %q has too few fields", line)
		}
		us, err := strconv.ParseInt(string(fields[2]), 10, 64)
		if err != nil || us < 0 {
			return nil, fmt.Errorf("reading the log of h2load: %w", errors.Join(err, fmt.Errorf("no time in %q", line)))
		}
		times = append(times, time.Duration(us)*time.Microsecond)
	}
	return times, nil
}
