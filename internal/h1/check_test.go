package h1

import (
	"bufio"
	"bytes"
	"net/http"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/h1/h1test"
)

// reading is what a Check made of a request.
type reading struct {
	request exchange.Request
	size    int // of the head, with what was skipped
	body    string
	rest    int // bytes that were not taken
	ended   bool
	problem string
}

// follow has a Check see s, step more bytes of it at a time.
func follow(s []byte, step int) (o reading) {
	var c Check
	o.request.Reset()
	o.request.Scheme = "http"
	c.Begin(tableLimits(), &o.request)
	at, seen := 0, 0 // s[at:seen] is there and was not taken
	refused := func(p *exchange.Problem) bool {
		if p != nil {
			o.problem, o.rest = p.Code, 0
		}
		return p != nil
	}
	for head, more := true, true; more; more = seen < len(s) {
		seen = min(seen+step, len(s))
		if head {
			skip, size, p := c.Head(s[at:seen])
			at += skip
			if refused(p) {
				return o
			}
			if size == 0 {
				continue
			}
			at += size
			o.size, head = at, false
			o.ended = c.Framing() == 0
		}
		for !o.ended {
			data, taken, ended, p := c.Body(s[at:seen])
			if refused(p) {
				return o
			}
			at += taken
			o.body += string(data)
			if o.ended = ended; taken == 0 {
				break
			}
		}
		if o.ended {
			break
		}
	}
	o.rest = len(s) - at
	return o
}

func TestCheckFindsWhatTheServerFinds(t *testing.T) {
	for _, c := range h1test.MalformedRequests {
		for _, step := range []int{1, 7, len(c.Bytes)} {
			if step == 1 && len(c.Bytes) > 1000 {
				continue // takes long, and shows no more
			}
			if o := follow([]byte(c.Bytes), step); o.problem == "" {
				t.Errorf("%s, by %d: taken", c.Name, step)
			}
		}
	}
	for _, c := range h1test.OddRequests {
		for _, step := range []int{1, 7, len(c.Bytes)} {
			if step == 1 && len(c.Bytes) > 1000 {
				continue // takes long, and shows no more
			}
			o := follow([]byte(c.Bytes), step)
			if o.problem != "" || !o.ended || o.body != c.Body || o.rest != 0 || o.request.Path != c.Path {
				t.Errorf("%s, by %d: %+v", c.Name, step, o)
			}
		}
	}
}

// However the bytes come, the reading is the same one; and net/http reads the
// head, with the body's framing, the same way or refuses it.
func FuzzCheck(f *testing.F) {
	for _, c := range h1test.MalformedRequests {
		f.Add([]byte(c.Bytes), 1)
	}
	for _, c := range h1test.OddRequests {
		f.Add([]byte(c.Bytes+"GET"), 3)
	}
	f.Fuzz(func(t *testing.T, s []byte, step int) {
		if step < 1 || step > 16<<10 || len(s) > 16<<10 {
			return
		}
		o := follow(s, len(s)+1)
		p := follow(s, step)
		// What comes in small pieces may be refused before it is there as a
		// whole, and only then.
		same := o.ended == p.ended && o.body == p.body && o.rest == p.rest && o.size == p.size
		if o.problem == "" && !o.ended && p.problem != "" || o.problem != "" && p.problem != "" {
			same = true
		}
		if !same {
			t.Fatalf("at once %+v\nby %d %+v", o, step, p)
		}
		if o.problem != "" || o.size == 0 {
			return
		}
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(s[strings.Index(string(s), o.request.Method):])))
		if err != nil {
			return
		}
		if r.Method != o.request.Method || r.ContentLength != o.request.Length || !strings.EqualFold(r.Host, o.request.Authority) {
			t.Fatalf("net/http reads %s %q of %d bytes, Check %+v", r.Method, r.Host, r.ContentLength, o)
		}
	})
}
