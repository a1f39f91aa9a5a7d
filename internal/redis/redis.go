// Package redis owns what several gateways share in a Redis or Valkey server:
// limits, quotas and stored answers. No type of the client library leaves it.
//
// A server that is slow, gone or odd costs one request its time limit: the
// rest learn at once that nothing is known, and decide by themselves what that
// means, until the server answers again. Nothing here blocks for longer than
// its caller allows.
package redis

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/limit"
)

// ErrDown says that the server is known not to answer.
var ErrDown = errors.New("redis does not answer")

// Store is one server, or one group of them.
type Store struct {
	prefix string
	log    *slog.Logger
	option rueidis.ClientOption

	client atomic.Pointer[rueidis.Client]
	down   atomic.Bool

	ctx    context.Context
	cancel context.CancelFunc
	tried  chan struct{} // closed after the first attempt to connect
	mu     sync.Mutex    // guards closed against a new goroutine
	closed bool
	before time.Duration // the pause after the last failure
	lately time.Time     // when that was
	all    sync.WaitGroup
}

var (
	_ limit.Store  = (*Store)(nil)
	_ limit.Quotas = (*Store)(nil)
)

// New returns a store that connects in the background: a server that is down
// does not hold up a start. Close ends it.
func New(cfg *config.Redis, log *slog.Logger) (*Store, error) {
	option, err := options(cfg)
	if err != nil {
		return nil, err
	}
	s := &Store{prefix: cfg.Prefix, log: log, option: option, tried: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.down.Store(true)
	s.all.Go(func() {
		if s.try() == nil {
			s.down.Store(false)
			close(s.tried)
			return
		}
		close(s.tried)
		s.recover(0)
	})
	return s, nil
}

// Close ends all connections. Calls that come later fail.
func (s *Store) Close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.all.Wait()
	if c := s.client.Load(); c != nil {
		(*c).Close()
	}
}

// Tried waits until the first attempt to connect has ended, well or not, but
// for no longer than d: who asks then is not told that the server is down while
// nobody knows.
func (s *Store) Tried(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-s.tried:
	case <-t.C:
	}
}

// Ready reports whether the server is thought to answer.
func (s *Store) Ready() bool { return !s.down.Load() }

// options turns settings into those of the client library.
func options(cfg *config.Redis) (rueidis.ClientOption, error) {
	o := rueidis.ClientOption{
		InitAddress: cfg.Nodes, Username: cfg.Username, Password: cfg.Password.Reveal(), SelectDB: cfg.Database,
		ClientName: "gatehouse", DisableCache: true, DisableRetry: true, ForceSingleClient: !cfg.Cluster && cfg.Sentinel == nil,
		Dialer: net.Dialer{Timeout: cfg.ConnectTimeout.D(), KeepAlive: time.Second},
		// How long a connection may owe an answer before it is closed and
		// made anew. Single calls give up earlier.
		ConnWriteTimeout: 2 * time.Second,
	}
	secure := cfg.TLS
	if cfg.URL != "" {
		u, err := url.Parse(cfg.URL)
		if err != nil {
			return o, errors.New("the URL of redis cannot be read")
		}
		switch u.Scheme {
		case "unix":
			path := u.Path
			o.InitAddress = []string{path}
			o.DialCtxFn = func(ctx context.Context, _ string, d *net.Dialer, _ *tls.Config) (net.Conn, error) {
				return d.DialContext(ctx, "unix", path)
			}
		default:
			host := u.Host
			if u.Port() == "" {
				host = net.JoinHostPort(strings.Trim(u.Hostname(), "[]"), "6379")
			}
			o.InitAddress = []string{host}
			secure = secure || u.Scheme == "rediss"
		}
		if db := strings.TrimPrefix(u.Path, "/"); db != "" && u.Scheme != "unix" {
			n, err := strconv.Atoi(db)
			if err != nil {
				return o, fmt.Errorf("%q is not the number of a database", db)
			}
			o.SelectDB = n
		}
	}
	if secure {
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, ServerName: cfg.ServerName}
		if cfg.CAFile != "" {
			pem, err := os.ReadFile(cfg.CAFile)
			if err != nil {
				return o, fmt.Errorf("ca_file of redis: %w", err)
			}
			o.TLSConfig.RootCAs = x509.NewCertPool()
			if !o.TLSConfig.RootCAs.AppendCertsFromPEM(pem) {
				return o, fmt.Errorf("ca_file of redis: %q holds no certificate", cfg.CAFile)
			}
		}
	}
	if cfg.Sentinel != nil {
		o.Sentinel = rueidis.SentinelOption{
			MasterSet: cfg.Sentinel.Master, Username: cfg.Sentinel.Username, Password: cfg.Sentinel.Password.Reveal(),
			Dialer: o.Dialer, TLSConfig: o.TLSConfig, ClientName: o.ClientName,
		}
	}
	return o, nil
}

// The pace at which a server that does not answer is tried again.
const (
	firstTry   = 50 * time.Millisecond
	slowestTry = 2 * time.Second
	tryFor     = time.Second
	goodFor    = 10 * time.Second // after which it counts as one that answers
)

// pause is how long to leave a server alone that fails now: at first not at
// all, and ever longer when it answers only to fail again. s.mu is held.
func (s *Store) pause(now time.Time) time.Duration {
	switch {
	case now.Sub(s.lately) > goodFor:
		s.before = 0
	case s.before == 0:
		s.before = firstTry
	default:
		s.before = min(2*s.before, slowestTry)
	}
	s.lately = now
	return s.before
}

// recover tries until the server answers, after a pause.
func (s *Store) recover(pause time.Duration) {
	wait, told := firstTry, false
	if !s.sleep(pause) {
		return
	}
	for {
		err := s.try()
		if err == nil {
			s.down.Store(false)
			if told {
				s.log.Info("redis answers again")
			}
			return
		}
		if !told && s.ctx.Err() == nil {
			told = true
			s.log.Warn("redis does not answer, trying again", "error", err)
		}
		if !s.sleep(wait) {
			return
		}
		wait = min(2*wait, slowestTry)
	}
}

// sleep reports false when the store was closed meanwhile.
func (s *Store) sleep(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.ctx.Done():
		return false
	}
}

// try connects where nothing is connected yet, and writes: a server that can
// only be read is of no use.
func (s *Store) try() error {
	c := s.client.Load()
	if c == nil {
		made, err := rueidis.NewClient(s.option)
		if err != nil {
			return err
		}
		c = &made
		s.client.Store(c)
	}
	ctx, cancel := context.WithTimeout(s.ctx, tryFor)
	defer cancel()
	return (*c).Do(ctx, (*c).B().Set().Key(s.prefix+"alive").Value("1").PxMilliseconds(1000).Build()).Error()
}

// failed notes that the server does not answer as it should, and has it tried.
// An answer that speaks of one key only says nothing about the rest.
func (s *Store) failed(err error) error {
	if reply, ok := rueidis.IsRedisErr(err); ok && (strings.HasPrefix(reply.Error(), "WRONGTYPE ") || strings.HasPrefix(reply.Error(), "ERR ")) {
		return fmt.Errorf("redis: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed && s.down.CompareAndSwap(false, true) {
		s.log.Warn("redis does not answer", "error", err)
		pause := s.pause(time.Now())
		s.all.Go(func() { s.recover(pause) })
	}
	return fmt.Errorf("redis: %w", err)
}

// call runs scripts, each on its key, in one round trip.
func (s *Store) call(ctx context.Context, calls []invocation) ([]rueidis.RedisResult, error) {
	p := s.client.Load()
	if p == nil || s.down.Load() {
		return nil, ErrDown
	}
	c := *p
	commands := make(rueidis.Commands, len(calls))
	for i, one := range calls {
		commands[i] = c.B().Evalsha().Sha1(one.script.sha).Numkeys(1).Key(s.prefix + one.key).Arg(one.args...).Build()
	}
	results := c.DoMulti(ctx, commands...)
	for i := range results {
		err := results[i].Error()
		if reply, ok := rueidis.IsRedisErr(err); ok && reply.IsNoScript() {
			// A server that was restarted or flushed does not know the script.
			one := calls[i]
			results[i] = c.Do(ctx, c.B().Eval().Script(one.script.source).Numkeys(1).Key(s.prefix+one.key).Arg(one.args...).Build())
			err = results[i].Error()
		}
		if err != nil && !rueidis.IsRedisNil(err) {
			return nil, s.failed(err)
		}
	}
	return results, nil
}

type invocation struct {
	script *script
	key    string
	args   []string
}

// numbers reads a list of so many integers.
func numbers(r rueidis.RedisResult, n int) ([]int64, error) {
	list, err := r.AsIntSlice()
	if err == nil && len(list) != n {
		err = fmt.Errorf("redis answered %d numbers where %d are wanted", len(list), n)
	}
	return list, err
}

// Take implements limit.Store.
func (s *Store) Take(ctx context.Context, calls []limit.Call) error {
	results, err := s.call(ctx, invocations(calls, takeRate, takeWindow))
	if err != nil {
		return err
	}
	for i := range results {
		n, err := numbers(results[i], 4)
		if err != nil {
			return s.failed(err)
		}
		st := limit.State{OK: n[0] == 1, Remaining: n[1], Reset: micros(n[2]), Retry: micros(n[3])}
		if !st.OK && n[3] < 0 {
			st.Retry = limit.Never
		}
		calls[i].State = st
	}
	return nil
}

// Add implements limit.Store.
func (s *Store) Add(ctx context.Context, calls []limit.Call) error {
	_, err := s.call(ctx, invocations(calls, addRate, addWindow))
	return err
}

// Use implements limit.Quotas.
func (s *Store) Use(ctx context.Context, q limit.Quota) (used int64, ok bool, err error) {
	force := "0"
	if q.Force {
		force = "1"
	}
	results, err := s.call(ctx, []invocation{{useQuota, q.Key, []string{
		number(q.Limit), number(q.Cost), number(q.Slot), number(q.Slots), number(int64(q.Keep / time.Millisecond)), force,
	}}})
	if err != nil {
		return 0, false, err
	}
	n, err := numbers(results[0], 2)
	if err != nil {
		return 0, false, s.failed(err)
	}
	return n[1], n[0] == 1, nil
}

func invocations(calls []limit.Call, rate, window *script) []invocation {
	out := make([]invocation, len(calls))
	for i := range calls {
		c := &calls[i]
		per := float64(c.Rule.Per) / 1e3
		if c.Exact {
			out[i] = invocation{window, c.Key, []string{number(int64(math.Ceil(per))), number(c.Rule.Count), number(c.Cost)}}
			continue
		}
		interval := per / float64(c.Rule.Count)
		out[i] = invocation{rate, c.Key, []string{fraction(interval), fraction(interval * float64(c.Rule.Burst)), number(c.Cost)}}
	}
	return out
}

func number(n int64) string     { return strconv.FormatInt(n, 10) }
func fraction(f float64) string { return strconv.FormatFloat(f, 'f', 4, 64) }

func micros(n int64) time.Duration { return time.Duration(n) * time.Microsecond }
