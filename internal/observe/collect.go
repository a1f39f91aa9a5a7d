package observe

import (
	"maps"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// collector reads the counters when somebody asks for the metrics.
type collector Metrics

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("gatehouse_"+name, help, labels, nil)
}

// The metrics. Their names and labels are a promise to dashboards and alerts.
var (
	descRequests = desc("requests_total", "Requests that have ended, by status. Statuses that are not usual ones share the code \"other\".", "route", "class", "code")
	descDuration = desc("request_duration_seconds", "Time from the first byte of a request to the end of its answer, without upgraded connections.", "route")
	descInFlight = desc("requests_in_flight", "Requests that have begun and not ended.", "route")
	descReceived = desc("request_body_bytes_total", "Bytes of request bodies received.", "route")
	descSent     = desc("response_body_bytes_total", "Bytes of answers' bodies sent.", "route")
	descProblems = desc("problems_total", "Requests that met a problem, by its code and by whose fault it is.", "route", "code", "side")

	descConnections = desc("listener_connections", "Connections that are open.", "listener")
	descAccepted    = desc("listener_connections_total", "Connections that were accepted.", "listener")
	descHandshakes  = desc("listener_tls_handshakes_total", "TLS handshakes that succeeded, or failed.", "listener", "result")
	descRefused     = desc("listener_connections_failed_total", "Connections that were refused before they were served, could not be passed on, or broke while they were.", "listener")
	descUnaccepted  = desc("listener_accept_errors_total", "Attempts to accept a connection that failed, mostly because descriptors ran short. The connection waits until one succeeds.", "listener")
	descPassed      = desc("listener_passed_bytes_total", "Bytes of connections that were passed on and have ended, from clients (in) and to them (out).", "listener", "direction")

	descUpstreamConnections = desc("upstream_connections", "Connections that are open.", "upstream")
	descUpstreamIdle        = desc("upstream_connections_idle", "Connections that are open and wait for a request.", "upstream")
	descUpstreamTunnels     = desc("upstream_tunnels", "Connections that carry an upgraded stream.", "upstream")
	descUpstreamOpened      = desc("upstream_connections_total", "Connections that were established.", "upstream")
	descUpstreamFailed      = desc("upstream_connection_failures_total", "Connections that could not be established.", "upstream")
	descUpstreamReused      = desc("upstream_connections_reused_total", "Requests that went out on a kept connection.", "upstream")
	descUpstreamRetried     = desc("upstream_retries_total", "Requests that were sent again.", "upstream")
	descUpstreamEvents      = desc("upstream_events_total", "What seldom happens on the way to an upstream.", "upstream", "event")
	descUpstreamFirstByte   = desc("upstream_first_byte_seconds", "Time from the first byte of a request sent to the head of its answer.", "upstream")

	descUpstreamEndpoints = desc("upstream_endpoints", "Endpoints by how they are: healthy, unhealthy or ejected.", "upstream", "state")

	descExpires = desc("certificate_expiry_timestamp_seconds", "When a certificate that is served expires, by its file or ACME directory and its first name.", "source", "name")

	descSpared = desc("policy_spared_total", "Requests that a policy would have refused, or could not decide about, and let go on: by dry_run or by fail_open.", "policy", "reason")
	descRedis  = desc("redis_up", "1 while Redis answers, 0 while it does not and policies do what they are set to do then.")

	descReloads   = desc("config_reloads_total", "Configurations that were applied, the first one too, or were not.", "result")
	descReloaded  = desc("config_last_reload_successful", "1 when the last reload was applied, 0 when it was not.")
	descSucceeded = desc("config_last_reload_success_timestamp_seconds", "When a configuration was last applied.")
	descConfig    = desc("config_info", "Always 1; the label is the digest of the configuration in force.", "digest")

	descLogWritten = desc("access_log_lines_total", "Lines of the access log that were written.")
	descLogDropped = desc("access_log_dropped_total", "Lines of the access log that were dropped because its output was too slow or failed.")
	descLogErrors  = desc("access_log_errors_total", "Errors met when opening or writing the access log.")
)

// Describe sends what Collect may send.
func (c *collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descRequests, descDuration, descInFlight, descReceived, descSent, descProblems,
		descConnections, descAccepted, descHandshakes, descRefused, descUnaccepted, descPassed,
		descUpstreamConnections, descUpstreamIdle, descUpstreamTunnels, descUpstreamOpened,
		descUpstreamFailed, descUpstreamReused, descUpstreamRetried, descUpstreamEvents, descUpstreamFirstByte,
		descUpstreamEndpoints, descExpires, descSpared, descRedis,
		descReloads, descReloaded, descSucceeded, descConfig,
		descLogWritten, descLogDropped, descLogErrors,
	} {
		out <- d
	}
}

// Collect sums the shards up.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	var routes []*Route
	var listeners []*Listener
	var upstreams []*Upstream
	c.mu.Lock()
	c.routes.each(func(r *Route) { routes = append(routes, r) })
	c.listeners.each(func(l *Listener) { listeners = append(listeners, l) })
	c.upstreams.each(func(u *Upstream) { upstreams = append(upstreams, u) })
	re, endpoints, expiries, let, redis := c.reload, c.endpoints, c.expiries, maps.Clone(c.spared), c.redis
	c.mu.Unlock()

	s := sink(out)
	if endpoints != nil {
		endpoints(func(upstream, state string, n int) { s.gauge(descUpstreamEndpoints, n, upstream, state) })
	}
	if expiries != nil {
		s.certificates(expiries)
	}
	for _, r := range routes {
		r.collect(s)
	}
	for _, l := range listeners {
		l.collect(s)
	}
	for _, u := range upstreams {
		u.collect(s)
	}
	for what, n := range let {
		s.count(descSpared, n, what.policy, what.reason)
	}
	if redis != nil {
		up := 0
		if redis() {
			up = 1
		}
		s.gauge(descRedis, up)
	}
	s.count(descReloads, re.ok, "ok")
	s.count(descReloads, re.failed, "failed")
	if re.digest != "" {
		s.gauge(descConfig, 1, re.digest)
		last := 0
		if re.last {
			last = 1
		}
		s.gauge(descReloaded, last)
	}
	if !re.succeeded.IsZero() {
		s.seconds(descSucceeded, float64(re.succeeded.UnixMilli())/1000)
	}
	s.count(descLogWritten, int(c.logWritten.Load()))
	s.count(descLogDropped, int(c.logDropped.Load()))
	s.count(descLogErrors, int(c.logErrors.Load()))
}

// collect sends the series of a route. Those of "none" and "other" are left out
// before their first request.
func (r *Route) collect(s sink) {
	var statuses [len(statusCodes) + len(otherCodes)]uint64
	var took totals
	var received, sent int64
	problems := make(map[problemKey]uint64)
	var begun, ended uint64
	r.parts.each(func(c *routeCounts) {
		// What has ended is read before what has begun, or there could be
		// less than nothing in flight.
		for i := range c.statuses {
			n := c.statuses[i].Load()
			statuses[i] += n
			ended += n
		}
		begun += c.begun.Load()
		took.add(&c.took)
		received += c.received.Load()
		sent += c.sent.Load()
		if known := c.problems.Load(); known != nil {
			for key, n := range *known {
				problems[key] += n.Load()
			}
		}
	})
	if begun == 0 && (r.name == "none" || r.name == other) {
		return
	}
	for i, n := range statuses {
		if n > 0 {
			class, code := statusLabels(i)
			s.count(descRequests, int(n), r.name, class, code)
		}
	}
	s.histogram(descDuration, &took, r.name)
	s.gauge(descInFlight, int(begun)-int(ended), r.name)
	s.count(descReceived, int(received), r.name)
	s.count(descSent, int(sent), r.name)
	for key, n := range problems {
		s.count(descProblems, int(n), r.name, key.code, key.side.String())
	}
}

func (l *Listener) collect(s sink) {
	var opened, closed, failed, unaccepted, secured, unsecured uint64
	var received, sent int64
	l.parts.each(func(c *listenerCounts) {
		secured += c.secured.Load()
		unsecured += c.unsecured.Load()
		closed += c.closed.Load()
		failed += c.failed.Load()
		unaccepted += c.unaccepted.Load()
		received += c.received.Load()
		sent += c.sent.Load()
		opened += c.opened.Load()
	})
	if opened+unaccepted == 0 && l.name == other {
		return
	}
	s.gauge(descConnections, int(opened)-int(closed), l.name)
	s.count(descAccepted, int(opened), l.name)
	if secured+unsecured > 0 {
		s.count(descHandshakes, int(secured), l.name, "ok")
		s.count(descHandshakes, int(unsecured), l.name, "failed")
	}
	s.count(descRefused, int(failed), l.name)
	s.count(descUnaccepted, int(unaccepted), l.name)
	if received+sent > 0 {
		s.count(descPassed, int(received), l.name, "in")
		s.count(descPassed, int(sent), l.name, "out")
	}
}

func (u *Upstream) collect(s sink) {
	var opened, failed, closed, reused, retried uint64
	var idle, tunnels int64
	var firstByte totals
	u.parts.each(func(c *upstreamCounts) {
		closed += c.closed.Load()
		idle += c.idle.Load()
		opened += c.opened.Load()
		failed += c.failed.Load()
		reused += c.reused.Load()
		retried += c.retried.Load()
		tunnels += c.tunnels.Load()
		firstByte.add(&c.firstByte)
	})
	u.mu.Lock()
	events := maps.Clone(u.events)
	u.mu.Unlock()
	if opened+failed == 0 && len(events) == 0 && u.name == other {
		return
	}
	for name, n := range events {
		s.count(descUpstreamEvents, n, u.name, name)
	}
	// A connection may be counted and closed by different shards, so that a
	// sum read meanwhile can be off by those in between.
	s.gauge(descUpstreamConnections, max(int(opened)-int(closed), 0), u.name)
	s.gauge(descUpstreamIdle, max(int(idle), 0), u.name)
	s.gauge(descUpstreamTunnels, max(int(tunnels), 0), u.name)
	s.count(descUpstreamOpened, int(opened), u.name)
	s.count(descUpstreamFailed, int(failed), u.name)
	s.count(descUpstreamReused, int(reused), u.name)
	s.count(descUpstreamRetried, int(retried), u.name)
	s.histogram(descUpstreamFirstByte, &firstByte, u.name)
}

// certificates sends when certificates expire. Of those with the same source
// and name it is the one that expires first: two series of the same labels
// would be none at all.
func (s sink) certificates(expiries func(yield func(source, name string, expires time.Time))) {
	type key struct{ source, name string }
	first := make(map[key]time.Time)
	expiries(func(source, name string, expires time.Time) {
		k := key{strings.ToValidUTF8(source, "\uFFFD"), strings.ToValidUTF8(name, "\uFFFD")}
		if t, ok := first[k]; !ok || expires.Before(t) {
			first[k] = expires
		}
	})
	for k, t := range first {
		s.seconds(descExpires, float64(t.Unix()), k.source, k.name)
	}
}

// sink makes metrics of sums.
type sink chan<- prometheus.Metric

func (s sink) send(d *prometheus.Desc, m prometheus.Metric, err error) {
	if err != nil {
		m = prometheus.NewInvalidMetric(d, err)
	}
	s <- m
}

func (s sink) count(d *prometheus.Desc, n int, labels ...string) {
	m, err := prometheus.NewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	s.send(d, m, err)
}

func (s sink) gauge(d *prometheus.Desc, n int, labels ...string) {
	s.seconds(d, float64(n), labels...)
}

func (s sink) seconds(d *prometheus.Desc, v float64, labels ...string) {
	m, err := prometheus.NewConstMetric(d, prometheus.GaugeValue, v, labels...)
	s.send(d, m, err)
}

func (s sink) histogram(d *prometheus.Desc, t *totals, labels ...string) {
	m, err := prometheus.NewConstHistogram(d, t.count(), time.Duration(t.sum).Seconds(), maps.Collect(t.cumulated), labels...)
	s.send(d, m, err)
}

// count returns how often something was observed.
func (t *totals) count() (n uint64) {
	for _, b := range t.buckets {
		n += b
	}
	return n
}

// cumulated yields the buckets as Prometheus wants them: what is at most as
// long as each bound.
func (t *totals) cumulated(yield func(float64, uint64) bool) {
	var n uint64
	for i, bound := range durationBounds {
		n += t.buckets[i]
		if !yield(bound.Seconds(), n) {
			return
		}
	}
}
