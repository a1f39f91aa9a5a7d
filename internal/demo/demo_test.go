package demo

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// shop starts the services on free ports and returns their base URLs.
func shop(t *testing.T) map[string]string {
	t.Helper()
	urls := make(map[string]string)
	err := Start(t.Context(), func(instance, _ string) (net.Listener, error) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err == nil {
			urls[instance] = "http://" + ln.Addr().String()
		}
		return ln, err
	})
	if err != nil {
		t.Fatal(err)
	}
	return urls
}

func TestServices(t *testing.T) {
	urls := shop(t)
	tests := []struct {
		name     string
		instance string
		request  string // method and target
		body     string
		status   int
		want     string // part of the answer's body
	}{
		{"list", "products-1", "GET /products", "", 200, `"name":"Oak table"`},
		{"list of a category", "products-2", "GET /products?category=home", "", 200, `"products":[{"id":"5"`},
		{"search", "products-1", "GET /products/search?q=LAMP", "", 200, `"Desk lamp"`},
		{"search without a hit", "products-1", "GET /products/search?q=car", "", 200, `"products":[]`},
		{"one product", "products-1", "GET /products/4", "", 200, `"name":"Candle"`},
		{"no such product", "products-1", "GET /products/99", "", 404, `{"error":`},
		{"wrong method", "products-1", "DELETE /products/4", "", 405, ""},
		{"echo", "products-1", "PUT /echo?a=1", "hello", 200, `"body":"hello"`},
		{"payment", "payments-1", "POST /payments", `{"order":"A","cents":1}`, 201, `"status":"accepted"`},
		{"payment of nothing", "payments-1", "POST /payments", `{"order":"A"}`, 422, "positive number"},
		{"payment that is no JSON", "payments-1", "POST /payments", `order=A`, 400, "not the JSON"},
		{"stock", "inventory-1", "GET /stock/2", "", 200, `"product":"2"`},
		{"slow", "inventory-1", "GET /stock/slow?for=1ms", "", 200, `"waited":"1ms"`},
		{"failure", "inventory-1", "GET /stock/fail?status=503", "", 503, "asked it to"},
		{"failure out of range", "inventory-1", "GET /stock/fail?status=200", "", 500, ""},
		{"plain request to the WebSocket", "inventory-1", "GET /stock/live", "", 426, ""},
		{"events", "inventory-1", "GET /stock/ticker?count=2&every=1ms", "", 200, "id: 2\nevent: stock\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			method, target, _ := strings.Cut(tt.request, " ")
			res, body := ask(t, method, urls[tt.instance]+target, tt.body)
			if res.StatusCode != tt.status || !strings.Contains(body, tt.want) {
				t.Errorf("got %d %q, want %d with %q", res.StatusCode, body, tt.status, tt.want)
			}
			if got := res.Header.Get("X-Instance"); got != tt.instance {
				t.Errorf("X-Instance is %q, want %q", got, tt.instance)
			}
		})
	}
}

func ask(t *testing.T, method, url, body string, header ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(b)
}

func TestPaymentIsBookedOnceForAKey(t *testing.T) {
	url := shop(t)["payments-1"] + "/payments"
	pay := func(key string) (int, string) {
		res, body := ask(t, "POST", url, `{"order":"A","cents":5}`, "Idempotency-Key", key)
		var p payment
		if err := json.Unmarshal([]byte(body), &p); err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, p.ID
	}
	status, first := pay("k1")
	again, same := pay("k1")
	_, other := pay("k2")
	if status != 201 || again != 200 || first != same || first == other {
		t.Errorf("got %d %s, then %d %s, and %s for another key", status, first, again, same, other)
	}
}

func TestExportHasTheSizeAskedFor(t *testing.T) {
	res, body := ask(t, "GET", shop(t)["inventory-1"]+"/stock/export?mib=3", "")
	if len(body) != 3<<20 || res.ContentLength != 3<<20 {
		t.Errorf("got %d bytes, Content-Length %d", len(body), res.ContentLength)
	}
}

func TestCutAnswerBreaksOff(t *testing.T) {
	res, err := http.Get(shop(t)["inventory-1"] + "/stock/fail?how=cut")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := io.ReadAll(res.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("reading the answer gave %v", err)
	}
}

func TestWebSocketEchoes(t *testing.T) {
	c, err := net.Dial("tcp", strings.TrimPrefix(shop(t)["inventory-1"], "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// The key and its answer are those of RFC 6455, section 1.3.
	fmt.Fprint(c, "GET /stock/live HTTP/1.1\r\nHost: shop\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != 101 || res.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Fatalf("got %s %v", res.Status, res.Header)
	}
	long := strings.Repeat("x", 300)
	tests := []struct{ name, sent, want string }{
		// "Hello" as in RFC 6455, section 5.7.
		{"text", "\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58", "\x81\x05Hello"},
		{"ping", "\x89\x80\x01\x02\x03\x04", "\x8a\x00"},
		{"long binary", "\x82\xfe\x01\x2c\x00\x00\x00\x00" + long, "\x82\x7e\x01\x2c" + long},
		{"close", "\x88\x80\x00\x00\x00\x00", "\x88\x00"},
	}
	for _, tt := range tests {
		if _, err := io.WriteString(c, tt.sent); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(tt.want))
		if _, err := io.ReadFull(r, got); err != nil || string(got) != tt.want {
			t.Fatalf("%s: got %q, %v, want %q", tt.name, got, err, tt.want)
		}
	}
	if _, err := r.ReadByte(); err != io.EOF {
		t.Errorf("after the close: %v", err)
	}
}

func TestWebSocketRefusesWhatIsNotMasked(t *testing.T) {
	_, _, err := readFrame(bufio.NewReader(strings.NewReader("\x81\x05Hello")))
	if !errors.Is(err, errFrame) {
		t.Errorf("got %v", err)
	}
	_, _, err = readFrame(bufio.NewReader(strings.NewReader("\x81\xff\x00\x00\x00\x00\x00\x01\x00\x00")))
	if !errors.Is(err, errFrame) {
		t.Errorf("got %v", err)
	}
}

func TestServicesEndWithTheContext(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	var url string
	err := Start(ctx, func(instance, _ string) (net.Listener, error) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if instance == "inventory-1" {
			url = "http://" + ln.Addr().String()
		}
		return ln, err
	})
	if err != nil {
		t.Fatal(err)
	}
	res, err := http.Get(url + "/stock/ticker?every=1m") // without end
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	stop()
	// It returns because the stream ends.
	_, _ = io.Copy(io.Discard, res.Body)
}

func TestStartNamesWhatCouldNotListen(t *testing.T) {
	full := errors.New("no more ports")
	err := Start(t.Context(), func(instance, _ string) (net.Listener, error) {
		if instance == "payments-1" {
			return nil, full
		}
		return net.Listen("tcp", "127.0.0.1:0")
	})
	if !errors.Is(err, full) || !strings.Contains(err.Error(), `"payments-1"`) {
		t.Errorf("got %v", err)
	}
}

func TestBanner(t *testing.T) {
	var b bytes.Buffer
	if err := Banner(&b); err != nil || !strings.Contains(b.String(), "curl http://localhost:8080/products") {
		t.Errorf("got %v:\n%s", err, b.String())
	}
}

// An instance that is killed ends its connections, and is back after a while.
func TestKilledInstance(t *testing.T) {
	urls := shop(t)
	url := urls["products-1"]
	for _, c := range []struct {
		name, query, field string
		status             int
	}{
		{"for too long", "?for=2m", "", 400},
		{"for nonsense", "?for=x", "", 400},
		{"by a client of the gateway", "?for=10ms", "10.0.0.1", 403},
		{"for a moment", "?for=10ms", "", 202},
	} {
		req, err := http.NewRequestWithContext(t.Context(), "POST", url+"/kill"+c.query, nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.field != "" {
			req.Header.Set("X-Forwarded-For", c.field)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if res.Body.Close(); res.StatusCode != c.status {
			t.Errorf("%s: %d", c.name, res.StatusCode)
		}
	}
	other, err := http.Get(urls["products-2"] + "/products/2")
	if err != nil || other.StatusCode != 200 {
		t.Fatal(err)
	}
	other.Body.Close()
	for { // until it is back; the test's own time limit ends a wait in vain
		res, err := http.Get(url + "/products/2")
		if err == nil {
			res.Body.Close()
			break
		}
	}
}
