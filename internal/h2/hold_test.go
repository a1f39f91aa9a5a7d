package h2

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/wire"
)

// TestStalledReaderHolds sends as much as it may to a handler that has been
// quick and then stalls.
func TestStalledReaderHolds(t *testing.T) {
	let, stalls := make(chan bool), make(chan bool)
	l := tableLimits()
	l.Body = 0
	r := newRig(t, l, func(x *exchange.Exchange) {
		for x.Request.Received < 4<<20 {
			if _, err := x.Request.Body.Next(); err != nil {
				t.Error(err)
				break
			}
		}
		close(stalls)
		<-let
		x.Down.Abort()
	})
	c := plainClient(t)
	pr, pw := io.Pipe()
	defer pw.Close()
	go func() {
		b := make([]byte, 1<<20)
		for {
			if _, err := pw.Write(b); err != nil {
				return
			}
		}
	}()
	done := make(chan bool)
	go func() {
		defer close(done)
		if res, err := c.Post("http://"+r.address+"/", "", pr); err == nil {
			res.Body.Close()
		}
	}()
	<-stalls // while it is quick the window may be used up for a moment
	held, window := -1, -1
	for window != 0 {
		r.s.mu.Lock()
		for k := range r.s.conns {
			k.mu.Lock()
			for _, s := range k.streams {
				held, window = len(s.in)*wire.BufferSize, s.window
				if s.taken != nil {
					held += wire.BufferSize
				}
			}
			k.mu.Unlock()
		}
		r.s.mu.Unlock()
		runtime.Gosched()
	}
	if held > 128<<10 || held < 64<<10 {
		t.Errorf("%d bytes are held", held)
	}
	close(let)
	<-done
}

func selfSigned(t testing.TB) tls.Certificate {
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

// secure serves over TLS.
func secure(t testing.TB, s *Server) (address string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	config := &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}, NextProtos: []string{"h2"}}
	sweeper := wire.NewSweeper()
	accepting := make(chan struct{})
	conns := make(chan bool, 1000)
	opened := 0
	go func() {
		defer close(accepting)
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			opened++
			c := wire.New(nc, sweeper)
			c.Secure(tls.Server(c.Socket(), config))
			s.Start(c, &exchange.Client{IP: "127.0.0.1", TLS: &exchange.TLS{}}, func() { conns <- true })
		}
	}()
	t.Cleanup(func() {
		ln.Close()
		<-accepting
		s.Cut()
		for range opened {
			<-conns
		}
		sweeper.Close()
	})
	return ln.Addr().String()
}

func TestTLS(t *testing.T) {
	s := &Server{Handler: func(x *exchange.Exchange) {
		if x.Request.Scheme != "https" {
			t.Error(x.Request.Scheme)
		}
		echo(x)
	}}
	l := tableLimits()
	l.Body = 0
	s.Limits.Store(l)
	address := secure(t, s)
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, ForceAttemptHTTP2: true}
	t.Cleanup(tr.CloseIdleConnections)
	c := &http.Client{Transport: tr}
	for _, n := range []int{0, 1, 100, 100000, 3 << 20} {
		sent := strings.Repeat("x", n)
		res, err := c.Post("https://"+address+"/", "", strings.NewReader(sent))
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || string(got) != sent || res.ProtoMajor != 2 {
			t.Errorf("%d bytes, %v, %s", len(got), err, res.Proto)
		}
	}
	s.Drain()
	if res, err := c.Get("https://" + address + "/"); err == nil {
		res.Body.Close() // on a connection of its own, which is told so at once
	}
}

// TestIdleConnectionHolds little, once it has served a request.
func TestIdleConnectionHolds(t *testing.T) {
	if raced {
		t.Skip("the race detector holds more")
	}
	const conns = 200
	r := newRig(t, tableLimits(), guarded)
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var open []*rawClient
	for range conns {
		open = append(open, newRawClient(t, r.address))
	}
	for _, c := range open {
		c.r = nil // what the client holds does not count
	}
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&after)
	each := (int64(after.HeapInuse) - int64(before.HeapInuse) + int64(after.StackInuse) - int64(before.StackInuse)) / conns
	t.Logf("%d bytes a connection", each)
	if each > 20<<10 {
		t.Errorf("%d bytes a connection", each)
	}
	runtime.KeepAlive(open)
}
