package front

import (
	"context"
	"crypto/tls"
	"errors"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"gatehouse.dev/gatehouse/internal/certs"
	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1"
	"gatehouse.dev/gatehouse/internal/observe"
)

// h3 is the engine for HTTP/3: a UDP socket beside the listener's TCP one. It
// is built on the QUIC of quic-go and on the adapter for http.ResponseWriter;
// the rules for fields are those of HTTP/2. A connection has a server of its
// own, as with the std engine.
type h3 struct {
	l         *listener
	transport *quic.Transport
	accepting *quic.EarlyListener
	now       atomic.Pointer[h3settings]
	ctx       context.Context // ends when connections are cut
	cancel    context.CancelFunc
	open      atomic.Int64 // connections, those in their handshake too
	begun     atomic.Int64 // those of them that are served

	mu       sync.Mutex
	draining bool
	conns    map[*h3conn]struct{}
	over     sync.WaitGroup // connections and the goroutine that accepts
}

// h3settings is what connections are accepted with; limits hold for running
// ones too.
type h3settings struct {
	cfg    *config.Listener
	set    *certs.Set
	meter  *observe.Listener
	limits *h1.Limits
}

const (
	// Windows are small, for a body that nobody reads fills them.
	h3StreamWindow = 64 << 10
	h3StreamMost   = 128 << 10
	h3ConnWindow   = 256 << 10
	h3ConnMost     = 1 << 20
	// h3Wary is how many handshakes run before clients have to show that they
	// are where they say, by a Retry (RFC 9000, section 8.1.2): who forges
	// addresses could else have any number begun. h3Young is how many run.
	h3Wary  = 100
	h3Young = 1000
	// h3Farewell is how long a client has to hear that its connection ends.
	h3Farewell = 250 * time.Millisecond
)

// h3settingsOf is what a configuration means to the engine.
func h3settingsOf(cfg *config.Listener, set *certs.Set, m *observe.Metrics) *h3settings {
	return &h3settings{cfg, set, m.Listener(cfg.Name), engineLimits(cfg.Limits)}
}

// openH3 opens a UDP socket at the address of a listener's TCP one. Nothing is
// accepted before serve.
func openH3(l *listener, s *h3settings) (*h3, error) {
	a, ok := l.ln.Addr().(*net.TCPAddr)
	if !ok {
		return nil, errors.New("http3 needs an address with a port")
	}
	pc, err := net.ListenUDP("udp", &net.UDPAddr{IP: a.IP, Port: a.Port, Zone: a.Zone})
	if err != nil {
		return nil, err
	}
	return newH3(l, pc, s)
}

// newH3 takes over a UDP socket.
func newH3(l *listener, pc *net.UDPConn, s *h3settings) (*h3, error) {
	h := &h3{l: l, transport: &quic.Transport{Conn: pc}, conns: make(map[*h3conn]struct{})}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.now.Store(s)
	h.transport.ConnContext = func(ctx context.Context, _ *quic.ClientInfo) (context.Context, error) {
		young := h.young()
		if young >= h3Young || !l.room3(young) {
			return nil, errFull
		}
		h.open.Add(1)
		context.AfterFunc(ctx, func() { h.open.Add(-1) })
		return ctx, nil
	}
	h.transport.VerifySourceAddress = func(net.Addr) bool { return h.young() >= h3Wary }
	var err error
	h.accepting, err = h.transport.ListenEarly(&tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: []string{http3.NextProtoH3},
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			return h.now.Load().set.QUIC().GetConfigForClient(hello)
		},
		GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			return h.now.Load().set.QUIC().GetCertificate(hello)
		},
	}, &quic.Config{GetConfigForClient: func(*quic.ClientInfo) (*quic.Config, error) { return h.now.Load().quic(), nil }})
	if err != nil {
		h.cancel()
		return nil, errors.Join(err, h.transport.Close(), pc.Close())
	}
	return h, nil
}

// young returns how many connections are in their handshake.
func (h *h3) young() int { return int(max(h.open.Load()-h.begun.Load(), 0)) }

var errFull = errors.New("the listener has as many connections as it may have")

// quic is the settings of one connection.
func (s *h3settings) quic() *quic.Config {
	idle := s.limits.IdleTimeout
	return &quic.Config{
		// A handshake may take twice as long in all.
		HandshakeIdleTimeout: s.set.HandshakeTimeout() / 2,
		// This is about packets. They are exchanged while requests run, however
		// little these have to say; rest ends connections that have none.
		MaxIdleTimeout:  idle,
		KeepAlivePeriod: idle / 3,

		InitialStreamReceiveWindow: h3StreamWindow, MaxStreamReceiveWindow: h3StreamMost,
		InitialConnectionReceiveWindow: h3ConnWindow, MaxConnectionReceiveWindow: h3ConnMost,
		MaxIncomingStreams: int64(s.cfg.Limits.Streams), MaxIncomingUniStreams: 8,
		Allow0RTT: s.cfg.TLS.EarlyData,
	}
}

// serve accepts connections until the listener is closed.
func (h *h3) serve() {
	h.over.Go(func() {
		for {
			conn, err := h.accepting.Accept(context.Background())
			if err != nil {
				return // it was closed
			}
			h.over.Go(func() { h.connection(conn) })
		}
	})
}

// configure gives the engine new settings. Unless they are the same in what a
// connection began with, running ones end as soon as they have nothing in
// flight.
func (h *h3) configure(s *h3settings, same bool) {
	h.now.Store(s)
	if same {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for k := range h.conns {
		k.drain()
	}
}

// connection serves one connection until it has ended.
func (h *h3) connection(conn *quic.Conn) {
	s := h.now.Load()
	if !s.cfg.TLS.EarlyData {
		select {
		case <-conn.HandshakeComplete():
		case <-conn.Context().Done():
			return
		}
	}
	k := &h3conn{h: h, conn: conn, client: h.l.describe(conn.RemoteAddr(), conn.LocalAddr(), s.cfg)}
	// What is not much too large is refused by us: http3 tells nobody.
	k.server = &http3.Server{Handler: k, MaxHeaderBytes: 2 * s.limits.HeaderBytes}
	k.rest()
	defer k.rested.Stop()
	h.l.begin3()
	defer h.l.end3()
	h.begun.Add(1)
	context.AfterFunc(conn.Context(), func() { h.begun.Add(-1) })
	s.meter.Opened(k.client.Shard)
	defer s.meter.Closed(k.client.Shard)
	h.mu.Lock()
	h.conns[k] = struct{}{}
	late := h.draining
	h.mu.Unlock()
	if late {
		k.drain()
	}
	// The reason why a connection ended is its client's business.
	_ = k.server.ServeQUICConn(conn)
	k.end() // it was not served when draining had begun
	h.mu.Lock()
	delete(h.conns, k)
	h.mu.Unlock()
}

// close stops accepting. Running connections are not touched.
func (h *h3) close() {
	// It is asked once, and what it does cannot fail.
	_ = h.accepting.Close()
}

// drain lets connections end as soon as they have nothing in flight, and then
// closes the socket.
func (h *h3) drain() {
	h.mu.Lock()
	again := h.draining
	h.draining = true
	for k := range h.conns {
		k.drain()
	}
	h.mu.Unlock()
	if again {
		return
	}
	go func() {
		h.over.Wait()
		h.cancel()
		_ = h.transport.Close()
		_ = h.transport.Conn.Close()
		h.l.mu.Lock()
		delete(h.l.quics, h)
		h.l.room.Broadcast()
		h.l.mu.Unlock()
	}()
}

// cut ends all connections at once.
func (h *h3) cut() {
	h.cancel()
	h.mu.Lock()
	defer h.mu.Unlock()
	for k := range h.conns {
		k.end()
	}
}

// h3conn is one connection of HTTP/3.
type h3conn struct {
	h      *h3
	conn   *quic.Conn
	client *exchange.Client
	server *http3.Server
	once   sync.Once // of draining

	rested *time.Timer // ends the connection when no request has run for the idle time

	mu      sync.Mutex
	facts   *exchange.Client // with what is known of TLS once the handshake is complete
	running int
	served  int
	quiet   int64 // since when no request runs
	drained bool
}

// rest begins the idle time. It is about requests: http3 has an idle time of
// its own, which a stream prevents whose head never comes.
func (k *h3conn) rest() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.quiet = exchange.Now()
	if d := k.h.now.Load().limits.IdleTimeout; k.rested == nil {
		k.rested = time.AfterFunc(d, k.look)
	} else {
		k.rested.Reset(d)
	}
}

// look ends the connection when the idle time has passed.
func (k *h3conn) look() {
	k.mu.Lock()
	left := k.h.now.Load().limits.IdleTimeout - time.Duration(exchange.Now()-k.quiet)
	idle := k.running == 0
	if idle && left > 0 {
		k.rested.Reset(left) // the limit was raised, or a request ran since
	}
	k.mu.Unlock()
	if idle && left <= 0 {
		k.end()
	}
}

// drain sends GOAWAY (RFC 9114, section 5.2), and ends the connection when its
// requests have been answered.
func (k *h3conn) drain() {
	k.once.Do(func() {
		k.mu.Lock()
		k.drained = true
		idle := k.running == 0
		k.mu.Unlock()
		k.h.over.Go(func() {
			// It returns when the connection has ended, or must.
			_ = k.server.Shutdown(k.h.ctx)
		})
		if idle {
			k.farewell()
		}
	})
}

// farewell ends a connection that has nothing in flight, once its client can
// have heard that no request is taken any more.
func (k *h3conn) farewell() {
	t := time.AfterFunc(h3Farewell, k.end)
	context.AfterFunc(k.conn.Context(), func() { t.Stop() })
}

func (k *h3conn) end() {
	_ = k.conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
}

// enter counts a request that begins, and returns what is known of its client.
// early says that whoever sent it may be repeating what another has sent (RFC
// 8470).
func (k *h3conn) enter() (c *exchange.Client, early bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.running++
	if k.served++; k.facts != nil {
		return k.facts, false
	}
	select {
	case <-k.conn.HandshakeComplete():
	default:
		early = true
	}
	state := k.conn.ConnectionState().TLS
	set := *k.client
	set.TLS, set.ForwardCert = certs.Facts(&state), k.h.now.Load().set.ForwardsClientCert()
	if !early {
		k.facts = &set
	}
	return &set, early
}

func (k *h3conn) leave() {
	most := k.h.now.Load().limits.RequestsPerConn
	k.mu.Lock()
	k.running--
	over, last := most > 0 && k.served >= most, k.running == 0
	idle := last && k.drained
	k.mu.Unlock()
	if last {
		k.rest()
	}
	switch {
	case idle:
		k.farewell()
	case over:
		k.drain()
	}
}

func (k *h3conn) isDraining() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.drained
}

var _ http.Handler = (*h3conn)(nil)

// configureQUIC begins, changes or ends HTTP/3 on a listener. The caller has
// l.mu.
func (l *listener) configureQUIC(cfg *config.Listener, set *certs.Set, fresh *h3, same bool) {
	switch speaks := cfg.Speaks("http3"); {
	case fresh != nil:
		l.quic = fresh
		l.quics[fresh] = struct{}{}
		fresh.serve()
	case speaks && l.quic != nil:
		l.quic.configure(h3settingsOf(cfg, set, l.o.Metrics), same)
	case l.quic != nil:
		l.quic.close()
		l.quic.drain()
		l.quic = nil
	}
}

// room3 tells whether the listener may have one more connection beside those
// that are in their handshake.
func (l *listener) room3(young int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	most := l.settings.Load().cfg.Limits.Connections
	return !l.closed && (most == 0 || l.total+young < most)
}

func (l *listener) begin3() {
	l.mu.Lock()
	l.total++
	l.mu.Unlock()
}

func (l *listener) end3() {
	l.mu.Lock()
	l.total--
	l.room.Broadcast()
	l.mu.Unlock()
}

func (l *listener) running3() []*h3 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.quics))
}
