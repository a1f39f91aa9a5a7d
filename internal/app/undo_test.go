package app

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// descriptors counts what the process has open.
func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(list)
}

const goodText = `
listeners: [{ name: web, address: "127.0.0.1:0" }]
admin: { address: "127.0.0.1:0" }
observe: { access_log: { output: old.log } }
data_folder: data
policies: [{ access_log: {} }]
routes: [{ match: /*, respond: { body: %s } }]
`

// changedText opens more than goodText before it fails.
const changedText = `
listeners: [{ name: web, address: "127.0.0.1:0" }, { name: more, address: "127.0.0.1:0" }%[1]s]
admin: { address: %[2]q }
observe: { access_log: { output: %[3]q } }
data_folder: %[4]s
redis: { url: "%[5]s" }
upstreams: { new: { endpoints: [http://127.0.0.1:9], health: {} } }
policies: [{ access_log: {} }]
routes: [{ match: /new/*, upstream: new }, { match: /*, respond: { body: two } }%[6]s]
`

// lateFault is a configuration that is changed, by what fails of it.
type lateFault struct{ at, listener, admin, log, data, redis, route string }

func lateFaults(busy string) []lateFault {
	const redis, tls = "redis://127.0.0.1:1", "redis://127.0.0.1:1\", tls: true, ca_file: \"none.pem"
	return []lateFault{
		{"observe.access_log.output", "", "127.0.0.1:0", "none/new.log", "other", redis, ""},
		{"redis", "", "127.0.0.1:0", "new.log", "other", tls, ""},
		{"data_folder", "", "127.0.0.1:0", "new.log", "taken", redis, ""},
		{"routes[2].match.when", "", "127.0.0.1:0", "new.log", "other", redis, `, { match: { path: /x, when: "nothing.known" }, respond: {} }`},
		{"listeners[2].tls.certificates[0].cert_file", `, { address: "127.0.0.1:0", tls: { certificates: [{ cert_file: none.crt, key_file: a.key }] } }`, "127.0.0.1:0", "new.log", "other", redis, ""},
		{"listeners[2].address", fmt.Sprintf(`, { address: %q }`, busy), "127.0.0.1:0", "new.log", "other", redis, ""},
		{"admin.address", "", busy, "new.log", "other", redis, ""},
	}
}

// A configuration that fails late, when half of it is open already, leaves
// everything as it was, and nothing open.
func TestWhatFailsLateChangesNothing(t *testing.T) {
	dir := t.TempDir()
	writePair(t, dir)
	write(t, filepath.Join(dir, "taken"), "a file")
	busy := listenTCP(t)
	defer busy.Close()
	file := filepath.Join(dir, "gatehouse.yaml")
	write(t, file, fmt.Sprintf(goodText, "one"))
	a, err := New(Source{Path: file}, "test", t.Output())
	if err != nil {
		t.Fatal(err)
	}
	web, admin := "http://"+address(t, a, "web"), a.admin.Bound()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(url string) string {
		t.Helper()
		res, err := c.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	get(web + "/first")

	for _, f := range lateFaults(busy.Addr().String()) {
		before := descriptors(t)
		write(t, file, fmt.Sprintf(changedText, f.listener, f.admin, f.log, f.data, f.redis, f.route))
		for range 5 {
			a.Reload(true)
		}
		s := a.Status()
		if s.Reload.OK || len(s.Reload.Faults) == 0 || s.Reload.Faults[len(s.Reload.Faults)-1].Path != f.at {
			t.Fatalf("%s: the reload is %+v", f.at, s.Reload)
		}
		if len(s.Listeners) != 1 || len(s.Upstreams) != 0 || s.Digest != s.Reload.Digest {
			t.Errorf("%s: %+v", f.at, s)
		}
		if got := get(web + "/" + f.at); got != "one" {
			t.Errorf("%s: the answer is %q", f.at, got)
		}
		if got := get("http://" + admin + "/readyz"); got != "ok\n" {
			t.Errorf("%s: the admin address answers %q", f.at, got)
		}
		// What was left open would be five more at least; a connection of the
		// requests may not have gone yet.
		if after := descriptors(t); after > before+4 {
			t.Errorf("%s: %d descriptors were open before, and %d are now", f.at, before, after)
		}
	}
	write(t, file, fmt.Sprintf(goodText, "two"))
	if a.Reload(true); get(web) != "two" {
		t.Error("a good one is not applied afterwards")
	}
	a.Close(context.Background())
	old, err := os.ReadFile(filepath.Join(dir, "old.log"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(old), "\n"); n != 9 {
		t.Errorf("the log has %d lines:\n%s", n, old)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "new.log")); err != nil || len(text) != 0 {
		t.Errorf("the log that was never in force: %q, %v", text, err)
	}
}
