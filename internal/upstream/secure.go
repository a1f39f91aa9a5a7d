package upstream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

// sessions is how many TLS sessions are kept for resumption.
const sessions = 128

// clientTLS returns how secure connections to an upstream are made. Without
// settings the system's authorities count.
func clientTLS(c *config.UpstreamTLS) (*tls.Config, error) {
	out := &tls.Config{
		MinVersion: tls.VersionTLS12,
		// Shared by all endpoints: sessions are kept by the name of the server.
		ClientSessionCache: tls.NewLRUClientSessionCache(sessions),
	}
	if c == nil {
		return out, nil
	}
	out.ServerName = c.ServerName
	out.InsecureSkipVerify = !c.Verify // the setting says what that means, and a check warns
	if c.CAFile != "" {
		pem, err := readFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("read authorities: %w", err)
		}
		out.RootCAs = x509.NewCertPool()
		if !out.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("authorities file %q holds no certificate in PEM", c.CAFile)
		}
	}
	if c.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("certificate %q with key %q: %w", c.CertFile, c.KeyFile, err)
		}
		out.Certificates = []tls.Certificate{cert}
	}
	return out, nil
}

// maxFile bounds files that the settings name.
const maxFile = 4 << 20

func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err == nil && len(b) > maxFile {
		err = fmt.Errorf("file %q is larger than %d bytes", name, maxFile)
	}
	return b, err
}

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
	tc := tls.Client(wc.Socket(), cfg)
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
