package app

import (
	"context"
	"math"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"strconv"
	"strings"
	"time"
)

// room is how many bytes are allocated at least between two collections. By
// default the collector runs when the heap has doubled: with the few megabytes
// that a gateway keeps, many times a second under load.
const room = 24 << 20

// leastLive is what the heap is taken to hold at least, so that one percent of
// it means something.
const leastLive = 2 << 20

// limitMemory has the collector keep within the container's memory. GOMEMLIMIT
// in the environment comes first.
func limitMemory() {
	if os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	if most := containerMemory(os.ReadFile); most > 0 {
		// The rest is for what the runtime does not count.
		debug.SetMemoryLimit(most / 10 * 9)
	}
}

// paceCollector gives the collector the room it needs until ctx ends. GOGC in
// the environment comes first.
func paceCollector(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	percent := 0
	set := func() {
		metrics.Read(live)
		// Changing it stops the world for a moment, so little is let be.
		if p := gcPercent(live[0].Value.Uint64()); p < percent || p > percent+percent/4 {
			percent = p
			debug.SetGCPercent(p)
		}
	}
	set()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			set()
		case <-ctx.Done():
			return
		}
	}
}

// gcPercent returns how much of what is live may be allocated before the next
// collection, in percent.
func gcPercent(live uint64) int {
	return int(max(100, room*100/max(live, leastLive)))
}

// containerMemory returns how many bytes of memory the container may use, by
// version 2 or 1 of the kernel's control groups, or 0 for no limit.
func containerMemory(read func(name string) ([]byte, error)) int64 {
	most := int64(math.MaxInt64)
	for _, file := range []string{"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"} {
		text, err := read(file)
		if err != nil {
			continue // this system has no such group
		}
		if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && n > 0 { // "max" is no number
			most = min(most, n)
		}
	}
	if most > 1<<50 { // version 1 has a very large number for no limit
		return 0
	}
	return most
}
