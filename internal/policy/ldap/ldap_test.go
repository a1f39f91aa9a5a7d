package ldap_test

import (
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy/all"
	"gatehouse.dev/gatehouse/internal/policy/policytest"
)

func Test(t *testing.T) {
	policytest.Run(t, policytest.Suite{Catalog: all.Catalog(), Kind: "ldap", Settings: `{ url: "ldap://127.0.0.1:1", base_dn: dc=example, optional: true }`})
}

// people are what is in the directory.
const people = `dn: dc=example,dc=com
objectClass: dcObject
objectClass: organization
o: example
dc: example

dn: cn=gate,dc=example,dc=com
objectClass: person
cn: gate
sn: gate
userPassword: gatepw

dn: ou=people,dc=example,dc=com
objectClass: organizationalUnit
ou: people

dn: uid=ann,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: ann
cn: Ann
sn: Smith
mail: ann@example.com
departmentNumber: cn=admins,ou=groups,dc=example,dc=com
departmentNumber: plain
userPassword: password

dn: uid=cat,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: cat
cn: Cat
sn: Smith
employeeType: plain
userPassword: password

dn: uid=dan,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: dan
cn: Dan
sn: Smith
employeeType: nobody
userPassword: password

dn: uid=fay,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: fay
cn: Fay
sn: Smith
employeeType: plain
employeeType: shop
userPassword: password

dn: uid=gil,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: gil
cn: Gil
sn: Smith
userPassword: password

dn: uid=bob,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: bob
uid: twin
cn: Bob
sn: Smith
userPassword: password

dn: uid=eve,ou=people,dc=example,dc=com
objectClass: inetOrgPerson
uid: eve
uid: twin
cn: Eve
sn: Smith
userPassword: password
`

// directory starts a real directory with two people, and returns its URL.
func directory(t *testing.T) string {
	t.Helper()
	return directoryWith(t, "ldap", "")
}

// directoryWith is one with a scheme and further settings.
func directoryWith(t *testing.T, scheme, settings string) string {
	t.Helper()
	const slapd, slapadd = "/usr/sbin/slapd", "/usr/sbin/slapadd"
	if _, err := os.Stat(slapd); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatal("there is no slapd, and .ci/run should have installed it")
		}
		t.Skip("there is no slapd: install it to run this test")
	}
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	conf := write("slapd.conf", `include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
database mdb
suffix "dc=example,dc=com"
rootdn "cn=root,dc=example,dc=com"
rootpw rootpw
`+settings+`
directory `+dir+`
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="cn=gate,dc=example,dc=com" read by * auth
`)
	ldif := write("people.ldif", people)
	if out, err := exec.Command(slapadd, "-f", conf, "-l", ldif).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	cmd := exec.Command(slapd, "-f", conf, "-h", scheme+"://"+address, "-d", "0")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for deadline := time.Now().Add(30 * time.Second); ; {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
			return scheme + "://" + address
		}
		if time.Now().After(deadline) {
			t.Fatalf("slapd does not listen: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func TestPeople(t *testing.T) {
	at := directory(t)
	r := policytest.NewRig(t, all.Catalog(), fmt.Sprintf(`
routes:
  - match: /*
    upstream: http://up
    policies:
      - ldap:
          url: %s
          bind_dn: cn=gate,dc=example,dc=com
          bind_password: gatepw
          base_dn: ou=people,dc=example,dc=com
          group_attribute: departmentNumber
          attributes: [mail, uid]
          attempts: { client: 0, credential: 20/m }
          headers: { X-User: subject, X-Mail: claims.mail, X-Groups: groups }
`, at), nil)
	defer r.Close()
	do := func(user, pass string) *policytest.Answer {
		return r.Do(policytest.Request{Target: "/", Header: []exchange.Field{
			{Name: "Authorization", Value: "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+pass))}, {Name: "X-User", Value: "admin"},
		}})
	}
	for range 2 { // asked, and then remembered
		if a := do("ann", "password"); a.Status != 200 {
			t.Fatalf("%v: %v", a, a.Problem)
		}
		h := &r.Received()[0].Header
		for name, want := range map[string]string{"X-User": "ann", "X-Mail": "ann@example.com", "X-Groups": "admins,plain", "Authorization": ""} {
			if h.Get(name) != want {
				t.Errorf("%s is %q, want %q", name, h.Get(name), want)
			}
		}
	}
	for name, c := range map[string][2]string{
		"a wrong password": {"ann", "wrong"}, "no password": {"ann", ""}, "an unknown name": {"zoe", "password"}, "no name": {"", "password"},
		"a name of two": {"twin", "password"}, "a pattern": {"an*", "password"}, "anybody": {"*", "password"},
		"a filter": {"ann)(objectClass=*", "password"}, "another one": {"x)(|(uid=ann", "password"}, "an escape": {`\61nn`, "password"},
		"a NUL": {"ann\x00", "password"}, "a name of an entry": {"uid=ann,ou=people,dc=example,dc=com", "password"},
		"the gateway's own": {"gate", "gatepw"}, "a name without end": {strings.Repeat("a", 300), "password"},
	} {
		if a := do(c[0], c[1]); a.Status != 401 || a.Problem.Code != "credential_invalid" {
			t.Errorf("%s: %d, %v", name, a.Status, a.Problem)
		}
	}
	if got := r.Received(); len(got) != 0 {
		t.Errorf("the service was asked: %v", got)
	}
	for range 25 {
		do("bob", "wrong")
	}
	if a := do("bob", "password"); a.Status != 429 {
		t.Errorf("after many wrong passwords: %d", a.Status)
	}
}

// TestConsumers has people who belong to consumers, by a credential or by what
// the directory says, however they type their names.
func TestConsumers(t *testing.T) {
	at := directory(t)
	r := policytest.NewRig(t, all.Catalog(), fmt.Sprintf(`
consumers:
  - name: shop
    groups: [buyers]
    credentials: [ ldap: { name: ANN } ]
  - name: plain
    groups: [sellers]
  - name: closed
    credentials: [ { ldap: { name: bob }, disabled: true } ]
routes:
  - match: /*
    upstream: http://up
    policies:
      - ldap:
          url: %s
          bind_dn: cn=gate,dc=example,dc=com
          bind_password: gatepw
          base_dn: ou=people,dc=example,dc=com
          group_attribute: departmentNumber
          consumer_attribute: employeeType
          consumers_only: true
          attempts: { client: 0, credential: 20/m }
          headers: { X-Who: consumer, X-User: subject, X-Groups: groups, X-Credential: credential }
`, at), nil)
	defer r.Close()
	do := func(user, pass string) *policytest.Answer {
		return r.Do(policytest.Request{Target: "/", Header: []exchange.Field{
			{Name: "Authorization", Value: "Basic " + base64.StdEncoding.EncodeToString([]byte(user+":"+pass))},
		}})
	}
	for _, c := range []struct {
		user   string
		status int
		want   []string // consumer, subject, groups, credential
	}{
		{"ann", 200, []string{"shop", "ann", "buyers,admins,plain", "ldap[0]"}},
		{"ANN", 200, []string{"shop", "ann", "buyers,admins,plain", "ldap[0]"}},
		{" Ann ", 200, []string{"shop", "ann", "buyers,admins,plain", "ldap[0]"}},
		{"cat", 200, []string{"plain", "cat", "sellers", "uid=cat,ou=people,dc=example,dc=com"}},
		{"bob", 401, nil}, // disabled
		{"eve", 401, nil}, // of no consumer
		{"dan", 401, nil}, // of a consumer that there is not
		{"fay", 401, nil}, // of two
	} {
		a := do(c.user, "password")
		got := r.Received()
		if a.Status != c.status || (len(got) == 1) != (c.status == 200) {
			t.Errorf("%s: %d, %v", c.user, a.Status, a.Problem)
			continue
		}
		for i, name := range []string{"X-Who", "X-User", "X-Groups", "X-Credential"} {
			if c.want != nil && got[0].Header.Get(name) != c.want[i] {
				t.Errorf("%s: %s is %q, want %q", c.user, name, got[0].Header.Get(name), c.want[i])
			}
		}
	}
	// To type a name in many ways is no way around the limit on guessing.
	for i := range 32 {
		name := []byte("gil")
		for bit := range name {
			if i>>bit&1 == 1 {
				name[bit] -= 'a' - 'A'
			}
		}
		do(string(name), "wrong")
	}
	if a := do("gil", "password"); a.Status != 429 {
		t.Errorf("after many guesses at spellings of one name: %d", a.Status)
	}
}

func TestDown(t *testing.T) {
	r := policytest.NewRig(t, all.Catalog(), `
routes:
  - match: /*
    upstream: http://up
    policies: [ ldap: { url: "ldap://127.0.0.1:1", base_dn: dc=example } ]
`, nil)
	defer r.Close()
	a := r.Do(policytest.Request{Target: "/", Header: []exchange.Field{{Name: "Authorization", Value: "Basic YTpi"}}})
	if a.Status != 503 || a.Problem.Code != "identity_unavailable" {
		t.Errorf("%d, %v", a.Status, a.Problem)
	}
	for settings, want := range map[string]string{
		`{ url: "ldap://ldap.example.com", base_dn: dc=x }`:                   "passwords could be read",
		`{ url: "http://ldap.example.com", base_dn: dc=x }`:                   "no URL of a directory",
		`{ url: "ldaps://h", base_dn: dc=x, start_tls: true }`:                "secured from the beginning",
		`{ url: "ldaps://h", base_dn: dc=x, user_filter: "(uid=x)" }`:         "has no {username}",
		`{ url: "ldaps://h", base_dn: dc=x, user_filter: "(uid={username}" }`: "is no filter",
		`{ url: "ldaps://h", base_dn: "x" }`:                                  "is no name of an entry",
		`{ url: "ldaps://h", base_dn: dc=x, bind_dn: cn=a }`:                  "belong together",
	} {
		if got := r.Apply("routes:\n  - match: /*\n    upstream: http://up\n    policies: [ ldap: " + settings + " ]\n").Error(); !strings.Contains(got, want) {
			t.Errorf("%s: %s", settings, got)
		}
	}
}
