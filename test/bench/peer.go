//go:build linux

package main

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"
)

// The peer stands for gateways that are built on Go's own HTTP: its server, its
// reverse proxy and its client, with connections kept and buffers reused, and
// nothing of a gateway on top. Whoever adds routes and policies is slower.

// peerProxy makes the peer's handler.
func peerProxy(upstream string) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: upstream})
			r.SetXForwarded()
			r.Out.Host = r.In.Host
		},
		Transport:  &http.Transport{MaxIdleConnsPerHost: 256, IdleConnTimeout: 10 * time.Minute, DisableCompression: true},
		BufferPool: new(peerBuffers),
	}
}

// servePeer answers on the address until something breaks.
func servePeer(address, upstream string) error {
	s := &http.Server{Addr: address, Handler: peerProxy(upstream), ReadHeaderTimeout: time.Minute, IdleTimeout: 10 * time.Minute}
	if err := s.ListenAndServe(); err != nil {
		return fmt.Errorf("the peer: %w", err)
	}
	return nil
}

type peerBuffers struct{ pool sync.Pool }

func (b *peerBuffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, 32<<10)
}

func (b *peerBuffers) Put(p []byte) { b.pool.Put(&p) }

// besideGo compares gatehouse to the peer.
func besideGo(ctx context.Context, b *bench) (*table, error) {
	if !b.measures("gatehouse") {
		return nil, errNothing
	}
	var c contest
	for _, name := range []string{"go", "gatehouse-std", "gatehouse"} {
		c.subjects = append(c.subjects, subject{label: name, product: productNamed(name)})
	}
	c.load, c.rounds = b.fast("/"), b.opts.rounds
	rows, err := b.hold(ctx, c)
	if err != nil {
		return nil, err
	}
	return newTable(rows, []metric{cpuPerRequest, rate, p50, p99, rss, peak, busy}, []string{"go"},
		budget{Subject: "gatehouse", Metric: cpuPerRequest, Against: "go", AtMost: 0.333}), nil
}
