package oidc_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/op"

	"gatehouse.dev/gatehouse/internal/app"
)

// house is a gateway with a service behind it and an OpenID provider beside
// it, all on loopback.
type house struct {
	t       *testing.T
	issuer  string
	gateway string // its origin
	app     *app.App

	tokens   atomic.Int64 // how often the provider gave out tokens
	renewals atomic.Int64 // of which for refresh tokens
	expires  atomic.Int64 // seconds that access tokens are said to last, 0: as they are
	down     atomic.Bool  // the provider does not answer

	mu   sync.Mutex
	seen []http.Header // of the requests that came to the service
}

// store lets the one client sign out to the gateway.
type store struct {
	*storage.Storage
	after func() string
}

type client struct {
	op.Client
	after string
}

func (c client) PostLogoutRedirectURIs() []string { return []string{c.after} }

func (s store) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	c, err := s.Storage.GetClientByClientID(ctx, id)
	if err != nil {
		return nil, err
	}
	return client{c, s.after()}, nil
}

const secret = "s3cret+with/odd=signs"

// newHouse starts all three. settings are further ones of the policy.
func newHouse(t *testing.T, settings string) *house {
	t.Helper()
	h := &house{t: t}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.issuer = fmt.Sprintf("http://localhost:%d", l.Addr().(*net.TCPAddr).Port)
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		h.seen = append(h.seen, r.Header.Clone())
		h.mu.Unlock()
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, "<title>page %s</title><body><p id=hello>hello %s</p></body>", r.URL.RequestURI(), r.Header.Get("X-User"))
	}))
	t.Cleanup(service.Close)
	// The gateway's address has to be known to the provider, and the
	// provider's to the gateway, which asks again until it answers.
	h.app, err = app.New(app.Source{Name: "test.yaml", Data: []byte(`
admin: off
listeners: [ { name: web, address: "127.0.0.1:0" } ]
observe: { log: { level: error } }
routes:
  - match: /*
    upstream: ` + service.URL + `
    policies:
      - oidc:
          issuer: ` + h.issuer + `
          client_id: web
          client_secret: "` + secret + `"
          cookie_secret: 0123456789abcdef0123456789abcdef
          scopes: [openid, profile, email, offline_access]
          headers: { X-User: subject, X-Mail: claims.email }
` + settings)}, "test", io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.app.Close(context.Background()) })
	_, port, err := net.SplitHostPort(h.app.Status().Listeners[0].Address)
	if err != nil {
		t.Fatal(err)
	}
	h.gateway = "http://localhost:" + port
	h.provide(l)
	return h
}

func (h *house) provide(l net.Listener) {
	storage.RegisterClients(storage.WebClient("web", secret, h.gateway+"/_oidc/callback"))
	s := store{storage.NewStorage(storage.NewUserStore(h.issuer)), func() string { return h.gateway + "/" }}
	provider := exampleop.SetupServer(h.issuer, s, slog.New(slog.DiscardHandler), false, op.WithAllowInsecure())
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h.down.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if r.URL.Path != "/oauth/token" {
			provider.ServeHTTP(w, r)
			return
		}
		h.tokens.Add(1)
		body, _ := io.ReadAll(r.Body)
		if bytes.Contains(body, []byte("grant_type=refresh_token")) {
			h.renewals.Add(1)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		h.answer(w, r, provider)
	})}
	go func() { _ = server.Serve(l) }()
	h.t.Cleanup(func() { _ = server.Close() })
}

// answer passes on what the token endpoint says, with another life time.
func (h *house) answer(w http.ResponseWriter, r *http.Request, provider http.Handler) {
	rec := httptest.NewRecorder()
	provider.ServeHTTP(rec, r)
	var m map[string]any
	if n := h.expires.Load(); n > 0 && json.Unmarshal(rec.Body.Bytes(), &m) == nil && m["expires_in"] != nil {
		m["expires_in"] = n
		data, _ := json.Marshal(m)
		rec.Body = bytes.NewBuffer(data)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(rec.Code)
	_, _ = w.Write(rec.Body.Bytes())
}

// requests returns, and forgets, what came to the service.
func (h *house) requests() []http.Header {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := h.seen
	h.seen = nil
	return out
}

// browser is a client with cookies that goes where it is sent, but only
// when it is told to.
func browser(t *testing.T) *http.Client {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	return &http.Client{Jar: jar, Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

type page struct {
	status int
	url    string
	header http.Header
	body   string
}

func open(t *testing.T, c *http.Client, method, target string, form url.Values, fields ...string) page {
	t.Helper()
	req, err := http.NewRequest(method, target, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "text/html,*/*;q=0.8")
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i < len(fields); i += 2 {
		req.Header.Set(fields[i], fields[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return page{res.StatusCode, target, res.Header, string(body)}
}

// follow goes where a page sends the browser, up to a page that sends it
// nowhere.
func follow(t *testing.T, c *http.Client, p page) page {
	t.Helper()
	for range 20 {
		if p.status/100 != 3 {
			return p
		}
		base, err := url.Parse(p.url)
		if err != nil {
			t.Fatal(err)
		}
		to, err := base.Parse(p.header.Get("Location"))
		if err != nil {
			t.Fatal(err)
		}
		p = open(t, c, "GET", to.String(), nil)
	}
	t.Fatal("the browser is sent around in circles")
	return p
}

var formID = regexp.MustCompile(`name="id" value="([^"]+)"`)

// begin opens a page and returns the provider's form.
func (h *house) begin(c *http.Client, path string) page {
	h.t.Helper()
	p := follow(h.t, c, open(h.t, c, "GET", h.gateway+path, nil))
	if p.status != 200 || !strings.HasPrefix(p.url, h.issuer+"/login/username") {
		h.t.Fatalf("the browser is at %s, status %d: %s", p.url, p.status, p.body)
	}
	return p
}

// submit fills in the provider's form, and returns the provider's way back.
func (h *house) submit(c *http.Client, form page) page {
	h.t.Helper()
	id := formID.FindStringSubmatch(form.body)
	if id == nil {
		h.t.Fatalf("there is no form: %s", form.body)
	}
	p := open(h.t, c, "POST", h.issuer+"/login/username", url.Values{"id": {id[1]}, "username": {"test-user@localhost"}, "password": {"verysecure"}})
	for p.status/100 == 3 && !strings.HasPrefix(p.header.Get("Location"), h.gateway) {
		base, err := url.Parse(p.url)
		if err != nil {
			h.t.Fatal(err)
		}
		to, err := base.Parse(p.header.Get("Location"))
		if err != nil {
			h.t.Fatal(err)
		}
		p = open(h.t, c, "GET", to.String(), nil)
	}
	return p
}
