package grpc_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// message puts a message into its frame.
func message(m string) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(m))), m...)
}

// frames takes an answer of gRPC-Web apart: its messages, and its trailer.
func frames(t *testing.T, p []byte) (messages []string, trailer string) {
	t.Helper()
	for len(p) > 0 {
		if len(p) < 5 || trailer != "" {
			t.Fatalf("%q follows %q", p, trailer)
		}
		n := int(binary.BigEndian.Uint32(p[1:]))
		if n > len(p)-5 {
			t.Fatalf("a frame of %d has %d bytes", n, len(p)-5)
		}
		if p[0]&0x80 != 0 {
			trailer = strings.ToLower(string(p[5 : 5+n]))
		} else {
			messages = append(messages, string(p[5:5+n]))
		}
		p = p[5+n:]
	}
	return messages, trailer
}

// testWeb asks the interoperability server as a browser does, over HTTP/1.1.
func (p *programs) testWeb(t *testing.T) {
	server := p.serve(t)
	port := p.startWith(t, "protocols: [http1, h2c]", fmt.Sprintf(`endpoints: ["grpc://127.0.0.1:%s"]`, server), "  - grpc_web: {}\n")
	client := http.Client{Timeout: 20 * time.Second}
	const service = "/grpc.testing.TestService/"
	for _, c := range []struct {
		name, method, ask string
		messages          []int // their lengths
		status            string
	}{
		{"empty", "EmptyCall", "", []int{0}, "grpc-status: 0"},
		// response_parameters { size: 10 }, and another of 20.
		{"stream", "StreamingOutputCall", "\x12\x02\x08\x0a\x12\x02\x08\x14", []int{14, 24}, "grpc-status: 0"},
		// response_status { code: 2 message: "no" }.
		{"status", "UnaryCall", "\x3a\x06\x08\x02\x12\x02no", nil, "grpc-status: 2"},
		{"no such method", "Nothing", "", nil, "grpc-status: 12"},
	} {
		for _, text := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, text %v", c.name, text), func(t *testing.T) {
				kind, body := "application/grpc-web+proto", message(c.ask)
				if text {
					kind, body = "application/grpc-web-text+proto", []byte(base64.StdEncoding.EncodeToString(body))
				}
				req, err := http.NewRequestWithContext(t.Context(), "POST", "http://localhost:"+port+service+c.method, bytes.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				req.Header.Set("Content-Type", kind)
				req.Header.Set("Accept", kind)
				req.Header.Set("X-Grpc-Web", "1")
				res, err := client.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				all, err := io.ReadAll(res.Body)
				if err != nil || res.StatusCode != 200 || !strings.HasPrefix(res.Header.Get("Content-Type"), strings.TrimSuffix(kind, "+proto")) {
					t.Fatalf("%d %v %q, %v", res.StatusCode, res.Header, all, err)
				}
				if text {
					all = plainOf(t, string(all))
				}
				messages, trailer := frames(t, all)
				var lengths []int
				for _, m := range messages {
					lengths = append(lengths, len(m))
				}
				if v := res.Header.Get("Grpc-Status"); v != "" {
					trailer = "grpc-status: " + v // an answer of nothing but trailers
				}
				if fmt.Sprint(lengths) != fmt.Sprint(c.messages) || !strings.Contains(strings.ReplaceAll(trailer, ":", ": "), c.status) && !strings.Contains(trailer, c.status) {
					t.Errorf("messages of %v, trailer %q", lengths, trailer)
				}
			})
		}
	}
}

// plainOf decodes a text that may consist of several, each with its padding.
func plainOf(t *testing.T, s string) (out []byte) {
	t.Helper()
	for len(s) > 0 {
		n := len(s)
		if i := strings.IndexByte(s, '='); i >= 0 {
			n = (i/4 + 1) * 4
		}
		p, err := base64.StdEncoding.DecodeString(s[:min(n, len(s))])
		if err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		out, s = append(out, p...), s[min(n, len(s)):]
	}
	return out
}
