// Package admin owns the administration address: whether the gateway is alive
// and ready, its status, and the metrics. It only reads, it has no way into the
// data half, and what it shows is given to it by functions. No listener's route
// leads to it: it has a socket and a server of its own.
//
// There is no sign-in yet. A browser must not be made to read it for a page of
// another origin, so requests that come from one are refused, and so are those
// for a host name that is not the gateway's: a name that somebody else owns may
// be pointed at this address (DNS rebinding).
package admin

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
)

// Deps is what the server shows.
type Deps struct {
	Metrics http.Handler
	Ready   func() bool
	Status  func() Status
	Log     *slog.Logger
}

// Status is how the gateway is.
type Status struct {
	Version   string     `json:"version"`
	Started   time.Time  `json:"started"`
	Digest    string     `json:"digest"` // of the configuration in force
	Routes    int        `json:"routes"`
	Listeners []Listener `json:"listeners"`
	Upstreams []any      `json:"upstreams"` // each as it tells itself
	// Certificates that are served, or are not to be had, each as it tells itself.
	Certificates []any  `json:"certificates"`
	Reload       Reload `json:"reload"` // the last one
}

// Listener is an open listener.
type Listener struct {
	Name        string `json:"name"`
	Address     string `json:"address"` // the one really bound, with its port
	Connections int    `json:"connections"`
}

// Reload is the last attempt to apply a configuration.
type Reload struct {
	Time   time.Time     `json:"time"`
	OK     bool          `json:"ok"`
	Digest string        `json:"digest"` // of the configuration in force afterwards
	Faults config.Faults `json:"faults"` // warnings too
}

// The ceilings of what anybody can make the server hold.
const (
	mostConnections = 128 // further ones wait to be accepted
	mostHeaderBytes = 16 << 10
	headTimeout     = 5 * time.Second
	readTimeout     = 10 * time.Second
	writeTimeout    = 30 * time.Second
	idleTimeout     = 30 * time.Second
)

// Server serves the administration address.
type Server struct {
	address string // as configured
	bound   string
	srv     *http.Server
	done    chan struct{}
}

// Listen opens the address, "host:port" or "unix:/path", and begins to serve.
func Listen(address string, deps Deps) (*Server, error) {
	ln, err := open(address)
	if err != nil {
		return nil, fmt.Errorf("listen on %q: %w", address, err)
	}
	s := &Server{address: address, bound: ln.Addr().String(), done: make(chan struct{})}
	if ln.Addr().Network() == "unix" {
		s.bound = address
	}
	s.srv = &http.Server{
		Handler:           newGuard(address, &pages{deps}),
		ReadHeaderTimeout: headTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    mostHeaderBytes,
		ErrorLog:          slog.NewLogLogger(deps.Log.With("listener", "admin").Handler(), slog.LevelWarn),
	}
	go func() {
		defer close(s.done)
		if err := s.srv.Serve(newBounded(ln, mostConnections)); !errors.Is(err, http.ErrServerClosed) {
			deps.Log.Error("the admin address is no longer served", "address", s.bound, "error", err)
		}
	}()
	deps.Log.Info("listening", "listener", "admin", "address", s.bound)
	return s, nil
}

// Address returns the address as configured.
func (s *Server) Address() string { return s.address }

// Bound returns the address that is really bound, with its port.
func (s *Server) Bound() string { return s.bound }

// Close stops the server and cuts its connections. A nil Server is closed.
func (s *Server) Close() {
	if s == nil {
		return
	}
	// The only error is that of closing the socket: it is gone all the same.
	_ = s.srv.Close()
	<-s.done
}

func open(address string) (net.Listener, error) {
	path, unix := strings.CutPrefix(address, "unix:")
	if !unix {
		return net.Listen("tcp", address)
	}
	ln, err := net.Listen("unix", path)
	if errors.Is(err, syscall.EADDRINUSE) && abandoned(path) {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
		ln, err = net.Listen("unix", path)
	}
	if err != nil {
		return nil, err
	}
	// Who may open the socket may read everything.
	if err := os.Chmod(path, 0o600); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}

// abandoned reports whether a socket file has no process behind it: one that
// was killed leaves its file.
func abandoned(path string) bool {
	file, err := os.Lstat(path)
	if err != nil || file.Mode()&os.ModeSocket == 0 {
		return false
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
		return false
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// bounded is a listener with a ceiling of open connections.
type bounded struct {
	net.Listener
	room   chan struct{}
	closed chan struct{}
	once   sync.Once
}

func newBounded(ln net.Listener, most int) *bounded {
	return &bounded{Listener: ln, room: make(chan struct{}, most), closed: make(chan struct{})}
}

// Accept waits for room, then for a connection.
func (b *bounded) Accept() (net.Conn, error) {
	select {
	case b.room <- struct{}{}:
	case <-b.closed:
		return nil, net.ErrClosed
	}
	c, err := b.Listener.Accept()
	if err != nil {
		<-b.room
		return nil, err
	}
	return &guest{Conn: c, leave: sync.OnceFunc(func() { <-b.room })}, nil
}

// Close stops accepting, also while there is no room.
func (b *bounded) Close() error {
	b.once.Do(func() { close(b.closed) })
	return b.Listener.Close()
}

// guest is a connection that makes room when it is closed.
type guest struct {
	net.Conn
	leave func()
}

// Close closes the connection.
func (g *guest) Close() error {
	defer g.leave()
	return g.Conn.Close()
}
