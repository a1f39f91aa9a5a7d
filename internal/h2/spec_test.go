package h2

import (
	"os"
	"os/exec"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
)

// TestServeByHand serves until it is killed; for trying things out.
func TestServeByHand(t *testing.T) {
	if os.Getenv("BYHAND") == "" {
		t.Skip("by hand")
	}
	r := newRig(t, tableLimits(), func(x *exchange.Exchange) {
		if x.Request.Body != exchange.NoBody {
			echo(x)
			return
		}
		reply(x, "hello\n")
	})
	t.Log(r.address)
	host, port := "127.0.0.1", r.address[len("127.0.0.1:"):]
	_ = host
	out, err := exec.Command("curl", "-sv", "--http2-prior-knowledge", "http://"+r.address+"/x?y").CombinedOutput()
	t.Logf("%s %v", out, err)
	out, err = exec.Command("curl", "-sv", "--http2-prior-knowledge", "-d", "@/etc/services", "http://"+r.address+"/x?y").CombinedOutput()
	t.Logf("%d %v", len(out), err)
	if os.Getenv("BYHAND") != "curl" {
		out, err = exec.Command("timeout", "120", os.Getenv("BYHAND"), "-h", "127.0.0.1", "-p", port, "-o", "1").CombinedOutput()
		t.Logf("%s %v", out, err)
	}
	time.Sleep(time.Millisecond)
}
