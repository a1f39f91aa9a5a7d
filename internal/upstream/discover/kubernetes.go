package discover

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
)

// kubernetes finds the ready addresses of a service by listing and watching
// its EndpointSlices (discovery.k8s.io/v1).
type kubernetes struct {
	client    *http.Client
	url       string
	selector  string
	tokenFile string
	port      string
	scheme    string

	slices map[string]*slice
}

// Where a pod finds its service account.
const accountFolder = "/var/run/secrets/kubernetes.io/serviceaccount/"

const (
	// watchTime is how long one watch lasts before the server ends it.
	watchTime = 4 * time.Minute
	// watchPause is the least time from one watch to the next: a server, or what
	// stands before it, may end them at once.
	watchPause = time.Second
	// watchWorked is how long things went well before a failure is a new one.
	watchWorked = 30 * time.Second
)

func newKubernetes(c *config.Kubernetes, scheme string) (*kubernetes, error) {
	api, token, ca := c.API, c.TokenFile, c.CAFile
	if api == "" {
		host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
		if host == "" || port == "" {
			return nil, errors.New("kubernetes discovery has no api, and the gateway does not run in a cluster")
		}
		api = "https://" + net.JoinHostPort(host, port)
		if token == "" {
			token = accountFolder + "token"
		}
		if ca == "" {
			ca = accountFolder + "ca.crt"
		}
	}
	u, err := url.Parse(api)
	if err != nil {
		return nil, errors.New("kubernetes api is not a URL")
	}
	if token != "" && u.Scheme != "https" {
		return nil, errors.New("kubernetes api with a token must use https")
	}
	t := &http.Transport{ResponseHeaderTimeout: 10 * time.Second, TLSHandshakeTimeout: lookTimeout}
	if ca != "" {
		pem, err := config.ReadFile(ca, maxFile)
		if err != nil {
			return nil, fmt.Errorf("read authorities of kubernetes: %w", err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("authorities file %q holds no certificate in PEM", ca)
		}
		t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	return &kubernetes{
		client:    client(t),
		url:       u.JoinPath("apis/discovery.k8s.io/v1/namespaces", url.PathEscape(c.Namespace), "endpointslices").String(),
		selector:  "kubernetes.io/service-name=" + c.Service,
		tokenFile: token, port: c.Port, scheme: scheme,
	}, nil
}

func (k *kubernetes) Watch(ctx context.Context, tell Tell) {
	defer k.client.CloseIdleConnections()
	for failures := 0; ; failures++ {
		begun := time.Now()
		err := k.follow(ctx, func(found []*config.Endpoint) { tell(found, nil) })
		if ctx.Err() != nil {
			return
		}
		if time.Since(begun) > watchWorked {
			failures = 0
		}
		if err != nil {
			tell(nil, err)
		}
		if !sleep(ctx, again(failures)) {
			return
		}
	}
}

// follow lists once and watches until something goes wrong, or the history
// that the watch goes on from is no longer there.
func (k *kubernetes) follow(ctx context.Context, tell func([]*config.Endpoint)) error {
	version, err := k.list(ctx)
	if err != nil {
		return err
	}
	if err := k.tell(tell); err != nil {
		return err
	}
	for {
		begun := time.Now()
		next, err := k.watch(ctx, version, tell)
		var gone *statusError
		if errors.As(err, &gone) && gone.status == http.StatusGone {
			return nil // list again
		}
		if err != nil {
			return err
		}
		version = next
		if !sleep(ctx, max(watchPause-time.Since(begun), watchPause/10)) {
			return ctx.Err()
		}
	}
}

func (k *kubernetes) get(ctx context.Context, query url.Values) (*http.Response, error) {
	query.Set("labelSelector", k.selector)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, k.url+"?"+query.Encode(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/json")
	if k.tokenFile != "" {
		token, err := config.ReadFile(k.tokenFile, maxFile) // it is replaced from time to time
		if err != nil {
			return nil, fmt.Errorf("read token of kubernetes: %w", err)
		}
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	}
	return k.client.Do(req)
}

// slice is an EndpointSlice.
type slice struct {
	Metadata struct {
		Name            string `json:"name"`
		ResourceVersion string `json:"resourceVersion"`
	} `json:"metadata"`
	AddressType string `json:"addressType"`
	Endpoints   []struct {
		Addresses  []string `json:"addresses"`
		Conditions struct {
			Ready *bool `json:"ready"`
		} `json:"conditions"`
		Zone string `json:"zone"`
	} `json:"endpoints"`
	Ports []struct {
		Name string `json:"name"`
		Port *int   `json:"port"`
	} `json:"ports"`
}

func (k *kubernetes) list(ctx context.Context) (version string, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*lookTimeout)
	defer cancel()
	res, err := k.get(ctx, url.Values{})
	if err != nil {
		return "", err
	}
	data, err := answer(res)
	if err != nil {
		return "", fmt.Errorf("list endpoint slices: %w", err)
	}
	var list struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
		Items []*slice `json:"items"`
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return "", fmt.Errorf("list of endpoint slices: %w", err)
	}
	k.slices = make(map[string]*slice)
	for _, s := range list.Items {
		if s != nil {
			k.slices[s.Metadata.Name] = s
		}
	}
	return list.Metadata.ResourceVersion, nil
}

// watch takes changes until the server ends the watch, and returns where the
// next one goes on.
func (k *kubernetes) watch(ctx context.Context, version string, tell func([]*config.Endpoint)) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, watchTime+30*time.Second)
	defer cancel()
	res, err := k.get(ctx, url.Values{
		"watch": {"1"}, "allowWatchBookmarks": {"true"}, "resourceVersion": {version},
		"timeoutSeconds": {strconv.Itoa(int(watchTime / time.Second))},
	})
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("watch endpoint slices: %w", &statusError{res.StatusCode})
	}
	limited := &io.LimitedReader{R: res.Body}
	d := json.NewDecoder(limited)
	for {
		limited.N = maxAnswer
		var event struct {
			Type   string          `json:"type"`
			Object json.RawMessage `json:"object"`
		}
		if err := d.Decode(&event); err == io.EOF && limited.N > 0 {
			return version, nil
		} else if err != nil {
			return "", fmt.Errorf("watch endpoint slices: %w", err)
		}
		if event.Type == "ERROR" {
			var status struct {
				Code    int    `json:"code"`
				Message string `json:"message"`
			}
			if err := json.Unmarshal(event.Object, &status); err != nil {
				return "", fmt.Errorf("watch endpoint slices: %w", err)
			}
			return "", fmt.Errorf("watch endpoint slices: %w: %.200q", &statusError{status.Code}, status.Message)
		}
		s := new(slice)
		if err := json.Unmarshal(event.Object, s); err != nil {
			return "", fmt.Errorf("endpoint slice: %w", err)
		}
		if v := s.Metadata.ResourceVersion; v != "" { // "" would mean to begin anywhere
			version = v
		}
		switch event.Type {
		case "ADDED", "MODIFIED":
			k.slices[s.Metadata.Name] = s
		case "DELETED":
			delete(k.slices, s.Metadata.Name)
		default:
			continue // a bookmark
		}
		if len(k.slices) > mostRecords {
			return "", fmt.Errorf("more than %d endpoint slices", mostRecords)
		}
		if err := k.tell(tell); err != nil {
			return "", err
		}
	}
}

// tell tells the endpoints of all slices.
func (k *kubernetes) tell(tell func([]*config.Endpoint)) error {
	var found []*config.Endpoint
	seen := make(map[string]bool) // an address may stand in two slices for a moment
	for _, name := range slices.Sorted(maps.Keys(k.slices)) {
		s := k.slices[name]
		if s.AddressType != "IPv4" && s.AddressType != "IPv6" {
			continue
		}
		port, err := s.port(k.port)
		if err != nil {
			return err
		}
		if port == 0 {
			continue
		}
		for _, e := range s.Endpoints {
			if e.Conditions.Ready != nil && !*e.Conditions.Ready || len(e.Addresses) == 0 {
				continue
			}
			// All addresses of an endpoint mean the same one (KEP 752).
			a, err := netip.ParseAddr(e.Addresses[0])
			if err != nil {
				return fmt.Errorf("endpoint slice %q: address %q is none", name, e.Addresses[0])
			}
			one := endpoint(k.scheme, netip.AddrPortFrom(a.WithZone(""), uint16(port)).String())
			if one.Zone = e.Zone; seen[one.URL] {
				continue
			}
			seen[one.URL] = true
			found = append(found, one)
		}
	}
	if len(found) > mostRecords {
		return fmt.Errorf("%d endpoints are more than %d", len(found), mostRecords)
	}
	tell(found)
	return nil
}

// port returns the port of a slice that is meant, 0 when it has none.
func (s *slice) port(wanted string) (int, error) {
	number, _ := strconv.Atoi(wanted)
	if wanted == "" && len(s.Ports) > 1 {
		return 0, fmt.Errorf("endpoint slice %q has several ports, and none is chosen", s.Metadata.Name)
	}
	for _, p := range s.Ports {
		if p.Port == nil || *p.Port < 1 || *p.Port > 65535 {
			continue
		}
		if wanted == "" || p.Name == wanted || *p.Port == number {
			return *p.Port, nil
		}
	}
	return 0, nil
}
