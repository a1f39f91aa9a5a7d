package discover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/policy"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// told collects what a source tells.
type told struct {
	mu   sync.Mutex
	said []string
}

func (l *told) tell(found []*config.Endpoint, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	said := show(found, err)
	if n := len(l.said); err != nil && n > 0 && l.said[n-1] == said {
		return // the same failure once more
	}
	l.said = append(l.said, said)
}

func show(found []*config.Endpoint, err error) string {
	if err != nil {
		return "error: " + err.Error()
	}
	var list []string
	for _, e := range found {
		list = append(list, fmt.Sprintf("%s %d %s %d", e.URL, e.Weight, e.Zone, e.Priority))
	}
	return strings.Join(list, ", ")
}

// all returns what was told since the last time.
func (l *told) all() []string {
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.said
	l.said = nil
	return out
}

func (l *told) wants(t *testing.T, want ...string) {
	t.Helper()
	got := l.all()
	if len(got) != len(want) {
		t.Fatalf("told %q, want %q", got, want)
	}
	for i := range want {
		if got[i] != want[i] && !(strings.HasPrefix(want[i], "error: ") && strings.HasPrefix(got[i], "error: ") && strings.Contains(got[i], strings.TrimPrefix(want[i], "error: "))) {
			t.Fatalf("told %q, want %q", got, want)
		}
	}
}

// watched runs a source in virtual time.
func watched(t *testing.T, s Source, test func(l *told)) {
	t.Helper()
	l := new(told)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Watch(ctx, func(found []*config.Endpoint, err error) time.Duration {
			l.tell(found, err)
			return 0
		})
	}()
	test(l)
	cancel()
	<-done
}

// api answers requests in place of a server.
type api struct {
	mu     sync.Mutex
	asked  []*http.Request
	answer func(n int, r *http.Request) (*http.Response, error)
}

func (a *api) RoundTrip(r *http.Request) (*http.Response, error) {
	a.mu.Lock()
	a.asked = append(a.asked, r)
	n := len(a.asked)
	a.mu.Unlock()
	return a.answer(n, r)
}

func (a *api) last() *http.Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked[len(a.asked)-1]
}

func response(status int, body string, fields ...string) *http.Response {
	h := make(http.Header)
	for i := 0; i < len(fields); i += 2 {
		h.Set(fields[i], fields[i+1])
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body))}
}

// hang waits as an agent does while nothing changes.
func hang(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

func recorded(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// The answers are those of the agent's documented API. An agent itself cannot
// be had for the test: its module builds with folders of its repository that
// the module's archive leaves out, and the versions of them that are published
// apart cannot all be verified.
func TestConsul(t *testing.T) {
	list := recorded(t, "consul.json")
	const two = "http://10.1.10.112:8000 10 eu-1 0, http://10.1.10.13:8000 1  0"
	synctest.Test(t, func(t *testing.T) {
		c, err := newConsul(&config.Consul{Address: "http://10.0.0.9:8500", Service: "products", Tag: "v2", Datacenter: "dc1", Token: policy.NewSecret("s3cret")}, "http")
		if err != nil {
			t.Fatal(err)
		}
		a := &api{answer: func(n int, r *http.Request) (*http.Response, error) {
			switch n {
			case 1:
				return response(200, list, "X-Consul-Index", "41"), nil
			case 2:
				time.Sleep(50 * time.Second)
				return response(200, "[]", "X-Consul-Index", "57"), nil
			case 3:
				return response(200, "[]", "X-Consul-Index", "57"), nil // the wait is over and nothing changed
			case 4:
				return response(500, "rpc error: No cluster leader"), nil
			case 5:
				return nil, errors.New("connection refused")
			case 6:
				return response(200, list, "X-Consul-Index", "60"), nil
			case 7:
				return response(200, "[]", "X-Consul-Index", "3"), nil // the agent counts anew
			case 8:
				return response(200, list, "X-Consul-Index", "4"), nil
			case 9:
				return response(200, "[{", "X-Consul-Index", "5"), nil
			}
			return hang(r)
		}}
		c.client = &http.Client{Transport: a}
		watched(t, c, func(l *told) {
			l.wants(t, two)
			time.Sleep(2 * consulPause)
			if q := a.last(); q.URL.Path != "/v1/health/service/products" || q.URL.RawQuery != "dc=dc1&index=41&passing=1&tag=v2&wait=55s" || q.Header.Get("X-Consul-Token") != "s3cret" {
				t.Errorf("asked %s %v", q.URL, q.Header)
			}
			time.Sleep(50*time.Second + 500*time.Millisecond)
			l.wants(t, "", "error: status 500")
			time.Sleep(2 * time.Second)
			l.wants(t, "error: connection refused")
			time.Sleep(5 * time.Second)
			time.Sleep(4 * consulPause)
			l.wants(t, two, "", two, "error: answer of consul")
			// A query that is held for too long is given up.
			time.Sleep(2 * consulTimeout)
			if got := l.all(); len(got) == 0 || !strings.Contains(got[0], "deadline") {
				t.Errorf("told %q", got)
			}
		})
	})
}

// What an agent refuses is a failure, after which the next query does not wait
// for changes, and is not made at once.
func TestConsulRefuses(t *testing.T) {
	list := recorded(t, "consul.json")
	for _, c := range []struct {
		status int
		body   string
	}{
		{403, "Permission denied: token with AccessorID '…' lacks permission 'service:read'"},
		{429, "Your IP is issuing too many concurrent connections, please rate limit your calls"},
		{500, "No cluster leader"},
		{307, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			s, err := newConsul(&config.Consul{Address: "http://10.0.0.9:8500", Service: "products"}, "http")
			if err != nil {
				t.Fatal(err)
			}
			var at []time.Time
			a := &api{answer: func(n int, r *http.Request) (*http.Response, error) {
				at = append(at, time.Now())
				switch n {
				case 1:
					return response(200, list, "X-Consul-Index", "41"), nil
				case 2:
					return response(c.status, c.body, "Location", "http://10.0.0.10/"), nil
				case 3:
					if r.URL.Query().Has("index") {
						t.Errorf("asked %s", r.URL)
					}
					return response(200, list, "X-Consul-Index", "42"), nil
				}
				return hang(r)
			}}
			s.client.Transport = a
			watched(t, s, func(l *told) {
				time.Sleep(20 * time.Second)
				const two = "http://10.1.10.112:8000 10 eu-1 0, http://10.1.10.13:8000 1  0"
				l.wants(t, two, fmt.Sprintf("error: status %d", c.status), two)
			})
			if len(at) < 3 || at[2].Sub(at[1]) < 100*time.Millisecond {
				t.Errorf("asked at %v", at)
			}
		})
	}
}

// An agent that answers at once all the time is not asked all the time.
func TestConsulThatDoesNotWait(t *testing.T) {
	for _, step := range []int{0, 1} { // by which the index grows
		synctest.Test(t, func(t *testing.T) {
			c, err := newConsul(&config.Consul{Address: "http://10.0.0.9:8500", Service: "products"}, "http")
			if err != nil {
				t.Fatal(err)
			}
			queries := 0
			c.client = &http.Client{Transport: &api{answer: func(n int, _ *http.Request) (*http.Response, error) {
				queries = n
				return response(200, "[]", "X-Consul-Index", strconv.Itoa(40+n*step)), nil
			}}}
			watched(t, c, func(*told) { time.Sleep(10 * time.Second) })
			if queries > 52 {
				t.Errorf("%d queries within 10 seconds", queries)
			}
		})
	}
}

func TestConsulOddities(t *testing.T) {
	for _, c := range []struct{ data, want string }{
		{"[]", ""},
		{"null", ""},
		{"{}", "error: cannot unmarshal"},
		{"", "error: unexpected end"},
		{`[{"Service":{"Address":"10.0.0.1","Port":0}}]`, "error: is no endpoint"},
		{`[{"Service":{"Address":"10.0.0.1","Port":65536}}]`, "error: is no endpoint"},
		{`[{"Service":{"Address":"a/b","Port":80}}]`, "error: is no endpoint"},
		{`[{"Service":{"Address":"fd00::1","Port":80,"Weights":{"Passing":99999}}}]`, "https://[fd00::1]:80 1000  0"},
	} {
		found, err := parseConsul([]byte(c.data), "https")
		got := show(found, err)
		if got != c.want && !(strings.HasPrefix(c.want, "error: ") && err != nil && strings.Contains(got, strings.TrimPrefix(c.want, "error: "))) {
			t.Errorf("%s: %s, want %s", c.data, got, c.want)
		}
	}
}

func FuzzConsul(f *testing.F) {
	b, err := os.ReadFile("testdata/consul.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, data []byte) {
		found, err := parseConsul(data, "http")
		for _, e := range found {
			if err != nil || e.Weight < 1 || e.Weight > 1000 || !strings.HasPrefix(e.URL, "http://") {
				t.Errorf("%+v, %v", e, err)
			}
		}
	})
}

func TestKubernetes(t *testing.T) {
	list := recorded(t, "slices.json")
	const first = "http://10.244.1.5:8080 1 eu-1 0, http://10.244.3.9:8080 1 eu-2 0, http://[fd00::5]:8080 1  0"
	event := func(kind, name, version, addresses string) string {
		return fmt.Sprintf(`{"type":%q,"object":{"metadata":{"name":%q,"resourceVersion":%q},"addressType":"IPv4","endpoints":[%s],"ports":[{"name":"http","port":8080}]}}`+"\n", kind, name, version, addresses)
	}
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("t0ken\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		k, err := newKubernetes(&config.Kubernetes{Namespace: "shop", Service: "products", Port: "http", API: "https://10.0.0.1", TokenFile: token}, "http")
		if err != nil {
			t.Fatal(err)
		}
		r, w := io.Pipe()
		a := &api{answer: func(n int, q *http.Request) (*http.Response, error) {
			watch := q.URL.Query().Get("watch") != ""
			switch {
			case n == 1 && !watch:
				return response(200, list), nil
			case n == 2 && watch:
				return &http.Response{StatusCode: 200, Body: r}, nil
			case n == 3 && watch: // the server ended the first one: go on
				return response(200, event("MODIFIED", "products-abc", "1010", `{"addresses":["10.244.9.9"]}`)+
					`{"type":"ERROR","object":{"kind":"Status","code":410,"message":"too old resource version"}}`), nil
			case n == 4 && !watch: // the history is gone: list again
				return response(200, list), nil
			case n == 5 && watch:
				return response(403, "no"), nil
			case n == 6 && !watch:
				return nil, errors.New("connection refused")
			}
			return hang(q)
		}}
		k.client = &http.Client{Transport: a}
		watched(t, k, func(l *told) {
			l.wants(t, first)
			if q := a.last(); q.URL.Path != "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices" ||
				q.URL.Query().Get("labelSelector") != "kubernetes.io/service-name=products" ||
				q.URL.Query().Get("resourceVersion") != "1000" || q.Header.Get("Authorization") != "Bearer t0ken" {
				t.Errorf("asked %s %v", q.URL, q.Header)
			}
			io.WriteString(w, event("MODIFIED", "products-abc", "1001", `{"addresses":["10.244.1.5"],"zone":"eu-1"},{"addresses":["10.244.4.4"]}`))
			l.wants(t, "http://10.244.1.5:8080 1 eu-1 0, http://10.244.4.4:8080 1  0, http://[fd00::5]:8080 1  0")
			io.WriteString(w, event("BOOKMARK", "", "1005", ""))
			io.WriteString(w, event("DELETED", "products-v6", "1006", ""))
			l.wants(t, "http://10.244.1.5:8080 1 eu-1 0, http://10.244.4.4:8080 1  0")
			io.WriteString(w, event("DELETED", "products-abc", "1007", ""))
			l.wants(t, "")
			w.Close()
			time.Sleep(watchPause * 6 / 5)
			if got := l.all(); len(got) != 1 || got[0] != "http://10.244.9.9:8080 1  0" {
				t.Fatalf("told %q", got)
			}
			time.Sleep(9 * time.Second)
			if got := l.all(); len(got) != 3 || got[0] != first || !strings.Contains(got[1], "status 403") || !strings.Contains(got[2], "refused") {
				t.Errorf("told %q", got)
			}
		})
	})
}

func TestKubernetesPorts(t *testing.T) {
	for _, c := range []struct{ ports, wanted, want string }{
		{`{"name":"http","port":80}`, "", "http://10.0.0.1:80 1  0"},
		{`{"name":"http","port":80}`, "http", "http://10.0.0.1:80 1  0"},
		{`{"name":"http","port":80},{"name":"m","port":9090}`, "9090", "http://10.0.0.1:9090 1  0"},
		{`{"name":"http","port":80},{"name":"m","port":9090}`, "", "error: several ports"},
		{`{"name":"http","port":80}`, "grpc", ""},
		{`{"name":"http"}`, "", ""},
		{`{"name":"http","port":70000}`, "", ""},
		{``, "", ""},
	} {
		k := &kubernetes{port: c.wanted, scheme: "http"}
		k.client = &http.Client{Transport: &api{answer: func(int, *http.Request) (*http.Response, error) {
			return response(200, `{"items":[{"metadata":{"name":"a"},"addressType":"IPv4","endpoints":[{"addresses":["10.0.0.1"]}],"ports":[`+c.ports+`]}]}`), nil
		}}}
		var got string
		if _, err := k.list(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := k.tell(func(found []*config.Endpoint) { got = show(found, nil) }); err != nil {
			got = show(nil, err)
		}
		if got != c.want && !(strings.HasPrefix(c.want, "error: ") && strings.Contains(got, strings.TrimPrefix(c.want, "error: "))) {
			t.Errorf("%s, port %q: %s, want %s", c.ports, c.wanted, got, c.want)
		}
	}
}

func TestKubernetesRefuses(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	for _, c := range []struct {
		cfg  config.Kubernetes
		want string
	}{
		{config.Kubernetes{Service: "a"}, "does not run in a cluster"},
		{config.Kubernetes{Service: "a", API: "http://10.0.0.1", TokenFile: "x"}, "must use https"},
		{config.Kubernetes{Service: "a", API: "https://10.0.0.1", CAFile: "testdata/none.pem"}, "none.pem"},
		{config.Kubernetes{Service: "a", API: "https://10.0.0.1", CAFile: "testdata/consul.json"}, "no certificate"},
	} {
		if _, err := newKubernetes(&c.cfg, "http"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %s", c.cfg, err, c.want)
		}
	}
}

func FuzzKubernetesWatch(f *testing.F) {
	f.Add([]byte(`{"type":"ADDED","object":{"metadata":{"name":"a"},"addressType":"IPv4","endpoints":[{"addresses":["10.0.0.1"]}],"ports":[{"port":80}]}}`))
	f.Add([]byte(`{"type":"ERROR","object":{"code":410}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		k := &kubernetes{scheme: "http", slices: make(map[string]*slice)}
		k.client = &http.Client{Transport: &api{answer: func(int, *http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: 200, Body: io.NopCloser(bytes.NewReader(data))}, nil
		}}}
		// Any error will do; a panic will not.
		_, _ = k.watch(t.Context(), "1", func(found []*config.Endpoint) {
			for _, e := range found {
				if host, port, err := net.SplitHostPort(strings.TrimPrefix(e.URL, "http://")); err != nil || host == "" || port == "" {
					t.Errorf("%q", e.URL)
				}
			}
		})
	})
}

func TestAnswersAreBounded(t *testing.T) {
	res := &http.Response{StatusCode: 200, Body: io.NopCloser(endless{})}
	if _, err := answer(res); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Error(err)
	}
	if _, err := answer(response(302, "", "Location", "http://169.254.169.254/")); err == nil {
		t.Error("a redirection is taken for an answer")
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// records is a resolver.
type records func() ([]*net.SRV, error)

func (r records) LookupSRV(context.Context, string, string, string) (string, []*net.SRV, error) {
	list, err := r()
	return "", list, err
}

func TestSRV(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := 0
		r := records(func() ([]*net.SRV, error) {
			switch n++; n {
			case 1:
				return []*net.SRV{{Target: "a.example.", Port: 80, Priority: 20, Weight: 7}, {Target: "b.example.", Port: 81, Priority: 10}, {Target: "c.example.", Port: 82, Priority: 20, Weight: 5000}}, nil
			case 2:
				return nil, errors.New("server misbehaving")
			case 3:
				return nil, &net.DNSError{IsNotFound: true}
			}
			return []*net.SRV{{Target: ".", Port: 80}}, nil
		})
		s, err := New(&config.Discovery{SRV: "_http._tcp.a.example", Scheme: "https", Interval: config.Duration(10 * time.Second)}, r)
		if err != nil {
			t.Fatal(err)
		}
		watched(t, s, func(l *told) {
			l.wants(t, "https://a.example:80 7  1, https://b.example:81 1  0, https://c.example:82 1000  1")
			time.Sleep(11 * time.Second)
			l.wants(t, "error: misbehaving")
			time.Sleep(11 * time.Second)
			l.wants(t, "")
			time.Sleep(11 * time.Second)
			l.wants(t, "")
		})
	})
}

func TestFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "endpoints.yaml")
	write := func(s string) {
		if err := os.WriteFile(name, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		s, err := New(&config.Discovery{File: name, Interval: config.Duration(time.Second)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		watched(t, s, func(l *told) {
			l.wants(t, "error: no such file")
			write("- http://10.0.0.1:80\n- { url: http://10.0.0.2:80, weight: 2, zone: a, priority: 1 }\n")
			time.Sleep(1400 * time.Millisecond)
			l.wants(t, "http://10.0.0.1:80 1  0, http://10.0.0.2:80 2 a 1")
			time.Sleep(10 * time.Second)
			l.wants(t) // nothing new
			write("- http://10.0.0.1")
			time.Sleep(1400 * time.Millisecond)
			l.wants(t, "http://10.0.0.1 1  0")
			write("- 10.0.0.1")
			time.Sleep(1400 * time.Millisecond)
			l.wants(t, "error: is not a URL")
			write("")
			time.Sleep(1400 * time.Millisecond)
			l.wants(t, "")
			time.Sleep(10 * time.Second)
			l.wants(t)
			write(strings.Repeat("#", maxFile+1))
			time.Sleep(1400 * time.Millisecond)
			l.wants(t, "error: larger")
		})
	})
}

func TestNothingToDiscover(t *testing.T) {
	if _, err := New(&config.Discovery{}, nil); err == nil {
		t.Error("a source came of nothing")
	}
}
