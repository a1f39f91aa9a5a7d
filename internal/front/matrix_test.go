package front

import (
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// stream is a body that comes piece by piece and is never ready.
type stream struct {
	pieces []string
	err    error // io.EOF when nil
}

func (s *stream) Next() ([]byte, error) {
	if len(s.pieces) > 0 {
		p := []byte(s.pieces[0])
		s.pieces = s.pieces[1:]
		return p, nil
	}
	if s.err == nil {
		return nil, io.EOF
	}
	return nil, s.err
}

func (s *stream) Close() error { return nil }

// answerOf answers with a stream of unknown length.
func answerOf(x *exchange.Exchange, pieces ...string) {
	x.Response.Status = 200
	x.Response.Body, x.Response.Length = &stream{pieces: pieces}, exchange.Unknown
	finish(x)
}

func TestKeepAlive(t *testing.T) {
	each(t, func(t *testing.T, door string) {
		cfg := listenerOf(door)
		cfg.Limits.RequestsPerConnection = 3
		k := newRig(t, cfg, echo).dial(t)
		for i := range 3 {
			k.send(post("5\r\nhello\r\n0\r\n\r\n"))
			if res := k.expect(200, "hello"); res.Close != (i == 2) {
				t.Errorf("answer %d: close is %v", i, res.Close)
			}
		}
		k.expectEnd()
	})
}

func TestConnectionFieldOfRequests(t *testing.T) {
	each(t, func(t *testing.T, door string) {
		r := newRig(t, listenerOf(door), echo)
		for _, c := range []struct {
			request    string
			close      bool
			connection string
		}{
			{"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", true, ""},
			{"GET / HTTP/1.1\r\nHost: a\r\nConnection: a, Close\r\n\r\n", true, ""},
			{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", false, ""},
			{"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", false, "keep-alive"},
			{"GET / HTTP/1.0\r\n\r\n", true, ""},
		} {
			k := r.dial(t)
			k.send(c.request)
			res := k.expect(200, "")
			if got := res.Header.Get("Connection"); res.Close != c.close || !c.close && got != c.connection {
				t.Errorf("%q: Connection: %q, close %v", c.request, got, res.Close)
			}
			if c.close {
				k.expectEnd()
				continue
			}
			k.send(simple)
			k.expect(200, "")
		}
	})
}

func TestPipelinedRequestsAreAnsweredInOrder(t *testing.T) {
	each(t, func(t *testing.T, door string) {
		k := newRig(t, listenerOf(door), func(x *exchange.Exchange) {
			body, _ := readBody(x)
			reply(x, x.Request.Path+body)
		}).dial(t)
		var all strings.Builder
		for i := range 50 {
			all.WriteString("POST /" + strconv.Itoa(i) + " HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n.")
		}
		k.send(all.String() + "bad")
		for i := range 50 {
			k.expect(200, "/"+strconv.Itoa(i)+".")
		}
		k.send("\r\n\r\n")
		if res, _ := k.answer("GET"); res.StatusCode != 400 {
			t.Errorf("status %d after the last", res.StatusCode)
		}
		k.expectEnd()
	})
}

func TestChunkedBothWays(t *testing.T) {
	each(t, func(t *testing.T, door string) {
		k := newRig(t, listenerOf(door), func(x *exchange.Exchange) {
			body, _ := readBody(x)
			answerOf(x, strings.Split(body, " ")...)
		}).dial(t)
		for range 2 {
			k.send(post("8\r\nstill a \r\n5\r\nsmall\r\n0\r\n\r\n"))
			res := k.expect(200, "stillasmall")
			if !slices.Equal(res.TransferEncoding, []string{"chunked"}) {
				t.Errorf("codings %q", res.TransferEncoding)
			}
		}
	})
}

func TestTrailersBothWays(t *testing.T) {
	each(t, func(t *testing.T, door string) {
		k := newRig(t, listenerOf(door), func(x *exchange.Exchange) {
			readBody(x)
			if v := x.Request.Trailer.Get("Authorization"); v != "" {
				x.Response.Trailer.Add("Smuggled", v)
			}
			x.Response.Trailer.Add("Sum", x.Request.Trailer.Get("sum"))
			x.Response.Trailer.Add("Content-Length", "7")
			answerOf(x, "body")
		}).dial(t)
		for range 2 {
			k.send(post("1\r\na\r\n0\r\nsum: 1234\r\nAuthorization: me\r\n\r\n"))
			res := k.expect(200, "body")
			if len(res.Trailer) != 1 || res.Trailer.Get("Sum") != "1234" {
				t.Errorf("trailers %v", res.Trailer)
			}
		}
	})
}

func TestExpectContinue(t *testing.T) {
	const ask = "POST /read HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
	each(t, func(t *testing.T, door string) {
		r := newRig(t, listenerOf(door), func(x *exchange.Exchange) {
			switch x.Request.Path {
			case "/read":
				echo(x)
			case "/inform":
				var none exchange.Header
				if err := errors.Join(x.Down.Inform(100, &none), x.Down.Inform(100, &none)); err != nil {
					t.Error(err)
				}
				echo(x)
			default:
				reply(x, "no")
			}
		})
		for _, path := range []string{"/read", "/inform"} {
			k := r.dial(t)
			for range 2 {
				k.send(strings.Replace(ask, "/read", path, 1))
				if res, _ := k.answer("POST"); res.StatusCode != 100 {
					t.Fatalf("%s: interim status %d", path, res.StatusCode)
				}
				k.send("hello")
				k.expect(200, "hello")
			}
		}
		k := r.dial(t)
		k.send(strings.Replace(ask, "/read", "/refuse", 1))
		if res := k.expect(200, "no"); !res.Close {
			t.Error("nobody knows whether the body comes, and the connection stays")
		}
		k.expectEnd()
	})
}

func TestInterimAnswers(t *testing.T) {
	each(t, func(t *testing.T, door string) {
		r := newRig(t, listenerOf(door), func(x *exchange.Exchange) {
			var h exchange.Header
			h.Add("Link", "</a.css>")
			for _, status := range []int{100, 101, 103} {
				if err := x.Down.Inform(status, &h); err != nil {
					t.Error(err)
				}
			}
			reply(x, "done")
		})
		k := r.dial(t)
		for range 2 {
			k.send(simple)
			res, _ := k.answer("GET")
			if res.StatusCode != 103 || res.Header.Get("Link") != "</a.css>" {
				t.Fatalf("interim answer %d %v", res.StatusCode, res.Header)
			}
			if res := k.expect(200, "done"); res.Header.Get("Link") != "" {
				t.Error("fields of the interim answer are in the final one")
			}
		}
		old := r.dial(t)
		old.send("GET / HTTP/1.0\r\n\r\n")
		old.expect(200, "done")
	})
}

func TestAnswersWithoutBody(t *testing.T) {
	for _, c := range []struct {
		name, method   string
		status         int
		length         int64
		want, wantSame string // Content-Length; of engines that leave it out
		chunked        bool
	}{
		{"HEAD", "HEAD", 200, 5, "5", "5", false},
		{"HEAD of nothing", "HEAD", 200, 0, "0", "0", false},
		{"HEAD of unknown length", "HEAD", 200, exchange.Unknown, "", "", false},
		{"204", "GET", 204, 0, "", "", false},
		{"204 with a length", "GET", 204, 5, "", "", false},
		{"304 with a length", "GET", 304, 5, "5", "", false},
		{"304", "GET", 304, 0, "", "", false},
		{"304 of unknown length", "GET", 304, exchange.Unknown, "", "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			each(t, func(t *testing.T, door string) {
				k := newRig(t, listenerOf(door), func(x *exchange.Exchange) {
					x.Response.Status = c.status
					x.Response.Body, x.Response.Length = exchange.Bytes([]byte("hello")), c.length
					finish(x)
				}).dial(t)
				for range 2 {
					k.send(c.method + " / HTTP/1.1\r\nHost: a\r\n\r\n")
					res := k.head(c.method)
					got := res.Header.Get("Content-Length")
					if res.StatusCode != c.status || got != c.want && got != c.wantSame || res.TransferEncoding != nil || res.Close {
						t.Fatalf("answer %d, length %q, codings %q, close %v", res.StatusCode, got, res.TransferEncoding, res.Close)
					}
				}
			})
		})
	}
}

func TestAnswersUntilTheConnectionCloses(t *testing.T) {
	each(t, func(t *testing.T, door string) {
		r := newRig(t, listenerOf(door), func(x *exchange.Exchange) {
			if x.Request.Path == "/" {
				answerOf(x, "a", "b", "c")
				return
			}
			x.Response.Status = 200
			x.Response.Body, x.Response.Length = &stream{[]string{"a", "b"}, io.ErrUnexpectedEOF}, exchange.Unknown
			finish(x)
		})
		k := r.dial(t)
		k.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
		res := k.expect(200, "abc")
		if !res.Close || res.TransferEncoding != nil || res.ContentLength != -1 {
			t.Errorf("close %v, codings %q, length %d", res.Close, res.TransferEncoding, res.ContentLength)
		}
		k = r.dial(t)
		k.send("GET /cut HTTP/1.0\r\n\r\n")
		if all, err := io.ReadAll(k.r); err == nil {
			t.Errorf("a cut answer looks complete: %q", all)
		}
	})
}

func TestCutAnswersAreSeen(t *testing.T) {
	for name, length := range map[string]int64{"counted": 10, "chunked": exchange.Unknown} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, door string) {
				k := newRig(t, listenerOf(door), func(x *exchange.Exchange) {
					x.Response.Status = 200
					x.Response.Body, x.Response.Length = &stream{[]string{"hello"}, io.ErrUnexpectedEOF}, length
					finish(x)
				}).dial(t)
				k.send(simple)
				body, err := io.ReadAll(k.head("GET").Body)
				if string(body) != "hello" || !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("body %q, %v", body, err)
				}
			})
		})
	}
}

func TestAnswersOfWrongLength(t *testing.T) {
	for name, length := range map[string]int64{"shorter": 6, "longer": 4} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, door string) {
				k := newRig(t, listenerOf(door), func(x *exchange.Exchange) {
					x.Response.Status = 200
					x.Response.Body, x.Response.Length = exchange.Bytes([]byte("hello")), length
					finish(x)
				}).dial(t)
				k.send(simple + simple)
				res, err := http.ReadResponse(k.r, nil)
				if err != nil {
					return
				}
				if body, err := io.ReadAll(res.Body); err == nil {
					t.Errorf("answer of %d bytes looks complete: %q", length, body)
				}
			})
		})
	}
}

const large = 64 << 20

// sized is a body of so many bytes.
type sized struct{ left int }

func (s *sized) Next() ([]byte, error) {
	if s.left == 0 {
		return nil, io.EOF
	}
	n := min(s.left, 32<<10)
	s.left -= n
	return make([]byte, n), nil
}

func (s *sized) Close() error { return nil }

func TestDownloadsWaitForTheirReader(t *testing.T) {
	each(t, func(t *testing.T, door string) {
		written := make(chan struct{})
		k := newRig(t, listenerOf(door), func(x *exchange.Exchange) {
			x.Response.Status = 200
			x.Response.Body, x.Response.Length = &sized{large}, large
			finish(x)
			close(written)
		}).dial(t)
		k.send(simple)
		res := k.head("GET")
		select {
		case <-written:
			t.Error("the answer was taken in without a reader")
		default:
		}
		n, err := io.Copy(io.Discard, res.Body)
		if n != large || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		<-written
	})
}

func TestUploadsWaitForTheirReader(t *testing.T) {
	each(t, func(t *testing.T, door string) {
		cfg := listenerOf(door)
		cfg.Limits.Body = 0
		begun, read := make(chan struct{}), make(chan struct{})
		k := newRig(t, cfg, func(x *exchange.Exchange) {
			close(begun)
			<-read
			n := 0
			for {
				p, err := x.Request.Body.Next()
				n += len(p)
				if err != nil {
					break
				}
			}
			if n != large || x.Request.Received != large {
				t.Errorf("%d bytes, %d received", n, x.Request.Received)
			}
			reply(x, "thanks")
		}).dial(t)
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			k.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: " + strconv.Itoa(large) + "\r\n\r\n")
			if _, err := k.Write(make([]byte, large)); err != nil {
				t.Error(err)
			}
		}()
		<-begun
		select {
		case <-sent:
			t.Error("the body was taken in without a reader")
		default:
		}
		close(read)
		k.expect(200, "thanks")
		<-sent
	})
}

func TestAnswersComeWhileTheClientSends(t *testing.T) {
	for name, head := range map[string]string{
		"counted": "Content-Length: 1000000",
		"chunked": "Transfer-Encoding: chunked",
	} {
		t.Run(name, func(t *testing.T) {
			each(t, func(t *testing.T, door string) {
				cfg := listenerOf(door)
				cfg.Limits.Body = 0
				k := newRig(t, cfg, func(x *exchange.Exchange) { reply(x, "enough") }).dial(t)
				k.send("POST / HTTP/1.1\r\nHost: a\r\n" + head + "\r\n\r\n")
				k.expect(200, "enough") // not a byte of the body was sent
			})
		})
	}
}

func TestConnectionIsUsedAgainAfterAnUnreadBody(t *testing.T) {
	each(t, func(t *testing.T, door string) {
		cfg := listenerOf(door)
		cfg.Limits.Body = 0
		r := newRig(t, cfg, func(x *exchange.Exchange) { reply(x, x.Request.Path) })
		k := r.dial(t)
		k.send("POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + strings.Repeat("a", 1000))
		k.send("POST /b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
		k.send("GET /c HTTP/1.1\r\nHost: a\r\n\r\n")
		for _, path := range []string{"/a", "/b", "/c"} {
			k.expect(200, path)
		}
		k.send("POST /d HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + strings.Repeat("a", 1000))
		if res := k.expect(200, "/d"); !res.Close {
			t.Error("connection stays with a long body to come")
		}
	})
}
