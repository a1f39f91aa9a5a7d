package oidc

import (
	"maps"
	"slices"
	"sync"
	"time"

	"gatehouse.dev/gatehouse/internal/identify"
)

// The names of what has ended: a session, by the gateway's or the provider's
// name of it, or all sessions of a person. "" stands for none.
func ownName(own string) string     { return named("o", own) }
func sessionName(sid string) string { return named("i", sid) }
func personName(sub string) string  { return named("s", sub) }

// lonelyName is of a person's sessions that the provider has given no name.
func lonelyName(sub string) string { return named("n", sub) }

func named(kind, name string) string {
	if name == "" {
		return ""
	}
	return kind + name
}

// endings are the sessions that have ended. A session is over when it began
// before something that it belongs to ended.
type endings struct {
	local  *ended
	shared *identify.Shared // with other gateways, nil: they are not told
	issuer string
}

// end takes down that something ended, and for how long that matters. This
// gateway knows it even if there is an error.
func (e *endings) end(keep time.Duration, at int64, name string) error {
	if name == "" {
		return nil
	}
	e.local.add(name, at)
	if e.shared == nil {
		return nil
	}
	return e.shared.Raise(e.key(name), at, keep)
}

// has tells whether a session is over.
func (e *endings) has(s *session) (bool, error) {
	sub, _ := s.Claims["sub"].(string)
	session := sessionName(s.ID)
	if session == "" {
		session = lonelyName(sub)
	}
	names := make([]string, 0, 3)
	for _, name := range []string{ownName(s.Own), session, personName(sub)} {
		if name != "" {
			names = append(names, name)
		}
	}
	if over := e.local.has(s.Begun, names); over || e.shared == nil {
		return over, nil
	}
	keys := make([]string, len(names))
	for i, name := range names {
		keys[i] = e.key(name)
	}
	at, err := e.shared.Numbers(keys...)
	for _, t := range at {
		if t != 0 && s.Begun <= t {
			return true, err
		}
	}
	return false, err
}

func (e *endings) key(name string) string { return identify.SharedKey("ended", e.issuer, name) }

// ended is what this gateway remembers: when what ended, in seconds since 1970.
type ended struct {
	mu sync.RWMutex
	m  map[string]int64
}

// mostEnded bounds what is remembered. Beyond it the oldest half goes: those
// are the sessions that are most likely over by themselves.
const mostEnded = 200_000

func newEnded() *ended { return &ended{m: make(map[string]int64)} }

func (e *ended) add(name string, at int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.m) >= mostEnded {
		times := slices.Sorted(maps.Values(e.m))
		middle := times[len(times)/2]
		for k, t := range e.m {
			if t <= middle {
				delete(e.m, k)
			}
		}
	}
	e.m[name] = max(e.m[name], at)
}

func (e *ended) has(begun int64, names []string) bool {
	e.mu.RLock()
	defer e.mu.RUnlock()
	for _, name := range names {
		if at, ok := e.m[name]; ok && begun <= at {
			return true
		}
	}
	return false
}
