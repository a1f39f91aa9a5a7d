package observe

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
)

const (
	// logGather is how long lines may wait for others before they are written.
	logGather = 250 * time.Millisecond
	// logBatch is how many bytes of a shard are worth writing at once.
	logBatch = 64 << 10
	// logMemory bounds the bytes that are gathered in all shards together; as
	// many may be on their way to the disk.
	logMemory = 8 << 20
	// logPatience is how long Close waits for an output that does not take
	// what was gathered.
	logPatience = 5 * time.Second
)

// AccessLog writes a line for each request. Lines are gathered in memory,
// shard by shard, and written in the background, so that those of one moment
// may stand in another order than that of their time. When the output does not
// keep up, lines are dropped and counted, and no request waits.
type AccessLog struct {
	output   string
	combined bool
	sample   uint64 // of 1<<32, how many are written
	metrics  *Metrics
	shards   []logShard
	room     int // bytes that a shard may gather
	patience time.Duration

	wake chan struct{} // there is something to write
	full chan struct{} // there is much to write, or no time to gather more
	stop chan struct{}
	done chan struct{}

	mu     sync.Mutex
	closed bool
	next   atomic.Pointer[os.File] // the file to go on with; set under mu, and not after closed

	// What follows belongs to the writing goroutine.
	file *os.File
	torn bool // the last line was written in part
}

// logShard gathers lines. Its lock is held only while one is encoded or the
// buffer is exchanged.
type logShard struct {
	mu     sync.Mutex
	buf    []byte
	lines  int
	clock  lineClock
	closed bool
	spare  []byte // the buffer that buf is exchanged with; belongs to the writing goroutine
	_      [64]byte
}

// NewAccessLog opens the output and starts the goroutine that writes to it.
func NewAccessLog(cfg config.AccessLog, m *Metrics) (*AccessLog, error) {
	file, err := openLog(cfg.Output)
	if err != nil {
		return nil, err
	}
	l := newAccessLog(cfg, m, file)
	go l.run()
	return l, nil
}

// newAccessLog makes an access log that does not write yet.
func newAccessLog(cfg config.AccessLog, m *Metrics, file *os.File) *AccessLog {
	l := &AccessLog{
		output: cfg.Output, combined: cfg.Format == "combined", metrics: m,
		sample: uint64(min(max(float64(cfg.Sample), 0), 1) * (1 << 32)),
		shards: make([]logShard, shardCount()),
		wake:   make(chan struct{}, 1), full: make(chan struct{}, 1),
		stop: make(chan struct{}), done: make(chan struct{}),
		file: file, patience: logPatience,
	}
	l.room = logMemory / len(l.shards)
	return l
}

// openLog opens an output. What it returns is closed by its user: for the
// standard streams it is a descriptor of its own. That has another use: a pipe
// whose reader has gone is then an error like any other, where on descriptors
// 1 and 2 the Go runtime would end the process.
func openLog(output string) (*os.File, error) {
	fd := map[string]int{"stdout": 1, "stderr": 2}[output]
	if fd == 0 {
		// 0640: access logs tell who visited what. Without O_NONBLOCK a named
		// pipe that nobody reads would hold up the whole reload.
		f, err := os.OpenFile(output, os.O_WRONLY|os.O_CREATE|os.O_APPEND|syscall.O_NONBLOCK, 0o640)
		if err != nil {
			return nil, fmt.Errorf("open the access log: %w", err)
		}
		return f, nil
	}
	syscall.ForkLock.RLock()
	own, err := syscall.Dup(fd)
	if err == nil {
		syscall.CloseOnExec(own)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return nil, fmt.Errorf("open the access log: duplicate %s: %w", output, err)
	}
	return os.NewFile(uintptr(own), output), nil
}

// Write writes the exchange's line, or leaves it out by the sample. Exchanges
// that the gateway or an upstream failed are always written.
func (l *AccessLog) Write(x *exchange.Exchange) {
	if l.sample < 1<<32 && !failed(x) && rand.Uint64()>>32 >= l.sample {
		return
	}
	s := &l.shards[x.Client.Shard&uint32(len(l.shards)-1)]
	s.mu.Lock()
	n := len(s.buf)
	switch {
	case s.closed:
		s.mu.Unlock()
		l.through(x)
		return
	case n >= l.room:
		s.mu.Unlock()
		l.metrics.logDropped.Add(1)
		return
	case n == 0:
		s.clock.set()
	}
	s.buf = l.append(s.buf, x, &s.clock)
	s.lines++
	after := len(s.buf)
	s.mu.Unlock()
	if n == 0 {
		signal(l.wake)
	}
	if n < logBatch && after >= logBatch {
		signal(l.full)
	}
}

// failed reports whether somebody other than the client is to blame.
func failed(x *exchange.Exchange) bool {
	return x.Response.Status >= 500 || x.Problem != nil && x.Problem.Side != exchange.SideClient
}

func (l *AccessLog) append(b []byte, x *exchange.Exchange, clock *lineClock) []byte {
	if l.combined {
		return appendCombined(b, x, clock)
	}
	return appendJSON(b, x, clock)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Reopen opens the output again, so that a rotated file is let go: every line
// of a request that ends from now on goes to the new one. When it cannot be
// opened the log goes on with the old one.
func (l *AccessLog) Reopen() error {
	if l.output == "stdout" || l.output == "stderr" {
		return nil
	}
	file, err := openLog(l.output)
	if err != nil {
		l.metrics.logErrors.Add(1)
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		file.Close()
		return nil
	}
	if unused := l.next.Swap(file); unused != nil {
		unused.Close()
	}
	signal(l.wake)
	signal(l.full)
	return nil
}

// Close writes what was gathered and lets the output go. Exchanges that still
// run may write afterwards: their lines are written through at once. An output
// that takes nothing is not waited for any longer than a few seconds.
func (l *AccessLog) Close() {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.stop)
	}
	l.mu.Unlock()
	t := time.NewTimer(l.patience)
	defer t.Stop()
	select {
	case <-l.done:
	case <-t.C:
	}
}

// run writes what was gathered. It sleeps while there is nothing.
func (l *AccessLog) run() {
	defer close(l.done)
	t := time.NewTimer(logGather)
	defer t.Stop()
	for {
		select {
		case <-l.wake:
		case <-l.stop:
			l.finish()
			return
		}
		t.Reset(logGather)
		select {
		case <-t.C:
		case <-l.full:
		case <-l.stop:
		}
		l.flush()
	}
}

// finish writes what is left. A shard that is closed gathers nothing more.
func (l *AccessLog) finish() {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		s.closed = true
		s.mu.Unlock()
	}
	l.flush()
	l.closeFile()
}

func (l *AccessLog) closeFile() {
	// A network file system may tell only now that it lost what it took.
	if err := l.file.Close(); err != nil {
		l.metrics.logErrors.Add(1)
	}
}

// flush writes what the shards have gathered.
func (l *AccessLog) flush() {
	if next := l.next.Swap(nil); next != nil {
		l.closeFile()
		l.file, l.torn = next, false
	}
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		batch, lines := s.buf, s.lines
		s.buf, s.lines = s.spare[:0], 0
		s.mu.Unlock()
		if len(batch) > 0 {
			l.write(batch, lines)
		}
		if s.spare = batch; cap(batch) > 4*logBatch && len(batch) < cap(batch)/4 {
			s.spare = nil // it was needed once, and not any more
		}
	}
}

// write writes whole lines. What could not be written is counted, never tried
// again: there are new lines already.
func (l *AccessLog) write(batch []byte, lines int) {
	if l.torn {
		// The rest of a torn line is lost; the next one begins on its own.
		if _, err := l.file.Write([]byte{'\n'}); err != nil {
			l.lose(lines)
			return
		}
		l.torn = false
	}
	n, err := l.file.Write(batch)
	if err == nil {
		l.metrics.logWritten.Add(uint64(lines))
		return
	}
	rest := batch[n:]
	lost := bytes.Count(rest, []byte{'\n'})
	l.torn = n > 0 && batch[n-1] != '\n'
	l.metrics.logWritten.Add(uint64(lines - lost))
	l.lose(lost)
}

func (l *AccessLog) lose(lines int) {
	l.metrics.logErrors.Add(1)
	l.metrics.logDropped.Add(uint64(lines))
}

// through writes one line to the output, which is opened for it.
func (l *AccessLog) through(x *exchange.Exchange) {
	var clock lineClock
	clock.set()
	line := l.append(nil, x, &clock)
	file, err := openLog(l.output)
	if err == nil {
		_, err = file.Write(line)
		err = errors.Join(err, file.Close())
	}
	if err != nil {
		l.lose(1)
		return
	}
	l.metrics.logWritten.Add(1)
}
