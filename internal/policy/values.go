package policy

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"log/slog"
	"math"
	"strconv"
	"strings"
	"time"
)

// The types in this file are the values that settings are made of. Each reads
// its own text form, so that nothing but the configuration's decoder needs to
// know how settings are written; the errors are *Fault.

// Duration is a length of time, written as 300ms, 5s, 1m, 24h or 1h30m.
type Duration time.Duration

// D returns the duration as the standard library's type.
func (d Duration) D() time.Duration { return time.Duration(d) }

// String returns the form that UnmarshalText reads, in one unit.
func (d Duration) String() string {
	t := time.Duration(d)
	for _, u := range []struct {
		d    time.Duration
		name string
	}{{time.Hour, "h"}, {time.Minute, "m"}, {time.Second, "s"}, {time.Millisecond, "ms"}} {
		if t != 0 && t%u.d == 0 {
			return strconv.FormatInt(int64(t/u.d), 10) + u.name
		}
	}
	return t.String()
}

// MarshalText returns String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads whole numbers with the units ms, s, m and h, and 0.
func (d *Duration) UnmarshalText(text []byte) error {
	s := string(text)
	if s == "0" {
		*d = 0
		return nil
	}
	wrong := &Fault{Text: fmt.Sprintf("%q is not a duration", s), Hint: "write 300ms, 5s, 1m or 24h"}
	for rest := s; ; {
		n, unit, after := number(rest)
		switch {
		case n == "":
			return wrong
		case unit == "" && n == s:
			wrong.Text = fmt.Sprintf("%q has no unit", s)
			wrong.Hint = "write " + n + "s for seconds"
			return wrong
		case n+unit == s && durationTwins(unit) != "":
			wrong.Hint = "write " + n + durationTwins(unit)
			return wrong
		case n+unit == s && (unit == "d" || unit == "day" || unit == "days"):
			if days, err := strconv.ParseInt(n, 10, 32); err == nil {
				wrong.Hint = fmt.Sprintf("write %dh", days*24)
			}
			return wrong
		}
		if unit != "ms" && unit != "s" && unit != "m" && unit != "h" {
			return wrong
		}
		if rest = after; rest == "" {
			break
		}
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return &Fault{Text: fmt.Sprintf("%q is too long for a duration", s)}
	}
	*d = Duration(v)
	return nil
}

// durationTwins tells the unit that was meant by a common other spelling.
func durationTwins(unit string) string {
	switch strings.TrimSpace(strings.ToLower(unit)) {
	case "sec", "secs", "second", "seconds":
		return "s"
	case "min", "mins", "minute", "minutes":
		return "m"
	case "hr", "hrs", "hour", "hours":
		return "h"
	case "msec", "millis", "milliseconds":
		return "ms"
	case "ms", "s", "m", "h":
		if unit != strings.TrimSpace(strings.ToLower(unit)) {
			return strings.TrimSpace(strings.ToLower(unit))
		}
	}
	return ""
}

// number cuts leading digits and the unit after them.
func number(s string) (digits, unit, rest string) {
	i := 0
	for i < len(s) && '0' <= s[i] && s[i] <= '9' {
		i++
	}
	j := i
	for j < len(s) && (s[j] < '0' || s[j] > '9') {
		j++
	}
	return s[:i], s[i:j], s[j:]
}

// Size is a number of bytes, written as 512, 64KiB, 10MiB or 1GiB.
type Size int64

// String returns the form that UnmarshalText reads, in the largest unit that
// needs no fraction.
func (s Size) String() string {
	for _, u := range []string{"TiB", "GiB", "MiB", "KiB"} {
		if n := sizeUnit(u); s != 0 && int64(s)%n == 0 {
			return strconv.FormatInt(int64(s)/n, 10) + u
		}
	}
	return strconv.FormatInt(int64(s), 10)
}

// MarshalText returns String.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a whole number with the unit B, KiB, MiB, GiB, TiB or
// none, which is bytes.
func (s *Size) UnmarshalText(text []byte) error {
	n, err := size(string(text))
	if err != nil {
		return err
	}
	*s = Size(n)
	return nil
}

func sizeUnit(unit string) int64 {
	switch unit {
	case "", "B":
		return 1
	case "KiB":
		return 1 << 10
	case "MiB":
		return 1 << 20
	case "GiB":
		return 1 << 30
	case "TiB":
		return 1 << 40
	}
	return 0
}

func size(s string) (int64, error) {
	digits, unit, rest := number(s)
	times := sizeUnit(unit)
	if digits == "" || rest != "" || times == 0 {
		f := &Fault{Text: fmt.Sprintf("%q is not a size", s), Hint: "write 512, 64KiB, 10MiB or 1GiB"}
		if u := strings.ToUpper(strings.TrimSpace(unit)); digits != "" && rest == "" && u != "" && strings.ContainsRune("KMGT", rune(u[0])) && (len(u) == 1 || u[1:] == "B" || u[1:] == "IB") {
			f.Hint = "write " + digits + u[:1] + "iB"
		}
		return 0, f
	}
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n > math.MaxInt64/times {
		return 0, &Fault{Text: fmt.Sprintf("%q is too large for a size", s)}
	}
	return n * times, nil
}

// Rate is a number of things in a time: 1KiB/s for bytes, 100/s, 6000/m,
// 500/h or 10000/d for anything else. The zero value is no rate at all,
// written as 0.
type Rate struct {
	Count int64         // how many
	Per   time.Duration // in which time: a second, minute, hour or day
}

// PerSecond returns the rate as a number a second; 0 for no rate.
func (r Rate) PerSecond() float64 {
	if r.Per <= 0 {
		return 0
	}
	return float64(r.Count) / r.Per.Seconds()
}

// String returns the form that UnmarshalText reads.
func (r Rate) String() string {
	if r.Count == 0 || r.Per == 0 {
		return "0"
	}
	for _, u := range []string{"s", "m", "h", "d"} {
		if rateUnit(u) == r.Per {
			return strconv.FormatInt(r.Count, 10) + "/" + u
		}
	}
	return strconv.FormatInt(r.Count, 10) + "/" + r.Per.String()
}

// MarshalText returns String.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads a whole number, with a unit of size where it counts
// bytes, a slash, and s, m, h or d.
func (r *Rate) UnmarshalText(text []byte) error {
	s := string(text)
	if s == "0" {
		*r = Rate{}
		return nil
	}
	wrong := &Fault{Text: fmt.Sprintf("%q is not a rate", s), Hint: "write 100/s, 6000/m, 10000/d or 1KiB/s"}
	count, unit, found := strings.Cut(s, "/")
	if !found {
		if n, u, rest := number(s); n != "" && u == "" && rest == "" {
			wrong.Text = fmt.Sprintf("%q has no time", s)
			wrong.Hint = "write " + n + "/s, " + n + "/m, " + n + "/h or " + n + "/d"
		}
		return wrong
	}
	per := rateUnit(unit)
	if per == 0 {
		wrong.Text = fmt.Sprintf("%q is not a rate: %q is not a time", s, unit)
		wrong.Hint = "write /s, /m, /h or /d"
		return wrong
	}
	n, err := size(count)
	if err != nil {
		return wrong
	}
	if *r = (Rate{n, per}); n == 0 {
		*r = Rate{}
	}
	return nil
}

func rateUnit(unit string) time.Duration {
	switch unit {
	case "s":
		return time.Second
	case "m":
		return time.Minute
	case "h":
		return time.Hour
	case "d":
		return 24 * time.Hour
	}
	return 0
}

// Percent is a share from 0 to 1, written as 20% or 0.5%.
type Percent float64

// String returns the form that UnmarshalText reads.
func (p Percent) String() string {
	return strconv.FormatFloat(math.Round(float64(p)*1e8)/1e6, 'f', -1, 64) + "%"
}

// MarshalText returns String.
func (p Percent) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// UnmarshalText reads a number from 0 to 100 and a percent sign.
func (p *Percent) UnmarshalText(text []byte) error {
	s := string(text)
	digits, sign := strings.CutSuffix(s, "%")
	plain := digits != "" && strings.Trim(digits, "0123456789.") == ""
	v, err := strconv.ParseFloat(digits, 64)
	switch {
	case !plain || err != nil:
		return &Fault{Text: fmt.Sprintf("%q is not a share", s), Hint: "write 20%"}
	case !sign && v > 0 && v < 1:
		return &Fault{Text: fmt.Sprintf("%q has no percent sign", s), Hint: "write " + Percent(v).String()}
	case !sign:
		return &Fault{Text: fmt.Sprintf("%q has no percent sign", s), Hint: "write " + digits + "%"}
	case v > 100:
		return &Fault{Text: fmt.Sprintf("%q is out of range: 0%% to 100%%", s)}
	}
	*p = Percent(v / 100)
	return nil
}

// Time is a moment in seconds since 1970, written as 2026-12-31, which begins
// at midnight UTC, or as 2026-12-31T18:00:00Z. 0 is no moment.
type Time int64

// String returns the longer form that UnmarshalText reads, "" for no moment.
func (t Time) String() string {
	if t == 0 {
		return ""
	}
	return time.Unix(int64(t), 0).UTC().Format(time.RFC3339)
}

// MarshalText returns String.
func (t Time) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText reads a date, or a time with its zone (RFC 3339).
func (t *Time) UnmarshalText(text []byte) error {
	for _, layout := range []string{time.DateOnly, time.RFC3339} {
		if at, err := time.Parse(layout, string(text)); err == nil && at.Unix() > 0 {
			*t = Time(at.Unix())
			return nil
		}
	}
	return &Fault{Text: fmt.Sprintf("%q is not a moment", text), Hint: "write 2026-12-31 or 2026-12-31T18:00:00Z"}
}

// StringList is a list of strings; a single string stands for a list of one.
type StringList []string

// hidden is what stands for a secret wherever it could be shown. The decoder
// refuses it as a value, so that shown settings are never taken for real.
const hidden = "[secret]"

// Secret is a value that is never shown: its text, JSON, log and debug forms
// hide it. It is written as the value itself, as { env: NAME } or as
// { file: path }. The zero value is no secret.
//
// The value is two pointers away, since package fmt follows one where a Secret
// is an unexported field.
type Secret struct{ s **secret }

type secret struct {
	value     string
	env, file string // where it came from, if not from the text itself
}

// NewSecret returns a secret that was written out.
func NewSecret(value string) Secret { return keep(secret{value: value}) }

// SecretFromEnv returns a secret that came from an environment variable.
func SecretFromEnv(name, value string) Secret { return keep(secret{value: value, env: name}) }

// SecretFromFile returns a secret that came from a file.
func SecretFromFile(path, value string) Secret { return keep(secret{value: value, file: path}) }

func keep(s secret) Secret {
	p := &s
	return Secret{&p}
}

// IsSet tells whether there is a secret.
func (s Secret) IsSet() bool { return s.s != nil }

// Reveal returns the value, "" for the zero Secret. It is for the one place
// that needs it.
func (s Secret) Reveal() string {
	if s.s == nil {
		return ""
	}
	return (*s.s).value
}

// Equal compares with a value in a time that does not depend on where they
// differ.
func (s Secret) Equal(value string) bool {
	return s.s != nil && subtle.ConstantTimeCompare([]byte((*s.s).value), []byte(value)) == 1
}

// Origin tells where the secret came from: the name of an environment
// variable, or the path of a file, or neither for one that was written out.
func (s Secret) Origin() (env, file string) {
	if s.s == nil {
		return "", ""
	}
	return (*s.s).env, (*s.s).file
}

// Fingerprint returns a hash of the value, to notice that it changed. It is
// not to be shown: short secrets could be guessed from it.
func (s Secret) Fingerprint() string {
	if s.s == nil {
		return ""
	}
	sum := sha256.Sum256([]byte("gatehouse secret\x00" + (*s.s).value))
	return hex.EncodeToString(sum[:16])
}

// String returns "[secret]", or "" for the zero Secret.
func (s Secret) String() string {
	if s.s == nil {
		return ""
	}
	return hidden
}

// GoString returns String.
func (s Secret) GoString() string { return s.String() }

// MarshalText returns String; JSON uses it too.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// LogValue returns String.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// UnmarshalText takes the text as the secret.
func (s *Secret) UnmarshalText(text []byte) error {
	switch string(text) {
	case "":
		return &Fault{Text: "a secret must not be empty"}
	case hidden:
		return &Fault{Text: fmt.Sprintf("%q stands for a secret that was not shown", hidden), Hint: "write the secret itself, { env: NAME } or { file: path }"}
	}
	*s = NewSecret(string(text))
	return nil
}
