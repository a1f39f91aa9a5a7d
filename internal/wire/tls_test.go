package wire

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
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
