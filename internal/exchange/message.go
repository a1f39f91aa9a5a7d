package exchange

import (
	"io"
	"time"
)

// Proto is a version of HTTP, or what a connection that is passed on unopened
// carries.
type Proto uint8

// The protocol versions.
const (
	HTTP10 Proto = iota + 1
	HTTP11
	HTTP2
	HTTP3
	TCP       // whatever it is
	PassedTLS // TLS that the service ends
)

func (p Proto) String() string {
	switch p {
	case HTTP10:
		return "HTTP/1.0"
	case HTTP11:
		return "HTTP/1.1"
	case HTTP2:
		return "HTTP/2.0"
	case HTTP3:
		return "HTTP/3.0"
	case TCP:
		return "tcp"
	case PassedTLS:
		return "tls"
	}
	return ""
}

// Unknown is the Length of a body whose end is not known beforehand.
const Unknown = -1

// Request is a request as the gateway understands it. A protocol fills it in
// from what came, after its own strict checks; policies may change it; what is
// in it in the end is what the upstream receives.
type Request struct {
	Proto     Proto
	Method    string
	Scheme    string // "http" or "https": how the client came
	Authority string // host[:port] as the client wrote it: the one authority of the request
	Host      string // Authority's host in lower case, without port or final dot; an IPv6 address keeps its brackets
	RawPath   string // the path as it came, for logs
	Path      string // the normalised path; what is matched is what is sent
	Query     string // without the question mark, as it came
	HasQuery  bool   // a question mark was there
	Asterisk  bool   // OPTIONS * (RFC 9112, section 3.2.4); Path is "*"

	Header  Header // without Host; framing fields are the protocol's business
	Body    Body   // never nil; NoBody when there is none
	Length  int64  // of Body in bytes, or Unknown
	Trailer Header // complete once Body has ended

	// Own are fields that only the gateway sets. Policies remove them from
	// Header; see DropOwn for Trailer, which comes later.
	Own []Field

	Upgrade string // the protocol that the client asks to switch to, "" for none
	Expect  bool   // the client waits for 100 Continue before it sends the body

	Received int64 // bytes of the body that came so far

	// Lent says that another goroutine sends Body to the upstream and that
	// nobody else may use it, nor Trailer and Received, before the answer's
	// body is closed. A Body that can wait is then an Interrupter, and its
	// Close ends the effect of Interrupt.
	Lent bool
}

// DropOwn removes from the trailer what only the gateway sets: some services read
// it as if it stood in the head. It is for who sends the request on, once the
// body has ended.
func (r *Request) DropOwn() {
	for i := range r.Own {
		r.Trailer.DelLooked(r.Own[i].Name, r.Own[i].Known)
	}
}

// Reset empties the request and keeps its memory.
func (r *Request) Reset() {
	h, t := r.Header, r.Trailer
	h.Reset()
	t.Reset()
	*r = Request{Header: h, Trailer: t, Own: r.Own[:0], Body: NoBody}
}

// Response is the answer: the upstream's, a policy's or the gateway's own.
type Response struct {
	Status  int
	Header  Header // framing fields (Content-Length, Transfer-Encoding, Connection) are the protocol's business
	Body    Body   // never nil; NoBody when there is none
	Length  int64  // of Body in bytes, or Unknown; of a HEAD answer: what GET would have had
	Trailer Header // complete once Body has ended
	Taken   Header // fields that were meant for policies and taken off, for the next one that wants them
	Close   bool   // the client's connection must end with this answer
	Local   bool   // the gateway made it; no upstream did

	Sent      int64 // bytes of the body that went to the client
	HeadSent  bool  // the final head has been handed to the client's protocol
	Truncated bool  // the body broke off after the head was sent

	bytes bytesBody
}

// Reset empties the response and keeps its memory. It does not close Body.
func (r *Response) Reset() {
	h, t, taken := r.Header, r.Trailer, r.Taken
	h.Reset()
	t.Reset()
	taken.Reset()
	*r = Response{Header: h, Trailer: t, Taken: taken, Body: NoBody}
}

// SetBody makes p the whole body. p must not change until the answer is sent.
func (r *Response) SetBody(p []byte) {
	r.bytes = bytesBody{p}
	r.Body = &r.bytes
	r.Length = int64(len(p))
	r.Local = true
}

// Body is a message body that is pulled piece by piece. There is no copying
// through it: a piece is a view of the buffer that the bytes were read into.
type Body interface {
	// Next returns the next bytes, never an empty piece without an error.
	// They are valid until the following call. After the last piece it
	// returns io.EOF, and the message's Trailer is complete; any other error
	// means that the body is cut short. It blocks until bytes are there.
	Next() ([]byte, error)
	// Close ends the use of the body, whether or not it was read to its end.
	Close() error
}

// Ready is a Body that can tell whether Next would return without waiting.
// What was gathered for a client or an upstream is not held back for a body
// that is not ready, or cannot tell.
type Ready interface {
	Ready() bool
}

// NoBody is the body of a message that has none.
var NoBody Body = noBody{}

type noBody struct{}

func (noBody) Ready() bool { return true }

func (noBody) Next() ([]byte, error) { return nil, io.EOF }
func (noBody) Close() error          { return nil }

type bytesBody struct{ p []byte }

func (b *bytesBody) Next() ([]byte, error) {
	if len(b.p) == 0 {
		return nil, io.EOF
	}
	p := b.p
	b.p = nil
	return p, nil
}

func (b *bytesBody) Close() error { return nil }
func (b *bytesBody) Ready() bool  { return true }

// Bytes returns a body that holds p.
func Bytes(p []byte) Body { return &bytesBody{p} }

// Held returns the bytes of a body that is in memory as a whole, without
// reading it: that of a policy that holds it, or one that SetBody made. ok is
// false for any other body. The bytes must not be changed.
func Held(b Body) (p []byte, ok bool) {
	switch b := b.(type) {
	case *bytesBody:
		return b.p, true
	case noBody:
		return nil, true
	}
	return nil, false
}

// Downstream is what a protocol offers to answer one exchange. Its methods are
// called by the exchange's goroutine only. Writes are gathered: nothing needs
// to reach the client before Flush or Finish, or before the buffer is full.
//
// The order of calls is: any number of Inform; then either Upgrade, or
// WriteHead, any number of WriteBody, WriteFrom and Flush, and Finish. An error
// means that the client is gone; there is no use in further calls.
type Downstream interface {
	// Inform sends an interim answer (1xx, not 101) at once, where the
	// client's protocol version has them, and does nothing otherwise.
	Inform(status int, h *Header) error
	// WriteHead begins the final answer from x.Response: Status, Header and
	// Length decide its framing.
	WriteHead(x *Exchange) error
	// WriteBody writes a piece of the body; p is not kept. For HEAD, 204 and
	// 304 it does nothing.
	WriteBody(p []byte) error
	// WriteFrom writes the rest of x.Response.Body, flushing whenever the
	// body has no more to give at once. It may move the bytes without showing
	// them to anybody. readErr is the body's error, writeErr the client's;
	// both are nil at the body's end.
	WriteFrom(x *Exchange) (readErr, writeErr error)
	// Flush sends what was gathered.
	Flush() error
	// Finish ends the answer, with x.Response.Trailer where the protocol can
	// carry it, and sends what was gathered.
	Finish(x *Exchange) error
	// Abort ends an answer that cannot be completed, so that the client can
	// tell: the connection or stream is closed before its framing says so.
	Abort()
	// Upgrade answers 101 with x.Response.Header and hands over the
	// connection. Bytes that the client sent after its head come first.
	Upgrade(x *Exchange) (Stream, error)
}

// Stream is a two-way flow of bytes: an upgraded connection.
type Stream interface {
	io.Reader
	io.Writer
	CloseWrite() error // says that no more will be written
	Close() error
}

// StatusText returns the reason phrase of a status, or the name of its class.
func StatusText(status int) string {
	if s, ok := statusText[status]; ok {
		return s
	}
	switch status / 100 {
	case 1:
		return "Informational"
	case 2:
		return "Success"
	case 3:
		return "Redirection"
	case 4:
		return "Client Error"
	}
	return "Server Error"
}

// The registered reason phrases: RFC 9110, section 15, and RFCs 2518, 4918,
// 6585, 7725, 8297 and 8470.
var statusText = map[int]string{
	100: "Continue", 101: "Switching Protocols", 102: "Processing", 103: "Early Hints",
	200: "OK", 201: "Created", 202: "Accepted", 203: "Non-Authoritative Information", 204: "No Content",
	205: "Reset Content", 206: "Partial Content", 207: "Multi-Status", 208: "Already Reported", 226: "IM Used",
	300: "Multiple Choices", 301: "Moved Permanently", 302: "Found", 303: "See Other", 304: "Not Modified",
	305: "Use Proxy", 307: "Temporary Redirect", 308: "Permanent Redirect",
	400: "Bad Request", 401: "Unauthorized", 402: "Payment Required", 403: "Forbidden", 404: "Not Found",
	405: "Method Not Allowed", 406: "Not Acceptable", 407: "Proxy Authentication Required", 408: "Request Timeout",
	409: "Conflict", 410: "Gone", 411: "Length Required", 412: "Precondition Failed", 413: "Content Too Large",
	414: "URI Too Long", 415: "Unsupported Media Type", 416: "Range Not Satisfiable", 417: "Expectation Failed",
	421: "Misdirected Request", 422: "Unprocessable Content", 423: "Locked", 424: "Failed Dependency",
	425: "Too Early", 426: "Upgrade Required", 428: "Precondition Required", 429: "Too Many Requests",
	431: "Request Header Fields Too Large", 451: "Unavailable For Legal Reasons", 499: "Client Closed Request",
	500: "Internal Server Error", 501: "Not Implemented", 502: "Bad Gateway", 503: "Service Unavailable",
	504: "Gateway Timeout", 505: "HTTP Version Not Supported", 506: "Variant Also Negotiates",
	507: "Insufficient Storage", 508: "Loop Detected", 510: "Not Extended", 511: "Network Authentication Required",
}

// TunnelLimits bound an upgraded connection, or one that is passed on. A zero is
// no limit.
type TunnelLimits struct {
	Idle       time.Duration // without a byte either way; the upstream has one too, and the shorter holds
	Lifetime   time.Duration // whatever flows
	MaxMessage int64         // bytes of a WebSocket message, as they are sent
	MaxFrame   int64         // bytes of one WebSocket frame's payload
}

// Tunnel is the Body of a 101 answer: the upstream's half of the connection. It
// is also what Connect of an upstream returns for a connection that is passed
// on.
type Tunnel interface {
	Body
	// Join moves bytes both ways between the client and the upstream until
	// both sides have ended, one failed, or a limit of x.Tunnel or the
	// upstream's idle time was reached. It closes both, and says in
	// x.Request.Received and x.Response.Sent how many bytes went each way.
	Join(x *Exchange, client Stream) error
}
