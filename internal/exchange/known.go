package exchange

// Known numbers the field names that the gateway itself reads or writes, and
// the ones that nearly every message carries. There are at most 63, so that a
// Header can tell by one bit whether it has such a field.
type Known uint8

// The well-known field names.
const (
	Other Known = iota
	Accept
	AcceptEncoding
	AcceptLanguage
	AcceptRanges
	Age
	Allow
	AltSvc
	Authorization
	CacheControl
	ClientCert
	ClientCertChain
	Connection
	ContentEncoding
	ContentLength
	ContentRange
	ContentType
	Cookie
	Date
	ETag
	Expect
	Expires
	Forwarded
	HTTP2Settings
	Host
	IfModifiedSince
	IfNoneMatch
	KeepAlive
	LastModified
	Location
	MaxForwards
	Origin
	Priority
	ProxyAuthenticate
	ProxyAuthorization
	ProxyConnection
	Range
	Referer
	RetryAfter
	SecWebSocketKey
	SecWebSocketProtocol
	SecWebSocketVersion
	Server
	SetCookie
	StrictTransportSecurity
	TE
	Traceparent
	Tracestate
	Trailer
	TransferEncoding
	Upgrade
	UserAgent
	Vary
	Via
	WWWAuthenticate
	XAPIKey
	XForwardedFor
	XForwardedHost
	XForwardedPort
	XForwardedProto
	XRealIP
	XRequestID
	XForwardedClientCert
	numKnown
)

var knownNames = [numKnown]string{
	Accept: "Accept", AcceptEncoding: "Accept-Encoding", AcceptLanguage: "Accept-Language",
	AcceptRanges: "Accept-Ranges", Age: "Age", Allow: "Allow", AltSvc: "Alt-Svc",
	Authorization: "Authorization", CacheControl: "Cache-Control", ClientCert: "Client-Cert", ClientCertChain: "Client-Cert-Chain", Connection: "Connection",
	ContentEncoding: "Content-Encoding", ContentLength: "Content-Length",
	ContentRange: "Content-Range", ContentType: "Content-Type", Cookie: "Cookie", Date: "Date",
	ETag: "ETag", Expect: "Expect", Expires: "Expires", Forwarded: "Forwarded",
	HTTP2Settings: "HTTP2-Settings", Host: "Host", IfModifiedSince: "If-Modified-Since",
	IfNoneMatch: "If-None-Match", KeepAlive: "Keep-Alive", LastModified: "Last-Modified",
	Location: "Location", MaxForwards: "Max-Forwards", Origin: "Origin", Priority: "Priority",
	ProxyAuthenticate: "Proxy-Authenticate", ProxyAuthorization: "Proxy-Authorization",
	ProxyConnection: "Proxy-Connection", Range: "Range", Referer: "Referer",
	RetryAfter: "Retry-After", SecWebSocketKey: "Sec-WebSocket-Key",
	SecWebSocketProtocol: "Sec-WebSocket-Protocol", SecWebSocketVersion: "Sec-WebSocket-Version",
	Server: "Server", SetCookie: "Set-Cookie", StrictTransportSecurity: "Strict-Transport-Security",
	TE: "TE", Traceparent: "Traceparent", Tracestate: "Tracestate", Trailer: "Trailer",
	TransferEncoding: "Transfer-Encoding", Upgrade: "Upgrade", UserAgent: "User-Agent",
	Vary: "Vary", Via: "Via", WWWAuthenticate: "WWW-Authenticate", XAPIKey: "X-API-Key",
	XForwardedFor: "X-Forwarded-For", XForwardedHost: "X-Forwarded-Host",
	XForwardedPort: "X-Forwarded-Port", XForwardedProto: "X-Forwarded-Proto",
	XRealIP: "X-Real-IP", XRequestID: "X-Request-Id", XForwardedClientCert: "X-Forwarded-Client-Cert",
}

// String returns the usual spelling of the name.
func (k Known) String() string { return knownNames[k] }

// Bit returns the member of a DelSet set that stands for k.
func (k Known) Bit() uint64 { return 1 << k }

// Asserted is the set of fields by which the gateway tells the service who
// asked. They are never passed on as they came, and nobody else may write them.
const Asserted uint64 = 1<<XForwardedFor | 1<<XForwardedHost | 1<<XForwardedPort | 1<<XForwardedProto | 1<<Forwarded | 1<<XRealIP |
	1<<XForwardedClientCert | 1<<ClientCert | 1<<ClientCertChain

// knownTable is an open-addressed hash table over length, first and last byte.
var knownTable = func() (t [256]Known) {
	for k := Other + 1; k < numKnown; k++ {
		i := knownHash(knownNames[k])
		for t[i] != Other {
			i++
		}
		t[i] = k
	}
	return t
}()

func knownHash(s string) uint8 {
	return uint8(len(s))*37 + (s[0]|0x20)*11 + (s[len(s)-1]|0x20)*3 + (s[len(s)/2]|0x20)*17
}

// LookupKnown returns the number of a well-known field name, compared without
// case, or Other.
func LookupKnown(name string) Known {
	if name == "" {
		return Other
	}
	for i := knownHash(name); ; i++ {
		k := knownTable[i]
		if k == Other || EqualFold(knownNames[k], name) {
			return k
		}
	}
}
