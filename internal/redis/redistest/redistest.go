// Package redistest runs real Redis servers for tests, and makes them fail. It
// is for tests only.
package redistest

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Server is a running redis-server.
type Server struct {
	Address string // host:port

	t    testing.TB
	dir  string
	args []string
	cmd  *exec.Cmd
}

// Start runs a server with further arguments. Where there is none to run the
// test is skipped, but not on CI.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("redis-server is not installed: apt-get install redis-server")
		}
		t.Skip("redis-server is not installed: apt-get install redis-server")
	}
	s := &Server{t: t, dir: t.TempDir(), Address: free(t), args: args}
	s.Run()
	t.Cleanup(s.Kill)
	return s
}

// free returns an address on which nobody listens.
func free(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

// Until asks until the answer is yes, for what no event tells of: that a client
// has found the server, or a replica its master. The test fails when that does
// not come about.
func Until(t testing.TB, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	again := time.NewTicker(5 * time.Millisecond)
	defer again.Stop()
	for !is() {
		select {
		case <-again.C:
		case <-ctx.Done():
			t.Fatalf("in vain waited until %s", what)
		}
	}
}

// Port returns the port of the server's address.
func (s *Server) Port() string { return s.Address[strings.LastIndexByte(s.Address, ':')+1:] }

// Run starts the server, at first or after Kill, with further arguments for
// this time, and waits until it answers.
func (s *Server) Run(more ...string) {
	s.t.Helper()
	args := []string{}
	if len(s.args) > 0 && !strings.HasPrefix(s.args[0], "-") {
		args = append(args, s.args[0]) // a file of settings comes first
		s.args = s.args[1:]
	}
	args = append(args, "--port", s.Port(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", s.dir, "--logfile", filepath.Join(s.dir, "log"), "--daemonize", "no")
	s.cmd = exec.Command("redis-server", append(append(args, s.args...), more...)...)
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	for deadline := time.Now().Add(20 * time.Second); ; {
		answer, err := s.try("PING")
		if err == nil && (strings.HasPrefix(answer, "+PONG") || strings.HasPrefix(answer, "-NOAUTH")) {
			return
		}
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			s.t.Fatalf("redis-server does not answer: %v %q\n%s", err, answer, log)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Kill ends the server at once.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGCONT)
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait()
	s.cmd = nil
}

// Pause makes the server stand still with its connections open; Resume lets it
// go on.
func (s *Server) Pause()  { s.signal(syscall.SIGSTOP) }
func (s *Server) Resume() { s.signal(syscall.SIGCONT) }

func (s *Server) signal(sig syscall.Signal) {
	s.t.Helper()
	if err := s.cmd.Process.Signal(sig); err != nil {
		s.t.Fatal(err)
	}
}

// Do sends a command and returns the first line of the answer.
func (s *Server) Do(words ...string) string {
	s.t.Helper()
	answer, err := s.try(words...)
	if err != nil {
		s.t.Fatalf("%v: %v", words, err)
	}
	return answer
}

func (s *Server) try(words ...string) (string, error) {
	c, err := net.DialTimeout("tcp", s.Address, time.Second)
	if err != nil {
		return "", err
	}
	defer func() { _ = c.Close() }()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(words))
	for _, w := range words {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(w), w)
	}
	if _, err := c.Write([]byte(b.String())); err != nil {
		return "", err
	}
	buf := make([]byte, 64<<10)
	n, err := c.Read(buf)
	if err != nil {
		return "", err
	}
	return strings.TrimRight(string(buf[:n]), "\r\n"), nil
}
