package discover

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
)

// What stands before an agent may not let its index through: the answers count
// all the same.
func TestConsulWithoutIndex(t *testing.T) {
	list := recorded(t, "consul.json")
	synctest.Test(t, func(t *testing.T) {
		c, err := newConsul(&config.Consul{Address: "http://10.0.0.9:8500", Service: "products"}, "http")
		if err != nil {
			t.Fatal(err)
		}
		a := &api{answer: func(n int, _ *http.Request) (*http.Response, error) {
			if n > 3 {
				return response(200, "[]"), nil
			}
			return response(200, list), nil
		}}
		c.client = &http.Client{Transport: a}
		watched(t, c, func(l *told) {
			l.wants(t, "http://10.1.10.112:8000 10 eu-1 0, http://10.1.10.13:8000 1  0")
			time.Sleep(10 * time.Second)
			if got := l.all(); len(got) == 0 || got[len(got)-1] != "" {
				t.Errorf("told %q", got)
			}
			if len(a.asked) > 13 {
				t.Errorf("%d queries within 10 seconds", len(a.asked))
			}
		})
	})
}

// slicesAPI answers lists with one address, and watches as a test says.
func slicesAPI(t *testing.T, watch func(n int, r *http.Request) (*http.Response, error)) (*kubernetes, *api) {
	t.Helper()
	k, err := newKubernetes(&config.Kubernetes{Namespace: "shop", Service: "products", API: "https://10.0.0.1"}, "http")
	if err != nil {
		t.Fatal(err)
	}
	watches := 0
	a := new(api)
	a.answer = func(_ int, r *http.Request) (*http.Response, error) {
		if r.URL.Query().Get("watch") == "" {
			return response(200, `{"metadata":{"resourceVersion":"1000"},"items":[{"metadata":{"name":"a"},"addressType":"IPv4","endpoints":[{"addresses":["10.0.0.1"]}],"ports":[{"port":80}]}]}`), nil
		}
		a.mu.Lock()
		watches++
		n := watches
		a.mu.Unlock()
		return watch(n, r)
	}
	k.client = &http.Client{Transport: a}
	return k, a
}

// count returns how many lists and watches were asked for.
func (a *api) count() (lists, watches int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, r := range a.asked {
		if r.URL.Query().Get("watch") == "" {
			lists++
		} else {
			watches++
		}
	}
	return lists, watches
}

// A server whose watches end, fail or are too old at once is not asked all the
// time.
func TestKubernetesThatDoesNotWait(t *testing.T) {
	for name, watch := range map[string]func(int, *http.Request) (*http.Response, error){
		"ends":       func(int, *http.Request) (*http.Response, error) { return response(200, ""), nil },
		"fails":      func(int, *http.Request) (*http.Response, error) { return nil, errors.New("connection reset") },
		"cut short":  func(int, *http.Request) (*http.Response, error) { return response(200, `{"type":"ADD`), nil },
		"is refused": func(int, *http.Request) (*http.Response, error) { return response(403, "no"), nil },
		"is gone":    func(int, *http.Request) (*http.Response, error) { return response(410, "gone"), nil },
		"is told so": func(int, *http.Request) (*http.Response, error) {
			return response(200, `{"type":"ERROR","object":{"code":410}}`), nil
		},
		"is overloaded": func(int, *http.Request) (*http.Response, error) { return response(429, "slow down"), nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				k, a := slicesAPI(t, watch)
				watched(t, k, func(l *told) {
					time.Sleep(5 * time.Minute)
					if got := l.all(); len(got) == 0 || got[0] != "http://10.0.0.1:80 1  0" {
						t.Errorf("told %q", got)
					}
				})
				// A list is as costly as all the slices of a service are many.
				if lists, watches := a.count(); lists > 30 || watches > 350 {
					t.Errorf("%d lists and %d watches within five minutes", lists, watches)
				}
			})
		})
	}
}

// A watch that broke after it had worked for long is taken up again at once.
func TestKubernetesComesBackSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, a := slicesAPI(t, func(n int, r *http.Request) (*http.Response, error) {
			if n%2 == 1 {
				time.Sleep(time.Minute)
				return nil, errors.New("connection reset")
			}
			return hang(r)
		})
		watched(t, k, func(*told) { time.Sleep(63 * time.Second) })
		if lists, _ := a.count(); lists != 2 {
			t.Errorf("%d lists", lists)
		}
	})
}

// A watch goes on from the last version that it was told of, whatever the
// events that say none.
func TestKubernetesVersions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, a := slicesAPI(t, func(n int, r *http.Request) (*http.Response, error) {
			switch n {
			case 1:
				return response(200, `{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"1234"}}}{"type":"BOOKMARK","object":{"metadata":{}}}`), nil
			}
			return hang(r)
		})
		watched(t, k, func(*told) { time.Sleep(10 * time.Second) })
		if got := a.last().URL.Query().Get("resourceVersion"); got != "1234" {
			t.Errorf("the next watch begins at %q", got)
		}
	})
}

// What of a service is taken: the addresses that are ready, of all slices, each
// once.
func TestKubernetesSlices(t *testing.T) {
	list := `{"metadata":{"resourceVersion":"1"},"items":[null,
		{"metadata":{"name":"a"},"addressType":"IPv4","ports":[{"name":"http","port":80},{"name":"metrics","port":9090}],"endpoints":[
			{"addresses":["10.0.0.1"],"conditions":{"ready":true,"serving":true,"terminating":false}},
			{"addresses":["10.0.0.2"],"conditions":{"ready":false,"serving":true,"terminating":true}},
			{"addresses":["10.0.0.3"],"conditions":{"ready":false,"serving":false,"terminating":false}},
			{"addresses":["10.0.0.4"],"conditions":{}},
			{"addresses":[]}]},
		{"metadata":{"name":"b"},"addressType":"IPv4","ports":[{"name":"http","port":8080}],"endpoints":[{"addresses":["10.0.0.5","10.0.0.6"]}]},
		{"metadata":{"name":"c"},"addressType":"IPv4","ports":[{"name":"http","port":80}],"endpoints":[{"addresses":["10.0.0.1"]}]},
		{"metadata":{"name":"d"},"addressType":"FQDN","ports":[{"name":"http","port":80}],"endpoints":[{"addresses":["evil.example"]}]},
		{"metadata":{"name":"e"},"addressType":"IPv6","ports":[{"name":"http","port":80}],"endpoints":[{"addresses":["fd00::1"]}]}]}`
	k := &kubernetes{port: "http", scheme: "http"}
	k.client = &http.Client{Transport: &api{answer: func(int, *http.Request) (*http.Response, error) { return response(200, list), nil }}}
	if _, err := k.list(t.Context()); err != nil {
		t.Fatal(err)
	}
	var got string
	if err := k.tell(func(found []*config.Endpoint) { got = show(found, nil) }); err != nil {
		t.Fatal(err)
	}
	if want := "http://10.0.0.1:80 1  0, http://10.0.0.4:80 1  0, http://10.0.0.5:8080 1  0, http://[fd00::1]:80 1  0"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// The token is read for each request: it is replaced from time to time.
func TestKubernetesTokenIsReadAgain(t *testing.T) {
	name := filepath.Join(t.TempDir(), "token")
	write := func(s string) {
		if err := os.WriteFile(name, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first\n")
	synctest.Test(t, func(t *testing.T) {
		k, a := slicesAPI(t, func(n int, r *http.Request) (*http.Response, error) {
			if n == 1 {
				time.Sleep(10 * time.Second)
				return response(200, ""), nil
			}
			return hang(r)
		})
		k.tokenFile = name
		watched(t, k, func(l *told) {
			time.Sleep(5 * time.Second)
			if got := a.last().Header.Get("Authorization"); got != "Bearer first" {
				t.Errorf("the first is %q", got)
			}
			write("second\n")
			time.Sleep(10 * time.Second)
			if got := a.last().Header.Get("Authorization"); got != "Bearer second" {
				t.Errorf("the second is %q", got)
			}
			l.all()
		})
	})
}

// An event without end is given up, and so is a service of too many slices.
func TestKubernetesIsBounded(t *testing.T) {
	k := &kubernetes{scheme: "http", slices: make(map[string]*slice)}
	none := func([]*config.Endpoint) {}
	k.client = &http.Client{Transport: &api{answer: func(int, *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: io.NopCloser(io.MultiReader(strings.NewReader(`{"type":"ADDED","object":"`), letters{}))}, nil
	}}}
	if _, err := k.watch(t.Context(), "1", none); err == nil {
		t.Error("an endless event was read")
	}
	for i := range mostRecords {
		k.slices[fmt.Sprint(i)] = new(slice)
	}
	k.client = &http.Client{Transport: &api{answer: func(int, *http.Request) (*http.Response, error) {
		return response(200, `{"type":"ADDED","object":{"metadata":{"name":"one more"}}}`), nil
	}}}
	if _, err := k.watch(t.Context(), "1", none); err == nil || !strings.Contains(err.Error(), "endpoint slices") {
		t.Errorf("too many slices: %v", err)
	}
}

type letters struct{}

func (letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'a'
	}
	return len(p), nil
}

// A file that is being written is not taken for what it will be.
func TestFileThatIsBeingWritten(t *testing.T) {
	name := filepath.Join(t.TempDir(), "endpoints.yaml")
	write := func(s string) {
		if err := os.WriteFile(name, []byte(s), 0o600); err != nil {
			t.Error(err)
		}
	}
	const one, all = "- http://10.0.0.1:80\n", "- http://10.0.0.1:80\n- http://10.0.0.2:80\n- http://10.0.0.3:80\n"
	write(all)
	synctest.Test(t, func(t *testing.T) {
		s, err := New(&config.Discovery{File: name, Interval: config.Duration(time.Second)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		watched(t, s, func(l *told) {
			time.Sleep(10 * time.Second)
			l.wants(t, "http://10.0.0.1:80 1  0, http://10.0.0.2:80 1  0, http://10.0.0.3:80 1  0")
			// For as long as somebody writes, at every moment of a look.
			var w sync.WaitGroup
			w.Go(func() {
				for i := range 300 {
					write(fmt.Sprintf("- http://10.0.0.1:%d\n", 1000+i))
					time.Sleep(10 * time.Millisecond)
				}
				write(all)
			})
			w.Wait()
			time.Sleep(2 * time.Second)
			l.wants(t)
			write(one)
			time.Sleep(2 * time.Second)
			l.wants(t, "http://10.0.0.1:80 1  0")
		})
	})
}

// A look that failed is made again soon, however long the interval is.
func TestFailedLooksAreMadeAgainSoon(t *testing.T) {
	name := filepath.Join(t.TempDir(), "endpoints.yaml")
	synctest.Test(t, func(t *testing.T) {
		s, err := New(&config.Discovery{File: name, Interval: config.Duration(time.Hour)}, nil)
		if err != nil {
			t.Fatal(err)
		}
		watched(t, s, func(l *told) {
			l.wants(t, "error: no such file")
			if err := os.WriteFile(name, []byte("- http://10.0.0.1:80\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			time.Sleep(6 * time.Second)
			l.wants(t, "http://10.0.0.1:80 1  0")
		})
	})
}
