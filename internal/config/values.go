package config

import "time"

// Duration is a length of time, written as 300ms, 5s, 1m or 24h.
type Duration time.Duration

// D returns the duration as the standard library's type.
func (d Duration) D() time.Duration { return time.Duration(d) }

// Size is a number of bytes, written as 512, 64KiB, 10MiB or 1GiB.
type Size int64

// Rate is a number of things a second: 1KiB/s for bytes, 100/s, 6000/m or
// 10000/d for anything else.
type Rate struct {
	Count int64         // how many
	Per   time.Duration // in which time
}

// Percent is a share, written as 20% and kept as 0.2.
type Percent float64

// StringList is a list of strings; a single string stands for a list of one.
type StringList []string
