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
	Event(name string)                       // one of the events below; they are seldom
}

// The events that Meter.Event is told.
const (
	Shed            = "shed"             // a request was refused for want of a place
	BudgetSpent     = "budget_spent"     // a request was not sent again: the budget of retries was spent
	Hedged          = "hedged"           // a request was sent a second time while the first waited
	Ejected         = "ejected"          // an endpoint was ejected for what it did to live traffic
	FellIll         = "fell_ill"         // an endpoint failed its checks
	GotWell         = "got_well"         // an endpoint passes its checks again
	BreakerOpened   = "breaker_opened"   // the breaker opened
	BreakerClosed   = "breaker_closed"   // the breaker closed
	BreakerRefused  = "breaker_refused"  // a request was refused by the open breaker
	FailedOver      = "failed_over"      // another upstream served instead
	Mirrored        = "mirrored"         // a copy of a request was sent
	MirrorDropped   = "mirror_dropped"   // a copy was not sent: too many were under way, or its body is too long
	DiscoveryFailed = "discovery_failed" // endpoints could not be found, or a name not resolved
	DiscoveryWorked = "discovery_worked" // they could again
)

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
func (noMeter) Event(string)                    {}
