//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"
)

// errNothing says that a case has nothing to measure among the chosen products.
var errNothing = errors.New("nothing to measure")

// metric names a figure. Times are in microseconds and sizes in bytes unless
// the name says otherwise.
type metric string

const (
	cpuPerRequest metric = "cpu_us_per_request"
	cpuPerGiB     metric = "cpu_seconds_per_gib"
	busy          metric = "processors_used" // user and system time over elapsed time
	rate          metric = "requests_per_second"
	throughput    metric = "bytes_per_second"
	p50           metric = "p50_us"
	p99           metric = "p99_us"
	slowest       metric = "max_us"
	rss           metric = "rss_bytes"
	peak          metric = "peak_rss_bytes"
	growth        metric = "rss_growth_bytes" // peak over what was there before
	perConn       metric = "rss_bytes_per_connection"
	perConnLater  metric = "rss_bytes_per_connection_later"
	failures      metric = "failed_requests"
	reloadCPU     metric = "reload_cpu_seconds"
	reloadTime    metric = "reload_seconds"
	quietP99      metric = "p99_us_without_reloads"
	perCore       metric = "requests_per_cpu_second"
	attackConns   metric = "attacking_connections_per_second"
	attackFrames  metric = "attacking_frames_per_second"
	timesQuiet    metric = "p99_over_that_of_the_quiet_sample_before"
)

// title is the head of a column.
func (m metric) title() string {
	titles := map[metric]string{
		cpuPerRequest: "CPU/req", cpuPerGiB: "CPU/GiB", busy: "busy", rate: "req/s", throughput: "MiB/s",
		p50: "p50", p99: "p99", slowest: "max", rss: "RSS", peak: "peak RSS", growth: "growth",
		perConn: "RSS/conn", perConnLater: "later", failures: "failed",
		reloadCPU: "CPU/reload", reloadTime: "live after", quietP99: "p99 without",
		perCore: "req/s/core", attackConns: "attacks/s", attackFrames: "frames/s", timesQuiet: "p99 x quiet",
	}
	return titles[m]
}

// format writes a figure for people.
func (m metric) format(v float64) string {
	switch m {
	case cpuPerRequest:
		return fmt.Sprintf("%.1f us", v)
	case cpuPerGiB, reloadCPU, reloadTime:
		return fmt.Sprintf("%.2f s", v)
	case busy:
		return fmt.Sprintf("%.0f %%", v*100)
	case rate, failures, perCore, attackConns, attackFrames:
		return fmt.Sprintf("%.0f", v)
	case timesQuiet:
		return fmt.Sprintf("%.2f", v)
	case throughput:
		return fmt.Sprintf("%.0f", v/(1<<20))
	case p50, p99, slowest, quietP99:
		switch {
		case v >= 1e6:
			return fmt.Sprintf("%.2f s", v/1e6)
		case v < 10000:
			return fmt.Sprintf("%.0f us", v)
		}
		return fmt.Sprintf("%.1f ms", v/1000)
	case perConn, perConnLater:
		return fmt.Sprintf("%.2f KiB", v/(1<<10))
	default:
		return fmt.Sprintf("%.1f MiB", v/(1<<20))
	}
}

// sample is one measurement.
type sample map[metric]float64

// row is one subject of a table.
type row struct {
	Subject string   `json:"subject"`
	Median  sample   `json:"median"`
	Rounds  []sample `json:"rounds"`
}

// table is the outcome of a case.
type table struct {
	Name      string    `json:"case"`
	About     string    `json:"about"`
	Rows      []row     `json:"subjects"`
	Ratios    []ratios  `json:"ratios"`
	Budgets   []verdict `json:"budgets,omitempty"`
	columns   []metric
	baselines []string // subjects that the others are compared to
}

// ratios are one subject's medians over another's.
type ratios struct {
	Subject string `json:"subject"`
	Against string `json:"against"`
	Median  sample `json:"median"`
}

// budget is a bound of the design, with AtMost or AtLeast set: for a median of
// subject, or for its ratio when there is a subject to compare it to.
type budget struct {
	Subject string  `json:"subject"`
	Metric  metric  `json:"metric"`
	Against string  `json:"against,omitempty"`
	AtMost  float64 `json:"at_most,omitempty"`
	AtLeast float64 `json:"at_least,omitempty"`
}

func (b budget) met(is float64) bool {
	return (b.AtLeast == 0 || is >= b.AtLeast) && (b.AtMost == 0 || is <= b.AtMost)
}

// verdict is a budget and what came out.
type verdict struct {
	budget
	Is  float64 `json:"is"`
	Met bool    `json:"met"`
}

// newTable compares the rows to the baselines among them and to the budgets
// that they can be held to.
func newTable(rows []row, columns []metric, baselines []string, budgets ...budget) *table {
	t := &table{Rows: rows, columns: columns, baselines: baselines}
	for _, r := range rows {
		for _, name := range baselines {
			base := t.row(name)
			if base == nil || name == r.Subject {
				continue
			}
			t.Ratios = append(t.Ratios, ratios{r.Subject, name, ratioOf(r.Median, base.Median)})
		}
	}
	for _, b := range budgets {
		r := t.row(b.Subject)
		if r == nil {
			continue
		}
		is, ok := r.Median[b.Metric]
		if b.Against != "" {
			base := t.row(b.Against)
			if base == nil {
				continue
			}
			is, ok = ratioOf(r.Median, base.Median)[b.Metric]
		}
		if ok {
			t.Budgets = append(t.Budgets, verdict{b, is, b.met(is)})
		}
	}
	return t
}

func (t *table) row(subject string) *row {
	for i := range t.Rows {
		if t.Rows[i].Subject == subject {
			return &t.Rows[i]
		}
	}
	return nil
}

// ratioOf divides what both have; what was zero has no ratio.
func ratioOf(a, b sample) sample {
	out := sample{}
	for m, v := range a {
		if base := b[m]; base > 0 {
			out[m] = math.Round(v/base*1000) / 1000
		}
	}
	return out
}

// medians takes the median of each metric by itself.
func medians(rounds []sample) sample {
	byMetric := map[metric][]float64{}
	for _, s := range rounds {
		for m, v := range s {
			byMetric[m] = append(byMetric[m], v)
		}
	}
	out := sample{}
	for m, values := range byMetric {
		out[m] = median(values)
	}
	return out
}

// median returns the middle value, or the mean of the two in the middle.
func median(values []float64) float64 {
	values = slices.Sorted(slices.Values(values))
	n := len(values)
	if n == 0 {
		return math.NaN()
	}
	return (values[(n-1)/2] + values[n/2]) / 2
}

// print writes the table: figures first, then ratios, then budgets.
func (t *table) print(out io.Writer) {
	fmt.Fprintf(out, "\n%s: %s\n", t.Name, t.About)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	line := func(name string, cells []string) {
		// Names are padded by hand: the writer aligns everything to the right.
		fmt.Fprintf(w, "  %-28s\t", name)
		for _, cell := range cells {
			fmt.Fprintf(w, "%s\t", cell)
		}
		fmt.Fprintln(w)
	}
	var heads []string
	for _, m := range t.columns {
		heads = append(heads, m.title())
	}
	line("", heads)
	for _, r := range t.Rows {
		line(r.Subject, t.cells(r.Median, metric.format))
	}
	for _, r := range t.Ratios {
		if slices.Contains(t.baselines, r.Subject) {
			continue // baselines against each other are for the file
		}
		line(r.Subject+" / "+r.Against, t.cells(r.Median, func(_ metric, v float64) string { return fmt.Sprintf("%.2f", v) }))
	}
	w.Flush()
	for _, v := range t.Budgets {
		word := "met"
		if !v.Met {
			word = "MISSED"
		}
		format := func(x float64) string { return v.Metric.format(x) }
		against := ""
		if v.Against != "" {
			format = func(x float64) string { return fmt.Sprintf("%.2f", x) }
			against = " / " + v.Against
		}
		bound, limit := "at most", v.AtMost
		if v.AtLeast > 0 {
			bound, limit = "at least", v.AtLeast
		}
		fmt.Fprintf(out, "  budget %s: %s of %s%s is %s, %s %s\n",
			word, v.Metric.title(), v.Subject, against, format(v.Is), bound, format(limit))
	}
	for _, r := range t.Rows {
		var failed float64
		for _, s := range r.Rounds {
			failed += s[failures]
		}
		if failed > 0 {
			fmt.Fprintf(out, "  FAILED requests of %s: %.0f\n", r.Subject, failed)
		}
	}
}

func (t *table) cells(s sample, format func(metric, float64) string) []string {
	var cells []string
	for _, m := range t.columns {
		v, ok := s[m]
		if !ok {
			cells = append(cells, "-")
			continue
		}
		cells = append(cells, format(m, v))
	}
	return cells
}

// document is what is saved of a run.
type document struct {
	Time    time.Time `json:"time"`
	Machine machine   `json:"machine"`
	Rounds  int       `json:"rounds"`
	Seconds float64   `json:"seconds"` // of a measurement
	Cores   int       `json:"cores"`   // of a proxy
	Cases   []*table  `json:"cases"`
}

// save writes the document to a file of its own, named after its time, in a
// folder below root unless that is an absolute path, and returns its name.
func (d *document) save(root, folder string) (string, error) {
	name := filepath.Join(folder, d.Time.Format("2006-01-02T150405Z")+".json")
	path := name
	if !filepath.IsAbs(path) {
		path = filepath.Join(root, name)
	}
	text, err := json.MarshalIndent(d, "", "  ")
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o750)
	}
	if err == nil {
		err = os.WriteFile(path, append(text, '\n'), 0o644)
	}
	if err != nil {
		return "", fmt.Errorf("saving the figures: %w", err)
	}
	return name, nil
}

// machine is where and what was measured.
type machine struct {
	CPU        string            `json:"cpu"`
	Processors int               `json:"processors"`
	Kernel     string            `json:"kernel"`
	Versions   map[string]string `json:"versions"`
}

func (m machine) print(out io.Writer) {
	fmt.Fprintf(out, "%s, %d processors, Linux %s\n", m.CPU, m.Processors, m.Kernel)
	for _, name := range slices.Sorted(maps.Keys(m.Versions)) {
		fmt.Fprintf(out, "  %-10s %s\n", name, m.Versions[name])
	}
}
