package front

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gatehouse.dev/gatehouse/internal/certs"
	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/observe"
)

// listener is one listening socket. Its socket outlasts changes of its
// settings.
type listener struct {
	o    *Options
	ln   net.Listener
	port string // in decimal, "" for a unix socket

	settings atomic.Pointer[settings] // written under mu
	serial   atomic.Uint32            // of connections, spreads counters
	accepted chan struct{}            // closed when no more are accepted

	mu        sync.Mutex
	room      *sync.Cond     // signalled when a connection ends
	engines   map[engine]int // running connections by engine
	total     int
	strangers map[net.Conn]struct{} // whose PROXY header is being read
	quic      *h3                   // nil without HTTP/3; written under the front's lock too
	quics     map[*h3]struct{}      // that one, and those that drain
	serving   bool                  // serve was called
	closed    bool
}

// settings is what connections are accepted with. Connections that were
// accepted keep the engine they began with.
type settings struct {
	cfg    *config.Listener
	meter  *observe.Listener
	engine engine
}

// engine serves connections of one protocol family.
type engine interface {
	// start serves a connection on goroutines of its own and calls ended when
	// it has been closed. It takes connections while it drains, too.
	start(nc net.Conn, client *exchange.Client, ended func())
	// configure gives the engine new settings: limits hold for running
	// connections too, certificates for new ones. set is nil without TLS.
	configure(cfg *config.Listener, set *certs.Set)
	// drain makes connections end as soon as they have nothing in flight.
	drain()
	// cut ends all connections at once.
	cut()
}

func listen(address string, o *Options) (*listener, error) {
	ln, err := open(address, false)
	if err != nil {
		return nil, err
	}
	return newListener(ln, o), nil
}

func newListener(ln net.Listener, o *Options) *listener {
	l := &listener{o: o, ln: ln, engines: make(map[engine]int), strangers: make(map[net.Conn]struct{}), quics: make(map[*h3]struct{}), accepted: make(chan struct{})}
	l.room = sync.NewCond(&l.mu)
	if tcp, ok := ln.Addr().(*net.TCPAddr); ok {
		l.port = strconv.Itoa(tcp.Port)
	}
	return l
}

// open opens a socket, and lets it have a port that another one shares.
func open(address string, shared bool) (net.Listener, error) {
	// Accepted sockets inherit keep-alive from the listening one on Linux;
	// setting it on each would cost four system calls a connection.
	lc := net.ListenConfig{KeepAlive: -1, Control: func(_, _ string, rc syscall.RawConn) error {
		var err error
		if e := rc.Control(func(fd uintptr) {
			err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_KEEPALIVE, 1)
		}); e != nil {
			return e
		}
		if shared {
			err = errors.Join(err, portShared(rc, true))
		}
		return err
	}}
	path, unix := strings.CutPrefix(address, "unix:")
	if !unix {
		return lc.Listen(context.Background(), "tcp", address)
	}
	ln, err := lc.Listen(context.Background(), "unix", path)
	if errors.Is(err, syscall.EADDRINUSE) && abandoned(path) {
		if err := os.Remove(path); err != nil {
			return nil, err
		}
		ln, err = lc.Listen(context.Background(), "unix", path)
	}
	return ln, err
}

// abandoned reports whether a socket file has no process behind it: one that
// was killed leaves its file.
func abandoned(path string) bool {
	info, err := os.Lstat(path)
	if err != nil || info.Mode()&os.ModeSocket == 0 {
		return false
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
		return false
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}

// configure gives the listener new settings. Limits change for running
// connections too; a change of who is trusted, of the protocols, or of what
// clients have to show ends them as soon as they have nothing in flight.
func (l *listener) configure(cfg *config.Listener, set *certs.Set, fresh *h3) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := l.settings.Load()
	l.configureQUIC(cfg, set, fresh, old != nil && same(old.cfg, cfg))
	s := &settings{cfg: cfg, meter: l.o.Metrics.Listener(cfg.Name)}
	if old != nil && same(old.cfg, cfg) {
		s.engine = old.engine
		s.engine.configure(cfg, set)
	} else {
		s.engine = newEngine(cfg, set, l.o, s.meter)
	}
	l.settings.Store(s)
	if old != nil && old.engine != s.engine {
		old.engine.drain()
	}
	l.room.Broadcast() // the ceiling of connections may have risen
}

func same(a, b *config.Listener) bool {
	if a.Name != b.Name || a.Engine != b.Engine || a.Protocol != b.Protocol || a.ProxyProtocol != b.ProxyProtocol || !slices.Equal(a.TrustedProxies, b.TrustedProxies) {
		return false
	}
	for _, version := range []string{"http1", "http2", "http3", "h2c"} {
		if a.Speaks(version) != b.Speaks(version) {
			return false
		}
	}
	if a.TLS == nil || b.TLS == nil {
		return a.TLS == b.TLS
	}
	return a.TLS.ClientAuth == b.TLS.ClientAuth && a.TLS.MinVersion == b.TLS.MinVersion
}

func newEngine(cfg *config.Listener, set *certs.Set, o *Options, meter *observe.Listener) engine {
	if cfg.Protocol == "tcp" || cfg.Protocol == "tls" {
		return newPasser(cfg, o)
	}
	if cfg.Engine == "std" {
		return newStd(cfg, set, o, meter)
	}
	return newNative(cfg, set, o, meter)
}

// serve begins to accept connections.
func (l *listener) serve() {
	l.mu.Lock()
	l.serving = true
	l.mu.Unlock()
	go l.accept()
}

// accept takes connections until the listener is closed, and then those that
// are waiting in the kernel already: to close the socket would reset them.
func (l *listener) accept() {
	defer close(l.accepted)
	// The only error is that it was closed before.
	defer func() { _ = l.ln.Close() }()
	var pause time.Duration
	var trouble complaint
	for l.vacancy() {
		nc, err := l.ln.Accept()
		switch {
		case err == nil:
			pause = 0
			l.start(nc)
		case l.isClosed():
			return
		default:
			// Descriptors or memory ran short, or the client left the queue.
			// Connections wait in the kernel while this pauses.
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			l.settings.Load().meter.Unaccepted()
			if n := trouble.due(time.Now()); n > 0 {
				l.o.Log.Warn("connections cannot be accepted, they wait", "listener", l.name(), "error", err, "attempts", n)
			}
			l.pause(pause)
		}
	}
}

// complaint keeps what goes wrong again and again from filling the log.
type complaint struct {
	last time.Time // when it was told
	n    int       // how often it happened since
}

// complaints is how long nothing more is said of a trouble that was told.
const complaints = time.Minute

// due notes that it happened, and returns how often since it was last told, 0
// when it is not to be told again yet.
func (c *complaint) due(now time.Time) (n int) {
	c.n++
	if !c.last.IsZero() && now.Sub(c.last) < complaints {
		return 0
	}
	n = c.n
	*c = complaint{last: now}
	return n
}

// vacancy waits until the listener may have one more connection. It reports
// false when it is closed and may not.
func (l *listener) vacancy() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for {
		most := l.settings.Load().cfg.Limits.Connections
		if most == 0 || l.total < most {
			return true
		}
		if l.closed {
			return false
		}
		l.room.Wait()
	}
}

func (l *listener) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}

// pause waits for a while, or until a connection ends or the listener closes.
func (l *listener) pause(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := time.AfterFunc(d, l.call)
	defer t.Stop()
	if !l.closed {
		l.room.Wait()
	}
}

// call wakes everybody who waits for a connection to end.
func (l *listener) call() {
	l.mu.Lock()
	l.room.Broadcast()
	l.mu.Unlock()
}

// start has one connection served.
func (l *listener) start(nc net.Conn) {
	l.mu.Lock()
	s := l.settings.Load()
	l.engines[s.engine]++
	l.total++
	l.mu.Unlock()
	client := l.client(nc, s.cfg)
	s.meter.Opened(client.Shard)
	ended := func() { l.end(s, client.Shard) }
	if s.cfg.ProxyProtocol {
		go l.introduce(s, nc, client, ended)
		return
	}
	s.engine.start(nc, client, ended)
}

func (l *listener) end(s *settings, shard uint32) {
	s.meter.Closed(shard)
	l.mu.Lock()
	if l.engines[s.engine]--; l.engines[s.engine] == 0 {
		delete(l.engines, s.engine)
	}
	l.total--
	l.room.Broadcast()
	l.mu.Unlock()
}

// client describes the other end of a connection.
func (l *listener) client(nc net.Conn, cfg *config.Listener) *exchange.Client {
	c := l.describe(nc.RemoteAddr(), nc.LocalAddr(), cfg)
	if cfg.Speaks("http3") {
		c.AltSvc = `h3=":` + l.port + `"; ma=86400`
	}
	return c
}

// describe describes the client at the other end of two addresses.
func (l *listener) describe(remote, local net.Addr, cfg *config.Listener) *exchange.Client {
	c := &exchange.Client{Listener: cfg.Name, Port: l.port, Shard: l.serial.Add(1), Proved: new(exchange.Proved), Proxies: cfg.TrustedProxies}
	if c.Peer = addrPort(remote); c.Peer.IsValid() {
		c.Addr, c.Local = c.Peer, addrPort(local)
		l.known(c, cfg.TrustedProxies)
	} else {
		// Whoever may open a unix socket is on this machine and was let in by
		// the file's permissions.
		c.Trusted = true
	}
	return c
}

// addrPort returns an address of the internet, or the zero AddrPort.
func addrPort(a net.Addr) netip.AddrPort {
	var ap netip.AddrPort
	switch a := a.(type) {
	case *net.TCPAddr:
		ap = a.AddrPort()
	case *net.UDPAddr:
		ap = a.AddrPort()
	}
	if !ap.IsValid() {
		return ap
	}
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

func (l *listener) name() string {
	if s := l.settings.Load(); s != nil {
		return s.cfg.Name
	}
	return l.ln.Addr().String()
}

func (l *listener) address() string {
	if a, ok := l.ln.Addr().(*net.UnixAddr); ok {
		return "unix:" + a.Name
	}
	return l.ln.Addr().String()
}

func (l *listener) connections() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}

// backlog is how long the kernel's queue is emptied when a listener closes.
const backlog = 20 * time.Millisecond

// close stops accepting. Running connections are not touched.
func (l *listener) close() {
	l.mu.Lock()
	serving := l.serving
	l.closed = true
	l.room.Broadcast()
	if l.quic != nil {
		l.quic.close()
	}
	l.mu.Unlock()
	// What can fail is setting a deadline on a socket that is closed already.
	if d, ok := l.ln.(interface{ SetDeadline(time.Time) error }); ok && serving {
		_ = d.SetDeadline(time.Now().Add(backlog))
		return
	}
	_ = l.ln.Close()
}

// drain asks the engines of all connections to end them when idle. The
// listener is closed.
func (l *listener) drain() {
	l.mu.Lock()
	serving := l.serving
	l.mu.Unlock()
	if serving {
		<-l.accepted
	}
	for _, e := range l.running() {
		e.drain()
	}
	for _, h := range l.running3() {
		h.drain()
	}
}

func (l *listener) running() []engine {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := make([]engine, 0, len(l.engines)+1)
	for e := range l.engines {
		out = append(out, e)
	}
	return out
}

// cutTime is how long connections that were cut may take to end. Their
// exchanges are cancelled; what they run may not look at once.
const cutTime = time.Second

// wait returns when no connection is left. When ctx ends first it cuts the
// rest and returns how many there were.
func (l *listener) wait(ctx context.Context) (cut int) {
	if cut = l.remaining(ctx); cut == 0 {
		return 0
	}
	l.mu.Lock()
	for nc := range l.strangers {
		_ = nc.Close() // who reads from it closes it again
	}
	l.mu.Unlock()
	for _, e := range l.running() {
		e.cut()
	}
	for _, h := range l.running3() {
		h.cut()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cutTime)
	defer cancel()
	l.remaining(ctx)
	return cut
}

// remaining waits until no connection is left or ctx ends, and returns how many
// are.
func (l *listener) remaining(ctx context.Context) int {
	defer context.AfterFunc(ctx, l.call)()
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.total > 0 && ctx.Err() == nil {
		l.room.Wait()
	}
	return l.total
}
