package upstreamauth

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/policy"
)

// The examples that AWS publishes: those of its test suite for Signature
// Version 4, of the guide's walk through the calculation, and of Amazon S3's
// pages on the Authorization header.
func TestPublishedSignatures(t *testing.T) {
	suite := &signer{id: "AKIDEXAMPLE", secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", region: "us-east-1", service: "service"}
	iam := &signer{id: "AKIDEXAMPLE", secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", region: "us-east-1", service: "iam"}
	s3 := &signer{id: "AKIAIOSFODNN7EXAMPLE", secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", region: "us-east-1", service: "s3", simple: true}
	const (
		when   = "20150830T123600Z"
		whenS3 = "20130524T000000Z"
		bucket = "examplebucket.s3.amazonaws.com"
		put    = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072"
	)
	for name, c := range map[string]struct {
		s                   *signer
		method, host, path  string
		query, at, hash     string
		fields              []string // name and value by turns
		names, want, prefix string
	}{
		"get-vanilla": {
			s: suite, method: "GET", host: "example.amazonaws.com", path: "/", at: when,
			names: "host;x-amz-date", want: "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
		},
		"post-vanilla": {
			s: suite, method: "POST", host: "example.amazonaws.com", path: "/", at: when,
			names: "host;x-amz-date", want: "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
		},
		"get-vanilla-query-order-key-case": {
			s: suite, method: "GET", host: "example.amazonaws.com", path: "/", query: "Param2=value2&Param1=value1", at: when,
			names: "host;x-amz-date", want: "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
		},
		"get-slashes": {
			s: suite, method: "GET", host: "example.amazonaws.com", path: "//", at: when,
			names: "host;x-amz-date", want: "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
		},
		"post-x-www-form-urlencoded": {
			s: suite, method: "POST", host: "example.amazonaws.com", path: "/", at: when, hash: hexSHA256([]byte("Param1=value1")),
			fields: []string{"Content-Type", "application/x-www-form-urlencoded"},
			names:  "content-type;host;x-amz-date", want: "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
		},
		"iam list users": {
			s: iam, method: "GET", host: "iam.amazonaws.com", path: "/", query: "Action=ListUsers&Version=2010-05-08", at: when,
			fields: []string{"Content-Type", "application/x-www-form-urlencoded; charset=utf-8"},
			names:  "content-type;host;x-amz-date", want: "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
		},
		"s3 get object": {
			s: s3, method: "GET", host: bucket, path: "/test.txt", at: whenS3,
			fields: []string{"Range", "bytes=0-9", amzHash, emptySHA256},
			names:  "host;range;x-amz-content-sha256;x-amz-date", want: "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
		},
		"s3 put object": {
			s: s3, method: "PUT", host: bucket, path: "/test$file.text", at: whenS3, hash: put,
			fields: []string{"Date", "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class", "REDUCED_REDUNDANCY", amzHash, put},
			names:  "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class", want: "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
		},
		"s3 get lifecycle": {
			s: s3, method: "GET", host: bucket, path: "/", query: "lifecycle", at: whenS3, fields: []string{amzHash, emptySHA256},
			names: "host;x-amz-content-sha256;x-amz-date", want: "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
		},
		"s3 list objects": {
			s: s3, method: "GET", host: bucket, path: "/", query: "max-keys=2&prefix=J", at: whenS3, fields: []string{amzHash, emptySHA256},
			names: "host;x-amz-content-sha256;x-amz-date", want: "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := &exchange.Request{Method: c.method, Authority: c.host, Path: encode(c.path, "/", true)}
			r.Header.Add(amzDate, c.at)
			for i := 0; i < len(c.fields); i += 2 {
				r.Header.Add(c.fields[i], c.fields[i+1])
			}
			if c.hash == "" {
				c.hash = emptySHA256
			}
			got := c.s.authorization(r, queryPairs(c.query), c.at, c.hash, strings.Split(c.names, ";"))
			want := "AWS4-HMAC-SHA256 Credential=" + c.s.id + "/" + c.at[:8] + "/us-east-1/" + c.s.service + "/aws4_request, SignedHeaders=" + c.names + ", Signature=" + c.want
			if got != want {
				t.Errorf("%s\nwant\n%s\nof\n%s", got, want, c.s.canonical(r, queryPairs(c.query), c.hash, strings.Split(c.names, ";")))
			}
		})
	}
	if got := hex.EncodeToString(iam.signingKey("20150830")); got != "c4afb1cc5771d871763a393e44b703571b55cc28424d1a5e86da6ed3c154a4b9" {
		t.Errorf("the day's key is %s", got)
	}
}

func TestCanonicalForms(t *testing.T) {
	for in, want := range map[string]string{
		"":                              "",
		"?":                             "%3F=",
		"a":                             "a=",
		"a=b=c":                         "a=b%3Dc",
		"b=2&a=1&&a=":                   "b=2&a=1&a=",
		"q=a+b&c=%2B":                   "q=a%20b&c=%2B",
		"x=%zz&y=%":                     "x=%25zz&y=%25",
		"x=%c3%a9&y=é":                  "x=%C3%A9&y=%C3%A9",
		"x=%7e%2F/;":                    "x=~%2F%2F%3B",
		"a=1&X-Amz-Signature=f&b=2":     "a=1&b=2",
		"x%2damz-credential=f":          "",
		"X-Amz-Security-Token&list=all": "list=all",
	} {
		if got := strings.Join(queryPairs(in), "&"); got != want {
			t.Errorf("query %q became %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{
		"/": "/", "/a b": "/a%20b", "/a%2fb%2Fc": "/a%2Fb%2Fc", "/a+b=c": "/a%2Bb%3Dc", "/%e1%88%b4": "/%E1%88%B4", "/%41%": "/A%25",
	} {
		if got := encode(in, "/", true); got != want {
			t.Errorf("path %q became %q, want %q", in, got, want)
		}
	}
	s := &signer{service: "execute-api"}
	r := &exchange.Request{Method: "GET", Authority: "h", Path: "/a//b%20c"}
	if got := strings.Split(s.canonical(r, nil, "", nil), "\n")[1]; got != "/a/b%2520c" {
		t.Errorf("a path is signed as %q", got)
	}
	r.Header.Add("X-Amz-Meta-A", "  one   two ")
	r.Header.Add("x-amz-meta-a", "three")
	if got := s.canonical(r, nil, "", []string{"x-amz-meta-a"}); !strings.Contains(got, "x-amz-meta-a:one two,three\n") {
		t.Errorf("lines of one field: %q", got)
	}
}

// Whatever the client writes, what is sent has one reading: it is the reading
// that net/url has of it, and writing it again changes nothing.
func FuzzQuery(f *testing.F) {
	for _, s := range []string{"a=1&b=2", "a+b=%zz", "%26=%3d&=&&", "X-Amz-Date=1", "é=%C3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, query string) {
		sent := strings.Join(queryPairs(query), "&")
		if again := strings.Join(queryPairs(sent), "&"); again != sent {
			t.Errorf("%q became %q and then %q", query, sent, again)
		}
		values, err := url.ParseQuery(sent)
		if err != nil {
			t.Fatalf("%q became %q: %v", query, sent, err)
		}
		for name := range values {
			if presigned(name) {
				t.Errorf("%q became %q", query, sent)
			}
		}
		path := encode(query, "/", true)
		if again := encode(path, "/", true); again != path {
			t.Errorf("path %q became %q and then %q", query, path, again)
		}
		if _, err := url.PathUnescape(path); err != nil {
			t.Errorf("path %q became %q: %v", query, path, err)
		}
	})
}

func TestSigningKeyFollowsTheDay(t *testing.T) {
	s := &signer{secret: "s", region: "r", service: "x", host: "h", now: func() time.Time { return time.Date(2026, 1, 1, 23, 59, 59, 0, time.UTC) }}
	one := string(s.signingKey("20260101"))
	if two := string(s.signingKey("20260102")); one == two || one != string(s.signingKey("20260101")) {
		t.Error("the key does not follow the day")
	}
}

// received is a request as a service gets it.
type received struct {
	method, target, host, body string
	header                     exchange.Header
}

// checked verifies a signature as AWS documents it, with nothing of what signs:
// from the bytes that came, and all fields that say they are signed.
func checked(t *testing.T, q *received, secret string) error {
	t.Helper()
	auth, ok := strings.CutPrefix(q.header.Get("Authorization"), "AWS4-HMAC-SHA256 Credential=")
	credential, rest, ok2 := strings.Cut(auth, ", SignedHeaders=")
	names, signature, ok3 := strings.Cut(rest, ", Signature=")
	scope := strings.Split(credential, "/")
	if !ok || !ok2 || !ok3 || len(scope) != 5 {
		return fmt.Errorf("authorization %q", q.header.Get("Authorization"))
	}
	date, region, service := scope[1], scope[2], scope[3]
	escape := func(text string) string {
		var b strings.Builder
		for _, c := range []byte(text) {
			if strings.IndexByte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~", c) >= 0 {
				b.WriteByte(c)
			} else {
				fmt.Fprintf(&b, "%%%02X", c)
			}
		}
		return b.String()
	}
	path, query, _ := strings.Cut(q.target, "?")
	if service != "s3" {
		parts := strings.Split(path, "/")
		for i := range parts {
			parts[i] = escape(parts[i])
		}
		path = strings.Join(parts, "/")
	}
	values, err := url.ParseQuery(query)
	if err != nil {
		return err
	}
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		escaped := make([]string, 0, len(values[name]))
		for _, v := range values[name] {
			escaped = append(escaped, escape(v))
		}
		slices.Sort(escaped)
		for _, v := range escaped {
			pairs = append(pairs, escape(name)+"="+v)
		}
	}
	canonical := q.method + "\n" + path + "\n" + strings.Join(pairs, "&") + "\n"
	for name := range strings.SplitSeq(names, ";") {
		lines := slices.Collect(q.header.Values(name))
		if name == "host" {
			lines = []string{q.host}
		}
		if len(lines) == 0 {
			return fmt.Errorf("%s is signed and did not come", name)
		}
		for i := range lines {
			lines[i] = strings.Join(strings.Fields(lines[i]), " ")
		}
		canonical += name + ":" + strings.Join(lines, ",") + "\n"
	}
	hash := q.header.Get("X-Amz-Content-Sha256")
	if sum := sha256.Sum256([]byte(q.body)); hash != "UNSIGNED-PAYLOAD" && hash != hex.EncodeToString(sum[:]) {
		return fmt.Errorf("the body is another than the one of %s", hash)
	}
	for name := range q.header.All() {
		if lower := strings.ToLower(name); strings.HasPrefix(lower, "x-amz-") && !slices.Contains(strings.Split(names, ";"), lower) {
			return fmt.Errorf("%s is not signed", name)
		}
	}
	canonical += "\n" + names + "\n" + hash
	sum := sha256.Sum256([]byte(canonical))
	text := "AWS4-HMAC-SHA256\n" + q.header.Get("X-Amz-Date") + "\n" + strings.Join(scope[1:], "/") + "\n" + hex.EncodeToString(sum[:])
	key := []byte("AWS4" + secret)
	for _, part := range []string{date, region, service, "aws4_request", text} {
		m := hmac.New(sha256.New, key)
		m.Write([]byte(part))
		key = m.Sum(nil)
	}
	if hex.EncodeToString(key) != signature {
		return fmt.Errorf("the signature is not that of\n%s", canonical)
	}
	return nil
}

// Whatever a client asks, the service that gets it finds the signature right.
func TestSignaturesHold(t *testing.T) {
	for _, service := range []string{"s3", "execute-api"} {
		s := &signer{id: "AKID", secret: "secret", session: "t/+=", region: "eu-central-1", service: service, simple: service == "s3", hold: 1 << 10, fields: []string{"x-amz-meta-*", "x-amz-target"}, now: time.Now}
		for _, target := range []string{
			"/", "/a%20b", "/a+b", "/a%2Fb/c", "/%E1%88%B4", "/\xe1\x88\xb4", "/a*b'(c)!", "/a:b@c$d&e,f;g=h", "/~user/%7Euser", "/a%", "/a%zz",
			"/?b=2&a=1&a=0", "/?a-b=1&a=2&a.b=3&a%20b=4&A=5", "/?a=b+c&d=%2B", "/?a", "/?a=&=b&&", "/?x=%zz&y=%", "/?q=\xc3\xa9&r=%c3%a9", "/?a=b=c&d=/:@",
			"/?X-Amz-Signature=mine&X-Amz-Date=x&a=1", "/?",
		} {
			for _, body := range []string{"", "hello"} {
				x := exchange.Get()
				r := &x.Request
				r.Method, r.Authority = "POST", "bucket.test:8443"
				r.Path, r.Query, r.HasQuery = strings.Cut(target, "?")
				r.Header.Add("Content-Type", "text/plain;  charset=utf-8")
				r.Header.Add("X-Amz-Meta-A", "two   spaces")
				r.Header.Add("x-amz-meta-a", "second line")
				r.Header.Add("X-Amz-Target", "T")
				r.Header.Add("X-Amz-Acl", "public-read")
				r.Header.Add("X-Amz-Date", "20000101T000000Z")
				r.Header.Add("Authorization", "mine")
				r.Header.Add("Connection", "close")
				r.Body = exchange.Bytes([]byte(body))
				if s.Request(x) != policy.Next {
					t.Fatal(x.Problem)
				}
				q := &received{method: r.Method, target: r.Path, host: r.Authority, body: body, header: r.Header}
				if r.HasQuery {
					q.target += "?" + r.Query
				}
				if err := checked(t, q, "secret"); err != nil {
					t.Errorf("%s: %q with %q, sent as %q: %v", service, target, body, q.target, err)
				}
				exchange.Put(x)
			}
		}
	}
}

// Services that speak S3's protocol are signed as S3 is.
func TestKinOfS3(t *testing.T) {
	for service, simple := range map[string]bool{"s3": true, "s3-outposts": true, "s3-object-lambda": true, "s3express": true, "s3tables": false, "execute-api": false} {
		c := &SigV4{Region: "eu-central-1", Service: service, AccessKey: policy.NewSecret("AKID"), SecretKey: policy.NewSecret("secret"), MaxBody: 1 << 10}
		p, err := c.compile()
		if err != nil {
			t.Fatal(err)
		}
		if s := p.(*signer); s.simple != simple || (s.hold == 0) != simple {
			t.Errorf("%s: %v, holds %d", service, s.simple, s.hold)
		}
	}
}
