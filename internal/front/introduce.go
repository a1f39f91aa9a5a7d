package front

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/proxyproto"
)

// introduce reads the PROXY header that a connection begins with, takes the
// client from it, and has the connection served. Whoever is not trusted, sends
// something else, or takes too long is disconnected without a word: there is no
// protocol yet to say it in.
func (l *listener) introduce(s *settings, nc net.Conn, client *exchange.Client, ended func()) {
	l.mu.Lock()
	l.strangers[nc] = struct{}{}
	l.mu.Unlock()
	h, err := l.header(s, nc, client)
	l.mu.Lock()
	delete(l.strangers, nc)
	l.mu.Unlock()
	if err != nil {
		s.meter.Failed(client.Shard)
		l.o.Log.Debug("a connection was closed for its PROXY header", "listener", s.cfg.Name, "peer", client.IP, "error", err)
		_ = nc.Close() // nothing was sent on it
		ended()
		return
	}
	if h.Source.IsValid() {
		client.Addr, client.Peer, client.Local = h.Source, h.Source, h.Destination
		client.Port = strconv.Itoa(int(h.Destination.Port()))
		l.known(client, s.cfg.TrustedProxies)
	}
	s.engine.start(nc, client, ended)
}

// header reads a PROXY header and not a byte more.
func (l *listener) header(s *settings, nc net.Conn, client *exchange.Client) (h proxyproto.Header, err error) {
	if !client.Trusted {
		return h, fmt.Errorf("%s is not among the trusted proxies", client.IP)
	}
	if d := s.cfg.Limits.HeaderTimeout.D(); d > 0 {
		if err := nc.SetReadDeadline(time.Now().Add(d)); err != nil {
			return h, err
		}
	}
	var b [proxyproto.MaxSize]byte
	for n := 0; ; {
		h, size, more, err := proxyproto.Parse(b[:n])
		switch {
		case err != nil:
			return h, err
		case size > 0:
			return h, nc.SetReadDeadline(time.Time{})
		}
		more, err = nc.Read(b[n : n+more])
		if n += more; err != nil {
			return h, err
		}
	}
}

// known completes what is known of a client whose address is.
func (l *listener) known(c *exchange.Client, proxies []netip.Prefix) {
	bare := c.Addr.Addr().WithZone("") // no prefix contains an address with a zone
	c.IP = bare.String()
	c.Trusted = slices.ContainsFunc(proxies, func(p netip.Prefix) bool { return p.Contains(bare) })
}
