package certs

import (
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"
)

func trusting(i *issuer, name string) *tls.Config {
	return &tls.Config{RootCAs: i.pool(), ServerName: name}
}

// wait waits until listener x shows another certificate.
func (r *rig) wait(i *issuer, serial int64) {
	r.Helper()
	late := time.After(20 * time.Second)
	for {
		got := r.mustConnect("x", trusting(i, "a.example")).serial()
		if got == serial {
			return
		}
		select {
		case <-r.took:
		case <-late:
			r.Fatalf("certificate %d is served, want %d\n%s", got, serial, r.logs.String())
		}
	}
}

const one = `  - { name: x, address: ":1", tls: { certificates: [{ cert_file: a.crt, key_file: a.key }] } }`

// A new certificate is served without a reload, however its files are replaced,
// and connections go on.
func TestFilesAreWatched(t *testing.T) {
	r, ca := newRig(t, Options{}), newIssuer(t, "servers")
	issue := func(dir string, serial int64) {
		r.Helper()
		if err := os.MkdirAll(filepath.Join(r.dir, dir), 0o700); err != nil {
			r.Fatal(err)
		}
		r.pair(ca, filepath.Join(dir, "a"), leaf{names: []string{"a.example"}, serial: serial})
	}
	link := func(target, name string) {
		r.Helper()
		if err := os.Symlink(target, filepath.Join(r.dir, "temp")); err != nil {
			r.Fatal(err)
		}
		if err := os.Rename(filepath.Join(r.dir, "temp"), filepath.Join(r.dir, name)); err != nil {
			r.Fatal(err)
		}
	}
	rename := func(from, to string) {
		r.Helper()
		if err := os.Rename(filepath.Join(r.dir, from), filepath.Join(r.dir, to)); err != nil {
			r.Fatal(err)
		}
	}
	issue(".", 1)
	r.mustApply(one)
	r.wait(ca, 1)

	here, there := buffered()
	served := make(chan *tls.Conn)
	go func() {
		conn, _, err := r.set("x").Handshake(t.Context(), there)
		if err != nil {
			t.Error(err)
		}
		served <- conn
	}()
	open := tls.Client(here, trusting(ca, "a.example"))
	if err := open.Handshake(); err != nil {
		t.Fatal(err)
	}
	conn := <-served

	issue(".", 2) // written in place
	r.wait(ca, 2)
	issue("next", 3)
	rename("next/a.key", "a.key")
	rename("next/a.crt", "a.crt")
	r.wait(ca, 3)

	// As a mounted config map: the files are links into a folder that is a link.
	issue("..v4", 4)
	link("..v4", "..data")
	link("..data/a.crt", "a.crt")
	link("..data/a.key", "a.key")
	r.wait(ca, 4)
	issue("..v5", 5)
	link("..v5", "..data")
	r.wait(ca, 5)

	go conn.Write([]byte("still here"))
	b := make([]byte, 10)
	if _, err := open.Read(b); err != nil || string(b) != "still here" {
		t.Errorf("%q %v", b, err)
	}
	here.Close()
}

// What is broken is refused and told once, and the last good certificate goes on.
func TestBrokenFilesAreRefused(t *testing.T) {
	r, ca := newRig(t, Options{}), newIssuer(t, "servers")
	a := leaf{names: []string{"a.example"}, serial: 1}
	cert, key := ca.issue(a)
	otherCert, otherKey := ca.issue(leaf{names: []string{"a.example"}, serial: 9})
	r.write("a.crt", cert)
	r.write("a.key", key)
	r.mustApply(one)
	expired, expiredKey := ca.issue(leaf{names: []string{"a.example"}, serial: 9, from: -2 * time.Hour, to: -time.Hour})
	future, futureKey := ca.issue(leaf{names: []string{"a.example"}, serial: 9, from: time.Hour, to: 2 * time.Hour})
	weak, weakKey := ca.issue(leaf{names: []string{"a.example"}, serial: 9, rsa: 1024})
	for _, c := range []struct {
		name      string
		cert, key []byte
		want      string
	}{
		{"another key", cert, otherKey, "private key does not match"},
		{"another certificate", otherCert, key, "private key does not match"},
		{"nothing", nil, key, "holds no certificate in PEM"},
		{"no key", cert, nil, "failed to find any PEM data"},
		{"half", cert[:len(cert)/3], key, "holds no certificate in PEM"},
		{"garbage", []byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), key, "certificate 1 of"},
		{"a broken chain", append(append([]byte{}, cert...), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"...), key, "certificate 3 of"},
		{"too many", []byte(strings.Repeat(string(ca.pem()), 17)), key, "more than 16"},
		{"too large", make([]byte, 2<<20), key, "larger than"},
		{"expired", expired, expiredKey, "is valid from"},
		{"not yet valid", future, futureKey, "is valid from"},
		{"weak", weak, weakKey, "1024 bits is too short"},
	} {
		r.write("a.crt", c.cert)
		r.write("a.key", c.key)
		before := r.logs.count("level=ERROR")
		for range 3 {
			r.store.Recheck()
		}
		if got := r.mustConnect("x", trusting(ca, "a.example")).serial(); got != 1 {
			t.Errorf("%s: certificate %d is served", c.name, got)
		}
		if s := r.store.Status()[0]; !strings.Contains(s.Error, c.want) || strings.Contains(s.Error, "PRIVATE KEY") || s.Names[0] != "a.example" || s.Expires.IsZero() {
			t.Errorf("%s: %+v, want %q", c.name, s, c.want)
		}
		// The watcher may have seen one file before the other.
		if n := r.logs.count("level=ERROR") - before; n < 1 || n > 2 {
			t.Errorf("%s: told %d times\n%s", c.name, n, r.logs.String())
		}
	}
	if err := os.Remove(filepath.Join(r.dir, "a.crt")); err != nil {
		t.Fatal(err)
	}
	r.store.Recheck()
	if s := r.store.Status()[0]; !strings.Contains(s.Error, "no such file") {
		t.Errorf("%+v", s)
	}
	r.write("a.crt", cert)
	r.write("a.key", key)
	r.store.Recheck()
	if s := r.store.Status()[0]; s.Error != "" {
		t.Errorf("what was good is back: %+v", s)
	}
	r.write("a.crt", otherCert)
	r.write("a.key", otherKey)
	r.store.Recheck()
	if got := r.mustConnect("x", trusting(ca, "a.example")).serial(); got != 9 {
		t.Errorf("certificate %d is served", got)
	}
}

// A certificate that has expired is served while there is no better one.
func TestExpiredCertificate(t *testing.T) {
	r, ca := newRig(t, Options{}), newIssuer(t, "servers")
	r.pair(ca, "a", leaf{names: []string{"a.example"}, serial: 1, from: -2 * time.Hour, to: -time.Hour})
	r.mustApply(one)
	if r.logs.count("certificate has expired") != 1 {
		t.Errorf("not told: %s", r.logs.String())
	}
	careless := &tls.Config{ServerName: "a.example", InsecureSkipVerify: true}
	if got := r.mustConnect("x", careless).serial(); got != 1 {
		t.Errorf("certificate %d", got)
	}
	r.pair(ca, "a", leaf{names: []string{"a.example"}, serial: 2, from: -2 * time.Hour, to: -time.Minute})
	r.store.Recheck()
	if got := r.mustConnect("x", careless).serial(); got != 2 {
		t.Errorf("certificate %d", got)
	}
	r.pair(ca, "a", leaf{names: []string{"a.example"}, serial: 3})
	r.store.Recheck()
	r.wait(ca, 3)
}

func TestFaultsOfFiles(t *testing.T) {
	r, ca := newRig(t, Options{}), newIssuer(t, "servers")
	r.pair(ca, "a", leaf{names: []string{"a.example"}})
	r.pair(ca, "b", leaf{names: []string{"a.example"}})
	r.write("empty", nil)
	r.mustApply(one)
	set := r.set("x")
	faults := r.apply(`  - name: x
    address: ":1"
    tls:
      certificates:
        - { cert_file: a.crt, key_file: a.key }
        - { cert_file: a.crt2, key_file: a.key }
        - { cert_file: b.crt, key_file: a.key }
        - { cert_file: b.crt2, key_file: nowhere/b.key }
        - { cert_file: empty, key_file: b.key, ocsp_file: nothing }
      client_auth: { mode: require, ca_file: empty }
      acme: { email: a@b.example, domains: a.example, storage: /proc/none, ca_file: a.key }`)
	var got []string
	for _, f := range faults {
		if f.Line == 0 || filepath.Base(f.File) != "gatehouse.yaml" {
			t.Errorf("no place: %+v", f)
		}
		got = append(got, f.Path+": "+strings.ReplaceAll(f.Text, r.dir+"/", ""))
	}
	want := `listeners[0].tls.certificates[1].cert_file: read "a.crt2": no such file or directory
listeners[0].tls.certificates[2].key_file: certificate "b.crt" with key "a.key": tls: private key does not match public key
listeners[0].tls.certificates[3].cert_file: read "b.crt2": no such file or directory
listeners[0].tls.certificates[4].ocsp_file: read "nothing": no such file or directory
listeners[0].tls.client_auth.ca_file: "empty" holds no certificate in PEM
listeners[0].tls.acme.ca_file: "a.key" holds no certificate in PEM`
	if strings.Join(got, "\n") != want {
		t.Errorf("%s\nwant\n%s", strings.Join(got, "\n"), want)
	}
	// What was served goes on.
	r.sets.Store("x", set)
	r.mustConnect("x", trusting(ca, "a.example"))
	if faults := r.apply(`  - { address: ":1", tls: { acme: { email: a@b.example, domains: a.example, storage: empty } } }`); len(faults) != 1 || !strings.HasSuffix(faults[0].Path, "acme.storage") {
		t.Errorf("%v", faults)
	}
}

// A listener that did not change keeps its set, and with it its sessions.
func TestSetsOutlastReloads(t *testing.T) {
	r, ca := newRig(t, Options{}), newIssuer(t, "servers")
	r.pair(ca, "a", leaf{names: []string{"a.example"}, serial: 1})
	r.pair(ca, "b", leaf{names: []string{"b.example"}, serial: 2})
	r.mustApply(one)
	first := r.set("x")
	r.mustApply(one + "\n" + `  - { name: y, address: ":2", tls: { certificates: [{ cert_file: b.crt, key_file: b.key }] } }`)
	if r.set("x") != first {
		t.Error("another set for the same listener")
	}
	r.mustApply(`  - { name: x, address: ":1", tls: { min_version: "1.3", certificates: [{ cert_file: a.crt, key_file: a.key }] } }`)
	if r.set("x") == first {
		t.Error("the same set for other settings")
	}
	if s := r.store.Status(); len(s) != 1 {
		t.Errorf("what nobody uses is still there: %+v", s)
	}
	// Who still holds the first set can go on with it.
	if _, err := handshake(first, trusting(ca, "a.example")); err != nil {
		t.Error(err)
	}
}

func TestAuthoritiesOfClientsAreWatched(t *testing.T) {
	r, ca, old, new := newRig(t, Options{}), newIssuer(t, "servers"), newIssuer(t, "old"), newIssuer(t, "new")
	r.pair(ca, "a", leaf{names: []string{"a.example"}, serial: 1})
	r.write("p.pem", old.pem())
	r.mustApply(`  - { name: x, address: ":1", tls: { certificates: [{ cert_file: a.crt, key_file: a.key }], client_auth: { mode: require, ca_file: p.pem } } }`)
	client := trusting(ca, "a.example")
	client.Certificates = []tls.Certificate{old.identity(leaf{})}
	client.ClientSessionCache = tls.NewLRUClientSessionCache(8)
	r.mustConnect("x", client)
	if v := r.mustConnect("x", client); !v.facts.Resumed {
		t.Fatal("the session was not resumed")
	}
	r.write("p.pem", []byte("nothing"))
	r.store.Recheck()
	r.store.Recheck()
	if v := r.mustConnect("x", client); !v.facts.Resumed || r.logs.count("level=ERROR") != 1 || len(r.store.Status()) != 2 {
		t.Errorf("after a broken file: %+v %+v\n%s", v.facts, r.store.Status(), r.logs.String())
	}
	r.write("p.pem", new.pem())
	r.store.Recheck()
	if v, err := r.connect("x", client); err == nil {
		t.Errorf("a client of the old authority was taken: %+v", v.facts)
	}
	client.Certificates = []tls.Certificate{new.identity(leaf{})}
	r.mustConnect("x", client)
}

func TestStapling(t *testing.T) {
	r, ca := newRig(t, Options{}), newIssuer(t, "servers")
	r.pair(ca, "a", leaf{names: []string{"a.example"}, serial: 1})
	respond := func(serial int64, status int, until time.Duration) []byte {
		t.Helper()
		der, err := ocsp.CreateResponse(ca.cert, ca.cert, ocsp.Response{
			SerialNumber: big.NewInt(serial), Status: status, RevokedAt: time.Now(),
			ThisUpdate: time.Now().Add(-2 * time.Hour), NextUpdate: time.Now().Add(until), IssuerHash: crypto.SHA256,
		}, ca.key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	good := respond(1, ocsp.Good, time.Hour)
	r.write("a.ocsp", good)
	const listener = `  - { name: x, address: ":1", tls: { certificates: [{ cert_file: a.crt, key_file: a.key, ocsp_file: a.ocsp }] } }`
	r.mustApply(listener)
	staple := func() []byte { return r.mustConnect("x", trusting(ca, "a.example")).state.OCSPResponse }
	if string(staple()) != string(good) || !r.store.Status()[0].Stapled {
		t.Errorf("no staple: %+v", r.store.Status())
	}
	for name, c := range map[string]struct {
		der  []byte
		want string
	}{
		"of another certificate": {respond(2, ocsp.Good, time.Hour), "ocsp"},
		"revoked":                {respond(1, ocsp.Revoked, time.Hour), "does not say"},
		"garbage":                {[]byte("garbage"), "OCSP response"},
	} {
		r.write("a.ocsp", c.der)
		r.store.Recheck()
		r.store.Recheck()
		if s := r.store.Status()[0]; staple() != nil || s.Stapled || !strings.Contains(s.Error, c.want) {
			t.Errorf("%s: %+v", name, s)
		}
		if faults := newRig(t, Options{}).inFolder(r.dir).apply(listener); len(faults) != 1 || !strings.HasSuffix(faults[0].Path, "ocsp_file") {
			t.Errorf("%s: %v", name, faults)
		}
	}
	r.write("a.ocsp", good)
	r.store.Recheck()
	if s := r.store.Status()[0]; staple() == nil || s.Error != "" {
		t.Errorf("%+v", s)
	}
	r.write("a.ocsp", respond(1, ocsp.Good, -time.Hour))
	r.store.Recheck()
	if s := r.store.Status()[0]; staple() != nil || s.Error != "" {
		t.Errorf("one that has expired: %+v", s)
	}
}

func (r *rig) inFolder(dir string) *rig {
	r.dir = dir
	return r
}

func FuzzPair(f *testing.F) {
	ca := newIssuer(f, "servers")
	cert, key := ca.issue(leaf{names: []string{"a.example"}})
	f.Add(cert, key)
	f.Add(append(cert, key...), append(key, cert...))
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte{0x30, 0}}), key)
	f.Fuzz(func(t *testing.T, cert, key []byte) {
		p, err := parsePair(pair{}.files, content{cert: cert, key: key})
		if err != nil {
			return
		}
		if p.Leaf == nil || p.PrivateKey == nil {
			t.Fatal("a certificate without its parts")
		}
		digest := make([]byte, 32)
		if signer, ok := p.PrivateKey.(crypto.Signer); !ok {
			t.Fatal("a key that cannot sign")
		} else if _, err := signer.Sign(rand.Reader, digest, crypto.SHA256); err != nil && !strings.Contains(err.Error(), "ed25519") {
			t.Fatal(err)
		}
	})
}
