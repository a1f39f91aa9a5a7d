package discover

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
)

// consul finds the passing instances of a service in a Consul catalog, by
// blocking queries to the health endpoint of an agent.
type consul struct {
	client *http.Client
	url    string
	query  url.Values
	token  string
	scheme string
}

const (
	// consulWait is how long the agent holds a query while nothing changes. It
	// adds up to a sixteenth.
	consulWait    = 55 * time.Second
	consulTimeout = consulWait + consulWait/16 + 5*time.Second
	// consulPause is the least time from one query to the next: an agent whose
	// catalog changes all the time, or what stands before it and does not know
	// blocking queries, answers at once.
	consulPause = 200 * time.Millisecond
)

func newConsul(c *config.Consul, scheme string) (*consul, error) {
	u, err := url.Parse(c.Address)
	if err != nil {
		return nil, errors.New("consul address is not a URL")
	}
	s := &consul{
		client: client(&http.Transport{ResponseHeaderTimeout: consulTimeout, TLSHandshakeTimeout: lookTimeout}),
		url:    u.JoinPath("v1/health/service", url.PathEscape(c.Service)).String(),
		query:  url.Values{"passing": {"1"}},
		token:  c.Token.Reveal(),
		scheme: scheme,
	}
	if c.Tag != "" {
		s.query.Set("tag", c.Tag)
	}
	if c.Datacenter != "" {
		s.query.Set("dc", c.Datacenter)
	}
	return s, nil
}

func (c *consul) Watch(ctx context.Context, tell Tell) {
	defer c.client.CloseIdleConnections()
	index, failures := uint64(0), 0
	for {
		asked := time.Now()
		found, next, err := c.find(ctx, index)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			tell(nil, err)
			index = 0
			if !sleep(ctx, again(failures)) {
				return
			}
			failures++
			continue
		}
		failures = 0
		if next != index || next == 0 { // without an index every answer may be new
			tell(found, nil)
		}
		if next < index {
			next = 0 // the agent began to count anew
		}
		pause := consulPause - time.Since(asked)
		if index = next; index == 0 { // it cannot wait for changes
			pause = time.Second
		}
		if pause > 0 && !sleep(ctx, pause) {
			return
		}
	}
}

func (c *consul) find(ctx context.Context, index uint64) (found []*config.Endpoint, next uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, consulTimeout)
	defer cancel()
	if index > 0 {
		c.query.Set("index", strconv.FormatUint(index, 10))
		c.query.Set("wait", consulWait.String())
	} else {
		c.query.Del("index")
		c.query.Del("wait")
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url+"?"+c.query.Encode(), nil)
	if err != nil {
		return nil, 0, err
	}
	if c.token != "" {
		req.Header.Set("X-Consul-Token", c.token)
	}
	res, err := c.client.Do(req)
	if err != nil {
		return nil, 0, err
	}
	data, err := answer(res)
	if err != nil {
		return nil, 0, fmt.Errorf("ask consul: %w", err)
	}
	if h := res.Header.Get("X-Consul-Index"); h != "" {
		if next, err = strconv.ParseUint(h, 10, 64); err != nil {
			return nil, 0, fmt.Errorf("ask consul: index %q is not a number", h)
		}
	}
	found, err = parseConsul(data, c.scheme)
	return found, next, err
}

// parseConsul reads the answer of /v1/health/service.
func parseConsul(data []byte, scheme string) ([]*config.Endpoint, error) {
	var entries []struct {
		Node struct {
			Address string
		}
		Service struct {
			Address string
			Port    int
			Weights struct{ Passing int }
			Meta    map[string]string
		}
	}
	if err := json.Unmarshal(data, &entries); err != nil {
		return nil, fmt.Errorf("answer of consul: %w", err)
	}
	if len(entries) > mostRecords {
		return nil, fmt.Errorf("%d instances are more than %d", len(entries), mostRecords)
	}
	var found []*config.Endpoint
	for _, e := range entries {
		host := e.Service.Address
		if host == "" {
			host = e.Node.Address // where the service says nothing it is on its node
		}
		if host == "" || e.Service.Port < 1 || e.Service.Port > 65535 || strings.ContainsAny(host, "/?#@ ") {
			return nil, fmt.Errorf("instance at %q, port %d, is no endpoint", host, e.Service.Port)
		}
		one := endpoint(scheme, net.JoinHostPort(host, strconv.Itoa(e.Service.Port)))
		one.Weight = weight(e.Service.Weights.Passing)
		one.Zone = e.Service.Meta["zone"]
		found = append(found, one)
	}
	return found, nil
}
