package upstream

import (
	"errors"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
)

const (
	// maxMirrors is how many copies may be under way to one upstream.
	maxMirrors = 100
	// mirrorBody is the largest body that is copied, in bytes.
	mirrorBody = 64 << 10
	// mirrorTime is the longest time that a copy may take.
	mirrorTime = 30 * time.Second
	// mirrorRead is how much of an answer is read before its connection is
	// given up rather than kept.
	mirrorRead = 64 << 10
)

var errMirrorTime = errors.New("a copy took too long")

// credentials are the fields that do not travel with a copy.
const credentials = 1<<exchange.Authorization | 1<<exchange.ProxyAuthorization | 1<<exchange.Cookie |
	1<<exchange.XAPIKey | 1<<exchange.XForwardedClientCert

// Mirror sends the service a copy of the exchange's request and throws the
// answer away. It does not wait for anything but the request's own body, of
// which up to 64 KiB of known length are held for both; requests with other
// bodies, upgrades, and those beyond 100 copies at a time are not copied.
// The usual credentials and cookies do not travel with it, nor does what conceal,
// which may be nil, takes out of it.
//
// It is called by the exchange's goroutine before the request goes to the
// upstream that answers it. It returns false after the body could not be read:
// then x has failed.
func (u *Upstream) Mirror(x *exchange.Exchange, conceal func(*exchange.Exchange)) bool {
	r := &x.Request
	if r.Upgrade != "" || r.Length < 0 || r.Length > mirrorBody {
		u.meter.Event(MirrorDropped)
		return true
	}
	if u.mirrors.Add(1) > maxMirrors {
		u.mirrors.Add(-1)
		u.meter.Event(MirrorDropped)
		return true
	}
	var body []byte
	if r.Length > 0 {
		var err error
		if body, err = hold(r); err != nil {
			u.mirrors.Add(-1)
			x.Fail(problemOf(x, err))
			return false
		}
	}
	y := copyOf(x, r.Authority)
	y.Request.Header.DelSet(credentials)
	if conceal != nil {
		conceal(y)
	}
	if body != nil {
		y.Request.Body, y.Request.Length = exchange.Bytes(body), r.Length
	}
	u.meter.Event(Mirrored)
	go u.mirror(y)
	return true
}

// mirror sends a copy and throws the answer away.
func (u *Upstream) mirror(y *exchange.Exchange) {
	defer u.mirrors.Add(-1)
	defer func() {
		if v := recover(); v != nil { // it must harm this copy only
			u.log.Error("a panic while a copy of a request was sent", "upstream", u.name, "panic", v)
		}
	}()
	t := time.AfterFunc(mirrorTime, func() { y.Cancel(errMirrorTime) })
	u.Serve(y)
	for n := 0; y.Problem == nil && n < mirrorRead; {
		p, err := y.Response.Body.Next()
		if n += len(p); err != nil {
			break // its end, or nobody's concern
		}
	}
	_ = y.Response.Body.Close()
	if t.Stop() { // else it may be cancelled yet, and must not be used again
		exchange.Put(y)
	}
}
