package upstream

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime/debug"
	"slices"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/upstream/discover"
)

// discover begins to look for endpoints.
func (u *Upstream) discover(d *config.Discovery) error {
	records, ok := u.resolver.(discover.Resolver)
	if !ok {
		records = discover.NewDNS()
	}
	source, err := discover.New(d, records)
	if err != nil {
		return err
	}
	f := &finder{u: u, allowEmpty: d.AllowEmpty, allowLocal: d.AllowLocal, finding: u.recall(sourceKey(d))}
	u.discovered, f.known = f.finding.getSites()
	u.rebuild()
	if !u.still {
		go f.follow(source)
	}
	return nil
}

// afterPanic is how long nothing is looked for after a panic.
const afterPanic = 10 * time.Second

// follow has a source look for endpoints until the upstream ends, also after a
// panic: an answer that nobody thought of must not end the gateway.
func (f *finder) follow(source discover.Source) {
	for f.watch(source) {
		select {
		case <-f.u.ctx.Done():
			return
		case <-time.After(afterPanic):
		}
	}
}

// watch is follow up to a panic.
func (f *finder) watch(source discover.Source) (panicked bool) {
	defer func() {
		if v := recover(); v != nil {
			f.u.log.Error("a panic while endpoints were looked for", "upstream", f.u.name, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
			f.take(nil, fmt.Errorf("panic: %v", v))
			panicked = true
		}
	}()
	source.Watch(f.u.ctx, f.told)
	return false
}

// sourceKey is the same for settings that find the same.
func sourceKey(d *config.Discovery) string {
	what := *d
	what.Interval, what.AllowEmpty = 0, false
	settings, err := json.Marshal(what)
	if err != nil { // texts, numbers and truth values always can be written
		panic(err)
	}
	key := "source " + string(settings)
	if d.Consul != nil {
		key += d.Consul.Token.Fingerprint()
	}
	return key
}

// finder turns what a source tells into endpoints. A failure, or an empty
// answer that is not allowed, changes nothing.
type finder struct {
	u                      *Upstream
	allowEmpty, allowLocal bool
	known                  map[string][]string // last good addresses of names
	finding                *finding
	trouble                string // what was told last of a failure, "" while there is none
	last                   []string
	good                   time.Duration // of the names resolved last, 0 when that is not known
}

// mostFound bounds the endpoints of one upstream that are found: each answer
// is bounded, and still a few names could stand for millions of addresses.
const mostFound = 10_000

var (
	errEmpty = errors.New("no endpoint was found")
	errLocal = errors.New("addresses found are loopback, link-local or of a metadata service, and allow_local is not set")
	errMany  = fmt.Errorf("more than %d endpoints were found", mostFound)
)

// told takes what a source found. It returns how long the names in it are good.
func (f *finder) told(found []*config.Endpoint, err error) time.Duration {
	f.good = 0
	f.take(found, err)
	return f.good
}

func (f *finder) take(found []*config.Endpoint, err error) {
	u := f.u
	var sites []*site
	var some error
	if err == nil {
		sites, some, err = f.sites(found)
	}
	if err == nil && len(sites) == 0 && !f.allowEmpty {
		err = errEmpty
	}
	if u.ctx.Err() != nil {
		return
	}
	if err != nil {
		f.tell("endpoints of an upstream cannot be found, the last ones stay in use", err)
		return
	}
	f.tell("some endpoints of an upstream cannot be found or are refused, the others and what is known of these stay in use", some)
	now := make([]string, 0, len(sites))
	for _, s := range sites {
		now = append(now, fmt.Sprint(s.scheme, s.host, s.addresses, s.weight, s.zone, s.priority))
	}
	slices.Sort(now)
	if f.last != nil && slices.Equal(now, f.last) {
		return
	}
	f.last = now
	u.log.Info("endpoints of an upstream were found", "upstream", u.name, "endpoints", len(sites))
	f.finding.setSites(sites, f.known)
	u.mu.Lock()
	u.discovered = sites
	u.mu.Unlock()
	u.rebuild()
}

// tell tells of a failure once, and of its end.
func (f *finder) tell(what string, err error) {
	var why *string
	if err != nil {
		text := err.Error()
		why = &text
	}
	f.u.lost.discovery.Store(why)
	switch {
	case err == nil && f.trouble != "":
		f.trouble = ""
		f.u.meter.Event(DiscoveryWorked)
	case err != nil && f.trouble != what:
		if f.trouble == "" {
			f.u.meter.Event(DiscoveryFailed)
		}
		f.trouble = what
		f.u.log.Warn(what, "upstream", f.u.name, "error", err)
	}
}

// sites resolves names and leaves out what is refused. some is why not all of
// what was found is there, or is not what the name server says now.
func (f *finder) sites(found []*config.Endpoint) (out []*site, some, err error) {
	all := make([]*site, len(found))
	for i, e := range found {
		if all[i], err = parseSite(e); err != nil {
			return nil, nil, err
		}
	}
	answers := f.u.lookUpEach(f.u.ctx, all)
	known := make(map[string][]string)
	count := 0
	for i, s := range all {
		if s.name != "" {
			var failed error
			if s.addresses, failed = f.resolved(s, &answers[i], known); failed != nil {
				some = failed
			}
		}
		if !f.allowLocal {
			n := len(s.addresses)
			s.addresses = slices.DeleteFunc(slices.Clone(s.addresses), func(a string) bool { return s.network == "unix" || local(a) })
			if len(s.addresses) < n {
				some = errLocal
			}
		}
		if len(s.addresses) > 0 {
			out = append(out, s)
		}
		if count += len(s.addresses); count > mostFound {
			return nil, nil, errMany
		}
	}
	if len(out) == 0 {
		return nil, nil, some
	}
	f.known = known
	return out, some, nil
}

// resolved returns the addresses of a name, the last good ones beside the
// error when it could not be resolved. That a name does not exist is no failure
// where an empty answer is allowed.
func (f *finder) resolved(s *site, a *answer, known map[string][]string) (addresses []string, err error) {
	var missing *net.DNSError
	switch addresses, err = a.addresses, a.err; {
	case err == nil:
		f.goodFor(a.good)
	case f.allowEmpty && (errors.Is(err, errNoAddress) || errors.As(err, &missing) && missing.IsNotFound):
		return nil, nil
	default:
		addresses = f.known[s.hostport()]
		f.goodFor(discover.FailedGood)
	}
	if len(addresses) > 0 {
		known[s.hostport()] = addresses
	}
	return addresses, err
}

// goodFor says that one of the answers is good for so long, 0 when that is not
// known.
func (f *finder) goodFor(d time.Duration) {
	if d > 0 && (f.good == 0 || d < f.good) {
		f.good = d
	}
}

// local reports whether an address belongs to this machine, to its link, to
// nobody, or to the metadata service of a cloud.
func local(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return true
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return true
	}
	if a.Zone() != "" {
		return true
	}
	a = exchange.Plain(a)
	return a.IsLoopback() || exchange.Nowhere(a) || exchange.LinkLocal(a)
}
