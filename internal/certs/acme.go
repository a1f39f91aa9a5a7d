package certs

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"

	"gatehouse.dev/gatehouse/internal/config"
)

// authority obtains and renews certificates from one ACME authority, with one
// account, for all listeners that name it.
type authority struct {
	cfg     *config.ACME
	http    bool // http-01 is among the challenges
	alpn    bool // tls-alpn-01
	shared  bool // other gateways may have asked for what is validated here
	log     *slog.Logger
	client  *certmagic.Config
	issuer  *certmagic.ACMEIssuer
	cache   *certmagic.Cache
	decoy   net.Listener
	ctx     context.Context
	cancel  context.CancelFunc
	stopped sync.Once
	done    chan struct{} // closed when the library has stopped

	mu      sync.Mutex
	domains names             // that are managed
	failure map[string]string // why the last attempt failed, by domain
}

// authorityRoots reads the authorities of the directory's own certificate.
func authorityRoots(a *config.ACME) (*x509.CertPool, error) {
	if a.CAFile == "" {
		return nil, nil
	}
	roots, _, err := readPool(a.CAFile)
	if err != nil {
		return nil, &fieldError{"ca_file", err}
	}
	return roots, nil
}

// authorityKey is the same for settings that one authority can serve: all but
// the names.
func authorityKey(a *config.ACME, roots *x509.CertPool) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %q %q", a.Directory, a.Email, a.Storage, a.Challenges)
	if a.EAB != nil {
		fmt.Fprintf(h, " eab %q %q", a.EAB.KeyID, a.EAB.MACKey.Fingerprint())
	}
	if d := a.DNS; d != nil {
		fmt.Fprintf(h, " dns %q %q %q %q %q %s", d.Server, d.Zone, d.KeyName, d.Key.Fingerprint(), d.Algorithm, d.Delay)
	}
	if roots != nil {
		// The file was just read: a change of it is another authority.
		if data, err := readFile(a.CAFile); err == nil {
			fmt.Fprintf(h, " ca %x", sha256.Sum256(data))
		}
	}
	return string(h.Sum(nil))
}

// newAuthority makes a client. It talks to nobody before manage.
func newAuthority(a *config.ACME, roots *x509.CertPool, o *Options) (*authority, error) {
	storage := o.Storage
	if storage == nil {
		f := newFolder(a.Storage)
		if err := f.usable(); err != nil {
			return nil, &fieldError{"storage", err}
		}
		storage = f
	}
	decoy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen for the ACME library: %w", err)
	}
	c := &authority{
		cfg: a, log: o.Log, decoy: decoy, failure: make(map[string]string), done: make(chan struct{}),
		shared: o.Storage != nil,
		http:   slices.Contains(a.Challenges, "http-01"), alpn: slices.Contains(a.Challenges, "tls-alpn-01"),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	go refuse(decoy)
	logger := libraryLog(o.Log)
	c.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert:   func(certmagic.Certificate) (*certmagic.Config, error) { return c.client, nil },
		RenewCheckInterval: o.renewals,
		Logger:             logger,
	})
	c.client = certmagic.New(c.cache, certmagic.Config{
		Storage: library{storage},
		Logger:  logger,
		OnEvent: c.event,
		// The public authorities no longer answer OCSP (RFC 6960); for others the
		// gateway asks nobody that the configuration does not name.
		OCSP: certmagic.OCSPConfig{DisableStapling: true},
	})
	issuer := certmagic.ACMEIssuer{
		CA: a.Directory, Email: a.Email, Agreed: true, TrustedRoots: roots, Logger: logger,
		DisableHTTPChallenge: !c.http, DisableTLSALPNChallenge: !c.alpn,
		// The library would open ports of its own for challenges. Where it finds
		// the port taken it takes it that somebody else answers them: here it
		// finds one taken by us, and the listeners answer.
		ListenHost: "127.0.0.1", AltHTTPPort: decoy.Addr().(*net.TCPAddr).Port, AltTLSALPNPort: decoy.Addr().(*net.TCPAddr).Port,
	}
	if a.EAB != nil {
		issuer.ExternalAccount = &acme.EAB{KeyID: a.EAB.KeyID, MACKey: a.EAB.MACKey.Reveal()}
	}
	switch {
	case !slices.Contains(a.Challenges, "dns-01"):
	case o.DNS != nil:
		issuer.DNS01Solver = &records{dns: o.DNS}
	default:
		issuer.DNS01Solver = &records{dns: &updates{a.DNS}, delay: a.DNS.Delay.D()}
	}
	c.issuer = certmagic.NewACMEIssuer(c.client, issuer)
	c.client.Issuers = []certmagic.Issuer{c.issuer}
	return c, nil
}

// refuse closes what connects to the decoy.
func refuse(ln net.Listener) {
	for {
		nc, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(10 * time.Millisecond) // descriptors ran short
			continue
		}
		nc.Close()
	}
}

// manage says which names there are to be certificates for. It returns at once:
// those that are missing are obtained, in the background and again and again.
func (a *authority) manage(list []string) {
	wanted := domains(list)
	var fresh []string
	var gone []certmagic.SubjectIssuer
	a.mu.Lock()
	for d := range wanted {
		if !a.domains[d] {
			fresh = append(fresh, d)
		}
	}
	for d := range a.domains {
		if !wanted[d] {
			gone = append(gone, certmagic.SubjectIssuer{Subject: d})
			delete(a.failure, d)
		}
	}
	a.domains = wanted
	a.mu.Unlock()
	a.cache.RemoveManaged(gone)
	if err := a.client.ManageAsync(a.ctx, fresh); err != nil {
		a.log.Error("certificates cannot be obtained", "directory", a.cfg.Directory, "error", err)
	}
}

// stop ends renewing. The certificates can be had still. It returns at once:
// the library waits for an answer of the authority that it has asked for.
func (a *authority) stop() {
	a.stopped.Do(func() {
		a.cancel()
		a.decoy.Close()
		go func() {
			a.cache.Stop()
			close(a.done)
		}()
	})
}

// event hears of what the library has done.
func (a *authority) event(_ context.Context, event string, data map[string]any) error {
	name, ok := data["identifier"].(string)
	if !ok {
		return nil
	}
	switch event {
	case "cert_obtained":
		a.mu.Lock()
		delete(a.failure, name)
		a.mu.Unlock()
		a.log.Info("certificate obtained", "name", name, "directory", a.cfg.Directory, "renewal", data["renewal"] == true)
	case "cert_failed":
		err, _ := data["error"].(error)
		if err == nil {
			err = errors.New("unknown error")
		}
		a.mu.Lock()
		a.failure[name] = err.Error()
		a.mu.Unlock() // the library has told it already
	}
	return nil
}

// certificates returns those for a name in lower case, exactly or by a wildcard
// for its first label, nil for none.
func (a *authority) certificates(name string) (list []*tls.Certificate) {
	found := a.cache.AllMatchingCertificates(strings.ToLower(name))
	for i := range found {
		if c := &found[i].Certificate; c.Leaf != nil && c.Leaf.VerifyHostname(strings.Replace(name, "*", "any", 1)) == nil {
			list = append(list, c)
		}
	}
	// The newest first: an older one may be there for a moment.
	slices.SortStableFunc(list, func(x, y *tls.Certificate) int { return y.Leaf.NotAfter.Compare(x.Leaf.NotAfter) })
	return list
}

// alpnChallenge answers tls-alpn-01 (RFC 8737) for the names of a listener.
func (a *authority) alpnChallenge(own names, hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if name := strings.ToLower(hello.ServerName); !own[name] || !a.asked(name) {
		return nil, fmt.Errorf("no ACME challenge is expected for %q", hello.ServerName)
	}
	return a.client.GetCertificate(hello)
}

// asked tells whether a name is being validated. Anybody may send what looks
// like a challenge, and must not cause more than this look.
func (a *authority) asked(name string) bool {
	_, ok := certmagic.GetACMEChallenge(name)
	return ok || a.shared
}

// isChallenge tells whether a path is one that http-01 uses (RFC 8555 section
// 8.3).
func isChallenge(path string) bool {
	token, ok := strings.CutPrefix(path, "/.well-known/acme-challenge/")
	return ok && token != "" && len(token) <= 256 && strings.Trim(token, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

// httpChallenge answers http-01 for the names that are managed.
func (a *authority) httpChallenge(host, path string) (string, bool) {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(host)
	a.mu.Lock()
	own := a.domains[host]
	a.mu.Unlock()
	if !a.http || !own || !a.asked(host) {
		return "", false
	}
	r := (&http.Request{Method: http.MethodGet, Host: host, URL: &url.URL{Path: path}}).WithContext(a.ctx)
	w := new(answer)
	if !a.issuer.HandleHTTPChallenge(w, r) || w.status != 0 && w.status != http.StatusOK {
		return "", false
	}
	return w.body.String(), true
}

// answer takes what the library writes.
type answer struct {
	header http.Header
	status int
	body   strings.Builder
}

func (w *answer) Header() http.Header {
	if w.header == nil {
		w.header = make(http.Header)
	}
	return w.header
}
func (w *answer) WriteHeader(status int)      { w.status = status }
func (w *answer) Write(p []byte) (int, error) { return w.body.Write(p) }

func (a *authority) status() (out []Status) {
	a.mu.Lock()
	failure := make(map[string]string, len(a.domains))
	for d := range a.domains {
		failure[d] = a.failure[d]
	}
	a.mu.Unlock()
	for d, text := range failure {
		s := Status{Names: []string{d}, Source: a.cfg.Directory, Error: text}
		if list := a.certificates(d); len(list) > 0 {
			s.Expires = list[0].Leaf.NotAfter
		}
		out = append(out, s)
	}
	return out
}
