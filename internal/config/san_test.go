package config

import "testing"

func TestSAN(t *testing.T) {
	for text, want := range map[string]string{
		"Mobile.Example":          "dns:mobile.example",
		"dns:Mobile.Example":      "dns:mobile.example",
		"DNS:mobile.example":      "dns:mobile.example",
		"*.example":               "dns:*.example",
		"Ann@Example.COM":         "email:Ann@example.com",
		"email:Ann@Example.COM":   "email:Ann@example.com",
		"spiffe://Trust/Ns/A":     "uri:spiffe://trust/Ns/A",
		"URI:SPIFFE://trust/Ns/A": "uri:spiffe://trust/Ns/A",
		"urn:uuid:1":              "uri:urn:uuid:1",
		"uri:dns:a.example":       "uri:dns:a.example",
		"192.0.2.1":               "ip:192.0.2.1",
		"ip:::ffff:192.0.2.1":     "ip:192.0.2.1",
		"2001:DB8:0::1":           "ip:2001:db8::1",
		"dns:192.0.2.1":           "dns:192.0.2.1",
		"":                        "",
		"dns:":                    "",
		"dns:spiffe://a":          "",
		"dns:a@b":                 "",
		"email:a":                 "",
		"@b":                      "",
		"uri:a.example":           "",
		"ip:a.example":            "",
		"ip:fe80::1%eth0":         "",
		"a b":                     "",
	} {
		got, err := SAN(text)
		if got != want || (err != nil) != (want == "") {
			t.Errorf("%q: %q, %v; want %q", text, got, err, want)
		}
		if err == nil {
			if again, err := SAN(got); again != got || err != nil {
				t.Errorf("%q becomes %q, and that %q, %v", text, got, again, err)
			}
		}
	}
}

func FuzzSAN(f *testing.F) {
	for _, s := range []string{"a.example", "uri:spiffe://a/b", "email:a@b", "ip:::1", "uri:http://[::1]/%2f"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := SAN(text)
		if err != nil {
			return
		}
		if again, err := SAN(got); err != nil || again != got {
			t.Errorf("%q becomes %q, and that %q, %v", text, got, again, err)
		}
	})
}
