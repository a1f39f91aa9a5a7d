package upstreamauth

import (
	"context"
	"errors"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/identify"
	"gatehouse.dev/gatehouse/internal/policy"
)

// issuer is one that takes a second to answer.
type issuer struct {
	mu    sync.Mutex
	given int
	asked int
	err   error
	life  time.Duration
}

func (i *issuer) ask(ctx context.Context, subject string) (string, time.Duration, error) {
	i.mu.Lock()
	i.asked++
	i.given++
	n, err, life := i.given, i.err, i.life
	i.mu.Unlock()
	select {
	case <-time.After(time.Second):
	case <-ctx.Done():
		return "", 0, ctx.Err()
	}
	return subject + strconv.Itoa(n), life, err
}

func (i *issuer) set(err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.err = err
}

// times returns how often the issuer was asked since the last call.
func (i *issuer) times() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	n := i.asked
	i.asked = 0
	return n
}

func newTokens(i *issuer, forgives int) *tokens {
	return &tokens{
		ask: i.ask, log: slog.New(slog.DiscardHandler), timeout: 5 * time.Second, remember: 10 * time.Second, forgives: forgives,
		cache: identify.NewTokens[token](100), flights: make(map[string]*flight),
	}
}

func want(t *testing.T, s *tokens, subject, value, code string) {
	t.Helper()
	x := exchange.Get()
	defer exchange.Put(x)
	v, p := s.get(x, subject)
	switch {
	case p != nil && p.Code != code:
		t.Errorf("%v, want %q %s", p, value, code)
	case p == nil && (v.value != value || code != ""):
		t.Errorf("token %q, want %q %s", v.value, value, code)
	}
}

func TestTokensAreKeptAndRenewed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{life: 100 * time.Second}
		s := newTokens(i, 0)
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() { want(t, s, "", "1", "") })
		}
		all.Wait()
		if n := i.times(); n != 1 {
			t.Fatalf("asked %d times for one token", n)
		}
		time.Sleep(69 * time.Second)
		want(t, s, "", "1", "")
		if n := i.times(); n != 0 {
			t.Errorf("asked %d times long before the token ends", n)
		}
		// Requests do not wait for the next token.
		time.Sleep(15 * time.Second)
		for range 5 {
			want(t, s, "", "1", "")
		}
		time.Sleep(2 * time.Second)
		want(t, s, "", "2", "")
		if n := i.times(); n != 1 {
			t.Errorf("asked %d times for the next token", n)
		}
	})
}

func TestTokensOutlastTheIssuer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{life: 100 * time.Second}
		s := newTokens(i, 0)
		want(t, s, "", "1", "")
		i.set(errors.New("down"))
		for range 17 {
			time.Sleep(5 * time.Second)
			want(t, s, "", "1", "")
		}
		time.Sleep(6 * time.Second) // it ends in 9 s, and is not used any more
		want(t, s, "", "", "upstream_credential_unavailable")
		if n := i.times(); n > 6 {
			t.Errorf("an issuer that is down was asked %d times", n)
		}
		// The pause is over at the latest after its longest time.
		i.set(nil)
		time.Sleep(longestPause)
		x := exchange.Get()
		defer exchange.Put(x)
		if v, p := s.get(x, ""); p != nil || v.value == "1" {
			t.Errorf("with the issuer up again: %v, %v", v, p)
		}
	})
}

func TestPauseAfterFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{err: errors.New("down")}
		s := newTokens(i, 0)
		want(t, s, "", "", "upstream_credential_unavailable")
		x := exchange.Get()
		defer exchange.Put(x)
		start := time.Now()
		_, p := s.get(x, "")
		if p == nil || p.Retry <= 0 || p.Status != 503 || time.Since(start) != 0 {
			t.Errorf("in the pause: %v after %v", p, time.Since(start))
		}
		if n := i.times(); n != 1 {
			t.Errorf("asked %d times", n)
		}
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			want(t, s, "", "", "upstream_credential_unavailable")
		}
		if n := i.times(); n > 6 {
			t.Errorf("asked %d times in a minute", n)
		}
	})
}

func TestOneCallersFailureIsNotEverybodys(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{life: time.Minute, err: errors.New("odd")}
		s := newTokens(i, 2)
		want(t, s, "a", "", "upstream_credential_unavailable")
		i.set(nil)
		want(t, s, "b", "b2", "")
		i.set(&refusal{errors.New("no")})
		want(t, s, "c", "", "upstream_credential_refused")
		i.set(nil)
		want(t, s, "c", "", "upstream_credential_refused") // it is remembered
		want(t, s, "b", "b2", "")
		time.Sleep(11 * time.Second)
		want(t, s, "c", "c4", "")
	})
}

func TestDoubtedTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{life: time.Hour}
		s := newTokens(i, 0)
		want(t, s, "", "1", "")
		for range 10 {
			s.doubt("")
		}
		time.Sleep(31 * time.Second)
		want(t, s, "", "1", "")
		for range 10 {
			s.doubt("")
		}
		want(t, s, "", "1", "")
		time.Sleep(2 * time.Second)
		want(t, s, "", "2", "")
		s.doubt("")
		if n := i.times(); n != 2 {
			t.Errorf("asked %d times", n)
		}
	})
}

func TestClientLeavesWhileWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{life: time.Hour}
		s := newTokens(i, 0)
		x := exchange.Get()
		defer exchange.Put(x)
		go func() {
			time.Sleep(100 * time.Millisecond)
			x.Cancel(exchange.ErrClientGone)
		}()
		start := time.Now()
		if _, p := s.get(x, ""); p == nil || p.Status != exchange.StatusClientGone || time.Since(start) != 100*time.Millisecond {
			t.Errorf("%v after %v", p, time.Since(start))
		}
		// What it began is not lost.
		want(t, s, "", "1", "")
	})
}

func TestLifeOfTokens(t *testing.T) {
	now := time.Now()
	for _, life := range []time.Duration{time.Second, 10 * time.Second, time.Minute, time.Hour, 1000 * time.Hour} {
		for range 100 {
			v := newToken("x", life, now)
			most := min(life, longestLife)
			if !v.until.Before(now.Add(most)) || v.renew.After(v.until) || v.until.Before(now.Add(most*9/10-margin)) || v.renew.Before(now.Add(most*6/10)) {
				t.Fatalf("a token of %v is used for %v and renewed after %v", life, v.until.Sub(now), v.renew.Sub(now))
			}
		}
	}
}

// An upstream that refuses the token has it renewed; an answer of the gateway's
// own says nothing of the token.
func TestUpstreamRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{life: time.Hour}
		step := &issued{tokens: newTokens(i, 0), place: place{field: exchange.Field{Name: "Authorization", Known: exchange.Authorization}}}
		x := exchange.Get()
		defer exchange.Put(x)
		if step.Request(x) != policy.Next || x.Request.Header.Get("Authorization") != "1" {
			t.Fatalf("%v", x.Problem)
		}
		i.times()
		time.Sleep(doubtAfter)
		for _, c := range []struct {
			status  int
			local   bool
			problem *exchange.Problem
			grpc    string
			asked   int
		}{
			{status: 200},
			{status: 403},
			{status: 401, local: true},
			{status: 401, problem: &refused},
			{status: 200, grpc: "7"},
			{status: 200, grpc: "16", local: true},
			{status: 401, asked: 1},
			{status: 401},
			{status: 200, grpc: "16", asked: 1},
		} {
			if c.grpc != "" && c.asked > 0 {
				time.Sleep(doubtAfter)
			}
			x.Response.Status, x.Response.Local, x.Problem = c.status, c.local, c.problem
			x.Response.Header.Set("Grpc-Status", c.grpc)
			step.Response(x)
			time.Sleep(2 * time.Second)
			if n := i.times(); n != c.asked {
				t.Errorf("%+v: asked %d times", c, n)
			}
		}
		x.Problem = nil
		if step.Request(x) != policy.Next || x.Request.Header.Get("Authorization") != "3" {
			t.Errorf("after two refusals: %q, %v", x.Request.Header.Get("Authorization"), x.Problem)
		}
	})
}

// However many callers there are, so many tokens are kept and no more, and each
// gets its own.
func TestTokensAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := &issuer{life: time.Hour}
		s := newTokens(i, 2)
		for round := range 2 {
			for n := range 1000 {
				x := exchange.Get()
				subject := "caller-" + strconv.Itoa(n) + "-"
				v, p := s.get(x, subject)
				if p != nil || !strings.HasPrefix(v.value, subject) {
					t.Fatalf("%s gets %v, %v", subject, v, p)
				}
				exchange.Put(x)
			}
			if n := i.times(); round == 1 && n < 1000-128 {
				t.Errorf("a memory of 100 tokens knew %d", 1000-n)
			}
		}
		if len(s.flights) != 0 {
			t.Errorf("%d flights never ended", len(s.flights))
		}
	})
}
