package upstream

import "time"

// Meter counts what happens on the way to one upstream. shard spreads the
// counters; any value will do. The methods neither block nor allocate.
type Meter interface {
	Opened(shard uint32)                     // a connection was established
	Failed(shard uint32)                     // one could not be established
	Closed(shard uint32)                     // one that was opened is closed
	Idle(shard uint32, change int)           // so many more are idle, or fewer
	Tunnels(shard uint32, change int)        // so many more carry an upgraded stream, or fewer
	Reused(shard uint32)                     // a request went out on a kept connection
	Retried(shard uint32)                    // a request was sent again on another one
	FirstByte(shard uint32, d time.Duration) // from a request's first byte to the head of its answer
}

// noMeter counts nothing.
type noMeter struct{}

func (noMeter) Opened(uint32)                   {}
func (noMeter) Failed(uint32)                   {}
func (noMeter) Closed(uint32)                   {}
func (noMeter) Idle(uint32, int)                {}
func (noMeter) Tunnels(uint32, int)             {}
func (noMeter) Reused(uint32)                   {}
func (noMeter) Retried(uint32)                  {}
func (noMeter) FirstByte(uint32, time.Duration) {}
