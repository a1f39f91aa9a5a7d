//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"text/template"
	"time"
)

// product is a proxy that can be measured.
type product struct {
	name    string
	program string   // looked up in PATH; empty for the gatehouse under test
	version []string // arguments that print the version
	config  string   // template over site
	args    []string // to run with $CONFIG, in the folder $DIR, from $ADDRESS to $UPSTREAM
	own     bool     // this program plays it
}

// site is what the template of a configuration sees.
type site struct {
	Dir         string // a folder for files of the proxy
	Address     string // where it listens
	Admin       string // gatehouse: the admin address
	Upstream    string
	Workers     int
	Descriptors uint64
	TLS         bool   // HTTP/2 and HTTP/1.1 over TLS
	GRPC        bool   // HTTP/2 without TLS, to a service that speaks gRPC
	Both        bool   // gatehouse: HTTP/2 beside HTTP/1.1 without TLS
	Certificate string // file with a certificate and its key
	Root        bool   // whether it runs as root
	Engine      string // gatehouse: the HTTP engine
	// Everything turns on what a gateway usually does for each request. The
	// other products ignore it and stay bare. Key is the hash of its consumer's
	// key.
	Everything bool
	Key        string
	Routes     []string // gatehouse: prefixes to route, instead of everything
	Mark       string   // gatehouse: the answer of one more route, /mark, by which a reload is seen
	PoolIdle   string   // gatehouse: how long idle connections to the upstream are kept
}

// products returns what can be measured. Each is set up as its own guides
// advise for a busy reverse proxy: connections to the upstream are kept, logs
// are off, bodies stream, large ones without copies where it can do that.
func products() []*product {
	return []*product{
		{
			name: "nginx", program: "nginx", version: []string{"-v"}, config: nginxConfig,
			args: []string{"-p", "$DIR", "-e", "nginx-error.log", "-c", "$CONFIG"},
		},
		{
			name: "haproxy", program: "haproxy", version: []string{"-v"}, config: haproxyConfig,
			args: []string{"-db", "-f", "$CONFIG"},
		},
		{
			name: "gatehouse", version: []string{"version"}, config: gatehouseConfig,
			args: []string{"run", "-c", "$CONFIG"},
		},
		{
			name: "gatehouse-std", version: []string{"version"}, config: gatehouseConfig,
			args: []string{"run", "-c", "$CONFIG"},
		},
		{name: "go", own: true, args: []string{peerMode, "$ADDRESS", "$UPSTREAM"}},
	}
}

func productNamed(name string) *product {
	for _, p := range products() {
		if p.name == name {
			return p
		}
	}
	return nil
}

const nginxConfig = `daemon off;
{{if .Root}}user root;
{{end -}}
worker_processes {{.Workers}};
worker_rlimit_nofile {{.Descriptors}};
pid nginx.pid;
error_log nginx-error.log warn;
events { worker_connections 16384; }
http {
  access_log off;
  sendfile on;
  keepalive_timeout 600s;
  keepalive_requests 1000000000;
  client_max_body_size 0;
  client_body_temp_path nginx-body;
  proxy_temp_path nginx-proxy;
  fastcgi_temp_path nginx-fastcgi;
  uwsgi_temp_path nginx-uwsgi;
  scgi_temp_path nginx-scgi;
  upstream app {
    server {{.Upstream}};
    keepalive 256;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
  }
  server {
    listen {{.Address}}{{if .TLS}} ssl{{end}}{{if or .TLS .GRPC}} http2{{end}} backlog=4096;
{{- if .TLS}}
    ssl_certificate {{.Certificate}};
    ssl_certificate_key {{.Certificate}};
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;
{{- end}}
    location / {
{{- if .GRPC}}
      grpc_pass grpc://app;
{{- else}}
      proxy_pass http://app;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_request_buffering off;
      proxy_max_temp_file_size 0;
{{- end}}
    }
  }
}
`

const haproxyConfig = `global
  maxconn 16384
  no strict-limits
  nbthread {{.Workers}}
  ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
defaults
  mode http
  option splice-auto
  http-reuse always
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  timeout http-keep-alive 600s
frontend entry
  bind {{.Address}} backlog 4096{{if .TLS}} ssl crt {{.Certificate}} alpn h2,http/1.1{{else if .GRPC}} proto h2{{end}}
  maxconn 16384
  default_backend app
backend app
  fullconn 16384
  server one {{.Upstream}}{{if .GRPC}} proto h2{{end}}
`

const gatehouseConfig = `listeners:
  - address: "{{.Address}}"
    engine: {{.Engine}}
    limits: { body: 0, idle_timeout: 600s }
{{- if .TLS}}
    tls: { certificates: [{ cert_file: "{{.Certificate}}", key_file: "{{.Certificate}}" }] }
{{- else if .GRPC}}
    protocols: [h2c]
{{- else if .Both}}
    protocols: [http1, h2c]
{{- end}}
admin: { address: "{{.Admin}}" }
upstreams:
  app:
    endpoints: ["{{if .GRPC}}grpc{{else}}http{{end}}://{{.Upstream}}"]
    timeout: { request: 0s, idle: 600s }
{{- with .PoolIdle}}
    connections: { idle_timeout: {{.}} }
{{- end}}
{{if .Everything -}}
observe:
  access_log: { output: "{{.Dir}}/access.log" }
consumers:
  - { name: shop, credentials: [{ api_key: { hash: "{{.Key}}" } }] }
policies:
  - request_id: {}
  - access_log: {}
  - api_key: {}
  - rate_limit: { limit: 1000000/s, by: consumer }
  - headers:
      request: { set: { X-Region: eu-1 }, remove: [X-Debug] }
      response: { set: { X-Frame-Options: DENY }, remove: [X-Version] }
{{end -}}
routes:
{{- if .Mark}}
  - match: /mark
    respond: { status: 200, body: "{{.Mark}}" }
{{- end}}
{{- range .Routes}}
  - match: {{.}}/*
    upstream: app
{{- else}}
  - match: /*
    upstream: app
{{- end}}
`

// running is a started proxy.
type running struct {
	*process
	product *product
	site    site
	config  string // path of its configuration
}

// startProxy starts a product and waits until it answers on path. The caller
// stops it.
func (b *bench) startProxy(ctx context.Context, p *product, s site, path string) (*running, error) {
	s.Address, s.Admin = b.freeAddress(), b.freeAddress()
	s.Upstream, s.Workers, s.Descriptors = b.upstream, len(b.cpus.proxy), b.descriptors
	s.Certificate, s.Key = b.certificate, hashOf(apiKey)
	if s.GRPC {
		s.Upstream = b.service
	}
	s.Root, s.Engine = os.Geteuid() == 0, "native"
	if p.name == "gatehouse-std" {
		s.Engine = "std"
	}
	b.started++
	name := p.name + "-" + strconv.Itoa(b.started)
	s.Dir = filepath.Join(b.dir, name)
	if err := os.Mkdir(s.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("starting %s: %w", p.name, err)
	}
	r := &running{product: p, site: s, config: filepath.Join(s.Dir, p.name+".yaml")}
	if err := r.writeConfig(s); err != nil {
		return nil, err
	}
	program, err := b.program(p), error(nil)
	if p.own {
		program, err = os.Executable()
	}
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", p.name, err)
	}
	args := []string{program}
	for _, a := range p.args {
		args = append(args, strings.NewReplacer("$DIR", s.Dir, "$CONFIG", r.config, "$ADDRESS", s.Address, "$UPSTREAM", s.Upstream).Replace(a))
	}
	if r.process, err = startProcess(b.dir, name, b.cpus.proxy, args...); err != nil {
		return nil, err
	}
	if err := r.wait(ctx, path); err != nil {
		r.stop()
		return nil, err
	}
	return r, nil
}

// apiKey is what the load proves its identity with where that is asked for.
const apiKey = "a-key-of-the-shop-that-is-long-enough"

// hashOf returns a key as a configuration has it.
func hashOf(key string) string {
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(key)))
}

// writeConfig puts the configuration for s in the place of the current one, at
// once, as the watch of gatehouse expects it.
func (r *running) writeConfig(s site) error {
	var text bytes.Buffer
	t, err := template.New(r.product.name).Parse(r.product.config)
	if err == nil {
		err = t.Execute(&text, s)
	}
	next := filepath.Join(s.Dir, "next")
	if err == nil {
		err = os.WriteFile(next, text.Bytes(), 0o600)
	}
	if err == nil {
		err = os.Rename(next, r.config)
	}
	if err != nil {
		return fmt.Errorf("writing a configuration for %s: %w", r.product.name, err)
	}
	return nil
}

// wait returns when the proxy answers.
func (r *running) wait(ctx context.Context, path string) error {
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := r.site.ask(path)
		if err == nil {
			return nil
		}
		select {
		case <-r.done:
			return fmt.Errorf("%s ended: %s", r.product.name, r.printed())
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s does not answer: %w: %s", r.product.name, err, r.printed())
		}
	}
}

// ask makes one request in a way that the site takes.
func (s site) ask(path string) error {
	if s.GRPC {
		return callOnce(s.Address)
	}
	c, err := s.dial(context.Background(), net.Dialer{Timeout: time.Second})
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := c.Write(requestHead(path, -1)); err != nil {
		return err
	}
	buf := make([]byte, 8<<10)
	n, err := readHead(c, buf)
	if err != nil {
		return err
	}
	if a, _, _ := parseAnswer(buf[:n]); a.status != http.StatusOK {
		return fmt.Errorf("it answers %.100q", buf[:n])
	}
	return nil
}

// program returns the path of a product's program.
func (b *bench) program(p *product) string {
	if p.program == "" {
		return b.gatehouse
	}
	return findProgram(p.program)
}

// findProgram returns the path of a program, also where only root's PATH has
// it, or its name when it is nowhere.
func findProgram(name string) string {
	for _, try := range []string{name, "/usr/sbin/" + name} {
		if path, err := exec.LookPath(try); err == nil {
			return path
		}
	}
	return name
}

// checkPrograms says what has to be installed, all of it at once.
func checkPrograms(opts options) error {
	packages := map[string]string{"nginx": "nginx-light", "haproxy": "haproxy", "wrk": "wrk", "h2load": "nghttp2-client", "taskset": "util-linux"}
	var missing []string
	need := []string{"taskset"}
	if !opts.soak {
		need = append(need, "wrk", "h2load")
	}
	for _, name := range opts.proxies {
		if p := productNamed(name); p.program != "" {
			need = append(need, p.program)
		}
	}
	for _, name := range need {
		if _, err := exec.LookPath(findProgram(name)); err != nil {
			missing = append(missing, packages[name])
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return errors.New("programs are missing, install them with: apt-get install " + strings.Join(missing, " "))
}

// freeAddress returns an address on loopback that nobody listens on, below the
// ports that outgoing connections take.
func (b *bench) freeAddress() string {
	for ; ; b.port++ {
		address := "127.0.0.1:" + strconv.Itoa(b.port)
		l, err := net.Listen("tcp", address)
		if err != nil && b.port < 32000 {
			continue
		}
		if err == nil {
			l.Close()
		}
		b.port++
		return address
	}
}
