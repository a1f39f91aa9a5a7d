// Package discover owns the ways in which endpoints are found: names, SRV
// records, files, Consul, Kubernetes. A source tells every list that it finds,
// whole, and every failure; what to do with an empty list or a failure, and
// which addresses are refused, is the upstream's to decide.
package discover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
)

// Source finds endpoints.
type Source interface {
	// Watch calls tell with every list of endpoints that is found, and with
	// every failure to find one, until ctx ends. Calls do not overlap. The
	// URLs may hold names, which are for the caller to resolve.
	Watch(ctx context.Context, tell Tell)
}

// Tell is told a list of endpoints, or why there is none. It returns for how
// long the names in it are good, 0 when that is not known.
type Tell func(found []*config.Endpoint, err error) (good time.Duration)

// Resolver looks up SRV records. A *net.Resolver is one. A *DNS also tells for
// how long they are good.
type Resolver interface {
	LookupSRV(ctx context.Context, service, proto, name string) (string, []*net.SRV, error)
}

// New returns the source that the settings name.
func New(d *config.Discovery, r Resolver) (Source, error) {
	switch {
	case d.DNS != "":
		e := endpoint(d.Scheme, d.DNS)
		return &poll{d.Interval.D(), func(context.Context) ([]*config.Endpoint, time.Duration, error) {
			return []*config.Endpoint{e}, 0, nil // the name is resolved each time it is told
		}}, nil
	case d.SRV != "":
		s := &srv{name: d.SRV, scheme: d.Scheme, resolver: r}
		return &poll{d.Interval.D(), s.find}, nil
	case d.File != "":
		f := &file{name: d.File}
		return &poll{d.Interval.D(), f.find}, nil
	case d.Consul != nil:
		return newConsul(d.Consul, d.Scheme)
	case d.Kubernetes != nil:
		return newKubernetes(d.Kubernetes, d.Scheme)
	}
	return nil, errors.New("discovery names no source")
}

func endpoint(scheme, hostport string) *config.Endpoint {
	return &config.Endpoint{URL: scheme + "://" + hostport, Weight: 1}
}

// weight brings a weight of another system into the range of ours.
func weight(w int) int { return min(max(w, 1), 1000) }

// poll looks again and again.
type poll struct {
	interval time.Duration
	find     func(ctx context.Context) (found []*config.Endpoint, good time.Duration, err error)
}

// errUnchanged says that there is nothing new.
var errUnchanged = errors.New("unchanged")

// lookTimeout bounds one look.
const lookTimeout = 5 * time.Second

func (p *poll) Watch(ctx context.Context, tell Tell) {
	for {
		look, cancel := context.WithTimeout(ctx, lookTimeout)
		found, good, err := p.find(look)
		cancel()
		if ctx.Err() != nil {
			return
		}
		unchanged := errors.Is(err, errUnchanged)
		if !unchanged {
			good = sooner(good, tell(found, err))
		}
		var ok bool
		switch {
		case err != nil && !unchanged:
			ok = sleep(ctx, min(p.interval, FailedGood))
		case good > 0 && Good(good) < p.interval:
			ok = wait(ctx, Good(good))
		default:
			ok = sleep(ctx, p.interval)
		}
		if !ok {
			return
		}
	}
}

// FailedGood is how long a failure is good at most: what was found before may
// have changed since.
const FailedGood = 5 * time.Second

// sooner returns the shorter one of two times, of which 0 is not known.
func sooner(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// Good is how long an answer is used that its server calls good for a time: a
// second at least, and a little longer at random, so that not everybody asks
// at the same moment.
func Good(ttl time.Duration) time.Duration {
	return max(ttl, time.Second) + rand.N(250*time.Millisecond)
}

// sleep waits for about d and reports false when ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool { return wait(ctx, d*9/10+rand.N(d/5+1)) }

func wait(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// again is how long a source waits after a number of failures in a row.
func again(failures int) time.Duration {
	return min(time.Second<<min(failures, 5), 30*time.Second)
}

// srv finds endpoints by SRV records (RFC 2782).
type srv struct {
	name, scheme string
	resolver     Resolver
}

// mostRecords bounds the endpoints of one source.
const mostRecords = 10_000

func (s *srv) find(ctx context.Context) (found []*config.Endpoint, good time.Duration, err error) {
	var records []*net.SRV
	if d, ok := s.resolver.(*DNS); ok {
		records, good, err = d.Services(ctx, s.name)
	} else {
		_, records, err = s.resolver.LookupSRV(ctx, "", "", s.name)
	}
	var missing *net.DNSError
	if errors.As(err, &missing) && missing.IsNotFound {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	if len(records) > mostRecords {
		return nil, 0, fmt.Errorf("%d records are more than %d", len(records), mostRecords)
	}
	// Priorities are any numbers; tiers are counted.
	var order []uint16
	for _, r := range records {
		order = append(order, r.Priority)
	}
	slices.Sort(order)
	order = slices.Compact(order)
	for _, r := range records {
		host := strings.TrimSuffix(r.Target, ".")
		if host == "" || r.Port == 0 {
			continue // "." says that the service is not there
		}
		e := endpoint(s.scheme, net.JoinHostPort(host, strconv.Itoa(int(r.Port))))
		e.Weight = weight(int(r.Weight))
		e.Priority = slices.Index(order, r.Priority)
		found = append(found, e)
	}
	return found, good, nil
}

// file finds endpoints in a file. It is read again and again, and tells when
// it changed: a look at its time would miss changes within the same tick.
type file struct {
	name   string
	looked bool   // it was read before
	seen   []byte // what was told last, nil when that was a failure
}

const (
	maxFile = 4 << 20 // bytes of the file
	// fileRests is how long a change must stay as it is: whoever writes the
	// file may be in the middle of it.
	fileRests = 100 * time.Millisecond
)

var errRestless = errors.New("the file is written all the time")

func (f *file) find(ctx context.Context) (found []*config.Endpoint, _ time.Duration, err error) {
	data, err := config.ReadFile(f.name, maxFile)
	for f.looked && err == nil && (f.seen == nil || !bytes.Equal(data, f.seen)) {
		if !wait(ctx, fileRests) {
			return nil, 0, errRestless
		}
		before := data
		if data, err = config.ReadFile(f.name, maxFile); bytes.Equal(data, before) {
			break
		}
	}
	f.looked = true
	if err == nil && f.seen != nil && bytes.Equal(data, f.seen) {
		return nil, 0, errUnchanged
	}
	if err == nil {
		found, err = config.ParseEndpoints(f.name, data)
	}
	if f.seen = nil; err == nil {
		f.seen = append(make([]byte, 0, len(data)), data...)
	}
	return found, 0, err
}

// maxAnswer bounds what an API may answer, in bytes.
const maxAnswer = 16 << 20

// answer reads the whole body of an API's answer, which must be a 200.
func answer(res *http.Response) ([]byte, error) {
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, &statusError{res.StatusCode}
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err == nil && len(b) > maxAnswer {
		err = fmt.Errorf("answer is larger than %d bytes", maxAnswer)
	}
	return b, err
}

type statusError struct{ status int }

func (e *statusError) Error() string { return fmt.Sprintf("answer has status %d", e.status) }

// client returns a client for an API. It follows no redirects: they could lead
// the token elsewhere.
func client(t *http.Transport) *http.Client {
	t.Proxy = nil
	t.MaxResponseHeaderBytes = 64 << 10
	return &http.Client{Transport: t, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}
