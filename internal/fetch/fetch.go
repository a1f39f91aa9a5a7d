// Package fetch owns the HTTP requests that the gateway makes for itself: for
// keys, tokens and decisions of other services. It follows no redirect, uses no
// proxy, reads no more than it was told, and refuses addresses that only the
// machine or its cloud should answer at. What passes through the gateway is
// not its business.
package fetch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Settings say how requests are made.
type Settings struct {
	// Longest time of one request, from connecting to the last byte of the answer.
	Timeout policy.Duration `yaml:"timeout" min:"10ms" max:"1m"`
	// Largest body of an answer.
	MaxBody policy.Size `yaml:"max_body" min:"1KiB" max:"64MiB"`
	// File of the certificates in PEM that the service's own must come from. Default: those that the system trusts.
	CAFile string `yaml:"ca_file" file:"true"`
	// Name that the service's certificate must have. Default: the host of the URL.
	ServerName string `yaml:"server_name"`
	// File of the client certificate in PEM that is shown to the service.
	CertFile string `yaml:"cert_file" file:"true"`
	// File of that certificate's key in PEM.
	KeyFile string `yaml:"key_file" file:"true"`
	// Whether http:// may be used with hosts other than this one. What travels so can be read and changed on its way.
	Plain bool `yaml:"plain"`
	// Whether link-local addresses, such as those of a cloud's metadata service, may be asked.
	LinkLocal bool `yaml:"link_local"`
}

// Default is five seconds and a mebibyte.
func Default() Settings {
	return Settings{Timeout: policy.Duration(5 * time.Second), MaxBody: 1 << 20}
}

// Defaults sets those of Default.
func (s *Settings) Defaults() { *s = Default() }

// Check returns what is wrong with a URL that requests are to go to, nil when
// nothing is.
func (s *Settings) Check(text string) *policy.Fault {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		return &policy.Fault{Text: fmt.Sprintf("%q is not a URL", text), Hint: "write https://host/path"}
	case u.User != nil:
		return &policy.Fault{Text: "a URL must not hold a user name or password"}
	case u.Fragment != "":
		return &policy.Fault{Text: fmt.Sprintf("%q has a fragment, which is never sent", text), Hint: "remove it"}
	case u.Scheme == "http" && !s.Plain && !local(u.Hostname()):
		return &policy.Fault{Text: fmt.Sprintf("%q: what is asked for there could be changed on its way", text), Hint: `use https://, or set "plain: true" in http`}
	}
	return nil
}

func local(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback() || strings.EqualFold(host, "localhost")
}

// Client makes requests. It may be used by any number of goroutines. The files
// of its settings are followed: one that is replaced is used from the next
// connection on.
type Client struct {
	settings Settings
	files    bool // there are some
	live     atomic.Pointer[http.Client]
	most     int64

	mu     sync.Mutex
	print  string    // of what is in use
	looked time.Time // when the files were looked at
}

// lookEvery is how often the files are looked at, at most.
const lookEvery = 10 * time.Second

// TLS returns how connections are secured. It reads the files that the
// settings name; the faults are those of the settings.
func (s *Settings) TLS() (*tls.Config, error) {
	var faults []error
	t := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: s.ServerName}
	if s.CAFile != "" {
		pem, err := os.ReadFile(s.CAFile)
		switch t.RootCAs = x509.NewCertPool(); {
		case err != nil:
			faults = append(faults, &policy.Fault{Field: "ca_file", Text: err.Error()})
		case !t.RootCAs.AppendCertsFromPEM(pem):
			faults = append(faults, &policy.Fault{Field: "ca_file", Text: fmt.Sprintf("%q holds no certificate in PEM", s.CAFile)})
		}
	}
	if s.CertFile != "" || s.KeyFile != "" {
		pair, err := tls.LoadX509KeyPair(s.CertFile, s.KeyFile)
		if err != nil {
			faults = append(faults, &policy.Fault{Field: "cert_file", Text: err.Error()})
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, errors.Join(faults...)
}

// Fingerprint tells settings apart, by what their files hold at present: what
// is kept under it is made anew when a certificate has been replaced.
func (s *Settings) Fingerprint() string {
	h := sha256.New()
	fmt.Fprintf(h, "%+v", *s)
	for _, name := range []string{s.CAFile, s.CertFile, s.KeyFile} {
		if name == "" {
			continue
		}
		// That a file cannot be read is for New to say.
		text, _ := os.ReadFile(name)
		sum := sha256.Sum256(text)
		h.Write(sum[:])
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// Dialer returns what connects, to allowed addresses only.
func (s *Settings) Dialer() *net.Dialer {
	linkLocal := s.LinkLocal
	return &net.Dialer{Timeout: s.Timeout.D(), Control: func(_, address string, _ syscall.RawConn) error {
		return allowed(address, linkLocal)
	}}
}

// New returns a client. It reads the files that the settings name; the faults
// are those of the settings.
func New(s Settings) (*Client, error) {
	c := &Client{settings: s, most: int64(s.MaxBody), files: s.CAFile != "" || s.CertFile != "" || s.KeyFile != ""}
	c.print, c.looked = s.Fingerprint(), time.Now()
	made, err := s.client()
	if err != nil {
		return nil, err
	}
	c.live.Store(made)
	return c, nil
}

func (s *Settings) client() (*http.Client, error) {
	t, err := s.TLS()
	if err != nil {
		return nil, err
	}
	return &http.Client{
		Timeout:       s.Timeout.D(),
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{
			DialContext:            s.Dialer().DialContext,
			TLSClientConfig:        t,
			ForceAttemptHTTP2:      true,
			DisableCompression:     true, // an answer is as large as it says
			MaxIdleConnsPerHost:    16,
			MaxConnsPerHost:        256,
			IdleConnTimeout:        60 * time.Second,
			MaxResponseHeaderBytes: 64 << 10,
		},
	}, nil
}

// http returns what connects by the files as they are. While they cannot be
// used, as between the writing of a certificate and of its key, what there is
// goes on.
func (c *Client) http() *http.Client {
	if !c.files || !c.mu.TryLock() {
		return c.live.Load()
	}
	defer c.mu.Unlock()
	if time.Since(c.looked) < lookEvery {
		return c.live.Load()
	}
	c.looked = time.Now()
	found := c.settings.Fingerprint()
	if found == c.print {
		return c.live.Load()
	}
	made, err := c.settings.client()
	if err != nil {
		return c.live.Load()
	}
	c.print = found
	c.live.Swap(made).CloseIdleConnections()
	return made
}

// Retire closes idle connections.
func (c *Client) Retire() { c.live.Load().CloseIdleConnections() }

// allowed refuses addresses that a name should never lead to. It sees what a
// name was resolved to, so that no answer of a name server gets around it.
func allowed(address string, linkLocal bool) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%q is no address", address)
	}
	switch a := exchange.Plain(ap.Addr()); {
	case exchange.Nowhere(a):
		return fmt.Errorf("address %v cannot be a service", a)
	case linkLocal:
		return nil
	case exchange.LinkLocal(a):
		return fmt.Errorf("address %v is link-local or a cloud's metadata service, and not allowed", a)
	}
	return nil
}

// Answer is an answer, read to its end.
type Answer struct {
	Status int
	Header http.Header
	Body   []byte
}

// ErrLarge says that an answer is larger than the settings allow.
var ErrLarge = errors.New("the answer is too large")

// Do makes a request. Redirects are answers like others.
func (c *Client) Do(ctx context.Context, method, url string, header http.Header, body []byte) (*Answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, plain(err)
	}
	for name, values := range header {
		req.Header[name] = values
	}
	if host := header.Get("Host"); host != "" {
		req.Host = host
		req.Header.Del("Host")
	}
	res, err := c.http().Do(req)
	if err != nil {
		return nil, plain(err)
	}
	defer res.Body.Close()
	data, err := io.ReadAll(io.LimitReader(res.Body, c.most+1))
	switch {
	case err != nil:
		return nil, plain(err)
	case int64(len(data)) > c.most:
		return nil, ErrLarge
	}
	return &Answer{res.StatusCode, res.Header, data}, nil
}

// Get returns the body of an answer with status 200.
func (c *Client) Get(ctx context.Context, url string) ([]byte, error) {
	a, err := c.Do(ctx, http.MethodGet, url, http.Header{"Accept": {"application/json"}}, nil)
	switch {
	case err != nil:
		return nil, err
	case a.Status/100 == 3:
		return nil, fmt.Errorf("the answer is a redirection, status %d, which is not followed", a.Status)
	case a.Status != http.StatusOK:
		return nil, fmt.Errorf("the answer has status %d", a.Status)
	}
	return a.Body, nil
}

// plain takes the URL out of an error: its query may hold what no log is to
// show.
func plain(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}
