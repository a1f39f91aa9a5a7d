//go:build !unix

package shed

import "time"

// cpuTime is not known here: only memory and delay are looked at.
func cpuTime() time.Duration { return 0 }
