package consumer_test

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/consumer"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/password"
	"gatehouse.dev/gatehouse/internal/policy"
)

// load returns an index that says what a configuration says.
func load(t testing.TB, x *consumer.Index, text string) *consumer.Index {
	t.Helper()
	cfg, faults := config.Parse("c.yaml", []byte(text+"\nroutes: []\n"), policy.NewCatalog())
	if cfg == nil {
		t.Fatal(faults)
	}
	if x == nil {
		x = consumer.New()
	}
	c, faults := x.Prepare(cfg)
	if faults != nil {
		t.Fatal(faults)
	}
	c.Commit()
	return x
}

func apiKey(x *consumer.Index, key string) (exchange.Who, error) {
	var who exchange.Who
	sum := sha256.Sum256([]byte(key))
	err := x.APIKey(sum, &who)
	return who, err
}

func TestIdentify(t *testing.T) {
	x := load(t, nil, `
consumers:
  - name: mobile
    groups: [partners, beta]
    labels: { plan: gold }
    credentials:
      - api_key: { hash: "`+consumer.HashKey("old")+`" }
      - { name: new, api_key: { hash: "`+consumer.HashKey("new")+`" } }
      - { disabled: true, api_key: { hash: "`+consumer.HashKey("off")+`" } }
      - jwt: { issuer: https://id, subject: mobile }
      - certificate: { subject: "CN=mobile,O=Partner" }
      - certificate: { san: Mobile.Partner.example }
      - certificate: { thumbprint: "AA:`+hex.EncodeToString(make([]byte, 31))+`" }
  - name: gone
    disabled: true
    credentials:
      - api_key: { hash: "`+consumer.HashKey("gone")+`" }
`)
	for _, c := range []struct {
		key, consumer, credential string
		err                       error
	}{
		{"old", "mobile", "api_key[0]", nil},
		{"new", "mobile", "new", nil},
		{"off", "", "", consumer.ErrDisabled},
		{"gone", "", "", consumer.ErrDisabled},
		{"none", "", "", consumer.ErrUnknown},
		{"", "", "", consumer.ErrUnknown},
	} {
		who, err := apiKey(x, c.key)
		if !errors.Is(err, c.err) || who.Consumer != c.consumer || who.Credential != c.credential {
			t.Errorf("key %q: %+v, %v", c.key, who, err)
		}
	}
	who, err := apiKey(x, "old")
	if err != nil || len(who.Groups) != 2 || who.Labels["plan"] != "gold" {
		t.Errorf("groups and labels: %+v, %v", who, err)
	}
	one := func(known bool, err error) error {
		if err == nil && !known {
			return consumer.ErrUnknown
		}
		return err
	}
	for _, c := range []struct {
		by   string
		find func(w *exchange.Who) error
		want error
	}{
		{"subject", func(w *exchange.Who) error { return one(x.Subject("https://id", "mobile", w)) }, nil},
		{"name", func(w *exchange.Who) error { return x.Named("mobile", w) }, nil},
		{"dn", func(w *exchange.Who) error { return one(x.Certificate("00", nil, "CN=mobile,O=Partner", w)) }, nil},
		{"san", func(w *exchange.Who) error {
			return one(x.Certificate("00", []string{"dns:other", "DNS:mobile.partner.EXAMPLE"}, "CN=x", w))
		}, nil},
		{"thumbprint", func(w *exchange.Who) error {
			return one(x.Certificate("aa"+hex.EncodeToString(make([]byte, 31)), nil, "", w))
		}, nil},
		{"another issuer", func(w *exchange.Who) error { return one(x.Subject("https://id2", "mobile", w)) }, consumer.ErrUnknown},
		{"another split", func(w *exchange.Who) error { return one(x.Subject("https://idmobile", "", w)) }, consumer.ErrUnknown},
		{"dn as san", func(w *exchange.Who) error {
			return one(x.Certificate("00", []string{"dns:CN=mobile,O=Partner"}, "", w))
		}, consumer.ErrUnknown},
		{"san as dn", func(w *exchange.Who) error { return one(x.Certificate("00", nil, "mobile.partner.example", w)) }, consumer.ErrUnknown},
		{"name of none", func(w *exchange.Who) error { return x.Named("nobody", w) }, consumer.ErrUnknown},
	} {
		var w exchange.Who
		if err := c.find(&w); !errors.Is(err, c.want) || (err == nil) != (w.Consumer == "mobile") {
			t.Errorf("by %s: %+v, %v", c.by, w, err)
		}
	}
}

func TestTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // begins at midnight UTC 2000-01-01
		x := load(t, nil, `
consumers:
  - name: a
    credentials:
      - { api_key: { hash: "`+consumer.HashKey("k")+`" }, not_before: 2000-01-01T01:00:00Z, expires: 2000-01-01T02:00:00Z }
`)
		for _, want := range []error{consumer.ErrNotYet, nil, consumer.ErrExpired} {
			if _, err := apiKey(x, "k"); !errors.Is(err, want) {
				t.Errorf("at %v: %v, want %v", time.Now().UTC(), err, want)
			}
			time.Sleep(time.Hour)
		}
	})
}

func TestPasswords(t *testing.T) {
	const hash = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4"
	x := load(t, nil, `
consumers:
  - name: a
    credentials:
      - basic: { username: ann, password_hash: "`+hash+`" }
`)
	var who exchange.Who
	if h, err := x.Password("ann", &who); err != nil || !h.Matches("password") || who.Consumer != "a" {
		t.Errorf("ann: %+v, %v", who, err)
	}
	if h, err := x.Password("bob", &who); !errors.Is(err, consumer.ErrUnknown) || h == nil || h.Matches("password") {
		t.Errorf("an unknown user has no hash to compare with: %v", err)
	}
	if h, err := consumer.New().Password("bob", &who); !errors.Is(err, consumer.ErrUnknown) || h == nil {
		t.Errorf("without any user: %v", err)
	}
}

// TestStrangers has users whose hashes differ in what they cost. Nobody can tell
// an unknown name by the time that it takes: it takes that of one of those that
// there are, and always of the same.
func TestStrangers(t *testing.T) {
	const cheap, dear = "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4", "$2y$10$.vGA1O9wmRjrwAVXD98HNOgsNpDczlqm3Jq7KnEd1rVAGv3Fykk1a"
	user := func(name, hash string) string {
		return "\n  - { name: " + name + ", credentials: [ { basic: { username: " + name + ", password_hash: \"" + hash + "\" } } ] }"
	}
	cost := func(text string) string {
		h, err := password.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		return h.Cost()
	}
	x := consumer.New()
	for _, c := range []struct {
		name, consumers string
		want            []string
	}{
		{"nobody", " []", []string{password.Nobody().Cost()}},
		{"one", user("ann", cheap), []string{cost(cheap)}},
		{"two", user("ann", cheap) + user("bob", dear), []string{cost(cheap), cost(dear)}},
		{"two, in another order", user("bob", dear) + user("ann", cheap), []string{cost(cheap), cost(dear)}},
		{"three", user("ann", cheap) + user("bob", dear) + user("joe", dear), []string{cost(cheap), cost(dear)}},
		{"two of a kind", user("bob", dear) + user("joe", dear), []string{cost(dear)}},
		{"another hash", user("bob", cheap) + user("joe", dear), []string{cost(cheap), cost(dear)}},
		{"one is left", user("bob", cheap), []string{cost(cheap)}},
		{"nobody again", " []", []string{password.Nobody().Cost()}},
	} {
		load(t, x, "consumers:"+c.consumers)
		seen := make(map[string]bool)
		for n := range 100 {
			var who exchange.Who
			name := fmt.Sprintf("stranger-%d", n)
			h, err := x.Password(name, &who)
			again, _ := x.Password(name, &who)
			if !errors.Is(err, consumer.ErrUnknown) || h.Cost() != again.Cost() {
				t.Fatalf("%s: %s costs %s and then %s, %v", c.name, name, h.Cost(), again.Cost(), err)
			}
			seen[h.Cost()] = true
		}
		if got := slices.Sorted(maps.Keys(seen)); !slices.Equal(got, slices.Sorted(slices.Values(c.want))) {
			t.Errorf("%s: unknown names cost %q, want %q", c.name, got, c.want)
		}
	}
	// The same one at a time.
	put := func(name, hash string) {
		t.Helper()
		if err := x.Put(&config.Consumer{Name: name, Credentials: []*config.Credential{{Basic: &config.BasicUser{Username: name, PasswordHash: policy.NewSecret(hash)}}}}); err != nil {
			t.Fatal(err)
		}
	}
	put("ann", cheap)
	put("bob", dear)
	put("bob", cheap)
	x.Delete("ann")
	var who exchange.Who
	for n := range 100 {
		if h, _ := x.Password(fmt.Sprint(n), &who); h.Cost() != cost(cheap) {
			t.Fatalf("after all others have gone an unknown name costs %s", h.Cost())
		}
	}
}

func TestFaults(t *testing.T) {
	cfg, faults := config.Parse("c.yaml", []byte(`
consumers:
  - name: a
    credentials:
      - basic: { username: ann, password_hash: secret }
      - signature: { key_id: k, algorithm: hmac-sha256, secret: short }
      - signature: { key_id: l, algorithm: ed25519, public_key: none }
      - signature:
          key_id: m
          algorithm: ecdsa-p256-sha256
          public_key: |
            -----BEGIN PUBLIC KEY-----
            MCowBQYDK2VwAyEAJrQLj5P/89iXES9+vFgrIy29clF9CC/oPPsw3c5D0bs=
            -----END PUBLIC KEY-----
routes: []
`), policy.NewCatalog())
	if cfg == nil {
		t.Fatal(faults)
	}
	_, faults = consumer.New().Prepare(cfg)
	want := `c.yaml:5:48: consumers[0].credentials[0].basic.password_hash: this is neither a hash of argon2id nor one of bcrypt
c.yaml:6:65: consumers[0].credentials[1].signature.secret: the secret has less than 32 bytes
c.yaml:7:65: consumers[0].credentials[2].signature.public_key: this is not a public key in PEM
c.yaml:11:23: consumers[0].credentials[3].signature.public_key: the key is not one of ecdsa-p256-sha256`
	if got := faults.Error(); got != want {
		t.Errorf("faults:\n%s\nwant:\n%s", got, want)
	}
}

// TestReload changes a configuration and looks at what is left.
func TestReload(t *testing.T) {
	one := func(name string, keys ...string) string {
		s := "  - name: " + name + "\n    credentials:\n"
		for _, k := range keys {
			s += `      - api_key: { hash: "` + consumer.HashKey(k) + "\" }\n"
		}
		return s
	}
	x := load(t, nil, "consumers:\n"+one("a", "1", "2")+one("b", "3"))
	load(t, x, "consumers:\n"+one("a", "2", "3")+one("c", "4"))
	for key, want := range map[string]string{"1": "", "2": "a", "3": "a", "4": "c"} {
		if who, err := apiKey(x, key); who.Consumer != want || (err == nil) != (want != "") {
			t.Errorf("key %s belongs to %q, %v", key, who.Consumer, err)
		}
	}
	var who exchange.Who
	if err := x.Named("b", &who); err == nil || x.Len() != 2 {
		t.Errorf("b is still there among %d: %v", x.Len(), err)
	}
	load(t, x, "")
	if x.Len() != 0 {
		t.Errorf("%d are left", x.Len())
	}
}

func keyed(name, key string) *config.Consumer {
	return &config.Consumer{Name: name, Credentials: []*config.Credential{{APIKey: &config.APIKey{Hash: consumer.HashKey(key)}}}}
}

func TestPut(t *testing.T) {
	x := consumer.New()
	for _, err := range []error{x.Put(keyed("a", "1")), x.Put(keyed("b", "2")), x.Put(keyed("a", "3"))} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := x.Put(keyed("b", "3")); err == nil {
		t.Error("b took a's key")
	}
	if !x.Delete("a") || x.Delete("a") {
		t.Error("a went twice, or not at all")
	}
	for key, want := range map[string]string{"1": "", "2": "b", "3": ""} {
		if who, _ := apiKey(x, key); who.Consumer != want {
			t.Errorf("key %s belongs to %q", key, who.Consumer)
		}
	}
}

// TestChangeWhileRead looks up one key for as long as others come and go.
func TestChangeWhileRead(t *testing.T) {
	x := consumer.New()
	if err := x.Put(keyed("a", "1")); err != nil {
		t.Fatal(err)
	}
	var readers sync.WaitGroup
	stop := make(chan struct{})
	for range 4 {
		readers.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if who, err := apiKey(x, "1"); err != nil || who.Consumer != "a" {
					t.Errorf("%+v, %v", who, err)
					return
				}
			}
		})
	}
	for i := range 2000 {
		if err := x.Put(keyed("b", fmt.Sprint("b", i))); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	readers.Wait()
}

func TestKeys(t *testing.T) {
	form := regexp.MustCompile(`^gh_[0-9A-Za-z]{38}$`)
	seen := make(map[string]bool)
	for range 1000 {
		k := consumer.NewKey()
		if !form.MatchString(k) || !consumer.IsKey(k) || seen[k] {
			t.Fatalf("%q", k)
		}
		seen[k] = true
		b := []byte(k)
		b[5] ^= 1
		if consumer.IsKey(string(b)) || consumer.IsKey(k[1:]) || consumer.IsKey(k+"0") {
			t.Errorf("what is left of %q passes for a key", k)
		}
	}
}

func million(b *testing.B) *consumer.Index {
	x := consumer.New()
	cfg := &config.Config{}
	var n [8]byte
	for i := range 1_000_000 {
		binary.LittleEndian.PutUint64(n[:], uint64(i))
		sum := sha256.Sum256(n[:])
		cfg.Consumers = append(cfg.Consumers, &config.Consumer{
			Name:        fmt.Sprint("consumer-", i),
			Credentials: []*config.Credential{{APIKey: &config.APIKey{Hash: "sha256:" + hex.EncodeToString(sum[:])}}},
		})
	}
	c, faults := x.Prepare(cfg)
	if faults != nil {
		b.Fatal(faults)
	}
	c.Commit()
	return x
}

// BenchmarkMillion looks up and changes an index of a million keys.
func BenchmarkMillion(b *testing.B) {
	x := million(b)
	// Few consumers call at a time, or all of them in turn: the second is as
	// slow as memory is.
	for _, active := range []int{1000, 1_000_000} {
		b.Run(fmt.Sprint("lookup/active=", active), func(b *testing.B) {
			b.ReportAllocs()
			var n [8]byte
			var who exchange.Who
			for i := 0; b.Loop(); i++ {
				binary.LittleEndian.PutUint64(n[:], uint64(i*7919%active*(1_000_000/active)))
				sum := sha256.Sum256(n[:])
				if err := x.APIKey(sum, &who); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	b.Run("add", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if err := x.Put(keyed(fmt.Sprint("new-", i), fmt.Sprint("new-", i))); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func TestLookupAllocates(t *testing.T) {
	if raced {
		t.Skip("the race detector allocates")
	}
	x := load(t, nil, `
consumers:
  - name: a
    credentials:
      - api_key: { hash: "`+consumer.HashKey("k")+`" }
      - jwt: { issuer: i, subject: s }
`)
	who := new(exchange.Who)
	if n := testing.AllocsPerRun(100, func() {
		sum := sha256.Sum256([]byte("k"))
		known, err := x.Subject("i", "s", who)
		if x.APIKey(sum, who) != nil || err != nil || !known || x.Named("a", who) != nil {
			t.Error("not found")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
