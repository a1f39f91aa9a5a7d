package upstream

import (
	"sync"

	"gatehouse.dev/gatehouse/internal/upstream/balance"
	"gatehouse.dev/gatehouse/internal/upstream/health"
)

// Memory keeps what is known of services and their endpoints while their
// settings change: a reload that changes a timeout forgets no ejection. It is
// safe for concurrent use.
type Memory struct {
	mu       sync.Mutex
	services map[string]*history
}

// NewMemory returns an empty memory.
func NewMemory() *Memory { return &Memory{services: make(map[string]*history)} }

// history is what is known of one service, by whatever upstreams use it.
type history struct {
	name      string
	breaker   health.Breaker
	times     health.Percentiles
	endpoints map[string]*record
	findings  map[string]*finding
	users     int
}

// finding is what was found last for one name, or by one source of endpoints:
// a reload while the name server or the source is down loses nothing.
type finding struct {
	key   string
	users int

	mu        sync.Mutex
	addresses []string            // of a name
	sites     []*site             // of a source; they do not change
	names     map[string][]string // in those
}

func (f *finding) set(addresses []string) {
	f.mu.Lock()
	f.addresses = addresses
	f.mu.Unlock()
}

func (f *finding) get() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.addresses
}

func (f *finding) setSites(sites []*site, names map[string][]string) {
	f.mu.Lock()
	f.sites, f.names = sites, names
	f.mu.Unlock()
}

func (f *finding) getSites() ([]*site, map[string][]string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sites, f.names
}

// record is what is known of one endpoint.
type record struct {
	key    string
	load   balance.Load
	health health.Endpoint
	users  int
}

// open returns the service of a name. Each open wants its close.
func (m *Memory) open(name string) *history {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.services[name]
	if s == nil {
		s = &history{name: name, endpoints: make(map[string]*record), findings: make(map[string]*finding)}
		m.services[name] = s
	}
	s.users++
	return s
}

// close forgets a service that nobody uses.
func (m *Memory) close(s *history) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.users--; s.users == 0 {
		delete(m.services, s.name)
	}
}

// finding returns what was found last under a key. Each wants its drop.
func (m *Memory) finding(s *history, key string) *finding {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := s.findings[key]
	if f == nil {
		f = &finding{key: key}
		s.findings[key] = f
	}
	f.users++
	return f
}

// drop forgets what nobody looks for any more.
func (m *Memory) drop(s *history, f *finding) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f.users--; f.users == 0 {
		delete(s.findings, f.key)
	}
}

// endpoint returns the record of an endpoint. Each wants its forget.
func (m *Memory) endpoint(s *history, key string) *record {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := s.endpoints[key]
	if r == nil {
		r = &record{key: key}
		s.endpoints[key] = r
	}
	r.users++
	return r
}

// forget forgets an endpoint that nobody uses.
func (m *Memory) forget(s *history, r *record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r.users--; r.users == 0 && s.endpoints[r.key] == r {
		delete(s.endpoints, r.key)
	}
}
