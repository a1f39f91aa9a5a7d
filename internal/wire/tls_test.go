package wire

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"testing"
	"time"
)

func selfSigned(t *testing.T) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// TLS reads and writes through Socket, and is waited for without a buffer: what
// it holds back must come out all the same.
func TestTLS(t *testing.T) {
	a, b := pairs["tcp"](t, sweeper(t))
	a.Secure(tls.Client(a.Socket(), &tls.Config{InsecureSkipVerify: true}))
	b.Secure(tls.Server(b.Socket(), &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}))
	sent := noise(1 << 20)
	go func() {
		// Records of all sizes, the smallest of one byte.
		rest := sent
		for n := 1; len(rest) > 0; n = n*3 + 1 {
			k := min(n, len(rest))
			if err := a.Writev(rest[:k/2], rest[k/2:k/2], rest[k/2:k]); err != nil {
				t.Error(err)
			}
			rest = rest[k:]
		}
		if err := a.CloseWrite(); err != nil {
			t.Error(err)
		}
	}()
	var got []byte
	pieces := 0
	err := b.Each(func(buf *Buffer, n int) bool {
		got = append(got, buf.B[:n]...)
		buf.Put()
		pieces++
		return true
	})
	if err != io.EOF || !bytes.Equal(got, sent) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	if pieces > 200 {
		t.Errorf("%d bytes came in %d pieces", len(got), pieces)
	}
}

// A wait that ends without bytes, because of the time or of somebody, can be
// begun again, also in the middle of a record.
func TestTLSWaitsAgain(t *testing.T) {
	a, b := pairs["tcp"](t, sweeper(t))
	var record bytes.Buffer // takes what the client writes after its handshake
	client := tls.Client(&tapped{Conn: a.Socket(), tap: &record}, &tls.Config{InsecureSkipVerify: true})
	server := tls.Server(b.Socket(), &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}})
	shaken := make(chan error, 1)
	go func() { shaken <- client.Handshake() }()
	if err := errors.Join(server.Handshake(), <-shaken); err != nil {
		t.Fatal(err)
	}
	b.Secure(server)
	record.Reset()
	client.NetConn().(*tapped).held = true
	if _, err := client.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	wait := func(want error) {
		t.Helper()
		if err := b.WaitReadable(); !errors.Is(err, want) {
			t.Fatalf("waiting ended with %v, not with %v", err, want)
		}
	}
	b.SetTimeout(Tick)
	wait(ErrTimeout)
	if _, err := a.Write(record.Next(7)); err != nil {
		t.Fatal(err)
	}
	b.SetTimeout(Tick)
	wait(ErrTimeout)
	b.SetTimeout(0)
	b.Interrupt()
	wait(ErrInterrupted)
	b.Resume()
	if _, err := a.Write(record.Bytes()); err != nil {
		t.Fatal(err)
	}
	buf, n, err := b.ReadBuffer()
	if err != nil || string(buf.B[:n]) != "hello" {
		t.Fatalf("then there came %v", err)
	}
	buf.Put()
}

// tapped keeps what is written, and may hold it back.
type tapped struct {
	net.Conn
	tap  *bytes.Buffer
	held bool
}

func (c *tapped) Write(p []byte) (int, error) {
	c.tap.Write(p)
	if c.held {
		return len(p), nil
	}
	return c.Conn.Write(p)
}
