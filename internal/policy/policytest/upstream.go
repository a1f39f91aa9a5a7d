package policytest

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// Behaviour is what an upstream does with the requests it gets. The zero
// Behaviour echoes: its answer is 200 with what it received as text.
type Behaviour struct {
	Status  int           // 0: echo
	After   time.Duration // time that it takes before it answers
	Header  []exchange.Field
	Pieces  []string         // of the body, in the portions in which they arrive
	Chunked bool             // the body's length is not announced
	Cut     bool             // the body breaks off at its end
	Trailer []exchange.Field // sent where the length is not announced
	Problem *exchange.Problem
	Do      func(x *exchange.Exchange) // instead of all the above
}

// Received is a request as an upstream got it.
type Received struct {
	Upstream string
	Method   string
	Target   string
	Host     string
	Header   exchange.Header
	Body     string
	Trailer  exchange.Header
}

// String returns the request as text, as an echo shows it.
func (q *Received) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s %s\nHost: %s\n", q.Upstream, q.Method, q.Target, q.Host)
	for name, value := range q.Header.All() {
		fmt.Fprintf(&b, "%s: %s\n", name, value)
	}
	if q.Body != "" {
		b.WriteString("\n" + q.Body + "\n")
	}
	return b.String()
}

// The problem of an upstream that breaks the connection.
var broken = exchange.Problem{
	Status: 502, Code: "upstream_reset", Side: exchange.SideUpstream,
	Detail: "The service behind the gateway closed the connection before it answered.",
}

var gone = exchange.Problem{
	Status: exchange.StatusClientGone, Code: "client_gone", Side: exchange.SideClient,
	Detail: "The client closed the connection.",
}

// mostReceived bounds what an upstream takes of one body, in bytes.
const mostReceived = 16 << 20

// upstream stands for a service.
type upstream struct {
	r    *Rig
	name string
}

func (u *upstream) Retire() {}

// Mirror receives a copy at once, without its body.
func (u *upstream) Mirror(x *exchange.Exchange, conceal func(*exchange.Exchange)) bool {
	y := exchange.Get()
	defer exchange.Put(y)
	client := *x.Client
	y.Client = &client
	q, r := &y.Request, &x.Request
	q.Proto, q.Method, q.Scheme, q.Authority, q.Host = r.Proto, r.Method, r.Scheme, r.Authority, r.Host
	q.RawPath, q.Path, q.Query, q.HasQuery = r.RawPath, r.Path, r.Query, r.HasQuery
	q.Header.CopyFrom(&r.Header)
	if conceal != nil {
		conceal(y)
	}
	q.Body = exchange.Bytes(nil)
	_, p := u.receive(y)
	return p == nil
}

func (u *upstream) ServeOr(x *exchange.Exchange, _ func(*exchange.Exchange)) { u.Serve(x) }

func (u *upstream) Serve(x *exchange.Exchange) {
	x.Upstream.Name, x.Upstream.Endpoint, x.Upstream.Attempts = u.name, u.name, 1
	x.Times.Sent = exchange.Now()
	u.r.mu.Lock()
	b, ok := u.r.behaviours[u.name]
	if !ok {
		b = u.r.behaviours[""]
	}
	u.r.mu.Unlock()
	if b.Do != nil {
		b.Do(x)
		return
	}
	q, p := u.receive(x)
	if p != nil {
		x.Fail(p)
		return
	}
	if b.After > 0 && !wait(x, b.After) {
		x.Fail(&gone)
		return
	}
	if b.Problem != nil {
		x.Fail(b.Problem)
		return
	}
	b.answer(x, q)
}

// receive takes the request.
func (u *upstream) receive(x *exchange.Exchange) (*Received, *exchange.Problem) {
	r := &x.Request
	q := &Received{Upstream: u.name, Method: r.Method, Target: r.Path, Host: r.Authority}
	if r.HasQuery {
		q.Target += "?" + r.Query
	}
	q.Header.CopyFrom(&r.Header)
	var body strings.Builder
	for {
		p, err := r.Body.Next()
		body.Write(p)
		r.Received += int64(len(p))
		if err == io.EOF {
			break
		}
		if own := (*exchange.Problem)(nil); errors.As(err, &own) {
			return nil, own
		}
		if err != nil || body.Len() > mostReceived {
			return nil, broken.With(err)
		}
	}
	q.Body = body.String()
	r.DropOwn()
	q.Trailer.CopyFrom(&r.Trailer)
	u.r.mu.Lock()
	u.r.received = append(u.r.received, q)
	u.r.mu.Unlock()
	return q, nil
}

func (b *Behaviour) answer(x *exchange.Exchange, q *Received) {
	r := &x.Response
	x.Times.FirstByte = exchange.Now()
	r.Status = b.Status
	for _, f := range b.Header {
		r.Header.Add(f.Name, f.Value)
	}
	list := b.Pieces
	if b.Status == 0 {
		r.Status = 200
		r.Header.AddKnown(exchange.ContentType, "text/plain")
		list = []string{q.String()}
	}
	trailer := b.Trailer
	body := &pieces{list: list, cut: b.Cut, end: func() {
		for _, f := range trailer {
			r.Trailer.Add(f.Name, f.Value)
		}
	}}
	r.Body, r.Length = body, body.length()
	if b.Chunked {
		r.Length = exchange.Unknown
	}
}

// wait passes the time, unless the client goes.
func wait(x *exchange.Exchange, d time.Duration) bool {
	w := waiter(make(chan struct{}, 1))
	if x.Bind(w) != nil {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-w:
	}
	return x.Bind(nil) == nil
}

type waiter chan struct{}

func (w waiter) Interrupt() { w <- struct{}{} }

// pieces is a body that arrives in portions.
type pieces struct {
	list []string
	buf  []byte
	cut  bool
	end  func() // called at the end, where given
}

func (b *pieces) length() (n int64) {
	for _, p := range b.list {
		n += int64(len(p))
	}
	return n
}

func (b *pieces) Next() ([]byte, error) {
	// The memory is used again, as that of a connection's buffer is.
	for i := range b.buf {
		b.buf[i] = '#'
	}
	for len(b.list) > 0 {
		b.buf = append(b.buf[:0], b.list[0]...)
		b.list = b.list[1:]
		if len(b.buf) > 0 {
			return b.buf, nil
		}
	}
	if b.cut {
		return nil, io.ErrUnexpectedEOF
	}
	if b.end != nil {
		b.end()
		b.end = nil
	}
	return nil, io.EOF
}

func (b *pieces) Close() error { return nil }
