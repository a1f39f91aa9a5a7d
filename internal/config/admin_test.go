package config_test

import (
	"fmt"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/config"
)

// No route leads to the admin address, however its endpoint is written.
func TestNoRouteLeadsToTheAdminAddress(t *testing.T) {
	for _, c := range []struct {
		admin, url string
		same       bool
	}{
		{"127.0.0.1:9901", "http://127.0.0.1:9901", true},
		{"127.0.0.1:9901", "tcp://127.0.0.1:9901", true},
		{"127.0.0.1:9901", "http://localhost:9901", true},
		{"127.0.0.1:9901", "http://LOCALHOST.:9901", true},
		{"127.0.0.1:9901", "http://127.9.9.9:9901", true},
		{"127.0.0.1:9901", "http://[::1]:9901", true},
		{"127.0.0.1:9901", "http://[::ffff:127.0.0.1]:9901", true},
		{"127.0.0.1:9901", "http://0.0.0.0:9901", true},
		{":9901", "http://127.0.0.1:9901", true},
		{"0.0.0.0:9901", "http://[::]:9901", true},
		{"admin.internal:9901", "http://Admin.Internal:9901", true},
		{"10.0.0.1:9901", "http://10.0.0.1:9901", true},
		{"unix:/run/admin.sock", "http://unix:/run/admin.sock", true},
		{"127.0.0.1:9901", "http://127.0.0.1:9902", false},
		{"127.0.0.1:9901", "http://10.0.0.1:9901", false},
		{"10.0.0.1:9901", "http://127.0.0.1:9901", false},
		{"unix:/run/admin.sock", "http://unix:/run/other.sock", false},
		{"127.0.0.1:80", "http://127.0.0.1", true},
	} {
		for _, text := range []string{
			"routes: [{ match: /*, upstream: '%s' }]",
			"routes: [{ match: /*, split: [{ upstream: '%s' }] }]",
			"upstreams: { a: { endpoints: ['%s'] } }\nroutes: [{ match: /*, mirror: { upstream: a }, upstream: http://10.0.0.9 }]",
		} {
			_, faults := config.Parse("a.yaml", []byte(fmt.Sprintf("admin: { address: '%s' }\n"+text+"\n", c.admin, c.url)), catalog())
			if got := strings.Contains(faults.Error(), "is the admin address"); got != c.same {
				t.Errorf("admin at %s, %s: %v", c.admin, c.url, faults)
			}
		}
	}
	_, faults := config.Parse("a.yaml", []byte("admin: off\nroutes: [{ match: /*, upstream: 'http://127.0.0.1:9901' }]\n"), catalog())
	if faults.Fatal() {
		t.Errorf("without an admin address: %v", faults)
	}
}
