package live_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/test/live"
)

// TestDescriptorsRunShort opens more connections than the process may have
// descriptors: the old ones go on, the new ones wait, and are served as soon as
// there is room.
func TestDescriptorsRunShort(t *testing.T) {
	const settings = "listeners: [ { name: door, address: '127.0.0.1:0' } ]\nadmin: off\nroutes: [ { match: /*, respond: { status: 200, body: ok } } ]\n"
	g := serve(t, build(t), t.TempDir(), settings, "ulimit -n 64")
	door := g.Addresses()["door"]
	old := dial(t, door)
	old.asks(t)
	var more []*asker
	for range 100 {
		more = append(more, dial(t, door))
	}
	if err := g.Await(`level=WARN .*too many open files`); err != nil {
		t.Fatal(err)
	}
	for range 10 {
		old.asks(t)
	}
	last := more[len(more)-1]
	for _, k := range more[:len(more)-1] {
		k.Close()
	}
	last.asks(t)
	old.asks(t)
}

// asker is a connection to a gateway.
type asker struct {
	net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, address string) *asker {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(live.Patience)); err != nil {
		t.Fatal(err)
	}
	return &asker{c, bufio.NewReader(c)}
}

// asks sends a request and wants its answer.
func (k *asker) asks(t *testing.T) {
	t.Helper()
	fmt.Fprint(k, "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
	res, err := http.ReadResponse(k.r, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body := make([]byte, 3)
	if n, _ := res.Body.Read(body); res.StatusCode != 200 || string(body[:n]) != "ok" {
		t.Errorf("answered %d %q", res.StatusCode, body[:n])
	}
}
