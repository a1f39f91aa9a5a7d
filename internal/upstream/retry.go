package upstream

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1"
	"gatehouse.dev/gatehouse/internal/upstream/health"
)

// retry says what is sent again.
type retry struct {
	attempts  int
	methods   []string
	on        [full + 1]bool
	status    [600]bool
	codes     [17]bool // of gRPC
	base, max time.Duration
	body      int64
	budget    health.Budget
}

// reserve is how many requests may be sent again within ten seconds however
// few there are.
const reserve = 10

func newRetry(c *config.Retry) (*retry, error) {
	if c == nil {
		return nil, nil
	}
	r := &retry{
		attempts: c.Attempts, methods: c.Methods, base: c.Backoff.Base.D(), max: c.Backoff.Max.D(), body: int64(c.Body),
		budget: health.Budget{Share: float64(c.Budget), Reserve: reserve},
	}
	if c.Budget == 0 {
		r.budget.Reserve = 0
	}
	names := map[string]reason{"connect": connect, "reset": broke, "timeout": late, "malformed": malformedAnswer}
	for _, on := range c.On {
		if why, ok := names[on]; ok {
			r.on[why] = true
			continue
		}
		if code, ok := config.GRPCCode(on); ok {
			r.codes[code] = true
			continue
		}
		status, err := strconv.Atoi(on)
		if err != nil || status < 400 || status > 599 {
			return nil, errors.New("retry on " + strconv.Quote(on) + " is not known")
		}
		r.status[status] = true
	}
	return r, nil
}

// prepare counts the request, notes when it began, and takes its body into
// memory where it may be sent again. It fails x when the body cannot be read.
func (c *call) prepare() bool {
	u, x := c.u, c.x
	if c.began == 0 {
		c.began = exchange.Now()
	}
	c.patient = u.limits.Request > 0
	if u.hedge != nil {
		u.hedge.budget.Count(health.Now())
	}
	r := u.retry
	if r == nil {
		return true
	}
	r.budget.Count(health.Now())
	req := &x.Request
	if req.Length == 0 || req.Length > r.body || !slices.Contains(r.methods, req.Method) || r.attempts < 2 {
		return true
	}
	if req.Length < 0 {
		if req.Upgrade == "" {
			c.copy = &copied{Body: req.Body, most: r.body}
			req.Body = c.copy
		}
		return true
	}
	p, err := hold(req)
	if err != nil {
		x.Fail(problemOf(x, err))
		return false
	}
	c.body, c.held = p, true
	return true
}

// hold reads a request's body into memory and puts it in its place.
func hold(r *exchange.Request) ([]byte, error) {
	p := make([]byte, 0, r.Length)
	for {
		piece, err := r.Body.Next()
		if err == io.EOF {
			break
		}
		if err == nil && int64(len(p)+len(piece)) > r.Length {
			err = errors.New("request body is longer than its length says")
		}
		if err != nil {
			return nil, &h1.RequestError{Err: err}
		}
		p = append(p, piece...)
	}
	if int64(len(p)) != r.Length {
		return nil, &h1.RequestError{Err: io.ErrUnexpectedEOF}
	}
	r.Body = exchange.Bytes(p)
	return p, nil
}

// may reports whether the request may be sent once more.
func (c *call) may() bool {
	r, x := c.u.retry, c.x
	return r != nil && c.sends+1 < r.attempts && slices.Contains(r.methods, x.Request.Method) &&
		x.Request.Upgrade == "" && x.Canceled() == nil
}

// unwanted reports whether the status of the answer is one to try again for,
// and how long the endpoint asks to wait.
func (c *call) unwanted() (after time.Duration, yes bool) {
	r, x := c.u.retry, c.x
	if r == nil {
		return 0, false
	}
	h, status := &x.Response.Header, x.Response.Status
	switch {
	case status >= 400 && status <= 599 && r.status[status]:
		after = retryAfter(h.Known(exchange.RetryAfter))
		if after > 0 && status == 503 {
			c.spare(c.use.e, after)
		}
		return after, true
	case status == 200 && x.Request.GRPC():
		// With a status in its head an answer has nothing but that.
		code, err := strconv.ParseUint(h.Get("grpc-status"), 10, 8)
		if err != nil || code >= uint64(len(r.codes)) || !r.codes[code] {
			return 0, false
		}
		return pushback(h)
	}
	return 0, false
}

// pushback reads how long a service of gRPC asks to wait, and whether it may be
// asked again at all ("gRPC Retry Design", A6).
func pushback(h *exchange.Header) (after time.Duration, may bool) {
	value, asked := h.Lookup("grpc-retry-pushback-ms")
	if !asked {
		return 0, true
	}
	n, err := strconv.ParseUint(value, 10, 31)
	return time.Duration(n) * time.Millisecond, err == nil
}

// copied is a body of unknown length, which is copied on its way.
type copied struct {
	exchange.Body
	most  int64
	p     []byte
	large bool
	whole bool // p is all of it
}

// Next implements exchange.Body.
func (b *copied) Next() ([]byte, error) {
	p, err := b.Body.Next()
	if b.large = b.large || int64(len(b.p)+len(p)) > b.most; b.large {
		b.p = nil
		return p, err
	}
	b.p = append(b.p, p...)
	b.whole = err == io.EOF
	return p, err
}

// Ready implements exchange.Ready for bodies that can tell.
func (b *copied) Ready() bool {
	r, ok := b.Body.(exchange.Ready)
	return ok && r.Ready()
}

// Interrupt implements exchange.Interrupter for bodies that can be woken.
func (b *copied) Interrupt() {
	if i, ok := b.Body.(exchange.Interrupter); ok {
		i.Interrupt()
	}
}

// better returns the endpoint to ask because of the status of the answer that
// there is, which is given up with that, or nil when the answer stays.
func (c *call) better() *endpoint {
	x, e := c.x, c.use.e
	after, unwanted := c.unwanted()
	if !unwanted || x.Request.Lent || !c.may() || !c.resendable() {
		return nil
	}
	c.tried = append(c.tried, &e.record.load)
	next := c.choose(after)
	if next == nil {
		return nil
	}
	// Nothing of the answer is wanted; the connection is kept when the rest of
	// it is there.
	_ = x.Response.Body.Close()
	x.Response.Reset()
	if !c.rest() {
		return nil
	}
	return next
}

// mostSpared bounds for how long an endpoint is left alone because it asked.
const mostSpared = time.Minute

// spare leaves an endpoint alone for a while, as long as there are others.
func (c *call) spare(e *endpoint, after time.Duration) {
	now := health.Now()
	was := e.record.health.Resting(now)
	e.record.health.Rest(now + health.Clock(min(after, mostSpared)))
	if !was {
		c.u.refresh()
	}
}

// retry returns the endpoint to ask after an attempt that failed, or nil.
func (c *call) retry() *endpoint {
	f, r := c.last, c.u.retry
	if r == nil || f.why == final || f.why == full || !r.on[f.why] || !(f.unsent || f.whole || c.resendable()) || !c.may() {
		return nil
	}
	next := c.choose(0)
	if next == nil || !c.rest() {
		return nil
	}
	return next
}

// resendable reports whether all of the request's body is there once more.
// Nobody sends it any more.
func (c *call) resendable() bool {
	if c.copy != nil && c.copy.whole {
		c.body, c.held = c.copy.p, true
	}
	return c.x.Request.Length == 0 || c.held
}

// choose returns the endpoint for another attempt, if the budget and the time
// allow one: another endpoint while there is one. wait is what the last one
// asked for; it holds only for itself.
func (c *call) choose(wait time.Duration) *endpoint {
	u := c.u
	c.pause = c.backoff()
	s := u.live.Load() // who failed may be out by now
	next := s.pick(c.key, u.key != nil, c.tried)
	if next == nil {
		if next = s.pick(c.key, u.key != nil, nil); next == nil {
			return nil
		}
		c.tried = c.tried[:0]
		c.pause = max(c.pause, wait)
		if wait > u.retry.max && wait > time.Second {
			return nil // the client can wait as well as we can
		}
	}
	if c.patient && c.pause >= u.limits.Request-time.Duration(exchange.Now()-c.began) {
		return nil
	}
	if !u.retry.budget.Take(health.Now()) {
		u.meter.Event(BudgetSpent)
		return nil
	}
	return next
}

// backoff returns the time before the next attempt: a random part of a time
// that doubles ("full jitter"), so that those who failed together do not come
// back together.
func (c *call) backoff() time.Duration {
	r := c.u.retry
	d := r.base << c.sends
	if d <= 0 || d > r.max {
		d = r.max
	}
	if d <= 0 {
		return 0
	}
	return rand.N(d + 1)
}

// rest waits before another attempt. It reports false, and fails x, when the
// client has gone.
func (c *call) rest() bool {
	x := c.x
	c.sends++
	c.u.meter.Retried(x.Client.Shard)
	if c.held {
		x.Request.Body = exchange.Bytes(c.body)
	}
	if c.pause <= 0 {
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), c.pause)
	defer cancel()
	err := x.Bind(canceler(cancel))
	if err == nil {
		<-ctx.Done()
		err = x.Bind(nil)
	}
	if err != nil {
		x.Problem = clientGone.With(err)
		return false
	}
	return true
}

// retryAfter reads the field of that name (RFC 9110, section 10.2.3), 0 when
// it says nothing that can be used.
func retryAfter(value string) time.Duration {
	if value == "" {
		return 0
	}
	if n, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	// time.RFC1123 with GMT is the one form that may be sent (section 5.6.7).
	at, err := time.Parse("Mon, 02 Jan 2006 15:04:05 GMT", value)
	if err != nil {
		return 0
	}
	return max(time.Until(at), 0)
}
