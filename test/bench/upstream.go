//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// The upstream shares its processor with the load, so it has to be cheaper than
// what is measured: one loop over epoll, prepared answers, no look at header
// fields unless there is a body. It trusts its only clients, the proxies, and
// is no example of how to read HTTP.
//
//	GET /bytes/N     N bytes
//	GET /drip        lines that count up, 64 every 100 ms, until /drip/end
//	GET /echo        101, and then what came
//	GET  anything    a JSON document of 488 bytes
//	POST anything    the same, when the body (Content-Length only) has been read

const (
	smallBody = 488     // bytes of the JSON document
	loopMax   = 1 << 16 // largest answer that the loop itself writes
	dripLine  = 16      // bytes of a line of /drip, its end included
	dripLines = 64      // lines in a chunk
)

// upstream is one loop.
type upstream struct {
	epoll, listener int
	answers         map[int64][]byte // by size of the body
	ended           chan struct{}    // closed by /drip/end
	end             *sync.Once

	mu    sync.Mutex // the sideline changes what follows
	conns map[int]*upstreamConn
}

type upstreamConn struct {
	fd   int
	buf  [8 << 10]byte
	have int
}

// serveUpstream answers on the address until something breaks.
func serveUpstream(address string) error {
	run, err := listenUpstream(address)
	if err != nil {
		return err
	}
	return run()
}

// listenUpstream opens one loop for each processor that may be used, and
// returns what runs them until something breaks.
func listenUpstream(address string) (run func() error, err error) {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return nil, fmt.Errorf("starting the upstream: %w", err)
	}
	ended, end := make(chan struct{}), new(sync.Once)
	loops := make([]*upstream, runtime.GOMAXPROCS(0))
	for i := range loops {
		loops[i] = &upstream{conns: map[int]*upstreamConn{}, answers: map[int64][]byte{}, ended: ended, end: end}
		if err := loops[i].listen(ap); err != nil {
			return nil, fmt.Errorf("upstream on %s: %w", address, err)
		}
	}
	return func() error {
		failed := make(chan error, len(loops))
		for _, u := range loops {
			go func() { failed <- u.run() }()
		}
		return fmt.Errorf("upstream on %s: %w", address, <-failed)
	}, nil
}

func (u *upstream) listen(ap netip.AddrPort) error {
	var err error
	if u.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if u.listener, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		return err
	}
	for _, option := range [...]int{unix.SO_REUSEADDR, unix.SO_REUSEPORT} {
		if err := unix.SetsockoptInt(u.listener, unix.SOL_SOCKET, option, 1); err != nil {
			return err
		}
	}
	if err := unix.Bind(u.listener, &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}); err != nil {
		return err
	}
	if err := unix.Listen(u.listener, 4096); err != nil {
		return err
	}
	return watch(u.epoll, u.listener)
}

// watch adds a descriptor to an epoll set, to hear when it can be read.
func watch(epoll, fd int) error {
	return unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

func (u *upstream) run() error {
	events := make([]unix.EpollEvent, 256)
	for {
		n, err := unix.EpollWait(u.epoll, events, -1)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		for _, e := range events[:max(n, 0)] {
			if int(e.Fd) == u.listener {
				u.accept()
				continue
			}
			u.mu.Lock()
			c := u.conns[int(e.Fd)]
			u.mu.Unlock()
			if c != nil && !u.serve(c) {
				u.close(c)
			}
		}
	}
}

func (u *upstream) accept() {
	for {
		fd, _, err := unix.Accept4(u.listener, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return // nobody is waiting, or the next event tries again
		}
		c := &upstreamConn{fd: fd}
		u.mu.Lock()
		u.conns[fd] = c
		u.mu.Unlock()
		if unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) != nil || watch(u.epoll, fd) != nil {
			u.close(c)
		}
	}
}

func (u *upstream) close(c *upstreamConn) {
	u.mu.Lock()
	delete(u.conns, c.fd)
	u.mu.Unlock()
	unix.Close(c.fd)
}

// serve reads once and answers what is there. It reports whether the connection
// goes on.
func (u *upstream) serve(c *upstreamConn) bool {
	n, err := unix.Read(c.fd, c.buf[c.have:])
	if err != nil {
		return errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)
	}
	if n == 0 {
		return false
	}
	c.have += n
	end := bytes.Index(c.buf[:c.have], []byte("\r\n\r\n"))
	if end < 0 {
		return c.have < len(c.buf)
	}
	head := c.buf[:end+2]
	early := int64(c.have - end - 4) // bytes of a body that came with the head
	method, rest, _ := bytes.Cut(head, []byte(" "))
	target, _, _ := bytes.Cut(rest, []byte(" "))
	c.have = 0
	if string(method) != "GET" {
		return u.upload(c, contentLength(head)-early)
	}
	switch {
	case bytes.HasPrefix(target, []byte("/bytes/")):
		size, err := strconv.ParseInt(string(target[len("/bytes/"):]), 10, 64)
		if err != nil || size < 0 {
			return false
		}
		if size > loopMax {
			return u.sideline(c, func() error { return writeBytes(c.fd, size) })
		}
		return u.answer(c, size)
	case string(target) == "/drip":
		return u.sideline(c, func() error { return drip(c.fd, u.ended) })
	case string(target) == "/drip/end":
		u.end.Do(func() { close(u.ended) })
	case string(target) == "/echo":
		return u.sideline(c, func() error { return echo(c.fd) })
	}
	return u.answer(c, smallBody)
}

func (u *upstream) upload(c *upstreamConn, left int64) bool {
	if left <= 0 {
		return left == 0 && u.answer(c, smallBody)
	}
	return u.sideline(c, func() error {
		buf := make([]byte, 256<<10)
		for left > 0 {
			n, err := unix.Read(c.fd, buf[:min(left, int64(len(buf)))])
			if err != nil {
				return err
			}
			if n == 0 {
				return errors.New("the body ended early")
			}
			left -= int64(n)
		}
		return writeAll(c.fd, answerOf(smallBody))
	})
}

// answer writes a prepared answer, as far as the socket takes it at once.
func (u *upstream) answer(c *upstreamConn, size int64) bool {
	text := u.answers[size]
	if text == nil {
		text = answerOf(size)
		u.answers[size] = text
	}
	n, err := unix.Write(c.fd, text)
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		return false
	}
	if n = max(n, 0); n < len(text) {
		return u.sideline(c, func() error { return writeAll(c.fd, text[n:]) })
	}
	return true
}

// sideline lets work use the connection with blocking calls, apart from the
// loop, and gives the connection back when that went well.
func (u *upstream) sideline(c *upstreamConn, work func() error) bool {
	if unix.EpollCtl(u.epoll, unix.EPOLL_CTL_DEL, c.fd, nil) != nil || unix.SetNonblock(c.fd, false) != nil {
		return false
	}
	go func() {
		if work() != nil || unix.SetNonblock(c.fd, true) != nil || watch(u.epoll, c.fd) != nil {
			u.close(c)
		}
	}()
	return true
}

// contentLength returns the length of a request's body, or -1 when it has none
// that is understood here.
func contentLength(head []byte) int64 {
	for line := range bytes.SplitSeq(head, []byte("\r\n")) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		if bytes.EqualFold(name, []byte("Content-Length")) {
			n, err := strconv.ParseInt(string(bytes.TrimSpace(value)), 10, 64)
			if err != nil {
				return -1
			}
			return n
		}
	}
	return -1
}

// answerOf makes an answer with the usual fields and a body of that many bytes.
func answerOf(size int64) []byte {
	head := answerHead(size)
	return append(head, bodyOf(int(size))...)
}

func answerHead(size int64) []byte {
	return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nDate: Sun, 01 Jan 2023 00:00:00 GMT\r\nContent-Type: application/json\r\n"+
		"Content-Length: %d\r\nCache-Control: no-cache\r\nETag: \"5f3a-61c2\"\r\nX-Version: 42\r\n\r\n", size)
}

// bodyOf makes a JSON document of that many bytes.
func bodyOf(size int) []byte {
	const open, end = `{"items":"`, `"}`
	if size < len(open)+len(end) {
		return bytes.Repeat([]byte("0"), size)
	}
	return []byte(open + strings.Repeat("gatehouse ", size/10+1)[:size-len(open)-len(end)] + end)
}

func writeBytes(fd int, size int64) error {
	if err := writeAll(fd, answerHead(size)); err != nil {
		return err
	}
	block := bytes.Repeat([]byte("gatehouse "), 26<<10)
	for size > 0 {
		n := min(size, int64(len(block)))
		if err := writeAll(fd, block[:n]); err != nil {
			return err
		}
		size -= n
	}
	return nil
}

// drip counts lines until it is told to end.
func drip(fd int, ended <-chan struct{}) error {
	if err := writeAll(fd, []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n")); err != nil {
		return err
	}
	every := time.NewTicker(100 * time.Millisecond)
	defer every.Stop()
	for line := 0; ; {
		chunk := fmt.Appendf(nil, "%x\r\n", dripLine*dripLines)
		for range dripLines {
			chunk = fmt.Appendf(chunk, "%0*d\n", dripLine-1, line)
			line++
		}
		if err := writeAll(fd, append(chunk, "\r\n"...)); err != nil {
			return err
		}
		select {
		case <-ended:
			return writeAll(fd, []byte("0\r\n\r\n"))
		case <-every.C:
		}
	}
}

func echo(fd int) error {
	if err := writeAll(fd, []byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")); err != nil {
		return err
	}
	buf := make([]byte, 4<<10)
	for {
		n, err := unix.Read(fd, buf)
		if err != nil {
			return err
		}
		if n == 0 {
			return errors.New("the tunnel ended")
		}
		if err := writeAll(fd, buf[:n]); err != nil {
			return err
		}
	}
}

// writeAll writes to a blocking socket.
func writeAll(fd int, p []byte) error {
	for len(p) > 0 {
		n, err := unix.Write(fd, p)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return os.NewSyscallError("write", err)
		}
		p = p[n:]
	}
	return nil
}
