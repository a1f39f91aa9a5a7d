package front

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/exchange"
)

// dialQUIC opens a connection that speaks HTTP/3 by hand.
func (r *rig) dialQUIC(t *testing.T) (*quic.Conn, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	conf := trusting()
	conf.NextProtos = []string{"h3"}
	conn, err := quic.DialAddr(ctx, r.address, conf, &quic.Config{
		KeepAlivePeriod: 20 * time.Millisecond, InitialStreamReceiveWindow: 16 << 20, InitialConnectionReceiveWindow: 16 << 20,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.CloseWithError(0, "") })
	return conn, ctx
}

// A connection on which heads begin and never end is one without a request.
func TestHTTP3SlowHeads(t *testing.T) {
	cfg := listener3()
	cfg.Limits.IdleTimeout = config.Duration(200 * time.Millisecond)
	conn, ctx := newRig(t, cfg, echo).dialQUIC(t)
	str, err := conn.OpenStreamSync(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// A HEADERS frame (RFC 9114, section 7.2.2) of 32 bytes, of which two come.
	if _, err := str.Write([]byte{1, 32, 0, 0}); err != nil {
		t.Fatal(err)
	}
	var ended *quic.ApplicationError
	if _, err := io.ReadAll(str); !errors.As(err, &ended) || ended.ErrorCode != h3NoError {
		t.Errorf("want the end of the connection, have %v", err)
	}
}

// limits.streams is how many requests a connection may have at a time.
func TestHTTP3Streams(t *testing.T) {
	cfg := listener3()
	cfg.Limits.Streams = 3
	conn, _ := newRig(t, cfg, echo).dialQUIC(t)
	opened := 0
	for opened < 10 {
		if _, err := conn.OpenStream(); err != nil {
			break
		}
		opened++
	}
	if opened != 3 {
		t.Errorf("%d streams could be opened", opened)
	}
}

// A body that nobody reads any more fills its window, and that is small however
// quickly it was read before.
func TestHTTP3StalledBody(t *testing.T) {
	const quick = 8 << 20
	over, read := make(chan struct{}), make(chan int64, 1)
	cfg := listener3()
	cfg.Limits.Body = 64 << 20
	r := newRig(t, cfg, func(x *exchange.Exchange) {
		for x.Request.Received < quick {
			if _, err := x.Request.Body.Next(); err != nil {
				t.Error(err)
				break
			}
		}
		read <- x.Request.Received
		<-over
		x.Down.Abort()
	})
	defer close(over)
	conn, ctx := r.dialQUIC(t)
	str, err := conn.OpenStreamSync(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// POST / of the static table (RFC 9204, appendix A), and a literal authority;
	// then a DATA frame without an end.
	head := append([]byte{0, 0, 0xc0 | 20, 0xc0 | 23, 0xc0 | 1, 0x50, 9}, "a.example"...)
	sent, err := str.Write(append(append([]byte{1, byte(len(head))}, head...), 0, 0x80|0x40, 0, 0, 0, 1, 0, 0, 0))
	if err != nil {
		t.Fatal(err)
	}
	for sent < quick {
		n, err := str.Write(make([]byte, 16<<10))
		if err != nil {
			t.Fatal(err)
		}
		sent += n
	}
	taken := int(<-read)
	if err := str.SetWriteDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	for err == nil && sent < 2*quick {
		var n int
		n, err = str.Write(make([]byte, 1<<10))
		sent += n
	}
	// A frame's worth may wait on this side.
	if sent -= taken; sent < 32<<10 || sent > 128<<10+4<<10 {
		t.Errorf("%d bytes were taken that nobody reads", sent)
	}
}

// unheard is a client's socket that sends, and hears nothing.
type unheard struct {
	net.PacketConn
	once  sync.Once
	spoke chan<- struct{}
	over  <-chan struct{}
}

func (u *unheard) WriteTo(p []byte, to net.Addr) (int, error) {
	n, err := u.PacketConn.WriteTo(p, to)
	u.once.Do(func() { u.spoke <- struct{}{} })
	return n, err
}

func (u *unheard) ReadFrom([]byte) (int, net.Addr, error) {
	<-u.over
	return 0, nil, net.ErrClosed
}

// However many handshakes are begun by who does not hear the answers, few are
// held, and others can connect.
func TestHTTP3ForgedAddresses(t *testing.T) {
	r := newRig(t, listener3(), echo)
	to, err := net.ResolveUDPAddr("udp", r.address)
	if err != nil {
		t.Fatal(err)
	}
	conf := trusting()
	conf.NextProtos = []string{"h3"}
	ctx, cancel := context.WithCancel(context.Background())
	over, spoke := make(chan struct{}), make(chan struct{})
	var dials sync.WaitGroup
	defer func() {
		cancel()
		close(over)
		dials.Wait()
	}()
	for range 3 * h3Wary / 2 {
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		transport := &quic.Transport{Conn: &unheard{PacketConn: pc, spoke: spoke, over: over}}
		dials.Go(func() {
			if conn, err := transport.Dial(ctx, to, conf, nil); err == nil {
				t.Errorf("connected %v", conn.LocalAddr())
			}
			pc.Close()
			<-over
			transport.Close()
		})
		<-spoke
	}
	if res, _ := r.dial3(t).do("GET", "/", nil, nil); res.StatusCode != 200 {
		t.Error(res)
	}
	// It came after the others, and found them as they are.
	h := r.f.open[r.cfg.Address+" "+r.cfg.Name].quic
	if n := h.young(); n < h3Wary/2 || n > h3Wary {
		t.Errorf("%d handshakes are held", n)
	}
	// They would be waited for until they are late.
	if err := h.transport.Close(); err != nil {
		t.Error(err)
	}
}
