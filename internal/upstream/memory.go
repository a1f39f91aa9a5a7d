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
	users     int
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
		s = &history{name: name, endpoints: make(map[string]*record)}
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
