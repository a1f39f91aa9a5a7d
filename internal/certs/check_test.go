package certs

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Check names what Prepare would, and what clients would refuse, and leaves
// nothing behind.
func TestCheck(t *testing.T) {
	r, ca := newRig(t, Options{}), newIssuer(t, "servers")
	r.pair(ca, "a", leaf{names: []string{"a.example"}})
	r.pair(ca, "b", leaf{names: []string{"b.example"}})
	r.pair(ca, "old", leaf{names: []string{"a.example"}, from: -2 * time.Hour, to: -time.Hour})
	r.write("empty", nil)
	for _, c := range []struct{ tls, fault string }{
		{`certificates: [{ cert_file: a.crt, key_file: a.key }]`, ``},
		{`certificates: [{ cert_file: none.crt, key_file: a.key }]`, `certificates[0].cert_file: read "none.crt": no such file or directory`},
		{`certificates: [{ cert_file: a.crt, key_file: a.key }, { cert_file: b.crt, key_file: a.key }]`, `certificates[1].key_file: certificate "b.crt" with key "a.key": tls: private key does not match public key`},
		{`certificates: [{ cert_file: a.crt, key_file: a.key, ocsp_file: empty }]`, `certificates[0].ocsp_file: `},
		{`certificates: [{ cert_file: old.crt, key_file: old.key }]`, `certificates[0].cert_file: certificate "old.crt" is valid from `},
		{`certificates: [{ cert_file: a.crt, key_file: a.key }], client_auth: { mode: require, ca_file: empty }`, `client_auth.ca_file: "empty" holds no certificate in PEM`},
		{`acme: { email: a@b.example, domains: a.example, storage: new }`, ``},
		{`acme: { email: a@b.example, domains: a.example, storage: empty }`, `acme.storage: "empty" is no folder`},
		{`acme: { email: a@b.example, domains: a.example, storage: new, ca_file: none }`, `acme.ca_file: read "none": no such file or directory`},
	} {
		cfg, faults := r.config(`  - { address: ":1", tls: { ` + c.tls + ` } }`)
		if faults.Fatal() {
			t.Fatal(faults)
		}
		faults = Check(cfg)
		if c.fault == "" {
			if len(faults) > 0 {
				t.Errorf("%s: %v", c.tls, faults)
			}
			continue
		}
		if len(faults) != 1 {
			t.Errorf("%s: %v", c.tls, faults)
			continue
		}
		f := faults[0]
		got := strings.ReplaceAll(strings.TrimPrefix(f.Path, "listeners[0].tls.")+": "+f.Text, r.dir+"/", "")
		if !strings.HasPrefix(got, c.fault) || f.Line != 2 || f.Col == 0 || f.Warning != strings.Contains(c.tls, "old") {
			t.Errorf("%s:\n%s, %+v\nwant\n%s", c.tls, got, f, c.fault)
		}
	}
	if _, err := os.Stat(filepath.Join(r.dir, "new")); !os.IsNotExist(err) {
		t.Errorf("a folder was made: %v", err)
	}
}
