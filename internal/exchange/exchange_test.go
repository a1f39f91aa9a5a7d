package exchange

import (
	"errors"
	"io"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// An exchange that was put back begins as an empty one, whoever used it before.
func TestReuse(t *testing.T) {
	x := Get()
	x.Request.Header.Add("A", "1")
	x.Request.Trailer.Add("A", "1")
	x.Request.Method, x.Request.Body, x.Request.Lent = "POST", Bytes([]byte("b")), true
	x.Response.Header.Add("A", "1")
	x.Response.Trailer.Add("A", "1")
	x.Response.Status = 200
	x.Response.SetBody([]byte("b"))
	x.Client = &Client{Addr: netip.MustParseAddrPort("192.0.2.1:1")}
	x.Who = Who{Consumer: "c"}
	x.Route = Route{Name: "r", Index: 1, Params: []Param{{"a", "b"}}, Rest: "x"}
	x.Times.End = 1
	x.Upstream.Name = "u"
	x.SetRequestID("id")
	x.Fail(&Problem{})
	x.Cancel(io.EOF)
	Put(x)
	if x.Request.Header.Len()+x.Request.Trailer.Len()+x.Response.Header.Len()+x.Response.Trailer.Len() != 0 {
		t.Error("fields are left")
	}
	if x.Request.Method != "" || x.Request.Body != NoBody || x.Request.Lent || x.Response.Status != 0 || x.Response.Body != NoBody || x.Response.Local {
		t.Error("a message is left")
	}
	if x.Client != nil || x.Who.Consumer != "" || x.Route.Name != "" || len(x.Route.Params) != 0 || x.Times != (Times{}) || x.Upstream != (Upstream{}) || x.Problem != nil {
		t.Error("facts are left")
	}
	if x.Canceled() != nil || x.RequestID() == "id" {
		t.Error("the reason of a cancellation is left, or the id")
	}
}

func TestRequestID(t *testing.T) {
	seen := make(map[string]bool)
	for range 1000 {
		x := Get()
		id := x.RequestID()
		if len(id) != 32 || strings.Trim(id, hexDigits) != "" || seen[id] {
			t.Fatalf("id %q", id)
		}
		seen[id] = true
		if x.RequestID() != id {
			t.Fatal("the id is another one when asked again")
		}
		Put(x)
	}
}

// A slot tells whether it was used in this exchange, and keeps the memory of
// earlier ones.
func TestSlot(t *testing.T) {
	x := Get()
	v, used := x.Slot(3)
	if used {
		t.Error("a new slot was used")
	}
	*v = "kept"
	x.Reserve(2)
	if v, used := x.Slot(3); !used || *v != "kept" {
		t.Errorf("used %v, value %v", used, *v)
	}
	if _, used := x.Slot(1); used {
		t.Error("another slot was used")
	}
	x.gen++ // what Get does
	if v, used := x.Slot(3); used || *v != "kept" {
		t.Errorf("in the next exchange: used %v, value %v", used, *v)
	}
	Put(x)
}

// Reserve keeps places where they are.
func TestReserve(t *testing.T) {
	x := new(Exchange)
	x.Reserve(8)
	first, _ := x.Slot(0)
	for i := range 8 {
		x.Slot(i)
	}
	if again, _ := x.Slot(0); again != first {
		t.Error("a place moved")
	}
}

// counter counts how often it was woken.
type counter struct {
	mu sync.Mutex
	n  int
}

func (c *counter) Interrupt() {
	c.mu.Lock()
	c.n++
	c.mu.Unlock()
}

func TestCancel(t *testing.T) {
	reason := errors.New("reason")
	for _, c := range []struct {
		name  string
		do    func(x *Exchange, c *counter) error // what Bind said at last
		woken int
		want  error
	}{
		{"nobody waits", func(x *Exchange, c *counter) error { x.Cancel(reason); return x.Canceled() }, 0, reason},
		{"before the wait", func(x *Exchange, c *counter) error { x.Cancel(reason); return x.Bind(c) }, 0, reason},
		{"during the wait", func(x *Exchange, c *counter) error { x.Bind(c); x.Cancel(reason); return x.Bind(nil) }, 1, reason},
		{"twice", func(x *Exchange, c *counter) error {
			x.Bind(c)
			x.Cancel(reason)
			x.Cancel(io.EOF)
			return x.Bind(nil)
		}, 1, reason},
		{"after the wait", func(x *Exchange, c *counter) error { x.Bind(c); err := x.Bind(nil); x.Cancel(reason); return err }, 0, nil},
		{"never", func(x *Exchange, c *counter) error { x.Bind(c); return x.Bind(nil) }, 0, nil},
	} {
		x := Get()
		var w counter
		if err := c.do(x, &w); !errors.Is(err, c.want) || w.n != c.woken {
			t.Errorf("%s: %v, woken %d times", c.name, err, w.n)
		}
		Put(x)
	}
}

// channel wakes a goroutine.
type channel chan struct{}

func (c channel) Interrupt() { c <- struct{}{} }

// Whoever waits is woken by another goroutine, whichever comes first.
// Who is diverted waits for nothing until he rejoins, and can be cancelled all
// the same.
func TestDivert(t *testing.T) {
	reason := errors.New("another has the answer")
	for _, c := range []struct {
		name        string
		f           func(x *Exchange, c *counter) error
		interrupted int
		want        error
	}{
		{"before the wait", func(x *Exchange, c *counter) error { x.Divert(reason); return x.Bind(c) }, 0, reason},
		{"during the wait", func(x *Exchange, c *counter) error { x.Bind(c); x.Divert(reason); return x.Bind(nil) }, 1, reason},
		{"it is not cancelled", func(x *Exchange, c *counter) error { x.Divert(reason); return x.Canceled() }, 0, nil},
		{"until it rejoins", func(x *Exchange, c *counter) error { x.Divert(reason); x.Rejoin(); return x.Bind(c) }, 0, nil},
		{"cancelled as well", func(x *Exchange, c *counter) error { x.Divert(reason); x.Cancel(io.EOF); return x.Bind(c) }, 0, io.EOF},
		{"cancelled later", func(x *Exchange, c *counter) error {
			x.Divert(reason)
			x.Rejoin()
			x.Bind(c)
			x.Cancel(io.EOF)
			return x.Bind(nil)
		}, 1, io.EOF},
	} {
		x, w := Get(), new(counter)
		if err := c.f(x, w); !errors.Is(err, c.want) || w.n != c.interrupted {
			t.Errorf("%s: %v, interrupted %d times", c.name, err, w.n)
		}
		Put(x)
		if y := Get(); y.Bind(nil) != nil {
			t.Errorf("%s: it is remembered", c.name)
		}
	}
}

func TestCancelRace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 100 {
			x := Get()
			var other sync.WaitGroup
			other.Go(func() { x.Cancel(ErrClientGone) })
			w := make(channel, 1)
			if err := x.Bind(w); err == nil {
				<-w
			}
			if err := x.Bind(nil); !errors.Is(err, ErrClientGone) {
				t.Errorf("reason %v", err)
			}
			other.Wait()
			Put(x)
		}
	})
}

func TestClock(t *testing.T) {
	a := Now()
	if a <= 0 {
		t.Errorf("the clock reads %d", a)
	}
	if b := Now(); b < a {
		t.Errorf("the clock went back from %d to %d", a, b)
	}
	if d := time.Since(Wall(a)).Abs(); d > time.Minute {
		t.Errorf("the time of day is %v off", d)
	}
}

func TestParam(t *testing.T) {
	r := Route{Params: []Param{{"a", "1"}, {"b", "2"}}}
	if r.Param("b") != "2" || r.Param("c") != "" {
		t.Errorf("parameters %q, %q", r.Param("b"), r.Param("c"))
	}
}

func TestBodies(t *testing.T) {
	p := []byte("hello")
	b := Bytes(p)
	if held, ok := Held(b); !ok || string(held) != "hello" {
		t.Errorf("held %q, %v", held, ok)
	}
	if r, ok := b.(Ready); !ok || !r.Ready() {
		t.Error("bytes in memory are not ready")
	}
	if got := read(t, b); got != "hello" {
		t.Errorf("body %q", got)
	}
	if _, err := b.Next(); err != io.EOF || b.Close() != nil {
		t.Errorf("after the end: %v", err)
	}
	if held, ok := Held(NoBody); !ok || held != nil {
		t.Errorf("no body holds %q, %v", held, ok)
	}
	if _, err := NoBody.Next(); err != io.EOF || NoBody.Close() != nil || !NoBody.(Ready).Ready() {
		t.Errorf("no body: %v", err)
	}
	if _, ok := Held(struct{ Body }{b}); ok {
		t.Error("a body of another kind is held")
	}
	var r Response
	r.SetBody(p)
	if got := read(t, r.Body); got != "hello" || r.Length != 5 || !r.Local {
		t.Errorf("body %q of length %d", got, r.Length)
	}
}

func TestProto(t *testing.T) {
	for p, want := range map[Proto]string{HTTP10: "HTTP/1.0", HTTP11: "HTTP/1.1", HTTP2: "HTTP/2.0", HTTP3: "HTTP/3.0", 0: ""} {
		if p.String() != want {
			t.Errorf("%d is %q", p, p)
		}
	}
}
