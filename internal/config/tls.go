package config

import "crypto/tls"

// TLS says how a listener speaks TLS.
type TLS struct {
	// Lowest version of TLS that is spoken.
	MinVersion string `yaml:"min_version" enum:"1.2,1.3"`
	// Cipher suites for TLS 1.2 by their IANA names. Default: those with ECDHE and authenticated encryption. TLS 1.3 has no choice.
	Ciphers StringList `yaml:"ciphers" example:"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"`
	// Certificates, picked by the name that a client asks for: exact, then wildcard, then the first of the list. Of several for one name the client gets one that it can use, ECDSA before RSA.
	Certificates []*Certificate `yaml:"certificates"`
	// Certificates from an ACME authority.
	ACME *ACME `yaml:"acme"`
	// Certificates that clients show.
	ClientAuth ClientAuth `yaml:"client_auth"`
	// Resumption of earlier TLS sessions.
	SessionTickets SessionTickets `yaml:"session_tickets"`
	// Tell services the client's certificate in the field Client-Cert (RFC 9440).
	ForwardClientCert bool `yaml:"forward_client_cert"`
	// Take requests of http3 before the handshake is complete (0-RTT). Whoever can listen can repeat them: methods that may change something are answered 425, and services see Early-Data: 1 (RFC 8470).
	EarlyData bool `yaml:"early_data"`
	// Longest time for a TLS handshake; then the connection is closed.
	HandshakeTimeout Duration `yaml:"handshake_timeout" min:"100ms" max:"10m"`
}

// Certificate is a certificate and its key, in files that are watched: a
// change is served without a reload. A broken one is refused, and the last good
// one goes on.
type Certificate struct {
	// Certificate chain in PEM, the server's own first.
	CertFile string `yaml:"cert_file" required:"true" file:"true" example:"shop.crt"`
	// Private key in PEM.
	KeyFile string `yaml:"key_file" required:"true" file:"true" example:"shop.key"`
	// OCSP response in DER, stapled while it is valid.
	OCSPFile string `yaml:"ocsp_file" file:"true"`
}

// ACME obtains certificates, and renews them, from an authority that speaks
// ACME (RFC 8555). Who configures it agrees to the terms of that authority.
type ACME struct {
	// Address under which the authority keeps the account, and for its notices.
	Email string `yaml:"email" required:"true" example:"ops@example.com"`
	// Names to have certificates for, each with one of its own. A wildcard needs dns-01.
	Domains StringList `yaml:"domains" required:"true" example:"shop.example.com"`
	// URL of the authority's directory.
	Directory string `yaml:"directory" example:"https://acme.example/dir"`
	// External account that the authority wants to see bound.
	EAB *EAB `yaml:"eab"`
	// Authorities in PEM that the directory's own certificate may come from, in place of the system's.
	CAFile string `yaml:"ca_file" file:"true"`
	// How control of a name is shown: http-01 on plain listeners, which the authority reaches at port 80; tls-alpn-01 on this one, which it reaches at port 443; dns-01 by records that are set through dns.
	Challenges StringList `yaml:"challenges" enum:"http-01,tls-alpn-01,dns-01"`
	// Where the records of dns-01 are set.
	DNS *ACMEDNS `yaml:"dns"`
	// Folder that holds accounts, keys and certificates over restarts. Default: acme, beside the configuration.
	Storage string `yaml:"storage" file:"true"`
}

// EAB binds the ACME account to one that the authority knows (RFC 8555 section
// 7.3.4).
type EAB struct {
	// Identifier of the key.
	KeyID string `yaml:"key_id" required:"true"`
	// The key, in base64url as the authority gives it.
	MACKey Secret `yaml:"mac_key" required:"true"`
}

// ACMEDNS sets the TXT records of dns-01 by dynamic updates (RFC 2136), signed
// with a shared key (RFC 8945).
type ACMEDNS struct {
	// Name server that takes updates, as host:port.
	Server string `yaml:"server" required:"true" example:"10.0.0.53:53"`
	// Zone that holds the records.
	Zone string `yaml:"zone" required:"true" example:"example.com"`
	// Name of the key.
	KeyName string `yaml:"key_name" required:"true" example:"gatehouse."`
	// The key, in base64.
	Key Secret `yaml:"key" required:"true"`
	// Algorithm of the key.
	Algorithm string `yaml:"algorithm" enum:"hmac-sha256,hmac-sha384,hmac-sha512"`
	// How long to wait after a record was set, for the other servers of the zone to have it.
	Delay Duration `yaml:"delay" max:"1h"`
}

// ClientAuth says which certificates clients show.
type ClientAuth struct {
	// none asks for no certificate; request takes connections without one, and refuses one that is not valid; require refuses both.
	Mode string `yaml:"mode" enum:"none,request,require"`
	// Authorities in PEM that the certificates must come from. The file is watched.
	CAFile string `yaml:"ca_file" file:"true" example:"partners.pem"`
}

// SessionTickets lets clients resume TLS sessions. What a ticket resumes is
// bound to the name and the client certificate that it was given for.
type SessionTickets struct {
	// Whether tickets are given out.
	Enabled bool `yaml:"enabled"`
	// How often a new key encrypts the tickets. Those of the two keys before it are still taken.
	Rotate Duration `yaml:"rotate" min:"1m" max:"48h"`
}

// UpstreamTLS says how connections to https and grpcs endpoints are
// protected.
type UpstreamTLS struct {
	// Authorities in PEM that the service's certificate must come from, in place of the system's.
	CAFile string `yaml:"ca_file" file:"true" example:"internal.pem"`
	// Name that the service's certificate must have. Default: the endpoint's host.
	ServerName string `yaml:"server_name" example:"products.internal"`
	// Certificate to show to the service, in PEM.
	CertFile string `yaml:"cert_file" file:"true" example:"gw.crt"`
	// Its private key, in PEM.
	KeyFile string `yaml:"key_file" file:"true" example:"gw.key"`
	// Whether the service's certificate is verified. Without it anybody on the way can read and change everything.
	Verify bool `yaml:"verify"`
}

// SNIRoute says where TLS connections for a name go on a listener with protocol
// tls. They are passed on as they are.
type SNIRoute struct {
	// Names that the client asks for, any of which must match: "db.example.com", or "*.example.com" for one or more labels.
	SNI StringList `yaml:"sni" required:"true" example:"db.example.com"`
	// Name of an upstream with tcp endpoints, or a URL tcp://host:port.
	Upstream string `yaml:"upstream" required:"true" example:"tcp://10.0.0.5:8443"`
}

// Speaks tells whether a listener of HTTP has a version of it: http1, http2,
// http3 or h2c. Where nothing is said it is http1, and http2 over TLS on the
// gateway's own engine.
func (l *Listener) Speaks(version string) bool {
	if l.Protocol != "http" {
		return false
	}
	if l.Protocols == nil {
		return version == "http1" || version == "http2" && l.TLS != nil && l.Engine != "std"
	}
	for _, p := range l.Protocols {
		if p == version {
			return true
		}
	}
	return false
}

// HTTPS returns the listener that redirect_https sends clients to: the first
// one with TLS, nil where there is none.
func (c *Config) HTTPS() *Listener {
	for _, l := range c.Listeners {
		if l != nil && l.Protocol == "http" && l.TLS != nil {
			return l
		}
	}
	return nil
}

// Cipher returns the number of a cipher suite for TLS 1.2 that may be
// configured.
func Cipher(name string) (id uint16, ok bool) {
	for _, s := range tls.CipherSuites() {
		if s.Name == name && s.SupportedVersions[0] <= tls.VersionTLS12 {
			return s.ID, true
		}
	}
	return 0, false
}
