package idempotency

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/key"
	"gatehouse.dev/gatehouse/internal/policy"
	"gatehouse.dev/gatehouse/internal/replay"
)

var (
	_ policy.Holds      = (*keeper)(nil)
	_ policy.OnRequest  = (*keeper)(nil)
	_ policy.OnResponse = (*keeper)(nil)
	_ policy.OnDone     = (*keeper)(nil)
)

// keeper keeps records.
type keeper struct {
	store     replay.Store
	methods   []string
	required  bool
	at        string
	ttl       time.Duration
	lease     time.Duration
	wait      time.Duration
	waits     bool
	retry     bool
	open      bool
	timeout   time.Duration
	maxBody   int64
	maxAnswer int
	slot      policy.Slot[state]
	tell      *policy.Teller
}

// state is the record that one request began.
type state struct {
	key, token string
	began      bool // and how it ended is not written yet
}

// HoldRequest is the largest body: two requests are the same only if their
// bodies are.
func (k *keeper) HoldRequest() int64 { return k.maxBody }

// HoldResponse is nothing: an answer that is too large to be kept still passes.
func (k *keeper) HoldResponse() int64 { return 0 }

// Reaches says that a request with a key is looked for among those that were
// carried out.
func (k *keeper) Reaches(x *exchange.Exchange) string {
	if name, ok := x.Request.Header.Lookup("Idempotency-Key"); !ok || !slices.Contains(k.methods, x.Request.Method) {
		return ""
	} else if _, ok := parseKey(name); !ok {
		return ""
	}
	return "looks for an earlier request with this Idempotency-Key"
}

func (k *keeper) Request(x *exchange.Exchange) policy.Verdict {
	if !slices.Contains(k.methods, x.Request.Method) {
		return policy.Next
	}
	name, n := "", 0
	for v := range x.Request.Header.Values("Idempotency-Key") {
		name = v
		n++
	}
	text, ok := parseKey(name)
	switch {
	case n == 0 && k.required:
		x.Fail(&missing)
		return policy.Stop
	case n == 0:
		return policy.Next
	case n > 1 || !ok:
		x.Fail(&invalid)
		return policy.Stop
	}
	s := k.slot.Get(x)
	s.key = "idempotency:" + key.Digest(k.at+"\x00"+caller(x)+"\x00"+text)
	s.token = rand.Text()
	// A record outlasts its lease, or a twin could be carried out beside it.
	b := replay.Begin{Key: s.key, Fingerprint: fingerprint(x), Token: s.token, Lease: k.lease, TTL: k.lease + k.ttl, TakeOver: k.retry}
	return k.begin(x, s, b)
}

// begin asks for the record, and waits while another request with the key is
// under way.
func (k *keeper) begin(x *exchange.Exchange, s *state, b replay.Begin) policy.Verdict {
	pause, waited := 20*time.Millisecond, time.Duration(0)
	for {
		ctx, cancel := context.WithTimeout(context.Background(), k.timeout)
		rec, err := k.store.Begin(ctx, b)
		cancel()
		switch {
		case err != nil && k.open:
			k.tell.Spared(policy.FailOpen, "a request was let through without its key: the store does not answer", "error", err)
			return policy.Next
		case err != nil:
			x.Fail(down.With(err))
			return policy.Stop
		case rec.State == replay.New:
			// From here on the client's going away ends nothing: a repetition
			// wants the answer.
			s.began = true
			x.Shield()
			return policy.Next
		case rec.Fingerprint != b.Fingerprint:
			x.Fail(&reused)
			return policy.Stop
		case rec.State == replay.Done:
			k.replay(x, rec.Answer)
			return policy.Stop
		case rec.State == replay.Unknown:
			x.Fail(&unknown)
			return policy.Stop
		case !k.waits || waited >= k.wait:
			x.Fail(&inFlight)
			return policy.Stop
		}
		pause = min(pause, k.wait-waited)
		if gone := policy.Sleep(x, pause); gone != nil {
			x.Fail(policy.ClientGone(gone))
			return policy.Stop
		}
		waited += pause
		pause = min(2*pause, 250*time.Millisecond)
	}
}

// replay answers with a kept answer.
func (k *keeper) replay(x *exchange.Exchange, kept []byte) {
	if len(kept) == 0 {
		x.Fail(&lost)
		return
	}
	r := &x.Response
	r.Reset()
	if !readAnswer(kept, r) {
		r.Reset()
		x.Fail(&lost)
		return
	}
	r.Header.Add("Idempotency-Replayed", "true")
}

// Response keeps the answer before the client has it.
func (k *keeper) Response(x *exchange.Exchange) {
	s := k.slot.Get(x)
	if !s.began || x.Problem != nil || x.Response.Local || x.Response.Status == 101 {
		return
	}
	r := &x.Response
	if r.Status == 429 || r.Status == 503 {
		// The service says that it did not do it.
		k.settle(s, func(ctx context.Context) error { return k.store.Release(ctx, s.key, s.token) })
		return
	}
	body, whole, err := collect(r, k.maxAnswer)
	if err != nil {
		return // it broke off: Done says that nobody knows
	}
	var kept []byte
	if whole {
		if kept = appendAnswer(nil, r, body); len(kept) > k.maxAnswer {
			kept = nil
		}
	}
	k.settle(s, func(ctx context.Context) error { return k.store.Finish(ctx, s.key, s.token, kept, k.ttl) })
}

// Done writes down what became of a request that has no answer to keep.
func (k *keeper) Done(x *exchange.Exchange) {
	s := k.slot.Get(x)
	if !s.began {
		return
	}
	if x.Times.Sent == 0 || x.Upstream.Unseen {
		k.settle(s, func(ctx context.Context) error { return k.store.Release(ctx, s.key, s.token) })
		return
	}
	k.settle(s, func(ctx context.Context) error { return k.store.Abandon(ctx, s.key, s.token) })
}

// settle writes the end of a record. When that fails the record stays as it
// is, and is unknown once its lease is over: never carried out twice.
func (k *keeper) settle(s *state, write func(context.Context) error) {
	s.began = false
	ctx, cancel := context.WithTimeout(context.Background(), k.timeout)
	defer cancel()
	if err := write(ctx); err != nil {
		k.tell.Warn("how a request with a key ended was not written down", "error", err)
	}
}

// parseKey reads the field: a string in quotes (RFC 9651, section 3.3.3), or,
// as many clients send it, without.
func parseKey(s string) (string, bool) {
	if len(s) >= 2 && s[0] == '"' && s[len(s)-1] == '"' {
		s = s[1 : len(s)-1]
	}
	for i := 0; i < len(s); i++ {
		if s[i] < ' ' || s[i] > '~' || s[i] == '"' || s[i] == '\\' {
			return "", false
		}
	}
	return s, s != "" && len(s) <= 255
}

// caller keeps the keys of one caller apart from those of all others.
func caller(x *exchange.Exchange) string {
	switch w := &x.Who; {
	case w.Consumer != "":
		return "consumer\x00" + w.Consumer
	case w.Subject != "":
		return "subject\x00" + w.Method + "\x00" + w.Subject
	}
	return "anonymous"
}

// fingerprint is what makes two requests the same.
func fingerprint(x *exchange.Exchange) string {
	r := &x.Request
	h := sha256.New()
	for _, s := range []string{r.Method, r.Host, r.Path, r.Query, r.Header.Known(exchange.ContentType)} {
		h.Write([]byte{byte(len(s) >> 16), byte(len(s) >> 8), byte(len(s))})
		h.Write([]byte(s))
	}
	body, _ := exchange.Held(r.Body) // Holds has brought it into memory
	h.Write(body)
	return hex.EncodeToString(h.Sum(nil)[:16])
}
