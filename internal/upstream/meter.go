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
	Event(e Event)                           // something seldom happened
}

// Event is something that seldom happens on the way to an upstream.
type Event uint8

// The events.
const (
	Shed            Event = iota // a request was refused for want of a place
	BudgetSpent                  // a request was not sent again: the budget of retries was spent
	Hedged                       // a request was sent a second time while the first waited
	Ejected                      // an endpoint was ejected for what it did to live traffic
	FellIll                      // an endpoint failed its checks
	GotWell                      // an endpoint passes its checks again
	BreakerOpened                // the breaker opened
	BreakerClosed                // the breaker closed
	BreakerRefused               // a request was refused by the open breaker
	FailedOver                   // another upstream served instead
	Mirrored                     // a copy of a request was sent
	MirrorDropped                // a copy was not sent: too many were under way, or its body is too long
	DiscoveryFailed              // endpoints could not be looked for, or none were found
	DiscoveryWorked              // they could again
	numEvents
)

// String returns the event's word in metrics.
func (e Event) String() string {
	if e >= numEvents {
		return ""
	}
	return [numEvents]string{
		"shed", "budget_spent", "hedged", "ejected", "fell_ill", "got_well", "breaker_opened", "breaker_closed",
		"breaker_refused", "failed_over", "mirrored", "mirror_dropped", "discovery_failed", "discovery_worked",
	}[e]
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
func (noMeter) Event(Event)                     {}
