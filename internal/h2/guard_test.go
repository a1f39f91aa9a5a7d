package h2

import (
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// Each attack goes on until it is stopped. attack returns the error of
// writing, and false when it has done all it can.
var attacks = []struct {
	name     string
	settings []http2.Setting
	prepare  func(c *raw)
	attack   func(c *raw, i int) error
	unread   bool // the client does not read, so that there is no GOAWAY to be seen
}{
	{name: "rapid reset", attack: func(c *raw, i int) error {
		id := uint32(2*i + 1)
		if err := c.request(id, true, simple...); err != nil {
			return err
		}
		return c.fr.WriteRSTStream(id, http2.ErrCodeCancel)
	}},
	{name: "resets provoked by a window update of zero", attack: func(c *raw, i int) error {
		id := uint32(2*i + 1)
		if err := c.request(id, false, simple...); err != nil {
			return err
		}
		return c.fr.WriteRawFrame(http2.FrameWindowUpdate, 0, id, []byte{0, 0, 0, 0})
	}},
	{name: "resets provoked by data after the end", attack: func(c *raw, i int) error {
		id := uint32(2*i + 1)
		if err := c.request(id, true, ":method", "GET", ":scheme", "http", ":authority", "a.example", ":path", "/wait"); err != nil {
			return err
		}
		return c.fr.WriteData(id, true, []byte("x"))
	}},
	{name: "resets provoked by a window that overflows", attack: func(c *raw, i int) error {
		id := uint32(2*i + 1)
		if err := c.request(id, true, ":method", "GET", ":scheme", "http", ":authority", "a.example", ":path", "/wait"); err != nil {
			return err
		}
		return c.fr.WriteWindowUpdate(id, 1<<31-1)
	}},
	{name: "malformed requests", attack: func(c *raw, i int) error {
		return c.request(uint32(2*i+1), true, ":method", "GET")
	}},
	{name: "more streams than allowed", attack: func(c *raw, i int) error {
		return c.request(uint32(2*i+1), false, ":method", "GET", ":scheme", "http", ":authority", "a.example", ":path", "/wait")
	}},
	{name: "continuation of nothing", attack: func(c *raw, i int) error {
		if i == 0 {
			return c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.fields(simple...)})
		}
		return c.fr.WriteContinuation(1, false, nil)
	}},
	{name: "continuation without end", attack: func(c *raw, i int) error {
		if i == 0 {
			return c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.fields(simple...)})
		}
		return c.fr.WriteContinuation(1, false, c.fields("x-more", strings.Repeat("y", 1000)))
	}},
	{name: "settings", attack: func(c *raw, i int) error {
		return c.fr.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: uint32(i)})
	}},
	{name: "pings", attack: func(c *raw, _ int) error { return c.fr.WritePing(false, [8]byte{}) }},
	{name: "pings unread", unread: true, attack: func(c *raw, _ int) error { return c.fr.WritePing(false, [8]byte{}) }},
	{name: "priorities", attack: func(c *raw, _ int) error {
		return c.fr.WritePriority(1, http2.PriorityParam{Weight: 1})
	}},
	{name: "priority updates", attack: func(c *raw, i int) error {
		return c.fr.WritePriorityUpdate(uint32(2*i+1), "u=1")
	}},
	{name: "window updates", attack: func(c *raw, _ int) error { return c.fr.WriteWindowUpdate(0, 1) }},
	{name: "unknown frames", attack: func(c *raw, _ int) error { return c.fr.WriteRawFrame(0xbb, 0, 0, nil) }},
	{name: "empty data", attack: func(c *raw, i int) error {
		if i == 0 {
			return c.request(1, false, ":method", "POST", ":scheme", "http", ":authority", "a.example", ":path", "/echo")
		}
		return c.fr.WriteData(1, false, nil)
	}},
	{name: "field references that expand", attack: func(c *raw, i int) error {
		if i == 0 {
			return c.request(1, true, append(simple, "x-big", strings.Repeat("z", 3900))...)
		}
		block := append([]byte(nil), c.fields(simple...)...)
		for range 12000 {
			block = append(block, 0x80|62) // the newest entry of the table
		}
		err := c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: block, EndStream: true, EndHeaders: true})
		if err == nil {
			err = c.fr.WriteRSTStream(uint32(2*i+1), http2.ErrCodeCancel)
		}
		return err
	}},
	{name: "a long field", attack: func(c *raw, i int) error {
		c.block.Reset()
		c.enc.WriteField(hpack.HeaderField{Name: "x-long", Value: strings.Repeat("{", 1<<20)})
		if i > 0 {
			return c.fr.WriteContinuation(1, false, c.block.Bytes()[16000*(i%50):][:16000])
		}
		return c.fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: c.block.Bytes()[:16000]})
	}},
	{name: "tiny window", settings: []http2.Setting{{ID: http2.SettingInitialWindowSize, Val: 0}}, attack: func(c *raw, i int) error {
		if i == 0 {
			return c.request(1, true, ":method", "GET", ":scheme", "http", ":authority", "a.example", ":path", "/noise")
		}
		return c.fr.WriteWindowUpdate(1, 1)
	}},
}

// guarded is the handler that is attacked.
func guarded(x *exchange.Exchange) {
	switch x.Request.Path {
	case "/wait":
		guardedWait(x)
	case "/echo":
		echo(x)
	case "/noise":
		reply(x, strings.Repeat("n", 1<<20))
	default:
		reply(x, "hello")
	}
}

// guardedWait waits until the client has gone.
func guardedWait(x *exchange.Exchange) {
	w := make(chanInterrupter, 1)
	if err := x.Bind(w); err == nil {
		<-w
	}
	x.Bind(nil)
	x.Down.Abort()
}

// TestAttacks stops each attack by a GOAWAY that asks for calm, while memory
// stays flat and a good client beside notices nothing.
func TestAttacks(t *testing.T) {
	for _, a := range attacks {
		t.Run(a.name, func(t *testing.T) {
			r := newRig(t, tableLimits(), guarded)
			stop, good := make(chan bool), sync.WaitGroup{}
			beside := plainClient(t)
			good.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					res, err := beside.Get("http://" + r.address + "/")
					if err != nil {
						t.Errorf("good client: %v", err)
						return
					}
					res.Body.Close()
					if res.StatusCode != 200 {
						t.Errorf("good client: %v", res.Status)
					}
				}
			})
			defer func() { close(stop); good.Wait() }()
			c := r.dial(a.settings...)
			last := make(chan string, 1)
			if !a.unread {
				go func() {
					seen := ""
					for {
						s := c.next()
						if s == "end" {
							break
						}
						if seen = s; strings.HasPrefix(s, "goaway") {
							break
						}
					}
					last <- seen
					c.nc.Close()
				}()
			}
			before := heap()
			i := 0
			for ; i < 300000; i++ {
				if i == 5000 {
					if grown := heap() - before; grown > 4<<20 {
						t.Errorf("%d bytes more", grown)
					}
				}
				if err := a.attack(c, i); err != nil {
					break
				}
			}
			if i == 300000 {
				t.Error("was not stopped")
			}
			if a.unread {
				return
			}
			if got := <-last; !strings.HasSuffix(got, "ENHANCE_YOUR_CALM") && got != "" {
				t.Errorf("%q after %d", got, i)
			}
		})
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestBudget is filled up by time and by work.
func TestBudget(t *testing.T) {
	b := budget{left: 3, burst: 3, rate: 10, since: exchange.Now()}
	for range 3 {
		if !b.spend(1) {
			t.Fatal("nothing left too early")
		}
	}
	b.earn(10)
	if b.left != 3 {
		t.Fatal("more than the burst")
	}
	b.left, b.since = 0, exchange.Now()-int64(time.Second)
	if !b.spend(1) || b.left != 2 {
		t.Fatal("time earns nothing", b.left)
	}
}
