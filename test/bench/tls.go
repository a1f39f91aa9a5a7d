//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// writeCertificate makes a certificate with a key for ECDSA over P-256 and puts
// both into one file, which is what HAProxy wants and the others take.
func writeCertificate(dir string) (string, error) {
	name := filepath.Join(dir, "site.pem")
	text, err := newCertificate()
	if err == nil {
		err = os.WriteFile(name, text, 0o600)
	}
	if err != nil {
		return "", fmt.Errorf("making a certificate: %w", err)
	}
	return name, nil
}

func newCertificate() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	cert := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: siteName}, DNSNames: []string{siteName},
		NotBefore: now.Add(-time.Hour), NotAfter: now.Add(30 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		return nil, err
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret})...), nil
}

// siteName is the host that all requests are for.
const siteName = "shop.example.com"

// clientTLS is how the loads speak TLS: as all of the proxies can, never
// resuming a session, and without a look at who the other end is.
func clientTLS() *tls.Config {
	return &tls.Config{
		ServerName: siteName, MinVersion: tls.VersionTLS13,
		InsecureSkipVerify:     true, //nolint:gosec // only the proxy's work is of interest
		SessionTicketsDisabled: true,
		CurvePreferences:       []tls.CurveID{tls.X25519},
	}
}

// dial connects to a proxy, over TLS when the site has that.
func (s site) dial(ctx context.Context, d net.Dialer) (net.Conn, error) {
	if s.TLS {
		return (&tls.Dialer{NetDialer: &d, Config: clientTLS()}).DialContext(ctx, "tcp", s.Address)
	}
	return d.DialContext(ctx, "tcp", s.Address)
}

// handshakes makes a new TLS connection with a whole handshake for each
// request. wrk would resume sessions.
type handshakes struct {
	connections int // at once
}

func (h handshakes) run(ctx context.Context, address string, d time.Duration) (result, error) {
	var (
		mu     sync.Mutex
		wg     sync.WaitGroup
		total  result
		times  []time.Duration
		start  = time.Now()
		reason error
	)
	for range h.connections {
		wg.Go(func() {
			buf := make([]byte, 8<<10)
			for ctx.Err() == nil && time.Since(start) < d {
				begun := time.Now()
				err := shakeOnce(ctx, site{Address: address, TLS: true}, buf)
				took := time.Since(begun)
				mu.Lock()
				if err != nil {
					total.failed++
					reason = err
				} else {
					total.requests++
					times = append(times, took)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	total.elapsed = time.Since(start)
	total.latency = latencyOf(times)
	if total.requests == 0 {
		return total, fmt.Errorf("making TLS connections: %w", errors.Join(reason, context.Cause(ctx)))
	}
	return total, nil
}

// shakeOnce makes one connection, asks for one answer and waits for the end.
func shakeOnce(ctx context.Context, s site, buf []byte) error {
	c, err := s.dial(ctx, net.Dialer{Timeout: 10 * time.Second})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if t, ok := c.(*tls.Conn); ok && t.ConnectionState().DidResume {
		return errors.New("a session was resumed")
	}
	head := bytes.TrimSuffix(requestHead("/", -1), []byte("\r\n"))
	if _, err := c.Write(append(head, "Connection: close\r\n\r\n"...)); err != nil {
		return err
	}
	n, err := io.ReadFull(c, buf)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if a, size, ok := parseAnswer(buf[:n]); !ok || a.status != 200 || a.length != int64(n-size) {
		return fmt.Errorf("unexpected answer: %.300q", buf[:n])
	}
	return nil
}

// secured is HTTP/1.1 over TLS.
func secured(ctx context.Context, b *bench) (*table, error) {
	w := b.fast("/")
	w.secure = true
	rows, err := b.hold(ctx, contest{b.subjects(site{TLS: true}), w, b.few()})
	if err != nil {
		return nil, err
	}
	return newTable(rows, []metric{cpuPerRequest, rate, p50, p99, rss, peak, busy}, rivals()), nil
}

// multiplexed is HTTP/2 over TLS.
func multiplexed(ctx context.Context, b *bench) (*table, error) {
	l := h2load{connections: 8, streams: 10, scheme: "https", path: "/", threads: b.opts.cores, dir: b.dir}
	rows, err := b.hold(ctx, contest{b.speakHTTP2(site{TLS: true}), l, b.opts.rounds})
	if err != nil {
		return nil, err
	}
	return newTable(rows, []metric{cpuPerRequest, rate, p50, p99, rss, peak, busy}, rivals(),
		budget{Subject: "gatehouse", Metric: cpuPerRequest, Against: "haproxy", AtMost: 1.2}), nil
}

// speakHTTP2 returns the chosen products that do.
func (b *bench) speakHTTP2(s site) []subject {
	var all []subject
	for _, s := range b.subjects(s) {
		if s.label != "gatehouse-std" {
			all = append(all, s)
		}
	}
	return all
}

func shaking(ctx context.Context, b *bench) (*table, error) {
	rows, err := b.hold(ctx, contest{b.subjects(site{TLS: true}), handshakes{16}, b.few()})
	if err != nil {
		return nil, err
	}
	return newTable(rows, []metric{perCore, cpuPerRequest, rate, p50, p99, rss, peak, busy}, rivals(),
		budget{Subject: "gatehouse", Metric: perCore, Against: "nginx", AtLeast: 0.8}), nil
}
