package introspect

import (
	"crypto/sha256"
	"errors"
	"sync"

	"gatehouse.dev/gatehouse/internal/fetch"
	"gatehouse.dev/gatehouse/internal/identify"
)

// asker asks an issuer about tokens, once about each at a time, and remembers
// what it said. It outlasts reloads.
type asker struct {
	client *fetch.Client
	good   *identify.Tokens[token]
	// Wrong tokens have places of their own, and are known by a hash: whoever
	// makes up tokens drives out no good one, and however long they are they
	// take no room.
	wrong *identify.Tokens[token]

	mu    sync.Mutex
	asked map[[sha256.Size]byte]*question // that have no answer yet
}

// question is one that is being asked. The answer is there once done is closed.
type question struct {
	done  chan struct{}
	token *token
	err   error
}

// newAsker returns an asker that remembers so many good tokens, and a quarter
// as many wrong ones.
func newAsker(client *fetch.Client, most int) *asker {
	return &asker{
		client: client, good: identify.NewTokens[token](most), wrong: identify.NewTokens[token](most / 4),
		asked: make(map[[sha256.Size]byte]*question),
	}
}

// Retire closes idle connections. Requests that still run may ask.
func (a *asker) Retire() { a.client.Retire() }

// find returns what is known of a token, or else what ask finds out. now is in
// seconds since 1970, and until when what was found out is good.
func (a *asker) find(text string, now int64, ask func() (t *token, until int64, err error)) (*token, error) {
	if t := a.good.Get(text, now); t != nil {
		return t, nil
	}
	sum := sha256.Sum256([]byte(text))
	if t := a.wrong.Get(string(sum[:]), now); t != nil {
		return t, nil
	}
	a.mu.Lock()
	q := a.asked[sum]
	if q != nil {
		a.mu.Unlock()
		<-q.done
		return q.token, q.err
	}
	q = &question{done: make(chan struct{}), err: errAsking}
	a.asked[sum] = q
	a.mu.Unlock()
	defer func() {
		a.mu.Lock()
		delete(a.asked, sum)
		a.mu.Unlock()
		close(q.done)
	}()
	var until int64
	q.token, until, q.err = ask()
	switch {
	case q.err != nil:
	case q.token.wrong != nil:
		a.wrong.Put(string(sum[:]), q.token, now, until)
	default:
		a.good.Put(text, q.token, now, until)
	}
	return q.token, q.err
}

// errAsking is what others learn where asking ended in a panic.
var errAsking = errors.New("asking came to no end")
