package introspect

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/fetch"
	"gatehouse.dev/gatehouse/internal/policy"
)

// TestUntil asks about tokens of which some expire before an answer is too old:
// none is remembered as good beyond that.
func TestUntil(t *testing.T) {
	const now, remember, wrong = 1_800_000_000, 60, 10
	var answer string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, answer) }))
	defer s.Close()
	client, err := fetch.New(fetch.Default())
	if err != nil {
		t.Fatal(err)
	}
	m := &method{asker: newAsker(client, 4), config: &Config{
		URL: s.URL, ClientID: "me", ClientSecret: policy.NewSecret("s"), SubjectClaim: "sub", HTTP: fetch.Default(),
		Remember: policy.Duration(remember * time.Second), RememberWrong: policy.Duration(wrong * time.Second),
	}}
	for _, c := range []struct {
		claims string
		good   bool
		until  int64
	}{
		{`"exp":1800000600`, true, now + remember},
		{`"exp":1800000060`, true, now + remember},
		{`"exp":1800000059`, true, now + remember - 1},
		{`"exp":1800000001`, true, now + 1},
		{`"exp":1800000001.9`, true, now + 1},
		{`"exp":1800000000`, false, now + wrong},
		{`"exp":1800000000.5`, false, now + wrong},
		{`"exp":1`, false, now + wrong},
		{`"exp":0`, false, now + wrong},
		{`"exp":-1`, false, now + wrong},
		{`"exp":null`, false, now + wrong},
		{`"exp":"1800000600"`, false, now + wrong},
		{`"nbf":1800000000`, true, now + remember},
		{`"nbf":1800000001`, false, now + wrong},
		{`"x":1`, true, now + remember},
	} {
		answer = `{"active":true,"sub":"ann",` + c.claims + `}`
		got, until, err := m.ask("token", now)
		if err != nil || (got.wrong == nil) != c.good || until != c.until {
			t.Errorf("%s: %+v until %d, %v; want %d", c.claims, got, until, err, c.until)
		}
	}
	// A token that is not active says nothing more, whatever stands beside.
	answer = `{"active":false,"sub":"ann","exp":1800000600}`
	if got, until, err := m.ask("token", now); err != nil || got.wrong == nil || until != now+wrong {
		t.Errorf("not active: %+v until %d, %v", got, until, err)
	}
}
