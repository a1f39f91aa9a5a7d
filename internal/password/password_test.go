package password_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"golang.org/x/crypto/bcrypt"

	"gatehouse.dev/gatehouse/internal/password"
)

func parse(t *testing.T, text string) *password.Hash {
	t.Helper()
	h, err := password.Parse(text)
	if err != nil {
		t.Fatalf("%q: %v", text, err)
	}
	return h
}

func TestMatches(t *testing.T) {
	made, err := password.New("hunter2")
	if err != nil {
		t.Fatal(err)
	}
	cut, err := bcrypt.GenerateFromPassword([]byte(strings.Repeat("a", 72)), 4)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ hash, right, wrong string }{
		{made, "hunter2", "hunter3"},
		{made, "hunter2", ""},
		// From the reference implementation's tests of argon2id.
		{"$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4", "password", "Password"},
		{"$2y$10$.vGA1O9wmRjrwAVXD98HNOgsNpDczlqm3Jq7KnEd1rVAGv3Fykk1a", "rasmuslerdorf", "rasmuslerdorF"},
		{string(cut), strings.Repeat("a", 72), strings.Repeat("a", 73)},
	} {
		h := parse(t, c.hash)
		if c.hash[1] == '2' && strings.HasPrefix(c.right, "rasmus") {
			if h.Matches(c.wrong) {
				t.Errorf("%s matches %q", c.hash, c.wrong)
			}
			continue // the sum is of another password: only refusal is looked at
		}
		if !h.Matches(c.right) || h.Matches(c.wrong) {
			t.Errorf("%s: %q is %v, %q is %v", c.hash, c.right, h.Matches(c.right), c.wrong, h.Matches(c.wrong))
		}
		for _, p := range []string{c.right, c.wrong, ""} {
			if h.Like().Matches(p) {
				t.Errorf("the dummy of %s matches %q", c.hash, p)
			}
		}
	}
	if new(password.Hash).Matches("") {
		t.Error("the zero hash matches")
	}
}

func TestParseRefuses(t *testing.T) {
	for _, text := range []string{
		"", "plain", "$1$x$y", "$argon2i$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
		"$argon2id$v=16$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
		"$argon2id$v=19$m=256,t=2$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
		"$argon2id$v=19$m=0,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
		"$argon2id$v=19$m=999999999,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
		"$argon2id$v=19$m=256,t=2,p=1$$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4",
		"$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$", "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$AAAA",
		// What is mistyped would never match, and be found out in no time.
		"$2b$10$.vGA1O9wmRjrwAVXD98HNOgsNpDczlqm3Jq7KnEd1rVAGv3Fykk1=", "$2b$10$!vGA1O9wmRjrwAVXD98HNOgsNpDczlqm3Jq7KnEd1rVAGv3Fykk1a",
		"$2b$10$.vGA1O9wmRjrwAVXD98HNOgsN Dczlqm3Jq7KnEd1rVAGv3Fykk1a", "$2b$1x$.vGA1O9wmRjrwAVXD98HNOgsNpDczlqm3Jq7KnEd1rVAGv3Fykk1a",
		"$2b$03$.vGA1O9wmRjrwAVXD98HNOgsNpDczlqm3Jq7KnEd1rVAGv3Fykk1a", "$2b$10.+vGA1O9wmRjrwAVXD98HNOgsNpDczlqm3Jq7KnEd1rVAGv3Fykk1a",
		"$2b$10$short", "$2b$31$.vGA1O9wmRjrwAVXD98HNOgsNpDczlqm3Jq7KnEd1rVAGv3Fykk1a", "$2x$10$.vGA1O9wmRjrwAVXD98HNOgsNpDczlqm3Jq7KnEd1rVAGv3Fykk1a",
	} {
		if _, err := password.Parse(text); err == nil {
			t.Errorf("%q was taken", text)
		} else if text != "" && strings.Contains(err.Error(), text) {
			t.Errorf("the error shows the hash: %v", err)
		}
	}
	if _, err := password.New(strings.Repeat("a", password.Most+1)); err == nil {
		t.Error("a password without end was taken")
	}
}

func TestDesk(t *testing.T) {
	h := parse(t, "$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4")
	synctest.Test(t, func(t *testing.T) {
		d := password.NewDesk(0, 1) // no seat: whoever comes waits
		ctx, cancel := context.WithCancel(t.Context())
		waited := make(chan error, 1)
		go func() {
			_, err := d.Matches(ctx, h, "password")
			waited <- err
		}()
		synctest.Wait()
		if _, err := d.Matches(ctx, h, "password"); !errors.Is(err, password.ErrBusy) {
			t.Errorf("beside one that waits: %v", err)
		}
		cancel()
		if err := <-waited; !errors.Is(err, context.Canceled) {
			t.Errorf("the one that waited: %v", err)
		}
	})
	if ok, err := password.NewDesk(1, 0).Matches(t.Context(), h, "password"); !ok || err != nil {
		t.Errorf("at a free seat: %v, %v", ok, err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("$argon2id$v=19$m=256,t=2,p=1$c29tZXNhbHQ$nf65EOgLrQMR/uIPnA4rEsF5h7TKyQwu9U1bMCHGi/4")
	f.Add("$2y$10$.vGA1O9wmRjrwAVXD98HNOgsNpDczlqm3Jq7KnEd1rVAGv3Fykk1a")
	f.Fuzz(func(t *testing.T, text string) {
		if h, err := password.Parse(text); err == nil && h.Like() == nil {
			t.Error("a hash without a dummy")
		}
	})
}
