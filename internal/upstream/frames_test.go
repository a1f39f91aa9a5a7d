package upstream

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// frame makes a WebSocket frame.
func frame(first byte, masked bool, payload string) string {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
	if masked {
		b[1] |= 0x80
		b = append(b, 0, 0, 0, 0)
	}
	return string(b) + payload
}

func TestFrames(t *testing.T) {
	s := strings.Repeat
	for _, c := range []struct {
		name   string
		in     string
		passes int // bytes of it, all where there is no status
		status uint16
	}{
		{"one", frame(0x81, false, "hello"), 0, 0},
		{"several", frame(0x81, false, "hello") + frame(0x82, false, s("x", 900)) + frame(0x8a, false, ""), 0, 0},
		{"a message in parts", frame(0x01, false, s("x", 500)) + frame(0x89, false, "ping") + frame(0x80, false, s("x", 500)), 0, 0},
		{"two messages", frame(0x82, false, s("x", 900)) + frame(0x82, false, s("x", 900)), 0, 0},
		{"too long", frame(0x81, false, "ok") + frame(0x82, false, s("x", 1001)), 4, statusTooBig},
		{"too long in parts", frame(0x01, false, s("x", 600)) + frame(0x00, false, s("x", 401)), 604, statusTooBig},
		{"frame too long", frame(0x01, false, s("x", 951)), 0, statusTooBig},
		{"huge", "\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff", 0, statusTooBig},
		{"negative", "\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff", 0, statusProtocol},
		{"masked", frame(0x81, true, "x"), 0, statusProtocol},
		{"long ping", frame(0x89, false, s("x", 126)), 0, statusProtocol},
		{"ping in parts", frame(0x09, false, "x"), 0, statusProtocol},
	} {
		for _, step := range []int{1, 3, len(c.in)} {
			f := frames{maxMessage: 1000, maxFrame: 950}
			if c.name == "too long" {
				f.maxFrame = 0
			}
			var out bytes.Buffer
			var err error
			for rest := c.in; rest != "" && err == nil; {
				n := min(step, len(rest))
				err = f.pass(&out, []byte(rest[:n]))
				rest = rest[n:]
			}
			var e frameError
			if errors.As(err, &e); e.status != c.status {
				t.Errorf("%s: %v, want %d", c.name, err, c.status)
			}
			want := c.passes
			if c.status == 0 {
				want = len(c.in)
			}
			if got := out.Len(); got != want && (step == len(c.in) || got < want || c.status == 0) {
				t.Errorf("%s: %d bytes passed, want %d", c.name, got, want)
			}
		}
	}
}

// Frames are found wherever pieces are cut, and nothing is changed.
func FuzzFrames(f *testing.F) {
	f.Add([]byte(frame(0x81, false, "hello")+frame(0x02, false, "x")), 3)
	f.Add([]byte(frame(0x82, false, strings.Repeat("x", 300))), 2)
	f.Fuzz(func(t *testing.T, p []byte, step int) {
		run := func(step int) (string, error) {
			f := frames{maxMessage: 1 << 16, maxFrame: 1 << 12}
			var out bytes.Buffer
			for rest := p; len(rest) > 0; {
				n := min(step, len(rest))
				if err := f.pass(&out, rest[:n]); err != nil {
					return out.String(), err
				}
				rest = rest[n:]
			}
			return out.String(), nil
		}
		whole, err := run(len(p))
		if !bytes.HasPrefix(p, []byte(whole)) {
			t.Fatal("it changed")
		}
		if _, again := run(max(step%7, 1)); (err == nil) != (again == nil) || err != nil && err.Error() != again.Error() {
			t.Fatalf("%v, and in pieces %v", err, again)
		}
	})
}

func TestWebSocketLimits(t *testing.T) {
	for name, fromClient := range map[string]bool{"client": true, "service": false} {
		t.Run(name, func(t *testing.T) {
			ended := make(chan []byte, 1)
			s := newService(t, func(p *peer) {
				p.request()
				p.send(switches)
				if !fromClient {
					p.send(frame(0x81, false, "hello") + frame(0x82, false, strings.Repeat("x", 101)))
				}
				all, _ := io.ReadAll(p.r)
				ended <- all
			})
			r := newRig(t, settings(s.url()))
			limit := func(x *exchange.Exchange) { x.Tunnel.MaxMessage = 100 }
			r.policy.Store(&limit)
			k := join(t, r, "")
			if fromClient {
				k.send(frame(0x81, true, "hello") + frame(0x82, true, strings.Repeat("x", 101)))
				k.reads("\x88\x02\x03\xf1") // Close, 1009
				if got := string(<-ended); got != frame(0x81, true, "hello") {
					t.Errorf("the service got %q", got)
				}
			} else {
				k.reads(frame(0x81, false, "hello"))
				if got := string(<-ended); got != "\x88\x82\x00\x00\x00\x00\x03\xf1" {
					t.Errorf("the service got %q", got)
				}
			}
			<-r.ended
		})
	}
}
