// Package policy is the contract between the gateway and its policies: what a
// policy is, when its steps run, and what it may ask for when it is compiled.
// It owns no policy and knows none.
//
// A policy is written by declaring a config struct whose Compile method is the
// constructor of the runtime, and by adding its Kind to policy/all.
package policy

import (
	"log/slog"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// Config is a policy's settings, decoded from the configuration. Its exported
// fields carry yaml tags and doc comments: schema, reference and editor
// completion are made from them.
type Config interface {
	// Compile checks the settings and builds the runtime. It does no I/O that
	// could hang and reports every fault it finds: a *Fault, several joined by
	// errors.Join, or any other error for a fault of the policy as a whole.
	Compile(env *Env) (Policy, error)
}

// Use is one use of a kind: an entry of a policies list, in the configuration
// or in the settings of a policy that is made of others. It is a mapping with
// the kind as its only key. A policy with nothing to set is written "name: {}".
type Use struct {
	Kind   *Kind
	Rank   int    // place of the kind in the catalog
	Config Config // a pointer to the kind's settings
}

// Policy is a compiled policy. What it does is told by the phases it
// implements: OnRequest, OnResponse, OnDone, TapsRequest, TapsResponse and
// Holds. It is used by many goroutines at once.
type Policy any

// Kind describes one kind of policy.
type Kind struct {
	Name  string        // the config key, for example "rate_limit"
	Stage Stage         // where its steps run; a Config that is Staged may differ
	New   func() Config // returns the defaults; the only place where they exist
	Doc   string        // one sentence for lists of policies
}

// Stage orders the policies of a plan. Within a stage the order is that of
// policy/all.
type Stage uint8

// The stages, in the order in which request steps run.
const (
	Edge      Stage = iota // facts and cheap refusals, before anybody is known
	Identify               // who calls
	Authorize              // may they
	Admit                  // how much
	Cache                  // is the answer known
	Transform              // change what goes on
	Report                 // tell; its done steps run for every exchange, reached or not
)

var stageNames = [...]string{"edge", "identify", "authorize", "admit", "cache", "transform", "report"}

func (s Stage) String() string { return stageNames[s] }

// Staged is a Config whose stage depends on its settings.
type Staged interface{ Stage() Stage }

// Repeatable is a Config of which one plan may hold several, each in force:
// for example headers at the gateway and again on a route. Of other kinds the
// innermost one (route over listener over gateway) replaces the rest.
type Repeatable interface{ Repeatable() }

// Verdict is what a request step decides.
type Verdict uint8

// The verdicts.
const (
	Next Verdict = iota // go on
	Stop                // the exchange's Response or Problem is the answer
)

// OnRequest runs before the upstream is asked.
type OnRequest interface {
	Request(x *exchange.Exchange) Verdict
}

// OnResponse runs before the answer's head is sent, in reverse order, for
// exactly those policies that the request reached.
type OnResponse interface {
	Response(x *exchange.Exchange)
}

// OnDone runs after the answer was sent or given up, in order, for exactly
// those policies that the request reached.
type OnDone interface {
	Done(x *exchange.Exchange)
}

// TapsRequest sees the pieces of the request body as they pass. It must not
// change or keep them. It may run on another goroutine than the steps, until
// the answer's body is closed, so what it knows of the exchange it keeps in a
// Slot of its own, or has its request step put there.
type TapsRequest interface {
	TapRequest(x *exchange.Exchange, piece []byte)
}

// TapsResponse sees the pieces of the response body as they pass. It must not
// change or keep them.
type TapsResponse interface {
	TapResponse(x *exchange.Exchange, piece []byte)
}

// Holds wants a whole body in memory before its step runs, which finds it by
// exchange.Held.
type Holds interface {
	// HoldRequest returns the largest request body in bytes that the policy
	// takes, 0 when it needs none. A larger one is answered 413 before the
	// policy's request step.
	HoldRequest() int64
	// HoldResponse is the same of the answer; a larger one becomes a 502.
	HoldResponse() int64
}

// Conceals is a policy that reads credentials in requests, or writes some for
// the service. They are nobody else's.
type Conceals interface {
	// Conceal takes them all, right or wrong, out of a copy of a request that
	// goes elsewhere. Nothing but its Request and Client is filled in.
	Conceal(x *exchange.Exchange)
}

// Reaches is a policy whose request step reaches beyond the exchange and this
// process's memory: it asks somebody, counts where others see it, looks at the
// machine, or waits. An explanation leaves such a step out. Every policy that
// can do any of that implements it.
type Reaches interface {
	// Reaches says in words what the step would do with a request, such as
	// "asks https://id.example.com/keys for the issuer's keys", without doing
	// it; "" when for this one it would do nothing of the sort. It names no
	// credential.
	Reaches(x *exchange.Exchange) string
}

// LeftOut is the cause of a problem by which a part of a policy says what Reaches
// would have said, had it been asked: it was not done, and the verdict is not
// known. There is none but where Env is Still.
type LeftOut struct{ Text string }

func (l *LeftOut) Error() string { return "not done: " + l.Text }

// Preflights is a policy that answers CORS preflights. A route with one takes
// the OPTIONS that asks for a request which the route would take.
type Preflights interface{ Preflights() }

// Env is what a policy is compiled with.
type Env struct {
	Name string       // the kind's name
	Path string       // where the policy stands in the config, for logs
	At   string       // whom it belongs to, by name, for keys of Keep: it stays the same when lists are put into another order
	Log  *slog.Logger // for events, not for requests

	Slots *Slots                                  // numbers of private state, see Slot
	Keep  func(key string, create func() any) any // live object that outlasts a reload: same key, same object

	// KeepAs is Keep of another kind, for policies that have others in them:
	// those share what they keep with the ones that stand alone.
	KeepAs func(kind, key string, create func() any) any

	Service func(name string) any // what app offers under a name; nil when there is none
	Spared  func(reason string)   // counts a request that the policy let through, see Teller; nil where nobody counts
	Still   bool                  // it is only looked at what is compiled: nothing is begun that asks others
}

// Fault is one thing wrong with a policy's settings.
type Fault struct {
	Field string // path within the policy's settings, for example "set[1].name"; "" for the whole
	Text  string // what is wrong: the value quoted, and the rule
	Hint  string // what to write instead, "" for none
}

func (f *Fault) Error() string {
	s := f.Text
	if f.Field != "" {
		s = f.Field + ": " + s
	}
	if f.Hint != "" {
		s += " (" + f.Hint + ")"
	}
	return s
}

// Slots gives out the numbers of private state. There is one for each
// snapshot.
type Slots struct{ n int }

// Len returns how many numbers were given out.
func (s *Slots) Len() int { return s.n }

// Slot is a policy's private state for one request, of type T.
type Slot[T any] struct{ i int }

// NewSlot takes a number for state of type T.
func NewSlot[T any](env *Env) Slot[T] {
	s := Slot[T]{env.Slots.n}
	env.Slots.n++
	return s
}

// Get returns the exchange's value, zero when it is first asked for. The
// memory is used again by later exchanges: nothing may keep the pointer.
func (s Slot[T]) Get(x *exchange.Exchange) *T {
	v, used := x.Slot(s.i)
	p, ok := (*v).(*T)
	if !ok {
		p = new(T)
		*v = p
	} else if !used {
		var zero T
		*p = zero
	}
	return p
}

// Catalog is an ordered list of kinds.
type Catalog struct {
	kinds []*Kind
	index map[string]int
}

// NewCatalog makes a catalog; the order of kinds is the order of their steps
// within a stage.
func NewCatalog(kinds ...*Kind) *Catalog {
	c := &Catalog{kinds: kinds, index: make(map[string]int, len(kinds))}
	for i, k := range kinds {
		c.index[k.Name] = i
	}
	return c
}

// Kinds returns the kinds in order.
func (c *Catalog) Kinds() []*Kind { return c.kinds }

// Lookup returns a kind and its place in the order, or nil and -1.
func (c *Catalog) Lookup(name string) (*Kind, int) {
	if i, ok := c.index[name]; ok {
		return c.kinds[i], i
	}
	return nil, -1
}
