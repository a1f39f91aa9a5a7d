package outboundauth

import (
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// TestSigV4 has requests of Amazon's own test suite for the algorithm.
func TestSigV4(t *testing.T) {
	const empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for _, v := range []struct{ name, method, path, query, signature string }{
		{"get-vanilla", "GET", "/", "", "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
		{"get-vanilla-query-order-key-case", "GET", "/", "Param2=value2&Param1=value1", "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"},
		{"post-vanilla", "POST", "/", "", "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"},
	} {
		x := exchange.Get()
		r := &x.Request
		r.Method, r.Path, r.Query, r.HasQuery, r.Authority = v.method, v.path, v.query, v.query != "", "example.amazonaws.com"
		s := &signer{&AWS{Region: "us-east-1", Service: "service", AccessKeyID: "AKIDEXAMPLE", SecretAccessKey: policy.NewSecret("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")}}
		s.sign(r, empty, time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC))
		want := "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, Signature=" + v.signature
		if got := r.Header.Known(exchange.Authorization); got != want {
			t.Errorf("%s: %s\nwant %s", v.name, got, want)
		}
		exchange.Put(x)
	}
}

func TestCanonicalQuery(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "a": "a=", "b=2&a=1&a=0": "a=0&a=1&b=2", "a=%7e&b=+": "a=~&b=%20", "a=%zz": "a=%25zz", "&&x=/": "x=%2F",
	} {
		if got := query(in); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
	s := &signer{&AWS{Service: "s3"}}
	if got := s.path("/a%20b"); got != "/a%20b" {
		t.Errorf("for S3: %q", got)
	}
	if s.Service = "x"; s.path("/a%20b/") != "/a%2520b/" || !strings.HasPrefix(s.path(""), "/") {
		t.Errorf("for others: %q", s.path("/a%20b/"))
	}
}
