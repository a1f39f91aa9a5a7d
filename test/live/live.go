// Package live runs the real binary for tests: it builds it, starts it, reads
// its log, and knows what it listens on. It never waits for a time to pass,
// only for what the gateway says.
package live

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Patience is how long a test waits for something that should happen soon.
const Patience = 30 * time.Second

// Build compiles the gateway into a folder and returns the binary's path.
func Build(dir string) (string, error) {
	bin := filepath.Join(dir, "gatehouse")
	cmd := exec.Command("go", "build", "-o", bin, "gatehouse.dev/gatehouse/cmd/gatehouse")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the gateway: %w\n%s", err, out)
	}
	return bin, nil
}

// Gateway is a running process of the binary.
type Gateway struct {
	cmd *exec.Cmd

	mu     sync.Mutex
	more   *sync.Cond // signalled on every line and at the end
	lines  []string   // of standard error
	read   int        // lines that Await has passed
	output strings.Builder
	ended  bool
	code   int
}

// Start runs the binary with arguments in a folder. A nil env is this
// process's own.
func Start(bin, dir string, env []string, args ...string) (*Gateway, error) {
	g := &Gateway{cmd: exec.Command(bin, args...)}
	g.more = sync.NewCond(&g.mu)
	g.cmd.Dir, g.cmd.Env = dir, env
	stderr, err := g.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := g.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := g.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the gateway: %w", err)
	}
	var pipes sync.WaitGroup
	pipes.Go(func() {
		scan(stderr, func(line string) { g.lines = append(g.lines, line) }, g)
	})
	pipes.Go(func() {
		scan(stdout, func(line string) { g.output.WriteString(line + "\n") }, g)
	})
	go func() {
		pipes.Wait()
		err := g.cmd.Wait()
		g.mu.Lock()
		defer g.mu.Unlock()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			g.code = exit.ExitCode()
		}
		g.ended = true
		g.more.Broadcast()
	}()
	return g, nil
}

func scan(r io.Reader, add func(string), g *Gateway) {
	s := bufio.NewScanner(r)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		g.mu.Lock()
		add(s.Text())
		g.more.Broadcast()
		g.mu.Unlock()
	}
}

// wait waits until done answers true; it is asked, under the lock, whenever
// there is news.
func (g *Gateway) wait(ctx context.Context, done func() bool) error {
	stop := context.AfterFunc(ctx, func() {
		g.mu.Lock()
		g.more.Broadcast()
		g.mu.Unlock()
	})
	defer stop()
	for !done() {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case g.ended:
			return fmt.Errorf("the gateway has ended with code %d", g.code)
		}
		g.more.Wait()
	}
	return nil
}

// Await waits for a line of the gateway's log that matches, after the one that
// the last Await found.
func (g *Gateway) Await(pattern string) error {
	re, err := regexp.Compile(pattern)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	g.mu.Lock()
	defer g.mu.Unlock()
	found := func() bool {
		for g.read < len(g.lines) {
			g.read++
			if re.MatchString(g.lines[g.read-1]) {
				return true
			}
		}
		return false
	}
	if err := g.wait(ctx, found); err != nil {
		return fmt.Errorf("no line of the log matches %q: %w\n%s", pattern, err, strings.Join(g.lines, "\n"))
	}
	return nil
}

// Serving waits until a configuration has been applied.
func (g *Gateway) Serving() error { return g.Await(`msg="configuration applied"`) }

var listening = regexp.MustCompile(`msg=listening listener=("[^"]*"|\S+) address=("[^"]*"|\S+)`)

// Addresses returns what the gateway has said that it listens on, by the
// listener's name; the admin address is "admin".
func (g *Gateway) Addresses() map[string]string {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := make(map[string]string)
	for _, line := range g.lines {
		if m := listening.FindStringSubmatch(line); m != nil {
			out[strings.Trim(m[1], `"`)] = strings.Trim(m[2], `"`)
		}
	}
	return out
}

// Signal sends a signal to the process.
func (g *Gateway) Signal(s syscall.Signal) error { return g.cmd.Process.Signal(s) }

// Wait waits until the process has ended, and returns its exit code.
func (g *Gateway) Wait() (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.wait(ctx, func() bool { return g.ended }); err != nil {
		return 0, fmt.Errorf("the gateway does not end: %w\n%s", err, strings.Join(g.lines, "\n"))
	}
	return g.code, nil
}

// Kill ends the process at once, and waits for its end.
func (g *Gateway) Kill() {
	_ = g.cmd.Process.Kill() // it may have ended already
	_, _ = g.Wait()
}

// Log returns what the process has written to standard error.
func (g *Gateway) Log() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return strings.Join(g.lines, "\n")
}

// Output returns what the process has written to standard output.
func (g *Gateway) Output() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.output.String()
}
