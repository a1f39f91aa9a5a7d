package observe

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/config"
)

func TestLogger(t *testing.T) {
	const nasty = "a\x1b[31m\n\x7f\u009b2J\xff\"é"
	for _, c := range []struct {
		format string
		want   string
	}{
		{"text", `value="a\x1b[31m\n\x7f\u009b2J\xff\"é"`},
		{"json", `"value":"a\u001b[31m\n\u007f\u009b2J\ufffd\"é"`},
	} {
		var out bytes.Buffer
		log := NewLog(config.Log{Level: "warn", Format: c.format}, &out)
		log.Info("not this one")
		log.Warn("seen\u009b", "value", nasty)
		if !strings.Contains(out.String(), c.want) {
			t.Errorf("%s: the line %q does not contain %q", c.format, out.String(), c.want)
		}
		if strings.Contains(out.String(), "not this") {
			t.Errorf("%s: a line below the level was written", c.format)
		}
		clean(t, out.Bytes())
	}
}

func TestLogLevels(t *testing.T) {
	for level, want := range map[string]int{"debug": 4, "info": 3, "warn": 2, "error": 1} {
		var out bytes.Buffer
		log := NewLog(config.Log{Level: level, Format: "text"}, &out)
		log.Debug("")
		log.Info("")
		log.Warn("")
		log.Error("")
		if n := strings.Count(out.String(), "\n"); n != want {
			t.Errorf("level %s writes %d of 4 lines, want %d", level, n, want)
		}
	}
}

// clean checks that lines hold no control byte.
func clean(t *testing.T, lines []byte) {
	t.Helper()
	for i, r := range string(lines) {
		if r < ' ' && r != '\n' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			t.Fatalf("%q has a control character at %d", lines, i)
		}
	}
}

func FuzzLogger(f *testing.F) {
	f.Add("\x00\x1b\x7f\u0085\xc2", "\u2028\"\\")
	f.Fuzz(func(t *testing.T, message, value string) {
		var out bytes.Buffer
		NewLog(config.Log{Level: "info", Format: "json"}, &out).Info(message, "value", value)
		clean(t, out.Bytes())
		if bytes.Count(out.Bytes(), []byte("\n")) != 1 || !json.Valid(out.Bytes()) {
			t.Fatalf("%q is not one line of JSON", out.Bytes())
		}
		out.Reset()
		NewLog(config.Log{Level: "info", Format: "text"}, &out).Info(message, "value", value)
		clean(t, out.Bytes())
		if bytes.Count(out.Bytes(), []byte("\n")) != 1 {
			t.Fatalf("%q is not one line", out.Bytes())
		}
	})
}

// TestLogConfigure: a reload changes what loggers write that were derived
// before it.
func TestLogConfigure(t *testing.T) {
	var out bytes.Buffer
	log := NewLog(config.Log{Level: "warn", Format: "text"}, &out)
	derived := log.With("room", "front").WithGroup("g")
	derived.Info("not this one")
	log.Configure(config.Log{Level: "info", Format: "json"})
	derived.Info("this one", "k", 1)
	var line map[string]any
	if err := json.Unmarshal(out.Bytes(), &line); err != nil {
		t.Fatalf("%v: %q", err, out.String())
	}
	if g, ok := line["g"].(map[string]any); line["msg"] != "this one" || line["room"] != "front" || !ok || g["k"] != 1.0 {
		t.Errorf("the line is %v", line)
	}
}
