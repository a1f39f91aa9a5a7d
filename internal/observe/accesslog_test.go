package observe

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
)

func open(t testing.TB, cfg config.AccessLog, m *Metrics) *AccessLog {
	t.Helper()
	l, err := NewAccessLog(cfg, m)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

func toFile(t testing.TB) config.AccessLog {
	return config.AccessLog{Format: "json", Output: filepath.Join(t.TempDir(), "access.log"), Sample: 1}
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// Lines are written without anybody asking for it, soon and together.
func TestAccessLogIsWrittenSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := toFile(t)
		l := open(t, cfg, newMetrics(1))
		for range 3 {
			l.Write(sample())
		}
		time.Sleep(logGather - time.Millisecond)
		synctest.Wait()
		if got := read(t, cfg.Output); got != "" {
			t.Errorf("written at once: %q", got)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if n := strings.Count(read(t, cfg.Output), "\n"); n != 3 {
			t.Errorf("%d lines are there, want 3", n)
		}
		time.Sleep(time.Hour)
		l.Write(sample())
		time.Sleep(logGather)
		synctest.Wait()
		if n := strings.Count(read(t, cfg.Output), "\n"); n != 4 {
			t.Errorf("%d lines are there, want 4", n)
		}
		l.Close()
	})
}

// Much is written earlier than a little.
func TestAccessLogWritesFullBuffers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := toFile(t)
		l := open(t, cfg, newMetrics(1))
		for range logBatch / 300 {
			l.Write(sample())
		}
		synctest.Wait()
		if read(t, cfg.Output) == "" {
			t.Error("a full buffer waits for time to pass")
		}
		l.Close()
	})
}

// The time of a line follows the wall clock, however long nothing happened.
func TestAccessLogTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := toFile(t)
		l := open(t, cfg, newMetrics(1))
		for range 2 {
			time.Sleep(90 * time.Minute)
			want := time.Now().UTC().Add(-12345 * time.Microsecond).Truncate(time.Millisecond)
			l.Write(sample())
			time.Sleep(time.Second)
			synctest.Wait()
			lines := strings.Fields(strings.ReplaceAll(read(t, cfg.Output), " ", "_"))
			var line struct{ Time time.Time }
			if err := json.Unmarshal([]byte(lines[len(lines)-1]), &line); err != nil {
				t.Fatal(err)
			}
			if d := line.Time.Sub(want); d < -time.Millisecond || d > time.Millisecond {
				t.Errorf("the line's time is %v, want %v", line.Time, want)
			}
		}
		l.Close()
	})
}

func TestAccessLogSamples(t *testing.T) {
	for _, c := range []struct {
		name     string
		x        *exchange.Exchange
		sample   float64
		min, max int // of 10,000
	}{
		{"all", sample(), 1, 10000, 10000},
		{"none", sample(), 0, 0, 0},
		{"a tenth", sample(), 0.1, 800, 1200},
		{"status 500", func() *exchange.Exchange { x := sample(); x.Response.Status = 500; return x }(), 0, 10000, 10000},
		{"cut by the upstream", failing(200, exchange.SideUpstream), 0, 10000, 10000},
		{"refused by the gateway", failing(429, exchange.SideGateway), 0, 10000, 10000},
		{"the client's fault", failing(404, exchange.SideClient), 0, 0, 0},
		{"the client has gone", failing(499, exchange.SideClient), 0, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			cfg := toFile(t)
			cfg.Sample = config.Percent(c.sample)
			m := newMetrics(1)
			l := open(t, cfg, m)
			for i := range 10000 {
				c.x.Client.Shard = uint32(i)
				l.Write(c.x)
			}
			l.Close()
			if n := strings.Count(read(t, cfg.Output), "\n"); n < c.min || n > c.max {
				t.Errorf("%d lines are written, want %d to %d", n, c.min, c.max)
			}
			if d := m.logDropped.Load(); d > 0 {
				t.Errorf("%d lines were dropped", d)
			}
		})
	}
}

// No line is torn, or lost without being counted, when many write, and a reopened or closed log changes
// nothing about that.
func TestAccessLogAtOnce(t *testing.T) {
	cfg := toFile(t)
	m := newMetrics(1)
	l := open(t, cfg, m)
	const writers, each = 8, 2000
	var busy sync.WaitGroup
	for shard := range uint32(writers) {
		busy.Go(func() {
			x := sample()
			x.Client.Shard = shard
			for i := range each {
				l.Write(x)
				if shard == 0 && i%200 == 0 {
					if err := os.Rename(cfg.Output, cfg.Output+"."+strconv.Itoa(i)); err != nil {
						t.Error(err)
					}
					if err := l.Reopen(); err != nil {
						t.Error(err)
					}
				}
				if shard == 1 && i == each*9/10 {
					l.Close()
				}
			}
		})
	}
	busy.Wait()
	l.Close()
	files, err := filepath.Glob(cfg.Output + "*")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, name := range files {
		for line := range strings.Lines(read(t, name)) {
			n++
			if !json.Valid([]byte(line)) {
				t.Fatalf("%q is not JSON", line)
			}
		}
	}
	// A busy machine may leave the writing goroutine no time for so many.
	written, dropped := int(m.logWritten.Load()), int(m.logDropped.Load())
	if n != written || n+dropped != writers*each {
		t.Errorf("%d lines are there, %d counted and %d dropped, of %d", n, written, dropped, writers*each)
	}
}

func TestAccessLogReopen(t *testing.T) {
	cfg := toFile(t)
	m := newMetrics(1)
	l := open(t, cfg, m)
	if err := os.Rename(cfg.Output, cfg.Output+".1"); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err != nil {
		t.Fatal(err)
	}
	l.Write(sample())
	l.Close()
	if read(t, cfg.Output+".1") != "" || read(t, cfg.Output) == "" {
		t.Error("the line is not in the new file")
	}

	// A folder that has gone leaves the old file in use.
	cfg = toFile(t)
	l = open(t, cfg, m)
	aside := t.TempDir()
	if err := os.Rename(filepath.Dir(cfg.Output), filepath.Join(aside, "d")); err != nil {
		t.Fatal(err)
	}
	if err := l.Reopen(); err == nil || m.logErrors.Load() == 0 {
		t.Errorf("reopening without a folder returns %v and counts %d errors", err, m.logErrors.Load())
	}
	l.Write(sample())
	l.Close()
	if read(t, filepath.Join(aside, "d", "access.log")) == "" {
		t.Error("the line is not in the old file")
	}
	l.Write(sample()) // closed, and with nowhere to write to
	if m.logDropped.Load() != 1 {
		t.Errorf("%d lines are counted as dropped, want 1", m.logDropped.Load())
	}
}

func TestAccessLogWriteAfterClose(t *testing.T) {
	cfg := toFile(t)
	l := open(t, cfg, newMetrics(1))
	l.Close()
	l.Close()
	l.Write(sample())
	if n := strings.Count(read(t, cfg.Output), "\n"); n != 1 {
		t.Errorf("%d lines are there, want 1", n)
	}
	if err := l.Reopen(); err != nil {
		t.Error(err)
	}
}

func TestAccessLogDoesNotOpen(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, output := range map[string]string{
		"a folder": dir, "a file in none": filepath.Join(dir, "none", "log"), "a pipe without a reader": pipe,
	} {
		_, err := NewAccessLog(config.AccessLog{Format: "json", Output: output, Sample: 1}, newMetrics(1))
		if err == nil || !strings.Contains(err.Error(), "open the access log") {
			t.Errorf("opening %s returns %v", name, err)
		}
	}
}

// When the output takes nothing, requests do not wait: lines are dropped and
// counted, and Close gives up. When it takes lines again they are written.
func TestAccessLogSlowOutput(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	m := newMetrics(1)
	l := newAccessLog(config.AccessLog{Format: "json", Sample: 1}, m, w)
	l.room, l.patience = 4096, time.Millisecond
	go l.run()
	x := sample()
	written := uint64(0)
	for m.logDropped.Load() < 100 {
		l.Write(x)
		written++
	}
	l.Close() // the pipe is still full, or nearly so
	lines := make(chan uint64)
	go func() {
		b, err := io.ReadAll(r)
		if err != nil {
			t.Error(err)
		}
		lines <- uint64(bytes.Count(b, []byte("\n")))
	}()
	<-l.done
	if got, dropped := <-lines, m.logDropped.Load(); got+dropped != written {
		t.Errorf("%d lines were written and %d dropped, of %d", got, dropped, written)
	}
	r.Close()
}

// A disk without room costs lines, not requests.
func TestAccessLogFullDisk(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("there is no /dev/full here")
	}
	m := newMetrics(1)
	l := open(t, config.AccessLog{Format: "combined", Output: "/dev/full", Sample: 1}, m)
	for range 50 {
		l.Write(sample())
	}
	l.Close()
	l.Write(sample())
	expect(t, m, map[string]string{
		"gatehouse_access_log_dropped_total": "51",
		"gatehouse_access_log_errors_total":  "2",
		"gatehouse_access_log_lines_total":   "0",
	})
}

// A line that was cut short does not spoil the next one.
func TestAccessLogTornLine(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	m := newMetrics(1)
	l := newAccessLog(config.AccessLog{Format: "json", Sample: 1}, m, w)
	if err := w.SetWriteDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	l.write([]byte("one\ntwo\n"), 2)
	l.torn = true
	if err := w.SetWriteDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	l.write([]byte("three\n"), 1)
	w.Close()
	got, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != "\nthree\n" || m.logDropped.Load() != 2 || m.logWritten.Load() != 1 {
		t.Errorf("%q is there, %d lines dropped and %d written", got, m.logDropped.Load(), m.logWritten.Load())
	}
	r.Close()
}

// writeToBrokenPipe is run by a process of its own, whose standard output
// nobody reads.
func writeToBrokenPipe() int {
	m := newMetrics(1)
	l, err := NewAccessLog(config.AccessLog{Format: "json", Output: "stdout", Sample: 1}, m)
	if err != nil {
		return 1
	}
	l.Write(sample())
	l.Close()
	l.Write(sample())
	if m.logDropped.Load() != 2 {
		return 2
	}
	return 0
}

// The process outlives the reader of its standard output.
func TestAccessLogBrokenPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "GATEHOUSE_BROKEN_PIPE=1")
	cmd.Stdout = w
	if err := cmd.Run(); err != nil {
		t.Error(err)
	}
	w.Close()
}

func TestAccessLogDoesNotAllocate(t *testing.T) {
	if raced {
		t.Skip("the race detector allocates")
	}
	for _, format := range []string{"json", "combined"} {
		l := open(t, config.AccessLog{Format: format, Output: os.DevNull, Sample: 1}, newMetrics(1))
		x := sample()
		for range 4 * logBatch / 300 {
			l.Write(x) // gives the buffers their usual size
		}
		if n := testing.AllocsPerRun(1000, func() { l.Write(x) }); n > 0 {
			t.Errorf("%s: a line allocates %v times", format, n)
		}
		l.Close()
	}
}

// BenchmarkAccessLog is a request's share of the access log: its line, and the
// writing of all lines in batches.
func BenchmarkAccessLog(b *testing.B) {
	for _, format := range []string{"json", "combined"} {
		b.Run(format, func(b *testing.B) {
			file, err := openLog(os.DevNull)
			if err != nil {
				b.Fatal(err)
			}
			defer file.Close()
			l := newAccessLog(config.AccessLog{Format: format, Sample: 1}, newMetrics(1), file)
			x := sample()
			b.ReportAllocs()
			for b.Loop() {
				l.Write(x)
				select {
				case <-l.full:
					l.flush()
				default:
				}
			}
		})
	}
}
