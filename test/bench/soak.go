//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"
)

// What the soak takes for noise. A leak of anything for each reload is far
// above it.
const (
	moreGoroutines  = 2
	moreDescriptors = 1
	moreMemory      = 8 << 20 // bytes resident
)

// soak reloads gatehouse many times, each time with another configuration than
// before, while requests, an upgraded connection and a slow download go on. It
// is an error when any of those suffers, or when goroutines, descriptors or
// memory are more in the end than after the first reloads.
//
// Both times are taken while no requests run and the pool to the upstream has
// emptied, so that they can be compared exactly.
func (b *bench) soak(ctx context.Context) error {
	m, err := b.startMarked(ctx, site{PoolIdle: "1s"})
	if err != nil {
		return err
	}
	defer m.stop()
	streams, stop := context.WithCancel(ctx)
	defer stop()
	echo, drip := openTunnel(streams, m.site.Address), openDrip(streams, m.site.Address)
	s := soaking{b: b, m: m, echo: echo, drip: drip}
	warm := max(10, b.opts.reloads/20)
	if err := s.stretch(ctx, warm); err != nil {
		return err
	}
	if s.before, err = s.settle(ctx, nil); err != nil {
		return err
	}
	if err := s.stretch(ctx, b.opts.reloads-warm); err != nil {
		return err
	}
	if s.after, err = s.settle(ctx, &s.before); err != nil {
		return err
	}
	if err := s.endStreams(ctx); err != nil {
		return err
	}
	return s.verdict(b.out)
}

// soaking is what a soak has seen.
type soaking struct {
	b             *bench
	m             marked
	echo, drip    *stream
	took          []time.Duration // until each reload was live
	requests      int64
	failed        int64
	slowest       time.Duration
	before, after footprint
}

// footprint is what a process holds.
type footprint struct {
	goroutines, descriptors int
	memory                  int64
	reloads                 float64 // that went well by the process's own count
}

// stretch reloads a number of times under load.
func (s *soaking) stretch(ctx context.Context, reloads int) error {
	finish := background(ctx, paced{connections: manyConnections, rate: 2000, path: "/"}, s.m.site.Address)
	var err error
	for range reloads {
		var took time.Duration
		mark := [...]string{"even", "odd"}[len(s.took)%2]
		if took, err = s.m.change(ctx, mark); err != nil {
			err = fmt.Errorf("reload %d: %w", len(s.took)+1, err)
			break
		}
		if err = errors.Join(s.echo.broken(), s.drip.broken()); err != nil {
			err = fmt.Errorf("after reload %d: %w", len(s.took)+1, err)
			break
		}
		s.took = append(s.took, took)
		if n := len(s.took); n%100 == 0 {
			fmt.Fprintf(s.b.out, "%d reloads\n", n)
		}
	}
	got, failure := finish()
	s.requests += got.requests
	s.failed += got.failed
	s.slowest = max(s.slowest, got.latency.max)
	return errors.Join(err, failure)
}

// settle waits for what requests leave behind to go, and returns what is held
// then. With a goal it waits for that, but not for long.
func (s *soaking) settle(ctx context.Context, goal *footprint) (footprint, error) {
	s.m.client.CloseIdleConnections()
	if err := pause(ctx, 4*time.Second); err != nil {
		return footprint{}, err
	}
	for tries := 0; ; tries++ {
		f, err := s.footprint(ctx)
		if err != nil || goal == nil || f.grown(*goal) == nil || tries == 10 {
			return f, err
		}
		if err := pause(ctx, time.Second); err != nil {
			return f, err
		}
	}
}

func (s *soaking) footprint(ctx context.Context) (footprint, error) {
	series, err := s.m.metrics(ctx)
	if err != nil {
		return footprint{}, err
	}
	s.m.client.CloseIdleConnections()
	u, err := s.m.usage()
	if err != nil {
		return footprint{}, err
	}
	f := footprint{goroutines: int(series["go_goroutines"]), descriptors: u.descriptors, memory: u.rss}
	if f.goroutines == 0 {
		return f, errors.New("the metrics have no go_goroutines")
	}
	for name, v := range series {
		if strings.Contains(name, "reloads_total") && !strings.Contains(name, `"failed"`) {
			f.reloads += v
		}
	}
	return f, nil
}

// grown says what is more than before, beyond noise.
func (f footprint) grown(before footprint) error {
	var errs []error
	more := func(what string, is, was, noise int64) {
		if is > was+noise {
			errs = append(errs, fmt.Errorf("%s grew from %d to %d", what, was, is))
		}
	}
	more("goroutines", int64(f.goroutines), int64(before.goroutines), moreGoroutines)
	more("descriptors", int64(f.descriptors), int64(before.descriptors), moreDescriptors)
	more("resident bytes", f.memory, before.memory, moreMemory)
	return errors.Join(errs...)
}

// endStreams sees that both streams are still going, and ends them as they
// should end.
func (s *soaking) endStreams(ctx context.Context) error {
	for _, st := range []*stream{s.echo, s.drip} {
		if err := st.advance(ctx); err != nil {
			return err
		}
	}
	// The upstream is asked, not the proxy: this is no request of the soak.
	if err := (site{Address: s.b.upstream}).ask("/drip/end"); err != nil {
		return fmt.Errorf("ending the download: %w", err)
	}
	select {
	case <-s.drip.done:
	case <-time.After(10 * time.Second):
		return errors.New("the slow download does not end")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return s.drip.err
}

// verdict prints a summary and says what was wrong.
func (s *soaking) verdict(out io.Writer) error {
	sorted := slices.Sorted(slices.Values(s.took))
	fmt.Fprintf(out, "\nsoak: %d reloads, live after %v (median), %v (slowest)\n", len(sorted),
		sorted[len(sorted)/2].Round(time.Millisecond), sorted[len(sorted)-1].Round(time.Millisecond))
	fmt.Fprintf(out, "  requests      %d answered, %d failed, slowest %v\n", s.requests, s.failed, s.slowest.Round(time.Microsecond))
	fmt.Fprintf(out, "  upgraded      %d lines went round on one connection\n", s.echo.lines.Load())
	fmt.Fprintf(out, "  download      %d lines in one answer, to its end\n", s.drip.lines.Load())
	fmt.Fprintf(out, "  goroutines    %d, then %d\n", s.before.goroutines, s.after.goroutines)
	fmt.Fprintf(out, "  descriptors   %d, then %d\n", s.before.descriptors, s.after.descriptors)
	fmt.Fprintf(out, "  resident      %.1f MiB, then %.1f MiB\n", float64(s.before.memory)/(1<<20), float64(s.after.memory)/(1<<20))
	var errs []error
	if s.failed > 0 {
		errs = append(errs, fmt.Errorf("%d requests failed", s.failed))
	}
	since := s.after.reloads - s.before.reloads
	if want := s.b.opts.reloads - max(10, s.b.opts.reloads/20); int(since) != want {
		errs = append(errs, fmt.Errorf("its metrics count %.0f reloads, there were %d", since, want))
	}
	return errors.Join(append(errs, s.after.grown(s.before))...)
}

// stream is something that stays open and is checked all the time.
type stream struct {
	name  string
	lines atomic.Int64
	done  chan struct{} // closed when it ended
	err   error         // why; to be read after done
}

func openStream(ctx context.Context, name string, work func(context.Context, *stream) error) *stream {
	s := &stream{name: name, done: make(chan struct{})}
	go func() {
		err := work(ctx, s)
		if err != nil {
			s.err = fmt.Errorf("%s, after %d lines: %w", name, s.lines.Load(), err)
		}
		close(s.done)
	}()
	return s
}

// broken says how a stream ended that should not have.
func (s *stream) broken() error {
	select {
	case <-s.done:
		if s.err == nil {
			return fmt.Errorf("%s ended early", s.name)
		}
		return s.err
	default:
		return nil
	}
}

// advance waits for more lines.
func (s *stream) advance(ctx context.Context) error {
	for tries, was := 0, s.lines.Load(); s.lines.Load() == was; tries++ {
		if err := s.broken(); err != nil {
			return err
		}
		if tries == 100 {
			return fmt.Errorf("%s stands still", s.name)
		}
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

// openTunnel upgrades a connection and sends lines round on it.
func openTunnel(ctx context.Context, address string) *stream {
	return openStream(ctx, "the upgraded connection", func(ctx context.Context, s *stream) error {
		c, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		defer c.Close()
		defer context.AfterFunc(ctx, func() { c.Close() })()
		if _, err := io.WriteString(c, "GET /echo HTTP/1.1\r\nHost: shop.example.com\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"); err != nil {
			return err
		}
		r := bufio.NewReader(c)
		answer, err := http.ReadResponse(r, nil)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusSwitchingProtocols {
			return fmt.Errorf("the upgrade was answered by %s", answer.Status)
		}
		for n := 0; ; n++ {
			sent := fmt.Sprintf("line %d\n", n)
			if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
				return err
			}
			if _, err := io.WriteString(c, sent); err != nil {
				return err
			}
			got, err := r.ReadString('\n')
			if err != nil {
				return err
			}
			if got != sent {
				return fmt.Errorf("%q came back as %q", sent, got)
			}
			s.lines.Add(1)
			if err := pause(ctx, 50*time.Millisecond); err != nil {
				return err
			}
		}
	})
}

// openDrip reads an answer that takes as long as the soak.
func openDrip(ctx context.Context, address string) *stream {
	return openStream(ctx, "the slow download", func(ctx context.Context, s *stream) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/drip", nil)
		if err != nil {
			return err
		}
		client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
		answer, err := client.Do(req)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			return fmt.Errorf("it was answered by %s", answer.Status)
		}
		lines := bufio.NewScanner(answer.Body)
		for n := 0; lines.Scan(); n++ {
			if want := fmt.Sprintf("%0*d", dripLine-1, n); lines.Text() != want {
				return fmt.Errorf("line %q came instead of %q", lines.Text(), want)
			}
			s.lines.Add(1)
		}
		return lines.Err()
	})
}
