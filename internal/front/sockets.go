package front

import (
	"errors"
	"net"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/internal/config"
)

// This file says which sockets outlast a change, and opens those that do not
// exist yet.

// socketKeys returns under which key of f.open each listener's socket stands, or
// will. It is the address; where the kernel chooses the port several listeners
// may have the same, and each keeps its own by its name, or failing that takes
// one that nobody else has a claim to.
func (f *Front) socketKeys(cfgs []*config.Listener) []string {
	keys, claimed := make([]string, len(cfgs)), make(map[string]bool)
	for i, cfg := range cfgs {
		keys[i] = cfg.Address
		if strings.HasSuffix(cfg.Address, ":0") {
			keys[i] += " " + cfg.Name
		}
		claimed[keys[i]] = true
	}
	for i, cfg := range cfgs {
		if keys[i] == cfg.Address || f.open[keys[i]] != nil {
			continue
		}
		for old := range f.open {
			if strings.HasPrefix(old, cfg.Address+" ") && !claimed[old] {
				keys[i], claimed[old] = old, true
				break
			}
		}
	}
	return keys
}

// listen opens the socket of a listener. One that the change gives up may stand
// in its way, as :8080 does in that of 127.0.0.1:8080: the kernel then lets both
// be open, until the change is made or given up.
func (c *Change) listen(address string) (*listener, error) {
	l, err := listen(address, &c.f.o)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return l, err
	}
	_, port, bad := net.SplitHostPort(address)
	if bad != nil {
		return nil, err
	}
	number, bad := net.LookupPort("tcp", port)
	if bad != nil {
		return nil, err
	}
	var leaving []syscall.RawConn
	for key, old := range c.f.open {
		if c.keeps(key) || old.port != strconv.Itoa(number) {
			continue
		}
		rc, e := rawOf(old.ln)
		if e != nil {
			return nil, errors.Join(err, e)
		}
		leaving = append(leaving, rc)
	}
	if len(leaving) == 0 {
		return nil, err
	}
	var failed error
	for _, rc := range leaving {
		failed = errors.Join(failed, portShared(rc, true))
	}
	ln, err := open(address, true)
	if err == nil {
		rc, e := rawOf(ln)
		failed = errors.Join(failed, e)
		leaving = append(leaving, rc)
	}
	// From here on nobody gets the port by mistake, as before.
	for _, rc := range leaving {
		if rc != nil {
			failed = errors.Join(failed, portShared(rc, false))
		}
	}
	switch {
	case err != nil:
		return nil, errors.Join(err, failed)
	case failed != nil:
		return nil, errors.Join(failed, ln.Close())
	}
	return newListener(ln, &c.f.o), nil
}

// keeps tells whether the change goes on with an open socket.
func (c *Change) keeps(key string) bool {
	return slices.Contains(c.keys, key)
}

func rawOf(ln net.Listener) (syscall.RawConn, error) {
	s, ok := ln.(syscall.Conn)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return s.SyscallConn()
}

// portShared says whether another socket of this user may have the same port.
func portShared(rc syscall.RawConn, on bool) error {
	value := 0
	if on {
		value = 1
	}
	var failed error
	err := rc.Control(func(fd uintptr) {
		failed = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, value)
	})
	return errors.Join(err, failed)
}
