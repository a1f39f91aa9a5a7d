package h2

import (
	"net"
	"os/exec"
	"testing"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// TestSpec runs h2spec, whole but for section 5.3 of RFC 7540: its two cases
// want a stream that depends on itself to be an error, and that scheme of
// priorities is obsolete and ignored (RFC 9113, section 5.3).
func TestSpec(t *testing.T) {
	if testing.Short() {
		t.Skip("h2spec takes some seconds")
	}
	r := newRig(t, tableLimits(), func(x *exchange.Exchange) {
		if x.Request.Body == exchange.NoBody {
			reply(x, "hello\n")
			return
		}
		echo(x)
	})
	host, port, err := net.SplitHostPort(r.address)
	if err != nil {
		t.Fatal(err)
	}
	args := []string{
		"tool", "-modfile=../../tools/go.mod", "h2spec", "-h", host, "-p", port, "-o", "2",
		"generic", "hpack", "http2/3", "http2/4", "http2/5.1", "http2/5.4", "http2/5.5", "http2/6", "http2/7", "http2/8",
	}
	out, err := exec.CommandContext(t.Context(), "go", args...).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	} else {
		t.Logf("%s", out[max(0, len(out)-100):])
	}
}
