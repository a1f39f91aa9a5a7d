package upstreamauth

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/fetch"
	"gatehouse.dev/gatehouse/internal/identify"
	"gatehouse.dev/gatehouse/internal/policy"
)

// token is what an issuer gave, or that it gives none. Nothing writes to it.
type token struct {
	value   string    // of the field that it is sent in
	refused error     // why the issuer gives none for this caller, nil when it did
	got     time.Time // when it came
	renew   time.Time // from when on another one is asked for
	until   time.Time // from when on it is not used
}

// The problems of requests that get no credential.
var (
	unavailable = exchange.Problem{
		Status: 503, Code: "upstream_credential_unavailable", Side: exchange.SideGateway,
		Detail: "The gateway has no credential for the service at present.",
	}
	refused = exchange.Problem{
		Status: 403, Code: "upstream_credential_refused", Side: exchange.SideClient,
		Detail: "There is no credential for the service that this caller may use.",
	}
)

// refusal says that the issuer was asked and gives no token for this caller.
// Any other error means that it could not be found out.
type refusal struct{ cause error }

func (r *refusal) Error() string { return r.cause.Error() }
func (r *refusal) Unwrap() error { return r.cause }

const (
	// firstPause and longestPause bound the time in which an issuer that does
	// not answer is not asked again.
	firstPause   = time.Second
	longestPause = 30 * time.Second
	// doubtAfter is how old a token is at least that is renewed because the
	// upstream refused a request with it.
	doubtAfter = 30 * time.Second
	// longestLife bounds what an issuer says of a token's life.
	longestLife = 24 * time.Hour
	// margin is the longest time before its end in which a token is not used:
	// it must not expire on its way.
	margin = 10 * time.Second
)

// tokens gets tokens from an issuer and keeps them until they expire, one for
// each subject: the token of a caller, or "" for the gateway itself. A token is
// renewed in the background when most of its life has passed; requests go on
// with the one that is there. However many requests want a token of one
// subject, the issuer is asked once.
type tokens struct {
	ask      func(ctx context.Context, subject string) (value string, life time.Duration, err error)
	log      *slog.Logger
	client   *fetch.Client
	timeout  time.Duration
	remember time.Duration // of refusals
	forgives int           // failures in a row before the issuer is not asked for a while

	cache *identify.Tokens[token]

	mu      sync.Mutex
	flights map[string]*flight
	fails   int       // in a row
	next    time.Time // when the issuer may be asked again, after failures
}

// flight is one asking. Its results are there when done is closed.
type flight struct {
	done  chan struct{}
	token *token
	err   error
}

// Retire closes idle connections. Requests that still run may ask.
func (t *tokens) Retire() { t.client.Retire() }

// get returns the token of a subject, or the problem of there being none. It
// waits for the issuer only where there is none yet.
func (t *tokens) get(x *exchange.Exchange, subject string) (*token, *exchange.Problem) {
	now := time.Now()
	v := t.cache.Get(subject, now.Unix())
	if v != nil && now.Before(v.until) {
		if v.refused != nil {
			return nil, refused.With(v.refused)
		}
		if !now.Before(v.renew) {
			// The old one is good still: whether there will be another is of no
			// interest to this request.
			_, _, _ = t.begin(subject, v, now)
		}
		return v, nil
	}
	f, wait, err := t.begin(subject, v, now)
	if f == nil {
		p := unavailable.With(err)
		p.Retry = wait
		return nil, p
	}
	// A flight ends in time; the time here is for one that does not.
	landed, gone := policy.Wait(x, f.done, 2*t.timeout)
	var r *refusal
	switch {
	case gone != nil:
		return nil, policy.ClientGone(gone)
	case !landed:
		return nil, unavailable.With(errLate)
	case errors.As(f.err, &r):
		return nil, refused.With(r.cause)
	case f.err != nil:
		p := unavailable.With(f.err)
		p.Retry = firstPause
		return nil, p
	}
	return f.token, nil
}

var (
	errPaused = errors.New("the issuer failed a short while ago and is not asked yet")
	errLate   = errors.New("the issuer was asked too long ago")
)

// begin asks the issuer in place of what is kept, which may be nil, unless that
// is being done already. In a pause after failures it returns no flight, and how
// long the pause lasts.
func (t *tokens) begin(subject string, kept *token, now time.Time) (*flight, time.Duration, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.flights[subject]; f != nil {
		return f, 0, nil
	}
	if v := t.cache.Get(subject, now.Unix()); v != nil && v != kept && now.Before(v.until) {
		// A flight has ended since the caller looked.
		f := &flight{done: make(chan struct{}), token: v}
		if v.refused != nil {
			f.token, f.err = nil, &refusal{v.refused}
		}
		close(f.done)
		return f, 0, nil
	}
	if wait := t.next.Sub(now); wait > 0 {
		return nil, wait, errPaused
	}
	f := &flight{done: make(chan struct{})}
	t.flights[subject] = f
	go t.run(subject, f)
	return f, 0, nil
}

// run is one flight.
func (t *tokens) run(subject string, f *flight) {
	ctx, cancel := context.WithTimeout(context.Background(), t.timeout)
	defer cancel()
	value, life, err := t.ask(ctx, subject)
	now := time.Now()
	var r *refusal
	switch {
	case err == nil:
		f.token = newToken(value, life, now)
		t.put(subject, f.token, now)
	case errors.As(err, &r):
		f.err = err
		t.put(subject, &token{refused: r.cause, until: now.Add(t.remember)}, now)
	default:
		f.err = err
	}
	t.mu.Lock()
	delete(t.flights, subject)
	if err == nil || r != nil {
		t.fails, t.next = 0, time.Time{}
	} else if t.fails++; t.fails > t.forgives {
		pause := min(firstPause<<min(t.fails-t.forgives-1, 10), longestPause)
		t.next = now.Add(pause)
	}
	pause := t.next.Sub(now)
	t.mu.Unlock()
	if f.err != nil && r == nil {
		t.log.Warn("an issuer gave no token for the upstream", "error", f.err, "again_in", max(pause, 0))
	}
	close(f.done)
}

func (t *tokens) put(subject string, v *token, now time.Time) {
	// The memory counts in whole seconds; v.until has the last word.
	t.cache.Put(subject, v, now.Unix(), v.until.Unix()+1)
}

// newToken says when a token is renewed and when it ends. Gateways that start
// together do not renew together.
func newToken(value string, life time.Duration, now time.Time) *token {
	life = min(life, longestLife)
	usable := life - min(life/10, margin)
	early := life/5 + time.Duration(rand.Int64N(int64(life/10)+1))
	return &token{value: value, got: now, until: now.Add(usable), renew: now.Add(min(life-early, usable))}
}

// doubt says that the upstream refused a request with the subject's token. It
// may have been withdrawn, so that another one is asked for, but not at once
// again: the reason may as well be the request.
func (t *tokens) doubt(subject string) {
	now := time.Now()
	if v := t.cache.Get(subject, now.Unix()); v != nil && v.refused == nil && now.Sub(v.got) >= doubtAfter {
		_, _, _ = t.begin(subject, v, now) // whoever asks next sees what came of it
	}
}

// issued gives requests tokens of an issuer.
type issued struct {
	tokens *tokens
	place  place
	at     string
	caller bool // the tokens are for the caller's, and not for the gateway's own
}

var (
	_ policy.OnRequest  = (*issued)(nil)
	_ policy.OnResponse = (*issued)(nil)
)

var errNoToken = errors.New("the caller has not been identified by a token that could be exchanged")

func (i *issued) Request(x *exchange.Exchange) policy.Verdict {
	if i.caller && x.Who.Token == "" {
		x.Fail(refused.With(errNoToken))
		return policy.Stop
	}
	t, p := i.tokens.get(x, i.subject(x))
	if p != nil {
		x.Fail(p)
		return policy.Stop
	}
	i.place.put(&x.Request.Header, t.value)
	return policy.Next
}

// Reaches says where the tokens come from.
func (i *issued) Reaches(x *exchange.Exchange) string {
	if i.caller && x.Who.Token == "" {
		return ""
	}
	return "gets a token from " + i.at
}

// Conceal implements policy.Conceals.
func (i *issued) Conceal(x *exchange.Exchange) { i.place.Conceal(x) }

func (i *issued) subject(x *exchange.Exchange) string {
	if i.caller {
		return x.Who.Token
	}
	return ""
}

// Response notices an upstream that does not take the token, also one of gRPC,
// which says so in the head of an answer that has nothing else.
func (i *issued) Response(x *exchange.Exchange) {
	r := &x.Response
	if r.Local || x.Problem != nil {
		return
	}
	if r.Status == 401 || r.Status == 200 && r.Header.Get("Grpc-Status") == unauthenticated {
		i.tokens.doubt(i.subject(x))
	}
}

// unauthenticated is the status of gRPC for a credential that is not taken.
const unauthenticated = "16"
