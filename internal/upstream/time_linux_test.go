package upstream

import (
	"net"
	"syscall"
	"testing"
	"time"
)

// fillQueue connects to a listener that accepts nothing until it takes no
// more.
func fillQueue(t *testing.T, ln net.Listener) (empty func()) {
	t.Helper()
	rc, err := ln.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := rc.Control(func(fd uintptr) { err = syscall.Listen(int(fd), 0) }); err != nil {
		t.Fatal(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	var conns []net.Conn
	empty = func() {
		for _, nc := range conns {
			nc.Close()
		}
	}
	for range 10 {
		nc, err := net.DialTimeout("tcp", ln.Addr().String(), 100*time.Millisecond)
		if err != nil {
			return empty
		}
		conns = append(conns, nc)
	}
	empty()
	t.Skip("the queue of this system does not fill up")
	return nil
}
