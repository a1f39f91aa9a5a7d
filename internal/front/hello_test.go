package front

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"testing"
	"time"
)

// helloOf returns the first bytes that crypto/tls sends for a name.
func helloOf(t testing.TB, name string) []byte {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	done := make(chan []byte)
	go func() {
		p := make([]byte, 16<<10)
		n, _ := b.Read(p)
		b.Close()
		done <- p[:n]
	}()
	// It fails, since nobody answers.
	_ = tls.Client(a, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake()
	return <-done
}

// inRecords puts a handshake message into records of so many bytes.
func inRecords(message []byte, size int) (out []byte) {
	for len(message) > 0 {
		n := min(size, len(message))
		out = append(out, recordHandshake, 3, 1)
		out = binary.BigEndian.AppendUint16(out, uint16(n))
		out = append(out, message[:n]...)
		message = message[n:]
	}
	return out
}

// hello makes a message of extensions, and others by kind and content.
func hello(extensions string) []byte {
	body := "\x03\x03" + strings.Repeat("r", 32) + "\x00" + "\x00\x02\x13\x01" + "\x01\x00"
	if extensions != "" {
		body += string([]byte{byte(len(extensions) >> 8), byte(len(extensions))}) + extensions
	}
	return append([]byte{clientHello, 0, byte(len(body) >> 8), byte(len(body))}, body...)
}

// sni is the extension for a name.
func sni(name string) string {
	n := len(name)
	return string([]byte{0, 0, 0, byte(n + 5), 0, byte(n + 3), 0, 0, byte(n)}) + name
}

func TestHello(t *testing.T) {
	for _, c := range []struct {
		name string
		in   []byte
		want string
		err  error
	}{
		{"crypto/tls", helloOf(t, "Shop.Example.com"), "shop.example.com", nil},
		{"crypto/tls without a name", helloOf(t, ""), "", nil},
		{"no extensions", inRecords(hello(""), 1000), "", nil},
		{"other extensions", inRecords(hello("\x00\x17\x00\x00"+sni("a.example")+"\xfa\xfa\x00\x01x"), 1000), "a.example", nil},
		{"a record for each byte", inRecords(hello(sni("a.example")), 1), "a.example", nil},
		{"followed by early data", append(inRecords(hello(sni("a.example")), 1000), "\x17\x03\x03\x00\x01x"...), "a.example", nil},

		{"http", []byte("GET / HTTP/1.1\r\n\r\n"), "", errNotTLS},
		{"SSL 2", []byte("\x80\x2e\x01\x03\x01\x00\x15"), "", errNotTLS},
		{"an alert", []byte("\x15\x03\x01\x00\x02\x02\x28"), "", errNotTLS},
		{"two names", inRecords(hello("\x00\x00\x00\x0c\x00\x0a\x00\x00\x02ab\x00\x00\x02cd"), 1000), "", errHello},
		{"two extensions with a name", inRecords(hello(sni("a.example")+sni("b.example")), 1000), "", errHello},
		{"another kind of name", inRecords(hello("\x00\x00\x00\x07\x00\x05\x01\x00\x02ab"), 1000), "", errHello},
		{"empty name", inRecords(hello(sni("")), 1000), "", errHello},
		{"address", inRecords(hello(sni("10.0.0.1")), 1000), "", errHello},
		{"dot at the end", inRecords(hello(sni("a.example.")), 1000), "", errHello},
		{"NUL", inRecords(hello(sni("a.example\x00.b")), 1000), "", errHello},
		{"slash", inRecords(hello(sni("a/b")), 1000), "", errHello},
		{"empty record", append(inRecords(hello(sni("a.example"))[:10], 10), "\x16\x03\x01\x00\x00"...), "", errHello},
		{"long record", []byte("\x16\x03\x01\x40\x01"), "", errHello},
		{"another record within", append(inRecords(hello(sni("a.example"))[:10], 10), "\x17\x03\x01\x00\x01x"...), "", errHello},
		{"another message", inRecords([]byte{2, 0, 0, 4, 1, 2, 3, 4}, 100), "", errHello},
		{"something behind", inRecords(append(hello(sni("a.example")), 0), 1000), "", errHello},
		{"endless", []byte("\x16\x03\x01\x00\x04\x01\xff\xff\xff"), "", errHelloIn},
		{"extensions cut", inRecords(hello("\x00\x00\x00"), 1000), "", errHello},
	} {
		name, whole, err := parseHello(c.in)
		if !errors.Is(err, c.err) || name != c.want || whole != (c.err == nil) {
			t.Errorf("%s: %q, %v, %v", c.name, name, whole, err)
		}
		if c.err != nil {
			continue
		}
		for n := range min(len(c.in), 200) {
			if _, whole, err := parseHello(c.in[:n]); whole && n < 60 || err != nil {
				t.Errorf("%s: after %d bytes: %v, %v", c.name, n, whole, err)
			}
		}
	}
}

// A hello is found when its last byte is there and not before, however it is
// cut into records.
func FuzzHello(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, p []byte) {
		name, whole, err := parseHello(p)
		if err != nil || !whole {
			if name != "" || whole {
				t.Fatalf("%q, %v, %v", name, whole, err)
			}
			return
		}
		if name != "" && !hostName(name) {
			t.Fatalf("%q", name)
		}
		again, _, err := parseHello(append(p[:len(p):len(p)], "\x17\x03\x03\x00\x01x"...))
		if err != nil || again != name {
			t.Fatalf("%q, %v, and with more behind it %q", name, err, again)
		}
	})
}

// What is read here crypto/tls reads in the same way, or refuses.
func FuzzHelloAlike(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, p []byte) {
		name, whole, err := parseHello(p)
		if err != nil || !whole {
			return
		}
		if seen, ok := theirs(p); ok && strings.ToLower(seen) != name {
			t.Fatalf("%q: we read %q, crypto/tls %q", p, name, seen)
		}
	})
}

func seeds(f *testing.F) {
	f.Add(helloOf(f, "shop.example.com"))
	f.Add(helloOf(f, ""))
	f.Add(inRecords(hello(sni("a.example")), 7))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
}

// theirs is the name that crypto/tls reads.
func theirs(p []byte) (name string, ok bool) {
	stop := errors.New("that is all")
	_ = tls.Server(&spoken{r: bytes.NewReader(p)}, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		name, ok = h.ServerName, true
		return nil, stop
	}}).Handshake()
	return name, ok
}

// spoken is a connection on which all has been said.
type spoken struct {
	net.Conn
	r *bytes.Reader
}

func (s *spoken) Read(p []byte) (int, error)       { return s.r.Read(p) }
func (s *spoken) Write(p []byte) (int, error)      { return len(p), nil }
func (s *spoken) Close() error                     { return nil }
func (s *spoken) SetWriteDeadline(time.Time) error { return nil }
