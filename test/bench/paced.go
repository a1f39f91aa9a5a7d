//go:build linux

package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// paced sends requests at a fixed rate, whether or not earlier ones have been
// answered, and takes times from when a request was due: a proxy that stalls is
// charged for what it kept waiting. wrk cannot do that.
//
// One thread serves a timer and all connections, because the load shares its
// processor with the upstream.
type paced struct {
	connections int
	rate        int // requests a second
	path        string
	stop        <-chan struct{} // ends the load before its time, when not nil
}

// pacer is one run of a paced load.
type pacer struct {
	target  unix.Sockaddr
	request []byte
	epoll   int
	timer   int
	start   time.Time
	conns   map[int]*pacedConn
	idle    []*pacedConn    // oldest first, so that all take part
	due     []time.Duration // requests without a connection, since start
	times   []time.Duration
	failed  int64
	reason  error // of the last failure
}

type pacedConn struct {
	fd   int
	due  time.Duration // of the request under way
	busy bool
	buf  []byte
	have int
	// Of the answer under way, once its head is there.
	want    int
	closing bool
}

func (l paced) run(ctx context.Context, address string, d time.Duration) (result, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return result{}, fmt.Errorf("starting a paced load: %w", err)
	}
	p := &pacer{
		target:  &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()},
		request: requestHead(l.path, -1), conns: map[int]*pacedConn{}, epoll: -1, timer: -1,
	}
	defer p.close()
	if err := p.open(l); err != nil {
		return result{}, fmt.Errorf("starting a paced load: %w", err)
	}
	if err := p.run(ctx, l, d); err != nil {
		return result{}, fmt.Errorf("in a paced load: %w", err)
	}
	r := result{requests: int64(len(p.times)), failed: p.failed, elapsed: time.Since(p.start), latency: latencyOf(p.times)}
	if r.requests == 0 {
		return r, fmt.Errorf("a paced load got no answer: %w", p.reason)
	}
	return r, nil
}

func (p *pacer) open(l paced) error {
	var err error
	if p.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return os.NewSyscallError("epoll_create1", err)
	}
	if p.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		return os.NewSyscallError("timerfd_create", err)
	}
	if err := watch(p.epoll, p.timer); err != nil {
		return os.NewSyscallError("epoll_ctl", err)
	}
	for range l.connections {
		if err := p.dial(); err != nil {
			return err
		}
	}
	return nil
}

func (p *pacer) close() {
	for fd := range p.conns {
		unix.Close(fd)
	}
	for _, fd := range []int{p.timer, p.epoll} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// dial opens one more idle connection. On loopback it does not block for long.
func (p *pacer) dial() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	if err = unix.Connect(fd, p.target); err == nil {
		if err = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err == nil {
			if err = unix.SetNonblock(fd, true); err == nil {
				err = watch(p.epoll, fd)
			}
		}
	}
	if err != nil {
		unix.Close(fd)
		return os.NewSyscallError("connect", err)
	}
	c := &pacedConn{fd: fd, buf: make([]byte, 8<<10)}
	p.conns[fd] = c
	p.idle = append(p.idle, c)
	return nil
}

// patience is how long answers may take to come after the last request.
const patience = 10 * time.Second

func (p *pacer) run(ctx context.Context, l paced, d time.Duration) error {
	every := time.Second / time.Duration(l.rate)
	spec := unix.NsecToTimespec(every.Nanoseconds())
	if err := unix.TimerfdSettime(p.timer, 0, &unix.ItimerSpec{Interval: spec, Value: spec}, nil); err != nil {
		return os.NewSyscallError("timerfd_settime", err)
	}
	p.start = time.Now()
	events := make([]unix.EpollEvent, 64)
	for next := time.Duration(0); ; {
		n, err := unix.EpollWait(p.epoll, events, 1000)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("epoll_wait", err)
		}
		now := time.Since(p.start)
		ended := now >= d || ctx.Err() != nil || l.stopped()
		for _, e := range events[:max(n, 0)] {
			if int(e.Fd) != p.timer {
				p.readable(p.conns[int(e.Fd)])
				continue
			}
			fired, err := expirations(p.timer)
			if err != nil {
				return err
			}
			for range fired {
				if next += every; !ended {
					p.due = append(p.due, next)
				}
			}
		}
		p.send()
		if ended && len(p.due) == 0 && p.answered() {
			return context.Cause(ctx)
		}
		if now > d+patience {
			p.failed += int64(len(p.due))
			for _, c := range p.conns {
				if c.busy {
					p.fail(errors.New("no answer came"))
				}
			}
			return nil
		}
	}
}

func (l paced) stopped() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

// expirations returns how often the timer has fired since it was last asked.
func expirations(timer int) (uint64, error) {
	var b [8]byte
	switch _, err := unix.Read(timer, b[:]); {
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR):
		return 0, nil
	case err != nil:
		return 0, os.NewSyscallError("read", err)
	}
	return binary.NativeEndian.Uint64(b[:]), nil
}

func (p *pacer) answered() bool {
	for _, c := range p.conns {
		if c.busy {
			return false
		}
	}
	return true
}

func (p *pacer) fail(err error) {
	p.failed++
	p.reason = err
}

// send gives what is due to idle connections.
func (p *pacer) send() {
	for len(p.due) > 0 && len(p.idle) > 0 {
		c := p.idle[0]
		p.idle = p.idle[1:]
		if p.conns[c.fd] != c {
			continue // it was closed while idle
		}
		c.busy, c.due, c.have, c.want = true, p.due[0], 0, 0
		p.due = p.due[1:]
		if n, err := unix.Write(c.fd, p.request); err != nil || n < len(p.request) {
			p.fail(fmt.Errorf("writing a request: %w", errors.Join(err, errShort(n, len(p.request)))))
			p.replace(c)
		}
	}
}

func errShort(n, want int) error {
	if n >= want {
		return nil
	}
	return fmt.Errorf("%d of %d bytes were taken", max(n, 0), want)
}

// replace closes a connection and opens another.
func (p *pacer) replace(c *pacedConn) {
	delete(p.conns, c.fd)
	unix.Close(c.fd)
	if err := p.dial(); err != nil {
		p.fail(err)
	}
}

// readable takes what came on a connection.
func (p *pacer) readable(c *pacedConn) {
	if c == nil {
		return
	}
	n, err := unix.Read(c.fd, c.buf[c.have:])
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR) {
		return
	}
	if n <= 0 {
		if c.busy {
			p.fail(fmt.Errorf("a connection ended in the middle of an answer: %w", errors.Join(err, errShort(c.have, c.want))))
		}
		p.replace(c) // ending an idle connection is the proxy's right
		return
	}
	c.have += n
	if c.want == 0 {
		a, size, ok := parseAnswer(c.buf[:c.have])
		if !ok && c.have < len(c.buf) {
			return
		}
		if !ok || !c.busy || a.status != 200 || a.length < 0 || size+int(a.length) > len(c.buf) {
			p.fail(fmt.Errorf("unexpected answer: %.300q", c.buf[:c.have]))
			p.replace(c)
			return
		}
		c.want, c.closing = size+int(a.length), a.closing
	}
	if c.have < c.want {
		return
	}
	if c.have > c.want {
		p.fail(fmt.Errorf("%d bytes came after the end of an answer", c.have-c.want))
		p.replace(c)
		return
	}
	p.times = append(p.times, time.Since(p.start)-c.due)
	c.busy, c.have, c.want = false, 0, 0
	if c.closing {
		p.replace(c)
		return
	}
	p.idle = append(p.idle, c)
}
