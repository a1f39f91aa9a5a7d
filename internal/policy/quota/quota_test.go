package quota

import (
	"testing"
	"time"
)

func TestCalendar(t *testing.T) {
	for _, c := range []struct{ unit, zone, now, begin, end string }{
		{"hour", "UTC", "2026-03-29T10:59:59Z", "2026-03-29T10:00:00Z", "2026-03-29T11:00:00Z"},
		{"hour", "Asia/Kolkata", "2026-03-29T10:59:59Z", "2026-03-29T16:00:00+05:30", "2026-03-29T17:00:00+05:30"},
		{"day", "UTC", "2026-02-28T23:59:59Z", "2026-02-28T00:00:00Z", "2026-03-01T00:00:00Z"},
		// The day on which clocks go forward has 23 hours.
		{"day", "Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00"},
		{"day", "Europe/Berlin", "2026-03-28T23:30:00Z", "2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00"},
		{"week", "UTC", "2026-03-29T12:00:00Z", "2026-03-23T00:00:00Z", "2026-03-30T00:00:00Z"},
		{"week", "UTC", "2026-03-30T00:00:00Z", "2026-03-30T00:00:00Z", "2026-04-06T00:00:00Z"},
		{"month", "UTC", "2026-12-31T12:00:00Z", "2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"},
		{"month", "America/New_York", "2026-03-01T03:00:00Z", "2026-02-01T00:00:00-05:00", "2026-03-01T00:00:00-05:00"},
	} {
		zone, err := time.LoadLocation(c.zone)
		if err != nil {
			t.Fatal(err)
		}
		now, err := time.Parse(time.RFC3339, c.now)
		if err != nil {
			t.Fatal(err)
		}
		p := period{unit: c.unit, zone: zone}
		begin, end := p.calendar(now)
		if b, e := begin.Format(time.RFC3339), end.Format(time.RFC3339); b != c.begin || e != c.end {
			t.Errorf("%+v: %s to %s", c, b, e)
		}
	}
}
