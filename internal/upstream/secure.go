package upstream

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

// sessions is how many TLS sessions are kept for resumption.
const sessions = 128

// clientTLS returns how secure connections to an upstream are made. Without
// settings the system's authorities count. The files are nil when there are
// none to follow.
func clientTLS(c *config.UpstreamTLS) (*tls.Config, *files, error) {
	out := &tls.Config{
		MinVersion: tls.VersionTLS12,
		// Shared by all endpoints: sessions are kept by the name of the server.
		ClientSessionCache: tls.NewLRUClientSessionCache(sessions),
	}
	if c == nil {
		return out, nil, nil
	}
	out.ServerName = c.ServerName
	out.InsecureSkipVerify = !c.Verify // the setting says what that means, and a check warns
	f := &files{settings: c, cache: out.ClientSessionCache}
	if err := f.load(); err != nil {
		return nil, nil, err
	}
	out.RootCAs, out.Certificates = f.roots, f.certs
	if c.CAFile == "" && c.CertFile == "" {
		return out, nil, nil
	}
	return out, f, nil
}

// files are the authorities and the certificate of an upstream. They are looked
// at whenever a connection is secured, and read again when they have changed.
// What cannot be used leaves those in place that were read before.
type files struct {
	settings *config.UpstreamTLS

	mu    sync.Mutex
	roots *x509.CertPool
	certs []tls.Certificate
	cache tls.ClientSessionCache // sessions agreed on with these

	seen   []os.FileInfo // at the last look, nil for what could not be looked at
	looked time.Time
	sum    [sha256.Size]byte // of what was read last
}

// racy is how long after a change a file may change again without a sign of it
// in its time.
const racy = 2 * time.Second

// apply puts the files' content as it is now into the settings of a connection.
func (f *files) apply(to *tls.Config, log *slog.Logger, upstream string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.changed() {
		if err := f.load(); err != nil {
			log.Warn("files of tls of an upstream have changed and cannot be used, the old ones stay in use", "upstream", upstream, "error", err)
		}
	}
	to.RootCAs, to.Certificates, to.ClientSessionCache = f.roots, f.certs, f.cache
}

func (f *files) names() (names []string) {
	for _, name := range []string{f.settings.CAFile, f.settings.CertFile, f.settings.KeyFile} {
		if name != "" {
			names = append(names, name)
		}
	}
	return names
}

// changed takes a look at the files, and reports whether they may have changed.
func (f *files) changed() bool {
	same := f.seen != nil
	now := time.Now()
	var seen []os.FileInfo
	for i, name := range f.names() {
		info, err := os.Stat(name)
		if err != nil {
			info = nil // reading says why
		}
		seen = append(seen, info)
		if same {
			old := f.seen[i]
			same = (old == nil) == (info == nil) && (info == nil || os.SameFile(old, info) && old.Size() == info.Size() &&
				old.ModTime().Equal(info.ModTime()) && f.looked.Sub(info.ModTime()) > racy)
		}
	}
	f.seen, f.looked = seen, now
	return !same
}

// load reads the files. After an error nothing has changed, and the same
// content is no error again.
func (f *files) load() error {
	data := make(map[string][]byte)
	h := sha256.New()
	var failed error
	for _, name := range f.names() {
		b, err := config.ReadFile(name, maxFile)
		if err != nil {
			failed = err
			b = []byte(err.Error())
		}
		data[name] = b
		fmt.Fprintf(h, "%d ", len(b))
		h.Write(b)
	}
	sum := [sha256.Size]byte(h.Sum(nil))
	if sum == f.sum {
		return nil
	}
	f.sum = sum
	if failed != nil {
		return failed
	}
	c, roots, certs := f.settings, (*x509.CertPool)(nil), []tls.Certificate(nil)
	if c.CAFile != "" {
		if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(data[c.CAFile]) {
			return fmt.Errorf("authorities file %q holds no certificate in PEM", c.CAFile)
		}
	}
	if c.CertFile != "" {
		cert, err := tls.X509KeyPair(data[c.CertFile], data[c.KeyFile])
		if err != nil {
			return fmt.Errorf("certificate %q with key %q: %w", c.CertFile, c.KeyFile, err)
		}
		certs = []tls.Certificate{cert}
	}
	f.roots, f.certs = roots, certs
	// Sessions would go on with what was agreed on before.
	f.cache = tls.NewLRUClientSessionCache(sessions)
	return nil
}

// current returns how a connection is secured by an offer with what the files
// hold now.
func (e *endpoint) current(offer *tls.Config) *tls.Config {
	if e.u.files == nil {
		return offer
	}
	c := offer.Clone()
	e.u.files.apply(c, e.u.log, e.u.name)
	return c
}

// maxFile bounds files that the settings name.
const maxFile = 4 << 20

// What ALPN calls the protocols (RFC 7301, section 6).
const (
	alpnHTTP1 = "http/1.1"
	alpnHTTP2 = "h2"
)

// offer returns the settings of TLS for what one connection may speak, nil
// without TLS.
func (e *endpoint) offer(protocols ...string) *tls.Config {
	if !e.scheme.secure() {
		return nil
	}
	c := e.u.tls.Clone()
	if c.ServerName == "" {
		c.ServerName = hostOnly(e.host)
	}
	c.NextProtos = protocols
	return c
}

var errNotAgreed = errors.New("the endpoint did not agree to HTTP/2")

// secure runs TLS over a new connection. The handshake may take what is left
// of the time to connect.
func (e *endpoint) secure(ctx context.Context, x *exchange.Exchange, wc *wire.Conn, cfg *tls.Config) (agreed string, err error) {
	if err := x.Bind(wc); err != nil {
		return "", err
	}
	wc.SetLimit(e.u.pool.ConnectTimeout.D())
	wc.SetTimeout(e.u.pool.ConnectTimeout.D())
	tc := tls.Client(wc.Socket(), e.current(cfg))
	// Deadlines of the socket have no effect, so the context cannot end it:
	// the connection's own limit does, and who cancels interrupts it.
	if err := tc.HandshakeContext(context.WithoutCancel(ctx)); err != nil {
		return "", &handshakeError{err}
	}
	agreed = tc.ConnectionState().NegotiatedProtocol
	if e.scheme == secureHTTP2 && cfg == e.tls && agreed != alpnHTTP2 {
		return "", &handshakeError{errNotAgreed}
	}
	wc.SetLimit(0)
	wc.SetTimeout(0)
	wc.Secure(tc)
	return agreed, nil
}

// tlsFailed tells errors of a handshake from those of the network below it.
func tlsFailed(err error) bool {
	var h *handshakeError
	return errors.As(err, &h) && !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.EPIPE)
}

// handshakeError is why TLS could not be agreed upon.
type handshakeError struct{ err error }

func (e *handshakeError) Error() string { return "tls handshake: " + e.err.Error() }

// Unwrap returns the cause.
func (e *handshakeError) Unwrap() error { return e.err }

// hostOnly returns the host of host:port.
func hostOnly(hostport string) string {
	if host, _, err := net.SplitHostPort(hostport); err == nil {
		return host
	}
	if n := len(hostport); n > 1 && hostport[0] == '[' {
		return hostport[1 : n-1]
	}
	return hostport
}
