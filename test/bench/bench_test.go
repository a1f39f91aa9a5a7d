//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"
	"text/template"
	"time"
)

func TestParseWrk(t *testing.T) {
	const calm = `Running 2s test @ http://127.0.0.1:21000/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.53ms  312.00us  12.10ms   92.31%
    Req/Sec    38.51k     1.20k   40.02k    75.00%
  Latency Distribution
     50%    1.50ms
     75%    1.61ms
     90%  870.00us
     99%    1.02s 
  76632 requests in 2.00s, 57.15MB read
`
	tests := []struct {
		name, out string
		want      result
		fails     bool
	}{
		{name: "calm", out: calm + "Requests/sec:  38000.12\n", want: result{
			requests: 76632, elapsed: 2 * time.Second,
			latency: latency{1500 * time.Microsecond, 1020 * time.Millisecond, 12100 * time.Microsecond},
		}},
		{name: "errors", out: calm + "  Socket errors: connect 1, read 2, write 3, timeout 4\n  Non-2xx or 3xx responses: 32\n", want: result{
			requests: 76600, failed: 42, elapsed: 2 * time.Second,
			latency: latency{1500 * time.Microsecond, 1020 * time.Millisecond, 12100 * time.Microsecond},
		}},
		{name: "nothing", out: "unable to connect to 127.0.0.1:21000 Connection refused\n", fails: true},
		{name: "odd time", out: strings.Replace(calm, "in 2.00s", "in 2.00x", 1), fails: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseWrk(tt.out)
			if (err != nil) != tt.fails {
				t.Fatalf("error %v", err)
			}
			if err == nil && got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestParseH2load(t *testing.T) {
	const calm = "starting benchmark...\n\nfinished in 1.51s, 41535.33 req/s, 3.96MB/s\n" +
		"requests: 62303 total, 62343 started, 62303 done, 62303 succeeded, 0 failed, 0 errored, 0 timeout\n" +
		"status codes: 62303 2xx, 0 3xx, 0 4xx, 0 5xx\n"
	tests := []struct {
		name, out string
		want      result
		fails     bool
	}{
		{name: "calm", out: calm, want: result{requests: 62303, elapsed: 1510 * time.Millisecond}},
		{
			name: "errors", out: strings.Replace(calm, "62303 succeeded, 0 failed, 0 errored, 0 timeout", "62300 succeeded, 3 failed, 2 errored, 0 timeout", 1),
			want: result{requests: 62300, failed: 3, elapsed: 1510 * time.Millisecond},
		},
		{name: "nothing", out: "failed to resolve server name\n", fails: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseH2load(tt.out)
			if (err != nil) != tt.fails || got != tt.want {
				t.Errorf("got %+v, %v, want %+v", got, err, tt.want)
			}
		})
	}
	times, err := parseH2loadLog([]byte("1795579238789987\t200\t2080\n1795579238789986\t200\t77\n"))
	if want := []time.Duration{2080 * time.Microsecond, 77 * time.Microsecond}; err != nil || !slices.Equal(times, want) {
		t.Errorf("got %v, %v", times, err)
	}
	for _, bad := range []string{"1\t200\n", "1\t200\tx\n", "1\t200\t-1\n"} {
		if _, err := parseH2loadLog([]byte(bad)); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// What slows the machine down for some rounds slows both samples of a pair, so
// the median is that of the ratios and not a ratio of medians.
func TestFloodRows(t *testing.T) {
	pairs := []pair{
		{quiet: sample{p99: 100, busy: 0.1}, attacked: sample{p99: 150, busy: 0.3}},
		{quiet: sample{p99: 1000}, attacked: sample{p99: 1600}},
		{quiet: sample{p99: 200}, attacked: sample{p99: 800}},
	}
	rows, budgets := floodRows([]string{"pings"}, map[string][]pair{"pings": pairs})
	got := newTable(rows, nil, nil, budgets...)
	if len(got.Rows) != 2 || got.Rows[0].Subject != quiet || len(got.Rows[0].Rounds) != 3 || got.Rows[0].Median[p99] != 200 {
		t.Errorf("rows %+v", got.Rows)
	}
	if v := got.Budgets[0]; v.Metric != timesQuiet || v.Is != 1.6 || !v.Met {
		t.Errorf("verdict %+v", v)
	}
	pairs[0].attacked = sample{p99: 201}
	rows, budgets = floodRows([]string{"pings"}, map[string][]pair{"pings": pairs})
	if v := newTable(rows, nil, nil, budgets...).Budgets[0]; v.Is != 2.01 || v.Met {
		t.Errorf("verdict %+v", v)
	}
}

func TestParseFlood(t *testing.T) {
	if conns, frames, err := parseFlood("12 3456"); err != nil || conns != 12 || frames != 3456 {
		t.Errorf("got %v, %v, %v", conns, frames, err)
	}
	for _, bad := range []string{"", "12", "bench: attacking by pings: refused"} {
		if _, _, err := parseFlood(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

// The service answers calls as a client of gRPC expects it.
func TestService(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_ = newCallee(c).run()
			}()
		}
	}()
	for range 3 {
		if err := callOnce(l.Addr().String()); err != nil {
			t.Fatal(err)
		}
	}
}

// Each load over TLS makes whole handshakes with a server that offers tickets.
func TestTLSLoads(t *testing.T) {
	pair, err := newCertificate()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(pair, pair)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(bodyOf(smallBody)) })}
	go server.Serve(l)
	defer server.Close()
	address := l.Addr().String()
	r, err := handshakes{2}.run(t.Context(), address, 50*time.Millisecond)
	if err != nil || r.failed != 0 || r.requests == 0 {
		t.Errorf("got %+v, %v", r, err)
	}
	conns, err := park(t.Context(), site{Address: address, TLS: true}, 40)
	defer closeAll(conns)
	if err != nil || len(conns) != 40 || countLost(conns) != 0 {
		t.Errorf("%d connections, %d lost, %v", len(conns), countLost(conns), err)
	}
}

func TestParseStat(t *testing.T) {
	const fields = " S 1 4242 1 0 -1 4194560 1 2 3 4 150 50 7 8 20 0 1 0 100 1000 200"
	tests := []struct {
		text  string
		want  stat
		fails bool
	}{
		{text: "17 (nginx)" + fields, want: stat{4242, 2 * time.Second}},
		{text: "17 (a) b) (c)" + fields, want: stat{4242, 2 * time.Second}},
		{text: "17 (nginx) S 1 4242", fails: true},
		{text: "17 (nginx)" + strings.Replace(fields, "150", "x", 1), fails: true},
		{text: "", fails: true},
	}
	for _, tt := range tests {
		got, err := parseStat([]byte(tt.text))
		if (err != nil) != tt.fails || got != tt.want {
			t.Errorf("%q: got %+v, %v, want %+v", tt.text, got, err, tt.want)
		}
	}
}

func TestParseStatus(t *testing.T) {
	rss, peak, err := parseStatus([]byte("Name:\tnginx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\nThreads:\t1\n"))
	if err != nil || rss != 1<<20 || peak != 2<<20 {
		t.Errorf("got %d, %d, %v", rss, peak, err)
	}
	if _, _, err := parseStatus([]byte("VmRSS:\tmany kB\n")); err == nil {
		t.Error("a size that is no number was taken")
	}
}

func TestParseAnswer(t *testing.T) {
	tests := []struct {
		name, text string
		want       answer
		size       int
		ok         bool
	}{
		{"whole", "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc", answer{200, 3, false}, 38, true},
		{"closing", "HTTP/1.1 503 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", answer{503, 0, true}, 57, true},
		{"no length", "HTTP/1.1 200 OK\r\n\r\n", answer{200, -1, false}, 19, true},
		{"not whole", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n", answer{}, 0, false},
		{"no HTTP", "SSH-2.0\r\n\r\n", answer{}, 0, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, size, ok := parseAnswer([]byte(tt.text))
			if ok != tt.ok || ok && (got != tt.want || size != tt.size) {
				t.Errorf("got %+v, %d, %t", got, size, ok)
			}
		})
	}
}

func TestParseMetrics(t *testing.T) {
	got, err := parseMetrics("# HELP a b\n# TYPE a counter\na{b=\"c d\"} 3\n\ngo_goroutines 12\nbig 1.5e+06\n")
	want := map[string]float64{`a{b="c d"}`: 3, "go_goroutines": 12, "big": 1.5e6}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"word", "a b", "a "} {
		if _, err := parseMetrics(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestMedian(t *testing.T) {
	tests := []struct {
		values []float64
		want   float64
	}{
		{[]float64{7}, 7},
		{[]float64{9, 1, 5}, 5},
		{[]float64{4, 1, 100, 2}, 3},
	}
	for _, tt := range tests {
		given := slices.Clone(tt.values)
		if got := median(given); got != tt.want {
			t.Errorf("median of %v is %v, want %v", tt.values, got, tt.want)
		}
		if !slices.Equal(given, tt.values) {
			t.Errorf("%v was sorted in place", tt.values)
		}
	}
	if !math.IsNaN(median(nil)) {
		t.Error("nothing has a median")
	}
}

func TestLatencyOf(t *testing.T) {
	var times []time.Duration
	for i := 101; i > 0; i-- {
		times = append(times, time.Duration(i))
	}
	if got, want := latencyOf(times), (latency{51, 100, 101}); got != want {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := latencyOf(nil); got != (latency{}) {
		t.Errorf("got %v for nothing", got)
	}
}

func TestTableComparesAndJudges(t *testing.T) {
	rows := []row{
		{Subject: "nginx", Median: sample{cpuPerRequest: 20, rate: 100, growth: 0}},
		{Subject: "gatehouse", Median: sample{cpuPerRequest: 18, rate: 110, growth: 5 << 20}},
	}
	got := newTable(rows, []metric{cpuPerRequest, rate, growth}, []string{"nginx", "haproxy"},
		budget{Subject: "gatehouse", Metric: cpuPerRequest, Against: "nginx", AtMost: 0.95},
		budget{Subject: "gatehouse", Metric: rate, Against: "nginx", AtLeast: 1.2},
		budget{Subject: "gatehouse", Metric: growth, AtMost: 16 << 20},
		budget{Subject: "gatehouse", Metric: p99, AtMost: 1},
		budget{Subject: "gatehouse", Metric: rate, Against: "haproxy", AtMost: 1})
	if want := []ratios{{"gatehouse", "nginx", sample{cpuPerRequest: 0.9, rate: 1.1}}}; !reflect.DeepEqual(got.Ratios, want) {
		t.Errorf("ratios %v, want %v: what was zero has none", got.Ratios, want)
	}
	var met []bool
	for _, v := range got.Budgets {
		met = append(met, v.Met)
	}
	if !slices.Equal(met, []bool{true, false, true}) {
		t.Errorf("budgets %+v: those without figures are left out", got.Budgets)
	}
	var out strings.Builder
	got.print(&out)
	for _, want := range []string{"18.0 us", "0.90", "budget met: CPU/req of gatehouse / nginx is 0.90, at most 0.95", "MISSED: req/s"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in:\n%s", want, out.String())
		}
	}
}

func TestMedians(t *testing.T) {
	got := medians([]sample{{rate: 1, p99: 5}, {rate: 3}, {rate: 2}})
	if want := (sample{rate: 2, p99: 5}); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestEveryMetricHasATitle(t *testing.T) {
	for _, m := range []metric{
		cpuPerRequest, cpuPerGiB, busy, rate, throughput, p50, p99, slowest, rss, peak, growth,
		perConn, perConnLater, failures, reloadCPU, reloadTime, quietP99,
		perCore, attackConns, attackFrames, timesQuiet,
	} {
		if m.title() == "" {
			t.Errorf("%s has no title", m)
		}
	}
}

func TestSplit(t *testing.T) {
	tests := []struct {
		cpus  []int
		n     int
		want  processors
		fails bool
	}{
		{cpus: []int{0, 1}, n: 1, want: processors{[]int{0}, []int{1}}},
		{cpus: []int{0, 1}, n: 2, want: processors{[]int{0, 1}, []int{0, 1}}},
		{cpus: []int{2, 3, 5, 7}, n: 2, want: processors{[]int{2, 3}, []int{5, 7}}},
		{cpus: []int{0, 1}, n: 3, fails: true},
		{cpus: []int{0}, n: 1, fails: true},
	}
	for _, tt := range tests {
		got, err := split(tt.cpus, tt.n)
		if (err != nil) != tt.fails || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%d of %v: got %v, %v", tt.n, tt.cpus, got, err)
		}
	}
}

func TestFootprintGrowth(t *testing.T) {
	before := footprint{goroutines: 20, descriptors: 15, memory: 20 << 20}
	tests := []struct {
		name  string
		after footprint
		want  string
	}{
		{"same", before, ""},
		{"noise", footprint{22, 16, 27 << 20, 0}, ""},
		{"less", footprint{10, 5, 1 << 20, 0}, ""},
		{"goroutines", footprint{23, 15, 20 << 20, 0}, "goroutines grew from 20 to 23"},
		{"descriptors", footprint{20, 17, 20 << 20, 0}, "descriptors grew from 15 to 17"},
		{"memory", footprint{20, 15, 29 << 20, 0}, "resident bytes grew"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.after.grown(before)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestFlags(t *testing.T) {
	o, err := parseFlags([]string{"-short", "-run", "^plain$", "-proxies", "nginx,gatehouse-std"}, io.Discard)
	if err != nil || o.rounds != 2 || o.duration != time.Second || !o.run.MatchString("plain") || len(o.proxies) != 2 {
		t.Errorf("got %+v, %v", o, err)
	}
	for _, wrong := range [][]string{
		{"-proxies", "apache"}, {"-proxies", "go"}, {"-run", "("}, {"extra"}, {"-rounds", "-1"}, {"-reloads", "1"}, {"-nothing"},
	} {
		if _, err := parseFlags(wrong, io.Discard); err == nil {
			t.Errorf("%v was taken", wrong)
		}
	}
}

func TestCasesAndConfigurations(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range cases() {
		if c.about == "" || c.run == nil || seen[c.name] {
			t.Errorf("case %q says nothing, does nothing or is there twice", c.name)
		}
		seen[c.name] = true
	}
	for _, p := range products() {
		for _, s := range []site{{}, {TLS: true}, {GRPC: true}, {Both: true}, {Everything: true, Routes: prefixes(2), Mark: "m", PoolIdle: "1s", Root: true}} {
			var text strings.Builder
			if err := template.Must(template.New("").Parse(p.config)).Execute(&text, s); err != nil {
				t.Errorf("%s: %v", p.name, err)
			}
		}
	}
}

// The upstream and the loads of our own have to understand each other.
func TestLoadsAgainstTheUpstream(t *testing.T) {
	b := &bench{port: 31000}
	address := b.freeAddress()
	serve, err := listenUpstream(address)
	if err != nil {
		t.Fatal(err)
	}
	go serve() // until the tests end
	for _, tt := range []struct {
		name  string
		load  load
		bytes int64 // of each exchange
	}{
		{"paced", paced{connections: 4, rate: 500, path: "/"}, 0},
		{"down small", transfer{connections: 2, down: 1000}, 1000},
		{"down large", transfer{connections: 2, down: 3 << 20}, 3 << 20},
		{"up small", transfer{connections: 1, up: 100}, 100},
		{"up large", transfer{connections: 2, up: 3 << 20}, 3 << 20},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := tt.load.run(t.Context(), address, 50*time.Millisecond)
			if err != nil || r.failed != 0 || r.requests == 0 {
				t.Fatalf("got %+v, %v", r, err)
			}
			if r.bytes != r.requests*tt.bytes {
				t.Errorf("%d requests moved %d bytes", r.requests, r.bytes)
			}
		})
	}
	t.Run("parked", func(t *testing.T) {
		conns, err := park(t.Context(), site{Address: address}, 40)
		defer closeAll(conns)
		if err != nil || len(conns) != 40 || countLost(conns) != 0 {
			t.Fatalf("%d connections, %d lost, %v", len(conns), countLost(conns), err)
		}
	})
	t.Run("streams", func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		echo, drip := openTunnel(ctx, address), openDrip(ctx, address)
		for _, s := range []*stream{echo, drip} {
			if err := s.advance(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if err := (site{Address: address}).ask("/drip/end"); err != nil {
			t.Fatal(err)
		}
		<-drip.done
		if drip.err != nil || drip.lines.Load()%dripLines != 0 {
			t.Errorf("the download ended with %v after %d lines", drip.err, drip.lines.Load())
		}
		stop()
		<-echo.done
		if echo.err == nil {
			t.Error("an ended tunnel is no error")
		}
	})
}

// The peer hands on what the load sends, over connections that are kept.
func TestPeer(t *testing.T) {
	b := &bench{port: 31500}
	address := b.freeAddress()
	serve, err := listenUpstream(address)
	if err != nil {
		t.Fatal(err)
	}
	go serve() // until the tests end
	peer := httptest.NewServer(peerProxy(address))
	defer peer.Close()
	r, err := transfer{connections: 2, down: 1000}.run(t.Context(), peer.Listener.Addr().String(), 50*time.Millisecond)
	if err != nil || r.failed != 0 || r.requests == 0 || r.bytes != r.requests*1000 {
		t.Fatalf("got %+v, %v", r, err)
	}
}
