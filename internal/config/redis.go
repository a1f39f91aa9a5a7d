package config

import (
	"net/url"
	"strconv"
	"strings"

	"gatehouse.dev/gatehouse/internal/policy"
)

// Redis is a Redis or Valkey server that several gateways share, or a group of
// them: one by url, or several by nodes, with sentinel or cluster.
type Redis struct {
	// URL of one server: redis://host:port, redis://host:port/database, rediss:// for TLS, or unix:///path.
	URL string `yaml:"url" example:"redis://127.0.0.1:6379"`
	// Addresses, host:port each: of the sentinels with sentinel, of some members with cluster.
	Nodes StringList `yaml:"nodes" example:"10.0.0.1:6379"`
	// Ask sentinels which server is the master.
	Sentinel *Sentinel `yaml:"sentinel"`
	// The nodes are a Redis Cluster.
	Cluster bool `yaml:"cluster"`
	// Name to sign in with.
	Username string `yaml:"username"`
	// Password to sign in with.
	Password Secret `yaml:"password"`
	// Database of a server that is not a cluster.
	Database int `yaml:"database" min:"0" max:"1000000"`
	// Begin of every key, so that several installations can share a server.
	Prefix string `yaml:"prefix"`
	// Speak TLS with the nodes.
	TLS bool `yaml:"tls"`
	// Certificates of the authorities that are believed, PEM. Default: the system's.
	CAFile string `yaml:"ca_file" file:"true"`
	// Name that the server's certificate must have. Default: the host.
	ServerName string `yaml:"server_name"`
	// Longest time to establish a connection.
	ConnectTimeout Duration `yaml:"connect_timeout" min:"10ms" max:"1m"`
}

// Sentinel is how the master is found.
type Sentinel struct {
	// Name of the master in the sentinels' settings.
	Master string `yaml:"master" required:"true" example:"mymaster"`
	// Name to sign in to the sentinels with.
	Username string `yaml:"username"`
	// Password to sign in to the sentinels with.
	Password Secret `yaml:"password"`
}

// Defaults keep the keys apart from others'.
func (r *Redis) Defaults() {
	r.Prefix = "gatehouse:"
	r.ConnectTimeout = Duration(2e9)
}

// redis checks that there is one way to the server.
func (k *checker) redis() {
	r := k.c.Redis
	if r == nil || k.known["redis"] {
		return
	}
	switch {
	case r.URL == "" && len(r.Nodes) == 0:
		k.fault("redis", "there is no server", `write url: redis://127.0.0.1:6379, or nodes`)
	case r.URL != "" && len(r.Nodes) > 0:
		k.fault("redis.nodes", "nodes stand beside a url", "write all addresses as nodes")
	case r.URL != "" && (r.Sentinel != nil || r.Cluster):
		k.fault("redis.url", "a url names one server", "write the addresses as nodes")
	case r.Sentinel != nil && r.Cluster:
		k.fault("redis.cluster", "a cluster needs no sentinel", "remove one of the two")
	case len(r.Nodes) > 1 && r.Sentinel == nil && !r.Cluster:
		k.fault("redis.nodes", "several nodes need sentinel or cluster", "say which of the two they are")
	case r.Cluster && r.Database != 0:
		k.fault("redis.database", "a cluster has one database", "remove it")
	case r.URL != "":
		k.report("redis.url", checkRedisURL(r))
	}
	for i, n := range r.Nodes {
		if checkAddress(n) != nil || strings.HasPrefix(n, ":") || strings.HasPrefix(n, "unix:") {
			k.fault("redis.nodes["+strconv.Itoa(i)+"]", quote(n)+" is not an address", "write host:port")
		}
	}
	if (r.CAFile != "" || r.ServerName != "") && !r.TLS && !strings.HasPrefix(r.URL, "rediss:") {
		k.fault("redis.tls", "settings of TLS stand here and TLS is off", "set tls: true, or write rediss://")
	}
}

func checkRedisURL(r *Redis) *policy.Fault {
	u, err := url.Parse(r.URL)
	switch {
	case err != nil:
		return &policy.Fault{Text: "this is not a URL", Hint: "write redis://127.0.0.1:6379"}
	case u.User != nil:
		return &policy.Fault{Text: "a URL shows what stands in it", Hint: "write username, and password: { env: NAME }"}
	case u.Scheme == "unix" && u.Path != "" && u.Host == "":
		return nil
	case u.Scheme != "redis" && u.Scheme != "rediss" || u.Host == "" || u.RawQuery != "" || u.Fragment != "":
		return &policy.Fault{Text: quote(r.URL) + " is not the URL of a Redis server", Hint: "write redis://host:port, rediss://host:port or unix:///path"}
	}
	if db := strings.TrimPrefix(u.Path, "/"); db != "" {
		if n, err := strconv.Atoi(db); err != nil || n < 0 || r.Database != 0 && r.Database != n {
			return &policy.Fault{Text: quote(db) + " is not the number of a database"}
		}
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return &policy.Fault{Text: quote(p) + " is not a port"}
		}
	}
	return nil
}
