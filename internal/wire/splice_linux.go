package wire

import (
	"errors"
	"io"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// pipeSize is how much a pipe may hold, and so how much of a body may wait in
// the kernel between two sockets besides their own buffers.
const pipeSize = 128 << 10

// pipe carries bytes from one socket to another inside the kernel.
type pipe struct {
	fds     [2]int
	size    int // capacity in bytes
	cleanup runtime.Cleanup
}

// pipes holds empty pipes. One that the pool lets go of is closed.
var pipes sync.Pool

func getPipe() (*pipe, error) {
	if p, ok := pipes.Get().(*pipe); ok {
		return p, nil
	}
	p := &pipe{size: 64 << 10}
	if err := unix.Pipe2(p.fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	// A smaller pipe, when the kernel's limit for the user is reached, works
	// as well, in more steps.
	if n, err := unix.FcntlInt(uintptr(p.fds[1]), unix.F_SETPIPE_SZ, pipeSize); err == nil {
		p.size = n
	}
	p.cleanup = runtime.AddCleanup(p, closeFDs, p.fds)
	return p, nil
}

// discard closes a pipe that still holds bytes.
func (p *pipe) discard() {
	p.cleanup.Stop()
	closeFDs(p.fds)
}

func closeFDs(fds [2]int) {
	// Nobody else knows the descriptors, and nothing is buffered in them.
	_ = unix.Close(fds[0])
	_ = unix.Close(fds[1])
}

func spliceRaw(dst, src *Conn, n int64) (done int64, err error) {
	for n < 0 || done < n {
		p, got, err := src.spliceIn(n - done)
		if errors.Is(err, syscall.EMFILE) {
			// Descriptors run short: this needs none.
			var k int64
			k, err = copyOnce(dst, src, n-done)
			done += k
			if err == nil {
				continue
			}
		}
		switch {
		case err == io.EOF && n < 0:
			return done, nil
		case err == io.EOF:
			return done, io.ErrUnexpectedEOF
		case err != nil:
			return done, err
		}
		src.came(int64(got))
		since := src.sweeper.now.Load()
		// More follows at once when the pipe was filled; otherwise what there
		// is must not wait for it.
		more := got == p.size && n > 0 && done+int64(got) < n
		dst.progress() // its time passed while it had nothing to do
		began := time.Now()
		for got > 0 {
			k, err := dst.spliceOut(p, got, more)
			if err != nil {
				p.discard()
				src.holdup += time.Since(began)
				return done, &WriteError{err}
			}
			dst.progress()
			got -= k
			done += int64(k)
		}
		pipes.Put(p)
		src.holdup += time.Since(began)
		src.held(since)
	}
	return done, nil
}

// spliceIn moves what is there into a pipe. While it waits it holds none.
func (c *Conn) spliceIn(most int64) (*pipe, int, error) {
	r := c.raw
	for {
		if c.interrupted.Load() {
			return nil, 0, ErrInterrupted
		}
		r.op, r.most = opSplice, 1<<30
		if most >= 0 && most < int64(r.most) {
			r.most = int(most)
		}
		err := r.rc.Read(r.readFn)
		p := r.pipe
		r.pipe = nil
		if err == nil {
			n, err := r.result(nil)
			if err != nil && p != nil {
				pipes.Put(p)
			}
			return p, n, err
		}
		if err = c.woken(err); err != nil {
			return nil, 0, err
		}
	}
}

// trySplice answers false when there is nothing to read yet.
func (r *raw) trySplice(fd uintptr) bool {
	p, err := getPipe()
	if err != nil {
		r.n, r.rerr = 0, syscall.EMFILE // or ENFILE, which asks for the same
		return true
	}
	n, errno := sysSplice(int(fd), p.fds[1], min(r.most, p.size), 0)
	if errno == syscall.EAGAIN {
		pipes.Put(p)
		return false
	}
	r.pipe, r.n, r.rerr = p, n, errno
	return true
}

// spliceOut moves bytes out of a pipe that holds most of them. more says that
// others follow soon, so that the kernel fills whole segments.
func (c *Conn) spliceOut(p *pipe, most int, more bool) (int, error) {
	flags := 0
	if more {
		flags = unix.SPLICE_F_MORE
	}
	var n int
	var errno syscall.Errno
	try := func(fd uintptr) bool {
		n, errno = sysSplice(p.fds[0], int(fd), most, flags)
		if errno == syscall.EAGAIN {
			c.stuck.Store(true)
		}
		return errno != syscall.EAGAIN
	}
	for {
		if c.interrupted.Load() {
			return 0, ErrInterrupted
		}
		err := c.raw.rc.Write(try)
		c.raw.unstuck()
		switch {
		case err == nil && errno != 0:
			return 0, os.NewSyscallError("splice", errno)
		case err == nil:
			return n, nil
		}
		if err = c.wokenWriting(err); err != nil {
			return 0, err
		}
	}
}

func sysSplice(from, to, most, flags int) (int, syscall.Errno) {
	for {
		n, _, errno := syscall.Syscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(most),
			uintptr(flags|unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE))
		if errno == 0 {
			return int(n), 0
		}
		if errno != syscall.EINTR {
			return 0, errno
		}
	}
}
