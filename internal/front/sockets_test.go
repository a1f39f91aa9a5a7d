package front

import (
	"errors"
	"net"
	"syscall"
	"testing"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
)

// addresses are those that listeners really have, by name.
func (r *rig) addresses() map[string]string {
	all := make(map[string]string)
	for _, s := range r.f.Listeners() {
		all[s.Name] = s.Address
	}
	return all
}

// A listener goes to all addresses of its port, or from there to one, in one
// change: what runs on the old socket is answered.
func TestListenersMoveWithinTheirPort(t *testing.T) {
	begun, answer := make(chan struct{}), make(chan struct{})
	cfg := listenerOf("native")
	r := newRig(t, cfg, func(x *exchange.Exchange) {
		if x.Request.Path == "/slow" {
			begun <- struct{}{}
			<-answer
		}
		pathOf(x)
	})
	_, port, err := net.SplitHostPort(r.address)
	if err != nil {
		t.Fatal(err)
	}
	for _, to := range []string{":" + port, "127.0.0.1:" + port, "0.0.0.0:" + port} {
		slow := r.dial(t)
		slow.send("GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
		<-begun
		r.apply(with(cfg, func(l *config.Listener) { l.Address = to }))
		answer <- struct{}{}
		slow.expect(200, "test/slow")
		slow.expectEnd()
		k := r.dial(t)
		k.send(simple)
		k.expect(200, "test/")
		if list := r.f.Listeners(); len(list) != 1 {
			t.Errorf("%s: listeners %+v", to, list)
		}
	}
	// Another gateway does not get the port by mistake.
	for _, address := range []string{"127.0.0.1:" + port, ":" + port} {
		if ln, err := open(address, false); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("%s: %v, %v", address, ln, err)
		}
	}
}

// When such a change cannot be made, all stays as it was.
func TestListenersThatCannotMoveStay(t *testing.T) {
	cfg := listenerOf("native")
	r := newRig(t, cfg, pathOf)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, port, _ := net.SplitHostPort(r.address)
	moved := with(cfg, func(l *config.Listener) { l.Address = ":" + port })
	other := with(cfg, func(l *config.Listener) { l.Name, l.Address = "other", taken.Addr().String() })
	var where *Error
	if _, err := r.f.Prepare([]*config.Listener{moved, other}, plainSets); !errors.As(err, &where) || where.Index != 1 {
		t.Errorf("error %v", err)
	}
	k := r.dial(t)
	k.send(simple)
	k.expect(200, "test/")
	// Beside one that stays nothing is opened.
	if _, err := r.f.Prepare([]*config.Listener{cfg, moved}, plainSets); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("error %v", err)
	}
	k = r.dial(t)
	k.send(simple)
	k.expect(200, "test/")
}

// Listeners whose port the kernel chooses have one each, and keep it.
func TestListenersOfAnyPort(t *testing.T) {
	cfg := listenerOf("native")
	named := func(name string) *config.Listener { return with(cfg, func(l *config.Listener) { l.Name = name }) }
	r := newRig(t, named("a"), pathOf)
	first := r.addresses()["a"]
	r.apply(named("a"), named("b"))
	all := r.addresses()
	if all["a"] != first || all["b"] == "" || all["b"] == first {
		t.Fatalf("%v, before %s", all, first)
	}
	second := all["b"]
	r.apply(named("b"), named("c"))
	if all = r.addresses(); all["b"] != second || all["c"] != first || len(all) != 2 {
		t.Errorf("%v, before %s and %s", all, first, second)
	}
	r.apply(named("b"))
	if all = r.addresses(); all["b"] != second || len(all) != 1 {
		t.Errorf("%v", all)
	}
}
