package config

import "time"

// The defaults of every struct of the language, and nothing else.

// Defaults opens the admin address on the loopback interface.
func (c *Config) Defaults() {
	c.Admin = &Admin{}
	c.Admin.Defaults()
}

// Defaults speaks HTTP on the gateway's own engine.
func (l *Listener) Defaults() { l.Protocol, l.Engine = "http", "native" }

// Defaults speaks with every client of the last ten years.
func (t *TLS) Defaults() {
	t.MinVersion = "1.2"
	t.HandshakeTimeout = Duration(10 * time.Second)
}

// Defaults names the authority that most people mean, and both ways to show
// control that need no more than listeners.
func (a *ACME) Defaults() {
	a.Directory = "https://acme-v02.api.letsencrypt.org/directory"
	a.Challenges = StringList{"http-01", "tls-alpn-01"}
}

// Defaults signs with the algorithm that every name server has.
func (d *ACMEDNS) Defaults() { d.Algorithm = "hmac-sha256" }

// Defaults asks clients for nothing.
func (c *ClientAuth) Defaults() { c.Mode = "none" }

// Defaults lets a ticket be good for a day at least, and for three at most.
func (s *SessionTickets) Defaults() {
	*s = SessionTickets{Enabled: true, Rotate: Duration(24 * time.Hour)}
}

// Defaults verifies.
func (t *UpstreamTLS) Defaults() { t.Verify = true }

// Defaults are generous for browsers and APIs, and bound what one client can
// hold.
func (l *Limits) Defaults() {
	*l = Limits{
		HeaderBytes:      32 << 10,
		Headers:          100,
		Streams:          128,
		Body:             10 << 20,
		HeaderTimeout:    Duration(10 * time.Second),
		IdleTimeout:      Duration(60 * time.Second),
		BodyMinRate:      Rate{Count: 240, Per: time.Second}, // a phone at the edge of its network does better
		HalfCloseTimeout: Duration(5 * time.Second),
	}
}

// Defaults picks endpoints in turn and leaves the Host field as it came.
func (u *Upstream) Defaults() {
	u.Host = "preserve"
	u.ProxyProtocol = "off"
}

// Defaults takes turns, and lets a tier or zone keep its traffic while most of
// it is healthy.
func (b *Balance) Defaults() {
	*b = Balance{Algorithm: "round_robin", Slack: 0.25, SpillBelow: 0.7}
}

// Defaults sends the cookie wherever a link leads from elsewhere.
func (s *Sticky) Defaults() { *s = Sticky{SameSite: "lax", Path: "/"} }

// Defaults tries once more what is safe, up to a fifth of the requests.
func (r *Retry) Defaults() {
	*r = Retry{
		Attempts: 2,
		On:       StringList{"connect", "reset", "502", "503", "504"},
		Methods:  StringList{"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"},
		Budget:   0.2,
		Backoff:  Backoff{Base: Duration(25 * time.Millisecond), Max: Duration(250 * time.Millisecond)},
		Body:     64 << 10,
	}
}

// Defaults hedges the slowest twentieth.
func (h *Hedge) Defaults() { *h = Hedge{After: "p95", Budget: 0.05} }

// Defaults asks for the root every few seconds.
func (h *Health) Defaults() {
	*h = Health{
		Type: "http", Path: "/", Interval: Duration(5 * time.Second), Timeout: Duration(time.Second),
		Healthy: 2, Unhealthy: 3, Expect: StringList{"200-399"},
	}
}

// Defaults ejects what fails clearly, and never more than half.
func (o *Outlier) Defaults() {
	*o = Outlier{
		ConsecutiveErrors: 5, ErrorRate: 0.5, MinRequests: 20, Window: Duration(10 * time.Second),
		Eject: Duration(30 * time.Second), EjectMax: Duration(5 * time.Minute), MaxEjected: 0.5,
	}
}

// Defaults opens when half of the requests fail.
func (b *Breaker) Defaults() {
	*b = Breaker{
		ErrorRate: 0.5, SlowRate: 0.8, MinRequests: 20, Window: Duration(10 * time.Second),
		Open: Duration(5 * time.Second), Probes: 3,
	}
}

// Defaults lets few wait, and not for long.
func (q *Queue) Defaults() { *q = Queue{Max: 100, Timeout: Duration(time.Second)} }

// Defaults leaves an adaptive limit room to sink.
func (c *Concurrency) Defaults() { c.Min = 4 }

// Defaults looks every few seconds.
func (d *Discovery) Defaults() {
	d.Interval = Duration(5 * time.Second)
	d.Scheme = "http"
}

// Defaults asks the agent of the same machine.
func (c *Consul) Defaults() { c.Address = "http://127.0.0.1:8500" }

// Defaults looks in the namespace that is there in every cluster.
func (k *Kubernetes) Defaults() { k.Namespace = "default" }

// Defaults gives an endpoint one share.
func (e *Endpoint) Defaults() { e.Weight = 1 }

// Defaults leaves the number of open connections to the limits of the
// listeners: over HTTP/1.1 an upstream has no more of them than clients have.
func (c *Connections) Defaults() {
	*c = Connections{
		Idle:           100,
		IdleTimeout:    Duration(90 * time.Second),
		ConnectTimeout: Duration(2 * time.Second),
	}
}

// Defaults lets downloads take as long as they make progress.
func (t *Timeout) Defaults() {
	t.FirstByte = Duration(30 * time.Second)
	t.Idle = Duration(60 * time.Second)
}

// Defaults gives an upstream one share.
func (s *Share) Defaults() { s.Weight = 1 }

// Defaults copies every request.
func (m *Mirror) Defaults() { m.Sample = 1 }

// Defaults redirects for good and keeps the method.
func (r *Redirect) Defaults() { r.Status = 308 }

// Defaults answers 200.
func (r *Respond) Defaults() { r.Status = 200 }

// Defaults opens the admin address on the loopback interface.
func (a *Admin) Defaults() { a.Address = "127.0.0.1:9901" }

// Defaults writes every request to standard output.
func (l *AccessLog) Defaults() { *l = AccessLog{Format: "json", Output: "stdout", Sample: 1} }

// Defaults bounds the series.
func (m *Metrics) Defaults() { m.MaxRoutes = 1000 }

// Defaults writes events for people.
func (l *Log) Defaults() { *l = Log{Level: "info", Format: "text"} }

// Defaults gives requests half a minute to finish.
func (s *Shutdown) Defaults() { s.Drain = Duration(30 * time.Second) }

// complete fills in what follows from the rest of the configuration: the
// listener where there is none, and names.
func (c *Config) complete() {
	if len(c.Listeners) == 0 {
		l := new(Listener)
		setDefaultsOf(l)
		l.Address = ":8080"
		c.Listeners = []*Listener{l}
	}
	for _, l := range c.Listeners {
		if l == nil {
			continue
		}
		if l.Name == "" {
			l.Name = l.Address
		}
		if l.TLS != nil && l.TLS.ACME != nil && l.TLS.ACME.Storage == "" {
			l.TLS.ACME.Storage = absolute("acme", c.source.parts[0].name)
		}
	}
	if out := &c.Observe.AccessLog.Output; *out != "stdout" && *out != "stderr" {
		*out = absolute(*out, c.source.parts[0].name)
	}
	for _, u := range c.Upstreams {
		if u != nil {
			u.Zone = c.Zone
		}
	}
	taken := make(map[string]bool, len(c.Routes))
	for _, r := range c.Routes {
		if r != nil {
			taken[r.Name] = true
		}
	}
	again := make(map[string]int)
	for _, r := range c.Routes {
		if r == nil || r.Name != "" || r.Match == nil {
			continue
		}
		name := r.Match.name()
		r.Name = name
		for taken[r.Name] {
			again[name]++
			r.Name = numbered(name, again[name]+1)
		}
		taken[r.Name] = true
	}
}
