package config_test

import (
	"fmt"
	"strings"
	"testing"

	"gatehouse.dev/gatehouse/internal/config"
)

func TestParseEndpoints(t *testing.T) {
	for _, c := range []struct{ text, want, fault string }{
		{"", "", ""},
		{"[]", "", ""},
		{"# nothing yet\n", "", ""},
		{"- http://10.0.0.1:80\n- { url: https://a.example, weight: 3, zone: eu-1, priority: 1 }\n", "http://10.0.0.1:80 1  0, https://a.example 3 eu-1 1", ""},
		{"[http://10.0.0.1]", "http://10.0.0.1 1  0", ""},
		{"endpoints: []", "", "list"},
		{"- 10.0.0.1:80", "", "1:3: [0]: \"10.0.0.1:80\" is not a URL"},
		{"- { url: http://a, wieght: 2 }", "", "did you mean \"weight\"?"},
		{"- { url: http://a, weight: 0 }", "", "out of range"},
		{"- ", "", "has no value"},
		{"- http://a\n---\n- http://b", "", "second YAML document"},
		{"- [", "", "f.yaml"},
	} {
		list, err := config.ParseEndpoints("f.yaml", []byte(c.text))
		if c.fault != "" {
			if err == nil || !strings.Contains(err.Error(), c.fault) {
				t.Errorf("%q: error %v, want %q", c.text, err, c.fault)
			}
			continue
		}
		var got []string
		for _, e := range list {
			got = append(got, strings.Join([]string{e.URL, string(rune('0' + e.Weight)), e.Zone, string(rune('0' + e.Priority))}, " "))
		}
		if s := strings.Join(got, ", "); err != nil || s != c.want {
			t.Errorf("%q: %q, %v, want %q", c.text, s, err, c.want)
		}
	}
}

func FuzzParseEndpoints(f *testing.F) {
	f.Add([]byte("- http://10.0.0.1:80\n- { url: https://a.example, weight: 3, zone: eu-1 }\n"))
	f.Add([]byte("[]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := config.ParseEndpoints("f.yaml", data)
		if err != nil && list != nil {
			t.Error("a list as well as an error")
		}
		for _, e := range list {
			if e == nil || e.URL == "" || e.Weight < 1 || e.Weight > 1000 {
				t.Errorf("%q: %+v", data, e)
			}
		}
	})
}

// Who writes the list learns nothing of the gateway's environment.
func TestEndpointsHaveNoVariables(t *testing.T) {
	t.Setenv("SECRET", "s3cret")
	for _, text := range []string{"- http://${SECRET}.evil.example", "- { url: 'http://a.example', zone: '${SECRET}' }", "- http://${SECRET:-a}"} {
		list, err := config.ParseEndpoints("e.yaml", []byte(text+"\n"))
		if shown := fmt.Sprint(err); strings.Contains(shown, "s3cret") {
			t.Errorf("%s: %s", text, shown)
		}
		for _, e := range list {
			if strings.Contains(e.URL+e.Zone, "s3cret") {
				t.Errorf("%s: %+v", text, e)
			}
		}
	}
}
