package h1test

import "strings"

// Answer is what an upstream sends in answer to a GET.
type Answer struct {
	Name  string
	Bytes string
	// InBody says that the head is in order and the body is not: the client
	// may have been sent the head, and must be able to see that the answer is
	// cut. The others become a 502.
	InBody bool
}

const ok = "HTTP/1.1 200 OK\r\n"

// MalformedAnswers is the table of answers not to trust. After each the
// connection ends or hangs; it must never be used again. The limits are
// HeaderBytes 8192 and Headers 50.
var MalformedAnswers = []Answer{
	{"nothing", "", false},
	{"half a status line", "HTTP/1.1 20", false},
	{"head without an end", ok + "A: b\r\n", false},
	{"another protocol", "ICY 200 OK\r\n\r\n", false},
	{"no protocol", "200 OK\r\n\r\n", false},
	{"HTTP/0.9", "<html>hello</html>", false},
	{"version 2.0", "HTTP/2.0 200 OK\r\n\r\n", false},
	{"version 1.2", "HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n", false},
	{"version in lower case", "http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false},
	{"two spaces before the status", "HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n", false},
	{"tab before the status", "HTTP/1.1\t200 OK\r\nContent-Length: 0\r\n\r\n", false},
	{"status of two digits", "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n", false},
	{"status of four digits", "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n", false},
	{"status with a letter", "HTTP/1.1 2o0 OK\r\nContent-Length: 0\r\n\r\n", false},
	{"negative status", "HTTP/1.1 -20 OK\r\nContent-Length: 0\r\n\r\n", false},
	{"status 000", "HTTP/1.1 000 OK\r\nContent-Length: 0\r\n\r\n", false},
	{"status 099", "HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n", false},
	{"status 600", "HTTP/1.1 600 OK\r\nContent-Length: 0\r\n\r\n", false},
	{"no status", "HTTP/1.1\r\nContent-Length: 0\r\n\r\n", false},
	{"NUL in the reason", "HTTP/1.1 200 O\x00K\r\nContent-Length: 0\r\n\r\n", false},
	{"bare CR in the reason", "HTTP/1.1 200 O\rK\r\nContent-Length: 0\r\n\r\n", false},
	{"status line that ends in LF", "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n", false},
	{"head of LF alone", "HTTP/1.1 200 OK\nContent-Length: 0\n\n", false},
	{"empty line first", "\r\n" + ok + "Content-Length: 0\r\n\r\n", false},
	{"length beside coding", ok + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + last, false},
	{"two unequal lengths", ok + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", false},
	{"two equal lengths", ok + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", false},
	{"list of lengths", ok + "Content-Length: 5, 5\r\n\r\nhello", false},
	{"length with plus", ok + "Content-Length: +5\r\n\r\nhello", false},
	{"length with minus", ok + "Content-Length: -1\r\n\r\n", false},
	{"empty length", ok + "Content-Length:\r\n\r\n", false},
	{"length over 63 bits", ok + "Content-Length: 9223372036854775808\r\n\r\n", false},
	{"unknown coding", ok + "Transfer-Encoding: gzip\r\n\r\n", false},
	{"unknown coding before chunked", ok + "Transfer-Encoding: gzip, chunked\r\n\r\n" + last, false},
	{"chunked twice", ok + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + last, false},
	{"coding in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + last, false},
	{"204 with a length", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", false},
	{"204 with a coding", "HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n" + last, false},
	{"unasked 101", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", false},
	{"interim answer with a body", "HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\nhello" + ok + "Content-Length: 0\r\n\r\n", false},
	{"interim answers without an end", strings.Repeat("HTTP/1.1 103 Early Hints\r\n\r\n", 1000), false},
	{"folded field", ok + "A: b\r\n c\r\nContent-Length: 0\r\n\r\n", false},
	{"space before colon", ok + "A : b\r\nContent-Length: 0\r\n\r\n", false},
	{"length with space before the colon", ok + "Content-Length : 5\r\n\r\nhello", false},
	{"no colon", ok + "A\r\nContent-Length: 0\r\n\r\n", false},
	{"name that is no token", ok + "A(b): c\r\nContent-Length: 0\r\n\r\n", false},
	{"NUL in value", ok + "A: b\x00\r\nContent-Length: 0\r\n\r\n", false},
	{"bare CR in value", ok + "A: b\rc\r\nContent-Length: 0\r\n\r\n", false},
	{"bare LF in value", ok + "A: b\nc\r\nContent-Length: 0\r\n\r\n", false},
	{"too many fields", ok + strings.Repeat("A: b\r\n", 60) + "Content-Length: 0\r\n\r\n", false},
	{"head too large", ok + "A: " + strings.Repeat("b", 9000) + "\r\nContent-Length: 0\r\n\r\n", false},
	{"body shorter than its length", ok + "Content-Length: 500\r\n\r\nhello", true},
	{"no chunk at all", ok + "Transfer-Encoding: chunked\r\n\r\n", true},
	{"chunk size that is no number", ok + "Transfer-Encoding: chunked\r\n\r\nhello\r\n" + last, true},
	{"chunk longer than its size", ok + "Transfer-Encoding: chunked\r\n\r\n4\r\nhello\r\n" + last, true},
	{"chunk without its end", ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhel", true},
	{"no last chunk", ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", true},
	{"chunk line that ends in LF", ok + "Transfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n", true},
	{"trailer without an end", ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n", true},
	{"trailer that is no field", ok + "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nhello\r\n\r\n", true},
}
