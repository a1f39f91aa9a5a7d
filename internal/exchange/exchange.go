// Package exchange owns the one object that every protocol, policy and
// upstream shares: a request and its response, from the first byte to the
// access-log line. It knows no configuration and no socket, and of protocols
// only the grammar that they share; it imports nothing of ours and not
// net/http.
package exchange

import (
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// Exchange is one request and its response. It is owned by one goroutine, and
// reused: nothing may keep a pointer to it, or to a part of it, after its done
// steps. Strings taken from it may be kept.
type Exchange struct {
	Request  Request
	Response Response
	Client   *Client  // facts of the connection's other end
	Route    Route    // what the router found
	Who      Who      // the zero Who is anonymous
	Times    Times    // when things happened
	Problem  *Problem // set when the gateway answers for want of a proper answer
	Upstream Upstream // which endpoint was asked, for logs and metrics
	Tunnel   TunnelLimits
	Down     Downstream

	// ForwardedCert is the X-Forwarded-Client-Cert of a trusted proxy, "" when
	// there is none; the field itself is removed before any policy runs.
	ForwardedCert string

	id     string
	slots  []slot
	gen    uint32
	render []byte // memory of Render

	mu       sync.Mutex
	waiting  Interrupter
	canceled error
	shielded bool
	diverted error
}

// Client is what is known of the sender. One Client serves all exchanges of a
// connection as long as nothing in it differs between them.
type Client struct {
	Addr     netip.AddrPort // who asked, after the rules on trusted proxies
	IP       string         // Addr's address as text
	Peer     netip.AddrPort // the other end of the socket, or what a believed PROXY header says of it
	Local    netip.AddrPort // where the client connected to, by the same rule; zero for a unix socket
	Trusted  bool           // the peer may set X-Forwarded-* and Forwarded
	Proxies  []netip.Prefix // the listener's trusted proxies
	Listener string         // name of the listener that took the connection
	Port     string         // the listener's port in decimal, "" for a unix socket
	TLS      *TLS           // nil on a plain connection
	AltSvc   string         // what the client's answers say in Alt-Svc (RFC 7838), "" for nothing
	Shard    uint32         // spreads counters; any value will do
	Proved   *Proved        // what the connection has shown already; nil where that is not remembered

	// ForwardCert says that services are told the certificate of TLS.Peer, in
	// the field Client-Cert (RFC 9440).
	ForwardCert bool
}

// Who is the identity that authentication found. What its lists and maps hold
// is shared by many exchanges: nothing may write to them.
type Who struct {
	Consumer   string            // name of the consumer, "" when anonymous or known by its subject only
	Subject    string            // whom the proof names: the "sub" of a token, a user's name, a certificate's subject
	Method     string            // name of the policy that proved it, "" when nobody proved anything
	Credential string            // names the credential for logs and limits; never the secret itself
	Groups     []string          // the consumer's groups, and those that the proof names
	Scopes     []string          // what the proof was issued for
	Labels     map[string]string // the consumer's labels
	Claims     map[string]any    // what the proof says: string, bool, int64, float64, nil, []any and map[string]any
	Token      string            // the token that is the proof, "" when it is something else; to be exchanged, and shown nowhere
}

// Route is what matched.
type Route struct {
	Name   string  // the route's id: its name, or what stands for one
	Index  int     // position in the snapshot's table, -1 when nothing matched
	Params []Param // path parameters, in the order of the pattern
	Rest   string  // what a trailing * or {name...} matched, without leading slash
}

// Param is one path parameter. Its value is the normalised, still
// percent-encoded text.
type Param struct{ Name, Value string }

// Param returns the value of a path parameter, or the empty string.
func (r *Route) Param(name string) string {
	for i := range r.Params {
		if r.Params[i].Name == name {
			return r.Params[i].Value
		}
	}
	return ""
}

// Upstream says where the answer came from.
type Upstream struct {
	Name     string // the upstream's name, "" when none was asked
	Endpoint string // host:port or socket path of the last endpoint tried
	Attempts int    // how many times the request was sent or tried
	Reused   bool   // the last attempt used a kept-alive connection
	Unseen   bool   // it is certain that no service has seen anything of the request, in no attempt
}

// Times are monotonic readings of Now, zero where it did not happen.
type Times struct {
	Start     int64 // the first byte of the request's head was read
	Head      int64 // the head was parsed
	Sent      int64 // the request began to go to the upstream
	FirstByte int64 // the head of the upstream's answer was read
	End       int64 // the answer was written, or given up

	// Due is when the upstream's answer must have passed through, zero while
	// nothing limits that. It ends writing as well: a client that does not
	// read would otherwise keep the upstream's connection.
	Due int64
}

var (
	epoch     = time.Now()
	epochWall = epoch.Round(0)
)

// Now reads the monotonic clock: nanoseconds since the process started, plus
// one so that zero means never.
func Now() int64 { return int64(time.Since(epoch)) + 1 }

// Wall turns a reading of Now into a time of day.
func Wall(mono int64) time.Time { return epochWall.Add(time.Duration(mono - 1)) }

var pool = sync.Pool{New: func() any {
	x := new(Exchange)
	x.Request.Reset()
	x.Response.Reset()
	return x
}}

// Get returns an empty exchange. Put gives it back.
func Get() *Exchange {
	x := pool.Get().(*Exchange)
	x.gen++
	return x
}

// Put ends an exchange: the caller has no use of it afterwards.
func Put(x *Exchange) {
	x.Request.Reset()
	x.Response.Reset()
	x.Client = nil
	x.Route = Route{Params: x.Route.Params[:0]}
	x.Who = Who{}
	x.Times = Times{}
	x.Problem = nil
	x.Upstream = Upstream{}
	x.Tunnel = TunnelLimits{}
	x.Down = nil
	x.ForwardedCert = ""
	x.id = ""
	if cap(x.render) > 4096 {
		x.render = nil
	}
	x.mu.Lock()
	x.waiting, x.canceled, x.diverted, x.shielded = nil, nil, nil, false
	x.mu.Unlock()
	pool.Put(x)
}

// RequestID returns the exchange's id: the one that was set, or a random one.
// Answer, log line and upstream see the same id.
func (x *Exchange) RequestID() string {
	if x.id == "" {
		x.id = newID()
	}
	return x.id
}

// SetRequestID gives the exchange an id that came with the request. The caller
// has checked it.
func (x *Exchange) SetRequestID(id string) { x.id = id }

// newID returns 128 random bits in hex. They need to be unique, not secret.
func newID() string {
	var b [32]byte
	for i, v := range [2]uint64{rand.Uint64(), rand.Uint64()} {
		for j := 15; j >= 0; j-- {
			b[i*16+j] = hexDigits[v&15]
			v >>= 4
		}
	}
	return string(b[:])
}

// Fail makes the gateway answer with a problem. The first problem stays,
// unless a later one says that the client has gone.
func (x *Exchange) Fail(p *Problem) {
	if x.Problem == nil || p.Status == StatusClientGone {
		x.Problem = p
	}
}

// ErrClientGone is the reason of an exchange whose client went away.
var ErrClientGone = errors.New("client closed the connection")

// Interrupter is something an exchange's goroutine waits on, and that another
// goroutine can wake. Interrupt must not block.
type Interrupter interface{ Interrupt() }

// Bind says what the exchange is about to wait on, nil when it stops waiting.
// It returns the reason when the exchange has been cancelled or diverted. Between Bind(i)
// and Bind(nil), and at no other time, i may be interrupted.
func (x *Exchange) Bind(i Interrupter) error {
	x.mu.Lock()
	x.waiting = i
	err := x.canceled
	if err == nil {
		err = x.diverted
	}
	x.mu.Unlock()
	return err
}

// Divert wakes what the exchange waits on, and keeps it from waiting for
// anything else, until Rejoin: another goroutine has what it waits for. The
// caller knows that the exchange has not been put back. Who is woken cannot
// tell it from an interruption without a reason.
func (x *Exchange) Divert(cause error) {
	x.mu.Lock()
	x.diverted = cause
	if x.waiting != nil {
		x.waiting.Interrupt()
	}
	x.mu.Unlock()
}

// Rejoin ends the effect of Divert. Only the exchange's own goroutine calls
// it.
func (x *Exchange) Rejoin() {
	x.mu.Lock()
	x.diverted = nil
	x.mu.Unlock()
}

// Cancel says that nobody waits for the answer any more and wakes what the
// exchange waits on. It and Divert are the only methods that another goroutine
// may call, and only while it knows that the exchange has not been put back.
func (x *Exchange) Cancel(cause error) {
	x.mu.Lock()
	if x.canceled == nil && !x.shielded {
		x.canceled = cause
		if x.waiting != nil {
			x.waiting.Interrupt()
		}
	}
	x.mu.Unlock()
}

// Shield makes the exchange go on to its end when nobody waits for the answer
// any more: what it does upstream is worth more than that.
func (x *Exchange) Shield() {
	x.mu.Lock()
	x.shielded = true
	x.mu.Unlock()
}

// Canceled returns the reason given to Cancel, or nil.
func (x *Exchange) Canceled() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.canceled
}

type slot struct {
	gen uint32
	v   any
}

// Reserve makes room for n places of private state. Where policies look at a
// body on another goroutine, making room must not move what they hold.
func (x *Exchange) Reserve(n int) {
	for len(x.slots) < n {
		x.slots = append(x.slots, slot{})
	}
}

// Slot returns the place of one policy's private state for this exchange, and
// whether it was already used in it. The value of an earlier exchange may still
// be there, for reuse of its memory. policy.Slot is the typed way to it.
func (x *Exchange) Slot(i int) (v *any, used bool) {
	x.Reserve(i + 1)
	s := &x.slots[i]
	used = s.gen == x.gen
	s.gen = x.gen
	return &s.v, used
}
