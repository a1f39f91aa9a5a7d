package mtls

import "testing"

func FuzzParse(f *testing.F) {
	for _, s := range []string{
		`By=spiffe://a;Hash=e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855;Subject="CN=a,O=b";URI=spiffe://c;DNS=d`,
		`Subject="a\"b",DNS=x`, `Cert="%2D%2D"`, `=`, `a`, `;,;`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parse(text)
		if err == nil && got.thumbprint == "" && got.subject == "" && len(got.names) == 0 {
			t.Error("a certificate without traits")
		}
	})
}
