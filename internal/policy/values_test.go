package policy_test

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/policy"
)

func TestValues(t *testing.T) {
	for _, c := range []struct {
		text string
		into encoding.TextUnmarshaler
		want any
		out  string
	}{
		{"0", new(policy.Duration), policy.Duration(0), "0s"},
		{"300ms", new(policy.Duration), policy.Duration(300 * time.Millisecond), "300ms"},
		{"5s", new(policy.Duration), policy.Duration(5 * time.Second), "5s"},
		{"90s", new(policy.Duration), policy.Duration(90 * time.Second), "90s"},
		{"1h30m", new(policy.Duration), policy.Duration(90 * time.Minute), "90m"},
		{"24h", new(policy.Duration), policy.Duration(24 * time.Hour), "24h"},
		{"0", new(policy.Size), policy.Size(0), "0"},
		{"512", new(policy.Size), policy.Size(512), "512"},
		{"512B", new(policy.Size), policy.Size(512), "512"},
		{"1500KiB", new(policy.Size), policy.Size(1500 << 10), "1500KiB"},
		{"1024KiB", new(policy.Size), policy.Size(1 << 20), "1MiB"},
		{"8388607TiB", new(policy.Size), policy.Size(8388607 << 40), "8388607TiB"},
		{"0", new(policy.Rate), policy.Rate{}, "0"},
		{"0/s", new(policy.Rate), policy.Rate{}, "0"},
		{"100/s", new(policy.Rate), policy.Rate{Count: 100, Per: time.Second}, "100/s"},
		{"6000/m", new(policy.Rate), policy.Rate{Count: 6000, Per: time.Minute}, "6000/m"},
		{"5/h", new(policy.Rate), policy.Rate{Count: 5, Per: time.Hour}, "5/h"},
		{"10000/d", new(policy.Rate), policy.Rate{Count: 10000, Per: 24 * time.Hour}, "10000/d"},
		{"1KiB/s", new(policy.Rate), policy.Rate{Count: 1024, Per: time.Second}, "1024/s"},
		{"0%", new(policy.Percent), policy.Percent(0), "0%"},
		{"20%", new(policy.Percent), policy.Percent(0.2), "20%"},
		{"0.001%", new(policy.Percent), policy.Percent(0.00001), "0.001%"},
		{"100%", new(policy.Percent), policy.Percent(1), "100%"},
	} {
		if err := c.into.UnmarshalText([]byte(c.text)); err != nil {
			t.Errorf("%T %q: %v", c.into, c.text, err)
			continue
		}
		if got := reflect.ValueOf(c.into).Elem().Interface(); got != c.want {
			t.Errorf("%T %q is %#v", c.into, c.text, got)
		}
		out, err := c.into.(encoding.TextMarshaler).MarshalText()
		if err != nil || string(out) != c.out {
			t.Errorf("%T %q is written as %q, %v", c.into, c.text, out, err)
		}
	}
}

func TestValuesRefused(t *testing.T) {
	for _, c := range []struct {
		into  encoding.TextUnmarshaler
		texts string
	}{
		{new(policy.Duration), "| |5|5 s|-5s|+5s|1.5s|5S|5us|s|5ss|1h 30m|9999999999h|1e3s|٣s"},
		{new(policy.Size), "||-1|1.5KiB|1 KiB|1kib|1KB|K|9223372036854775808|8388608TiB|0x10|1_000"},
		{new(policy.Rate), "|1|1/|/s|1/x|-1/s|1 /s|1/ s|1KB/s|1/1s|1/s/s"},
		{new(policy.Percent), "|1|%|-1%|101%|1e1%|nan%|inf%|1 %|0x1%|1..2%"},
		{new(policy.Secret), "|[secret]"},
	} {
		for text := range strings.SplitSeq(c.texts, "|") {
			var fault *policy.Fault
			if err := c.into.UnmarshalText([]byte(text)); err == nil {
				t.Errorf("%T took %q as %v", c.into, text, c.into)
			} else if !errors.As(err, &fault) {
				t.Errorf("%T %q: the error is a %T", c.into, text, err)
			}
		}
	}
}

func TestRatePerSecond(t *testing.T) {
	if r := (policy.Rate{Count: 6000, Per: time.Minute}); r.PerSecond() != 100 {
		t.Errorf("6000/m is %v a second", r.PerSecond())
	}
	if r := (policy.Rate{}); r.PerSecond() != 0 {
		t.Errorf("no rate is %v a second", r.PerSecond())
	}
}

func TestSecretIsNeverShown(t *testing.T) {
	type settings struct {
		Key    policy.Secret
		hidden policy.Secret
		List   []policy.Secret
	}
	s := policy.NewSecret("hunter2")
	v := settings{s, s, []policy.Secret{s}}
	var b strings.Builder
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&b, verb+" "+verb+" "+verb+"\n", s, v, &v)
	}
	j, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	b.Write(j)
	slog.New(slog.NewJSONHandler(&b, nil)).Info("x", "secret", s, "in", v)
	slog.New(slog.NewTextHandler(&b, nil)).Info("x", "secret", s, "in", v)
	if out := b.String(); strings.Contains(out, "hunter2") || strings.Contains(out, "68756e74657232") {
		t.Errorf("the secret was shown:\n%s", out)
	}
	if !s.Equal("hunter2") || s.Equal("hunter") || s.Reveal() != "hunter2" || v.hidden.Reveal() != "hunter2" {
		t.Error("the secret does not know its value")
	}
	var none policy.Secret
	if none.IsSet() || none.Equal("") || none.String() != "" || none.Reveal() != "" || none.Fingerprint() != "" {
		t.Error("the zero secret is set")
	}
	if a, b := policy.NewSecret("a"), policy.SecretFromEnv("A", "a"); a.Fingerprint() != b.Fingerprint() || a.Fingerprint() == s.Fingerprint() {
		t.Error("fingerprints do not follow the values")
	}
}
