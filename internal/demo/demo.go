// Package demo owns the sample shop behind "gatehouse demo": three small
// services, products, payments and inventory, that are ordinary net/http
// servers on loopback. They show what a gateway is for; they are no part of it
// and know nothing of it.
package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// Listen opens the socket of one instance of a service.
type Listen func(instance, address string) (net.Listener, error)

// instances lists what runs where. examples/shop/gatehouse.yaml names the same
// addresses.
var instances = []struct {
	name    string
	address string
	service func(instance string) http.Handler
}{
	{"products-1", "127.0.0.1:9001", products},
	{"products-2", "127.0.0.1:9004", products},
	{"payments-1", "127.0.0.1:9002", payments},
	{"payments-next-1", "127.0.0.1:9005", payments},
	{"inventory-1", "127.0.0.1:9003", inventory},
}

// Start runs the sample services until ctx ends, and returns when all of them
// listen. A nil listen means the addresses that the shop's configuration
// names; otherwise it decides what each instance listens on.
func Start(ctx context.Context, listen Listen) error {
	if listen == nil {
		listen = func(_, address string) (net.Listener, error) { return net.Listen("tcp", address) }
	}
	var open []net.Listener
	for _, i := range instances {
		ln, err := listen(i.name, i.address)
		if err != nil {
			for _, ln := range open {
				ln.Close()
			}
			return fmt.Errorf("start sample service %q: %w", i.name, err)
		}
		open = append(open, ln)
	}
	for n, i := range instances {
		go run(ctx, open[n], i.name, i.service(i.name))
	}
	return nil
}

// run serves until ctx ends, with a break whenever somebody kills the instance.
func run(ctx context.Context, ln net.Listener, instance string, service http.Handler) {
	address := ln.Addr().String()
	for {
		absence := live(ctx, ln, instance, service)
		if absence == 0 {
			return
		}
		for back := false; !back; {
			select {
			case <-ctx.Done():
				return
			case <-time.After(absence):
			}
			var err error
			// Where somebody else has the address meanwhile it is tried again.
			ln, err = net.Listen("tcp", address)
			back = err == nil
		}
	}
}

// live serves until ctx ends, or until the instance is killed: then it returns
// for how long. Requests see the end in their own context, so that streams do
// not outlive it.
func live(ctx context.Context, ln net.Listener, instance string, service http.Handler) time.Duration {
	killed := make(chan time.Duration, 1)
	srv := &http.Server{
		Handler:           stamp(instance, service, killed),
		ReadHeaderTimeout: 10 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			ln.Close() // nothing listens any more: the gateway tells its clients
		}
	}()
	var absence time.Duration
	select {
	case <-ctx.Done():
	case <-ended:
	case absence = <-killed:
	}
	srv.Close()
	<-ended
	return absence
}

// kill ends the instance as a crash does, connections and all, for the time
// that is asked for. It listens to who talks to the instance itself, and not to
// the gateway's clients.
func kill(killed chan<- time.Duration) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Forwarded-For") != "" {
			refuse(w, http.StatusForbidden, "this is not for clients of the gateway")
			return
		}
		absence := 10 * time.Second
		if s := r.FormValue("for"); s != "" {
			var err error
			if absence, err = time.ParseDuration(s); err != nil || absence <= 0 || absence > time.Minute {
				refuse(w, http.StatusBadRequest, "for is a time of up to 1m")
				return
			}
		}
		reply(w, http.StatusAccepted, map[string]string{"back_in": absence.String()})
		// An error here would be met by the client as well.
		_ = http.NewResponseController(w).Flush()
		select {
		case killed <- absence:
		default: // it is dying already
		}
	}
}

// stamp makes every answer say which instance gave it, and gives every service
// an echo and an end.
func stamp(instance string, service http.Handler, killed chan<- time.Duration) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", service)
	mux.HandleFunc("/echo", echo(instance))
	mux.HandleFunc("POST /kill", kill(killed))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Instance", instance)
		mux.ServeHTTP(w, r)
	})
}

// reply answers with JSON. Whether the client got it is the gateway's concern.
func reply(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	b = append(b, '\n')
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(b))) // one that is flushed is whole
	w.WriteHeader(status)
	_, _ = w.Write(b)
}

// refuse answers with an error in the shop's own form.
func refuse(w http.ResponseWriter, status int, text string) {
	reply(w, status, map[string]string{"error": text})
}

// echoed is a request as a service received it.
type echoed struct {
	Instance string              `json:"instance"`
	Method   string              `json:"method"`
	Path     string              `json:"path"`
	Query    string              `json:"query,omitempty"`
	Host     string              `json:"host"`
	Header   map[string][]string `json:"header"`
	Body     string              `json:"body,omitempty"`
}

// echo answers with the request itself: what the gateway added, changed and
// removed can be seen in it.
func echo(instance string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, 64<<10))
		if err != nil {
			refuse(w, http.StatusBadRequest, err.Error())
			return
		}
		reply(w, http.StatusOK, echoed{
			Instance: instance, Method: r.Method, Path: r.URL.EscapedPath(), Query: r.URL.RawQuery,
			Host: r.Host, Header: r.Header, Body: string(body),
		})
	}
}

// Banner writes what to try, with the gateway at its usual address.
func Banner(w io.Writer) error {
	_, err := io.WriteString(w, banner)
	return err
}

const banner = `The shop is open at http://localhost:8080. Try, in another terminal:

  curl http://localhost:8080/products
      two instances take turns
  curl -X POST http://127.0.0.1:9001/kill
      kills one of them for 10 seconds, and no request fails
  curl http://localhost:8080/products/2/stock
      the path is rewritten for another service
  curl -i -H 'X-Beta: true' http://localhost:8080/products/2
      a header decides: always the same instance
  curl -d '{"order":"A-1","cents":4400}' http://localhost:8080/payments
      a payment
  curl -d hello http://localhost:8080/checkout/echo
      split between two versions; shows what the service sees
  curl -i http://localhost:8080/partners/echo
      401: this route asks for a key
  curl -H 'X-API-Key: demo-key' http://localhost:8080/partners/echo
      with the key of the demo; the service learns whose it is, and not the key
  curl -i http://localhost:8080/shop/3
      a redirection
  curl -N 'http://localhost:8080/stock/ticker?count=5'
      server-sent events, as they come
  curl -o /dev/null 'http://localhost:8080/stock/export?mib=1024'
      a large download
  curl -i 'http://localhost:8080/stock/slow?for=5s'
      504: the service was too slow
  curl -i 'http://localhost:8080/stock/fail?how=cut'
      an answer that breaks off
  curl -i http://localhost:8080/nothing
      404, as problem JSON
  curl http://127.0.0.1:9901/status
      the gateway about itself
  curl http://127.0.0.1:9901/metrics
      what it counts

`
