//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// marked watches a route of gatehouse whose answer tells the configuration that
// is live.
type marked struct {
	*running
	client *http.Client
}

func watchMark(r *running) marked {
	return marked{r, &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{}}}
}

// change replaces the configuration by one with another mark and returns how
// long it took until requests met it.
func (m marked) change(ctx context.Context, mark string) (time.Duration, error) {
	s := m.site
	s.Mark = mark
	if err := m.writeConfig(s); err != nil {
		return 0, err
	}
	start := time.Now()
	for {
		body, err := m.get(ctx, "http://"+m.site.Address+"/mark")
		if err != nil {
			return 0, err
		}
		if body == mark {
			return time.Since(start), nil
		}
		if time.Since(start) > 20*time.Second {
			return 0, fmt.Errorf("a configuration is not live after 20s: %s", m.printed())
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// get returns the body of an answer of 200.
func (m marked) get(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	answer, err := m.client.Do(req)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", url, err)
	}
	if answer.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answers %s: %.200q", url, answer.Status, body)
	}
	return string(body), nil
}

// metrics returns the series on the admin address.
func (m marked) metrics(ctx context.Context) (map[string]float64, error) {
	text, err := m.get(ctx, "http://"+m.site.Admin+"/metrics")
	if err != nil {
		return nil, fmt.Errorf("asking for the metrics: %w", err)
	}
	return parseMetrics(text)
}

// parseMetrics reads the text format of Prometheus: the name of a series, with
// its labels, and its value. Times, which are optional, are not expected.
func parseMetrics(text string) (map[string]float64, error) {
	all := map[string]float64{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		at := strings.LastIndexByte(line, ' ')
		v, err := strconv.ParseFloat(line[at+1:], 64)
		if at < 0 || err != nil {
			return nil, fmt.Errorf("reading metrics: %q is no series", line)
		}
		all[line[:at]] = v
	}
	return all, nil
}

// startMarked starts gatehouse with a first mark.
func (b *bench) startMarked(ctx context.Context, s site) (marked, error) {
	s.Mark = "first"
	r, err := b.startProxy(ctx, productNamed("gatehouse"), s, "/mark")
	if err != nil {
		return marked{}, err
	}
	return watchMark(r), nil
}

// background runs a load until the returned function is called.
func background(ctx context.Context, l paced, address string) (finish func() (result, error)) {
	stop, done := make(chan struct{}), make(chan struct{})
	var r result
	var err error
	l.stop = stop
	go func() {
		defer close(done)
		r, err = l.run(ctx, address, time.Hour)
	}()
	return func() (result, error) {
		close(stop)
		<-done
		return r, err
	}
}

// reload measures what a reload of many routes costs by itself, and what
// requests notice of it.
func reload(ctx context.Context, b *bench) (*table, error) {
	if !b.measures("gatehouse") {
		return nil, errNothing
	}
	const manyRoutes = 10000
	m, err := b.startMarked(ctx, site{Routes: prefixes(manyRoutes)})
	if err != nil {
		return nil, err
	}
	defer m.stop()
	l := paced{connections: 16, rate: 1000, path: prefixes(manyRoutes)[manyRoutes/2] + "/items/42"}
	quiet, err := l.run(ctx, m.site.Address, b.opts.duration)
	if err != nil {
		return nil, err
	}
	r := row{Subject: "gatehouse"}
	for i := range b.opts.rounds {
		s, err := m.reloadSample(ctx, l, strconv.Itoa(i))
		if err != nil {
			return nil, err
		}
		s[quietP99] = micros(quiet.latency.p99)
		b.failed += int64(s[failures])
		r.Rounds = append(r.Rounds, s)
	}
	r.Median = medians(r.Rounds)
	b.failed += quiet.failed
	return newTable([]row{r}, []metric{reloadCPU, reloadTime, quietP99, p99, slowest, failures, rss}, nil,
		budget{Subject: "gatehouse", Metric: reloadCPU, AtMost: 1}), nil
}

// reloadSample reloads once without and once under load.
func (m marked) reloadSample(ctx context.Context, l paced, mark string) (sample, error) {
	before, err := m.usage()
	if err != nil {
		return nil, err
	}
	took, err := m.change(ctx, "idle-"+mark)
	if err != nil {
		return nil, err
	}
	const settle = time.Second // what the old routes leave is collected
	if err := pause(ctx, settle); err != nil {
		return nil, err
	}
	after, err := m.usage()
	if err != nil {
		return nil, err
	}
	finish := background(ctx, l, m.site.Address)
	err = pause(ctx, settle/2)
	if err == nil {
		_, err = m.change(ctx, "busy-"+mark)
	}
	if err == nil {
		err = pause(ctx, settle/2)
	}
	got, failure := finish()
	if err = errors.Join(err, failure); err != nil {
		return nil, err
	}
	return sample{
		reloadCPU: (after.cpu - before.cpu).Seconds(), reloadTime: took.Seconds(),
		p99: micros(got.latency.p99), slowest: micros(got.latency.max),
		failures: float64(got.failed), rss: float64(after.rss),
	}, nil
}
