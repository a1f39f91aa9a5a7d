package h1test

// Odd is a request that looks odd and must be taken.
type Odd struct {
	Name, Bytes string

	Method, Host, Path, Query string
	Fields                    string // "Name: value" lines as they must be seen, each ended by LF
	Body                      string
	Upgrade                   string
}

// OddRequests is the table of requests to take. What it says of fields leaves
// out those that the protocol keeps to itself: Host, framing, Expect, Upgrade.
var OddRequests = []Odd{
	{Name: "empty line first", Bytes: "\r\n" + get + end, Method: "GET", Host: "a.example", Path: "/"},
	{Name: "HTTP/1.0 without Host", Bytes: "GET / HTTP/1.0\r\n\r\n", Method: "GET", Path: "/"},
	{Name: "HTTP/1.0 with Host", Bytes: "GET / HTTP/1.0\r\nHost: a.example\r\n\r\n", Method: "GET", Host: "a.example", Path: "/"},
	{Name: "later minor version", Bytes: "GET / HTTP/1.9\r\nHost: a.example\r\n\r\n", Method: "GET", Host: "a.example", Path: "/"},
	{Name: "unknown method", Bytes: "M-SEARCH / HTTP/1.1\r\nHost: a.example\r\n\r\n", Method: "M-SEARCH", Host: "a.example", Path: "/"},
	{Name: "method in lower case", Bytes: "get / HTTP/1.1\r\nHost: a.example\r\n\r\n", Method: "get", Host: "a.example", Path: "/"},
	{Name: "empty query", Bytes: "GET /? HTTP/1.1\r\nHost: a.example\r\n\r\n", Method: "GET", Host: "a.example", Path: "/"},
	{Name: "question mark in query", Bytes: "GET /a?b?c HTTP/1.1\r\nHost: a.example\r\n\r\n", Method: "GET", Host: "a.example", Path: "/a", Query: "b?c"},
	{Name: "target with unwise characters", Bytes: "GET /a|b?{c}\"^` HTTP/1.1\r\nHost: a.example\r\n\r\n", Method: "GET", Host: "a.example", Path: "/a|b", Query: "{c}\"^`"},
	{Name: "two slashes first", Bytes: "GET //b.example/c HTTP/1.1\r\nHost: a.example\r\n\r\n", Method: "GET", Host: "a.example", Path: "//b.example/c"},
	{Name: "absolute target", Bytes: "GET http://a.example/b?c HTTP/1.1\r\nHost: a.example\r\n\r\n", Method: "GET", Host: "a.example", Path: "/b", Query: "c"},
	{Name: "absolute target in other case", Bytes: "GET HTTP://A.Example:80/b HTTP/1.1\r\nHost: a.example:80\r\n\r\n", Method: "GET", Host: "a.example", Path: "/b"},
	{Name: "absolute target without path", Bytes: "GET http://a.example HTTP/1.1\r\nHost: a.example\r\n\r\n", Method: "GET", Host: "a.example", Path: "/"},
	{Name: "absolute target of a query alone", Bytes: "GET http://a.example?b HTTP/1.1\r\nHost: a.example\r\n\r\n", Method: "GET", Host: "a.example", Path: "/", Query: "b"},
	{Name: "absolute target in HTTP/1.0 without Host", Bytes: "GET http://a.example/b HTTP/1.0\r\n\r\n", Method: "GET", Host: "a.example", Path: "/b"},
	{Name: "asterisk", Bytes: "OPTIONS * HTTP/1.1\r\nHost: a.example\r\n\r\n", Method: "OPTIONS", Host: "a.example", Path: "*"},
	{Name: "absolute target that means an asterisk", Bytes: "OPTIONS http://a.example HTTP/1.1\r\nHost: a.example\r\n\r\n", Method: "OPTIONS", Host: "a.example", Path: "*"},
	{Name: "Host in upper case with port", Bytes: "GET / HTTP/1.1\r\nHOST: A.Example:8080\r\n\r\n", Method: "GET", Host: "a.example", Path: "/"},
	{Name: "Host with final dot", Bytes: "GET / HTTP/1.1\r\nHost: a.example.\r\n\r\n", Method: "GET", Host: "a.example", Path: "/"},
	{Name: "Host with underscore", Bytes: "GET / HTTP/1.1\r\nHost: my_service\r\n\r\n", Method: "GET", Host: "my_service", Path: "/"},
	{Name: "Host that is IPv6", Bytes: "GET / HTTP/1.1\r\nHost: [2001:DB8::1]:80\r\n\r\n", Method: "GET", Host: "[2001:db8::1]", Path: "/"},
	{Name: "Host between white space", Bytes: "GET / HTTP/1.1\r\nHost:\t a.example \t\r\n\r\n", Method: "GET", Host: "a.example", Path: "/"},
	{Name: "value without white space", Bytes: get + "A:b\r\n\r\n", Method: "GET", Host: "a.example", Path: "/", Fields: "A: b\n"},
	{Name: "empty value", Bytes: get + "A:\r\nB: \t \r\n\r\n", Method: "GET", Host: "a.example", Path: "/", Fields: "A: \nB: \n"},
	{Name: "colons and tabs in value", Bytes: get + "A: b:\tc : d\r\n\r\n", Method: "GET", Host: "a.example", Path: "/", Fields: "A: b:\tc : d\n"},
	{Name: "long value with a tab in every place", Bytes: get + "A: \t0\t23\t5\t\t8\tabcdefgh\tijklmnopqrstu\tv\r\n\r\n", Method: "GET", Host: "a.example", Path: "/", Fields: "A: 0\t23\t5\t\t8\tabcdefgh\tijklmnopqrstu\tv\n"},
	{Name: "value outside ASCII", Bytes: get + "A: \u00e4\xff\r\n\r\n", Method: "GET", Host: "a.example", Path: "/", Fields: "A: \u00e4\xff\n"},
	{Name: "name of odd characters", Bytes: get + "!#$%&'*+-.^_`|~1: b\r\n\r\n", Method: "GET", Host: "a.example", Path: "/", Fields: "!#$%&'*+-.^_`|~1: b\n"},
	{Name: "order, case and repetition", Bytes: get + "x-A: 1\r\nX-b: 2\r\nX-a: 3\r\n\r\n", Method: "GET", Host: "a.example", Path: "/", Fields: "x-A: 1\nX-b: 2\nX-a: 3\n"},
	{Name: "GET with a body", Bytes: get + "Content-Length: 5\r\n\r\nhello", Method: "GET", Host: "a.example", Path: "/", Body: "hello"},
	{Name: "length with leading zeros", Bytes: post + "Content-Length: 0005\r\n\r\nhello", Method: "POST", Host: "a.example", Path: "/", Body: "hello"},
	{Name: "length named by Connection", Bytes: post + "Connection: Content-Length\r\nContent-Length: 5\r\n\r\nhello", Method: "POST", Host: "a.example", Path: "/", Fields: "Connection: Content-Length\n", Body: "hello"},
	{Name: "coding named by Connection", Bytes: post + "Connection: transfer-encoding, host\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Method: "POST", Host: "a.example", Path: "/", Fields: "Connection: transfer-encoding, host\n", Body: "hello"},
	{Name: "coding in upper case", Bytes: post + "TRANSFER-ENCODING: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n", Method: "POST", Host: "a.example", Path: "/", Body: "hello"},
	{Name: "chunk sizes in both cases with zeros", Bytes: te + "00a\r\n0123456789\r\n0A\r\n0123456789\r\n000\r\n\r\n", Method: "POST", Host: "a.example", Path: "/", Body: "01234567890123456789"},
	{Name: "chunk extensions", Bytes: te + "5;a=b;c=\"d;e\"; f\r\nhello\r\n0;g\r\n\r\n", Method: "POST", Host: "a.example", Path: "/", Body: "hello"},
	{Name: "empty chunked body", Bytes: te + last, Method: "POST", Host: "a.example", Path: "/"},
	{Name: "POST without a body", Bytes: post + end, Method: "POST", Host: "a.example", Path: "/"},
	{Name: "expectation without a body", Bytes: get + "Expect: 100-continue\r\n\r\n", Method: "GET", Host: "a.example", Path: "/"},
	{Name: "expectation in HTTP/1.0", Bytes: "POST / HTTP/1.0\r\nHost: a.example\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nhello", Method: "POST", Host: "a.example", Path: "/", Body: "hello"},
	{Name: "upgrade", Bytes: get + "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n", Method: "GET", Host: "a.example", Path: "/", Fields: "Connection: keep-alive, Upgrade\n", Upgrade: "websocket"},
	{Name: "upgrade that Connection does not name", Bytes: get + "Upgrade: websocket\r\n\r\n", Method: "GET", Host: "a.example", Path: "/"},
	{Name: "upgrade in HTTP/1.0", Bytes: "GET / HTTP/1.0\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", Method: "GET", Host: "a.example", Path: "/", Fields: "Connection: Upgrade\n"},
	{Name: "upgrade to h2c", Bytes: get + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n", Method: "GET", Host: "a.example", Path: "/", Fields: "Connection: Upgrade, HTTP2-Settings\nHTTP2-Settings: AAMAAABkAAQAAP__\n"},
	{Name: "upgrade to h2c among others", Bytes: get + "Connection: Upgrade\r\nUpgrade: H2C, websocket, HTTP/2.0, TLS/1.0, irc/6.9\r\n\r\n", Method: "GET", Host: "a.example", Path: "/", Fields: "Connection: Upgrade\n", Upgrade: "websocket, irc/6.9"},
	{Name: "upgrade twice", Bytes: get + "Connection: Upgrade\r\nUpgrade: websocket\r\nUpgrade: h2c\r\n\r\n", Method: "GET", Host: "a.example", Path: "/", Fields: "Connection: Upgrade\n"},
	{Name: "upgrade that is no list of protocols", Bytes: get + "Connection: Upgrade\r\nUpgrade: web socket\r\n\r\n", Method: "GET", Host: "a.example", Path: "/", Fields: "Connection: Upgrade\n"},
	{Name: "upgrade with a body", Bytes: post + "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nhello", Method: "POST", Host: "a.example", Path: "/", Fields: "Connection: Upgrade\n", Body: "hello"},
}
