package wire

import (
	"io"
	"net"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// raw makes system calls on a non-blocking socket. RawSyscall spares the
// scheduler's bookkeeping, which is right only because the calls cannot block.
//
// The runtime's poller reports edges, and RawConn.Read forgets an edge that
// came before it was called. So a callback tries first, and answers false,
// which parks the goroutine, only when nothing is there.
type raw struct {
	c  *Conn
	rc syscall.RawConn
	fd int // for polling only

	// The callbacks are made once: a closure for each call would be garbage.
	readFn, writeFn func(fd uintptr) bool

	op   readOp
	in   []byte // what is read into
	each func(b *Buffer, n int) bool
	buf  *Buffer       // what readBuffer borrowed
	n    int           // how much was read
	rerr syscall.Errno // why nothing was
	out  []byte        // what opWriteRead still has to write

	pending [3][]byte // what flush still has to write
	werr    syscall.Errno
	waited  bool // for the socket to have room for it

	pipe *pipe // of a Splice from this socket
	most int   // how many bytes it may take
}

// readOp says what a read callback does.
type readOp uint8

const (
	opRead readOp = iota
	opBuffer
	opWait
	opWriteRead
	opSplice
	opPeek
	opEach
)

// newRaw returns nil where there is no raw access.
func newRaw(c *Conn, nc net.Conn) *raw {
	var rc syscall.RawConn
	var err error
	switch nc := nc.(type) {
	case *net.TCPConn:
		rc, err = nc.SyscallConn()
	case *net.UnixConn:
		rc, err = nc.SyscallConn()
	default:
		return nil
	}
	if err != nil {
		return nil
	}
	r := &raw{c: c, rc: rc}
	if err := rc.Control(func(fd uintptr) { r.fd = int(fd) }); err != nil {
		return nil
	}
	r.readFn, r.writeFn = r.tryRead, r.tryWrite
	return r
}

func (r *raw) read(p []byte) (int, error) {
	r.op, r.in = opRead, p
	err := r.rc.Read(r.readFn)
	r.in = nil
	return r.result(err)
}

func (r *raw) readBuffer() (*Buffer, int, error) {
	r.op = opBuffer
	err := r.rc.Read(r.readFn)
	b := r.buf
	r.buf, r.in = nil, nil
	n, err := r.result(err)
	if err != nil && b != nil {
		b.Put()
	}
	return b, n, err
}

// readEach returns nil when f answered false.
func (r *raw) readEach(f func(b *Buffer, n int) bool) error {
	r.op, r.each = opEach, f
	err := r.rc.Read(r.readFn)
	r.each = nil
	r.c.armed.Store(0)
	_, err = r.result(err)
	return err
}

func (r *raw) waitReadable() error {
	r.op = opWait
	return r.rc.Read(r.readFn)
}

// writeRead returns what it could not write, or else what it read.
func (r *raw) writeRead(w, p []byte) (rest []byte, n int, err error) {
	r.op, r.out, r.in, r.rerr = opWriteRead, w, p, 0
	err = r.rc.Read(r.readFn)
	rest = r.out
	r.out, r.in = nil, nil
	if len(rest) > 0 && r.rerr == 0 {
		return rest, 0, err
	}
	n, err = r.result(err)
	return nil, n, err
}

// result turns the outcome of a read callback into what Read returns.
func (r *raw) result(err error) (int, error) {
	switch {
	case err != nil:
		return 0, err
	case r.rerr != 0:
		return 0, os.NewSyscallError("read", r.rerr)
	case r.n == 0:
		return 0, io.EOF
	}
	return r.n, nil
}

// tryRead answers false when there is nothing to read yet.
func (r *raw) tryRead(fd uintptr) bool {
	switch r.op {
	case opWriteRead:
		r.op = opRead
		if n, errno := sysWrite(fd, r.out); errno == 0 {
			r.out = r.out[n:]
		} else if errno != syscall.EAGAIN {
			r.rerr = errno
			return true
		}
		r.n, r.rerr = 0, 0
		// What is left is written outside, where waiting is for room.
		return len(r.out) > 0
	case opBuffer:
		r.buf = GetBuffer()
		r.in = r.buf.B
	case opWait:
		var b [1]byte
		_, errno := sysPeek(fd, &b)
		return errno != syscall.EAGAIN
	case opSplice:
		return r.trySplice(fd)
	case opEach:
		return r.tryEach(fd)
	case opPeek:
		var b [1]byte
		r.n, r.rerr = sysPeek(fd, &b)
		return true
	}
	r.n, r.rerr = sysRead(fd, r.in)
	if r.rerr != syscall.EAGAIN {
		return true
	}
	if r.op == opBuffer {
		r.buf.Put()
		r.buf, r.in = nil, nil
	}
	return false
}

// tryEach reads and lets what came be used, before it waits again. Whatever
// comes in the meantime leaves its edge with the poller, which RawConn.Read
// forgets only when it begins: so there is no need to read until nothing is
// there. Only an end that came together with the last bytes has no edge of its
// own. The sweeper finds it.
func (r *raw) tryEach(fd uintptr) bool {
	r.c.armed.Store(0)
	for {
		b := GetBuffer()
		n, errno := sysRead(fd, b.B)
		r.n, r.rerr = n, errno
		if errno != 0 || n == 0 {
			b.Put()
			if errno == syscall.EAGAIN {
				break
			}
			return true
		}
		if !r.each(b, n) {
			return true
		}
		if n < BufferSize {
			break
		}
	}
	r.c.armed.Store(r.c.sweeper.now.Load())
	return false
}

// give says what flush is to write.
func (r *raw) give(p, q, s []byte) {
	r.pending[0], r.pending[1], r.pending[2] = p, q, s
	r.waited = false
}

// moves reports whether the socket takes more of what was given after all: the
// poller tells of room only when a third of its buffer is free.
func (r *raw) moves() bool {
	left := len(r.pending[0]) + len(r.pending[1]) + len(r.pending[2])
	err := r.rc.Control(func(fd uintptr) { r.tryWrite(fd) })
	return err == nil && len(r.pending[0])+len(r.pending[1])+len(r.pending[2]) < left
}

// flush writes what was given. After an error that means to try again, it goes
// on where it was.
func (r *raw) flush() error {
	if err := r.rc.Write(r.writeFn); err != nil {
		return err
	}
	if r.werr != 0 {
		return os.NewSyscallError("write", r.werr)
	}
	return nil
}

// tryWrite answers false when the socket has no room.
func (r *raw) tryWrite(fd uintptr) bool {
	moved := false
	for {
		n, one := 0, []byte(nil)
		for _, p := range r.pending {
			if len(p) > 0 {
				n, one = n+1, p
			}
		}
		var wrote int
		switch n {
		case 0:
			r.werr = 0
			return true
		case 1:
			wrote, r.werr = sysWrite(fd, one)
		default:
			wrote, r.werr = sysWritev(fd, &r.pending)
		}
		switch r.werr {
		case 0:
			r.wrote(wrote)
			if moved = true; r.waited {
				r.c.progress()
			}
		case syscall.EAGAIN:
			if moved {
				r.c.progress()
			}
			r.waited = true
			r.c.lookAgain()
			return false
		default:
			return true
		}
	}
}

// wrote takes n bytes off what is pending.
func (r *raw) wrote(n int) {
	for i, p := range r.pending {
		if n < len(p) {
			r.pending[i] = p[n:]
			return
		}
		n -= len(p)
		r.pending[i] = nil
	}
}

// readable reports whether a read would not wait.
func (r *raw) readable() (readable bool) {
	err := r.rc.Control(func(fd uintptr) {
		var b [1]byte
		_, errno := sysPeek(fd, &b)
		readable = errno != syscall.EAGAIN
	})
	return err != nil || readable
}

// quiet reports whether there is no end and, unless bytes are allowed, nothing
// to read.
func (r *raw) quiet(bytesAllowed bool) (bool, error) {
	r.op = opPeek
	err := r.rc.Read(r.readFn)
	return r.rerr == syscall.EAGAIN || r.rerr == 0 && r.n > 0 && bytesAllowed, err
}

// shutdown ends both directions.
func (r *raw) shutdown() {
	// It fails when the socket is closed or was never connected: then there
	// is nothing to end.
	_ = r.rc.Control(func(fd uintptr) { _ = unix.Shutdown(int(fd), unix.SHUT_RDWR) })
}

func sysRead(fd uintptr, p []byte) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_READ, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		if errno == 0 {
			return int(n), 0
		}
		if errno != syscall.EINTR {
			return 0, errno
		}
	}
}

func sysWrite(fd uintptr, p []byte) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall(syscall.SYS_WRITE, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		if errno == 0 {
			return int(n), 0
		}
		if errno != syscall.EINTR {
			return 0, errno
		}
	}
}

func sysWritev(fd uintptr, pieces *[3][]byte) (int, syscall.Errno) {
	var iov [3]unix.Iovec
	n := 0
	for _, p := range pieces {
		if len(p) > 0 {
			iov[n].Base = unsafe.SliceData(p)
			iov[n].SetLen(len(p))
			n++
		}
	}
	for {
		k, _, errno := syscall.RawSyscall(syscall.SYS_WRITEV, fd, uintptr(unsafe.Pointer(&iov)), uintptr(n))
		if errno == 0 {
			return int(k), 0
		}
		if errno != syscall.EINTR {
			return 0, errno
		}
	}
}

func sysPeek(fd uintptr, b *[1]byte) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.RawSyscall6(syscall.SYS_RECVFROM, fd, uintptr(unsafe.Pointer(b)), 1,
			syscall.MSG_PEEK|syscall.MSG_DONTWAIT, 0, 0)
		if errno == 0 {
			return int(n), 0
		}
		if errno != syscall.EINTR {
			return 0, errno
		}
	}
}

// poller polls many sockets with one system call.
type poller struct {
	fds   []unix.PollFd
	conns []*Conn
}

func (p *poller) add(c *Conn) {
	events := int16(unix.POLLRDHUP)
	if c.armed.Load() != 0 {
		events |= unix.POLLIN
	}
	p.fds = append(p.fds, unix.PollFd{Fd: int32(c.raw.fd), Events: events})
	p.conns = append(p.conns, c)
}

// poll tells every added connection what became of it, and forgets them.
func (p *poller) poll(now int64) {
	if len(p.fds) == 0 {
		return
	}
	// The only errors are EINTR and a want of memory: the next tick asks
	// again.
	if _, err := unix.Poll(p.fds, 0); err == nil {
		for i, c := range p.conns {
			e := p.fds[i].Revents
			c.seen(now, e&unix.POLLIN != 0, e&unix.POLLRDHUP != 0, e&(unix.POLLERR|unix.POLLHUP) != 0)
		}
	}
	p.fds = p.fds[:0]
	clear(p.conns)
	p.conns = p.conns[:0]
}
