package script_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sort"
	"strings"
)

// service is something behind the gateway. It answers with what it received.
//
//	/hold     answers when it is released
//	/fail     answers 500
//	an Upgrade to echo is accepted, and echoes
type service struct {
	name    string
	server  *httptest.Server
	arrived chan struct{} // a request is being held
	release chan struct{}
}

func newService(name string) (*service, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &service{name: name, arrived: make(chan struct{}, 1), release: make(chan struct{}, 1)}
	s.server = &httptest.Server{Listener: ln, Config: &http.Server{Handler: s}}
	s.server.Start()
	return s, nil
}

func (s *service) address() string { return s.server.Listener.Addr().String() }

func (s *service) close() {
	close(s.release) // what is still held
	s.server.CloseClientConnections()
	s.server.Close()
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Header.Get("Upgrade") == "echo":
		s.echo(w)
		return
	case r.URL.Path == "/hold":
		s.arrived <- struct{}{}
		select {
		case <-s.release:
		case <-r.Context().Done():
			return
		}
	case r.URL.Path == "/fail":
		w.WriteHeader(http.StatusInternalServerError)
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	fmt.Fprintf(w, "%s: %s %s\nHost: %s\n", s.name, r.Method, r.RequestURI, r.Host)
	names := make([]string, 0, len(r.Header))
	for name := range r.Header {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		fmt.Fprintf(w, "%s: %s\n", name, strings.Join(r.Header[name], ", "))
	}
	fmt.Fprintf(w, "\n%s", body)
}

func (s *service) echo(w http.ResponseWriter) {
	c, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer c.Close()
	fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	if rw.Flush() == nil {
		_, _ = io.Copy(c, rw) // until either end closes
	}
}
