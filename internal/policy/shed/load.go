package shed

import (
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
	"time"
)

type limits struct {
	cpu, memory float64
	delay       time.Duration
}

// reading is the load at one moment.
type reading struct {
	cpu    float64 // share of the processors, 0 to 1
	memory float64 // share of the limit; 0 without one
	delay  time.Duration
}

// load follows the readings. Its pressure is how many priorities are turned
// away: 0.5 is half of the lowest, 1.5 all of the lowest and half of the next.
type load struct {
	limits limits
	probe  func() reading
	bits   atomic.Uint64 // pressure, as a float64
	stop   chan struct{}
}

const (
	every        = 100 * time.Millisecond
	mostPressure = 3
)

func start(l limits, probe func() reading) *load {
	o := &load{limits: l, probe: probe, stop: make(chan struct{})}
	go o.run()
	return o
}

// Retire ends the readings.
func (o *load) Retire() { close(o.stop) }

func (o *load) pressure() float64 { return math.Float64frombits(o.bits.Load()) }

func (o *load) run() {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			o.step(o.probe())
		case <-o.stop:
			return
		}
	}
}

// step raises the pressure the faster the farther a reading is over its limit,
// and lowers it slowly when all are below. That settles where what is let in is
// just what can be done.
func (o *load) step(r reading) {
	over := 0.0
	for _, part := range [][2]float64{{r.cpu, o.limits.cpu}, {r.memory, o.limits.memory}, {float64(r.delay), float64(o.limits.delay)}} {
		if part[1] > 0 {
			over = max(over, part[0]/part[1])
		}
	}
	p := o.pressure()
	if over > 1 {
		p += 0.05 + 0.2*min(over-1, 1)
	} else {
		p -= 0.05
	}
	o.bits.Store(math.Float64bits(min(max(p, 0), mostPressure)))
}

// newProbe reads the process.
func newProbe() func() reading {
	const total, released, latencies = "/memory/classes/total:bytes", "/memory/classes/heap/released:bytes", "/sched/latencies:seconds"
	samples := []metrics.Sample{{Name: total}, {Name: released}, {Name: latencies}}
	var before *metrics.Float64Histogram
	lastCPU, lastTime := cpuTime(), time.Now()
	limit := memoryLimit()
	return func() (r reading) {
		metrics.Read(samples)
		if limit > 0 {
			r.memory = float64(samples[0].Value.Uint64()-samples[1].Value.Uint64()) / float64(limit)
		}
		h := samples[2].Value.Float64Histogram()
		r.delay = percentile(h, before, 0.95)
		before = &metrics.Float64Histogram{Counts: append([]uint64(nil), h.Counts...), Buckets: h.Buckets}
		cpu, now := cpuTime(), time.Now()
		if passed := now.Sub(lastTime); passed > 0 {
			r.cpu = float64(cpu-lastCPU) / float64(passed) / float64(runtime.GOMAXPROCS(0))
		}
		lastCPU, lastTime = cpu, now
		return r
	}
}

// percentile is that of what was added to a histogram since before.
func percentile(h, before *metrics.Float64Histogram, share float64) time.Duration {
	count := func(i int) uint64 {
		if before == nil || len(before.Counts) != len(h.Counts) {
			return h.Counts[i]
		}
		return h.Counts[i] - before.Counts[i]
	}
	var total, sum uint64
	for i := range h.Counts {
		total += count(i)
	}
	for i := range h.Counts {
		if sum += count(i); total > 0 && float64(sum) >= share*float64(total) {
			edge := h.Buckets[i]
			if math.IsInf(edge, 0) {
				edge = 0
			}
			return time.Duration(edge * float64(time.Second))
		}
	}
	return 0
}

// memoryLimit is that of the runtime, which the gateway sets by the container's
// when it starts; 0 for none.
func memoryLimit() int64 {
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
		return limit
	}
	return 0
}
