// Package quota is the policy that counts what a consumer uses over hours to
// months. It owns calendars and time zones, and what a consumer is told about
// its usage; counts are kept where they outlast a restart.
package quota

import (
	"errors"
	"fmt"
	"time"
	_ "time/tzdata" // zones are the same on every machine

	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/key"
	"gatehouse.dev/gatehouse/internal/limit"
	"gatehouse.dev/gatehouse/internal/policy"
)

// Kind is the kind "quota".
func Kind() *policy.Kind {
	return &policy.Kind{
		Name: "quota", Stage: policy.Admit,
		New: func() policy.Config {
			return &Config{
				Period: "month", TimeZone: "UTC", By: "consumer", Cost: 1, Headers: true, Store: "local", OnFailure: "closed",
				Timeout: policy.Duration(100 * time.Millisecond),
			}
		},
		Doc: "Bounds how much a consumer uses in an hour, day, week or month.",
	}
}

// Config is one quota, or several of which all have to allow a request.
type Config struct {
	// How many requests in a period, or units of cost.
	Limit int64 `yaml:"limit" min:"0" max:"1000000000000"`
	// The period.
	Period string `yaml:"period" enum:"hour,day,week,month"`
	// Count the period back from each moment, a month as 30 days, and not from when the calendar begins it.
	Rolling bool `yaml:"rolling"`
	// Name of the quota in fields and usage. Default: its period.
	Name string `yaml:"name"`
	// Several quotas instead of one.
	Limits []*Limit `yaml:"limits"`
	// Zone in which days begin. Weeks begin on Monday.
	TimeZone string `yaml:"time_zone" example:"Europe/Berlin"`
	// Whose requests are counted together: consumer, client, route, header:NAME, claim:NAME, or a CEL expression. A request without the consumer, header or claim is counted by its client.
	By string `yaml:"by"`
	// What a request costs.
	Cost int64 `yaml:"cost" min:"0" max:"1000000"`
	// A field of the upstream's answer that says what the request did cost. It is taken off the answer, and the difference is charged or given back.
	CostHeader string `yaml:"cost_header" example:"X-Cost"`
	// A path at which the caller is told its usage, as JSON. Such a request is not counted and goes no further.
	Endpoint string `yaml:"endpoint" example:"/usage"`
	// Tell clients about quotas in the RateLimit and RateLimit-Policy fields.
	Headers bool `yaml:"headers"`
	// Where counts are kept: local is the file in data_folder, redis what "redis" of the configuration names.
	Store string `yaml:"store" enum:"local,redis"`
	// What to do while the store does not answer: closed answers 503, open lets requests pass uncounted.
	OnFailure string `yaml:"on_failure" enum:"closed,open"`
	// How long to wait for the store.
	Timeout policy.Duration `yaml:"timeout" min:"1ms" max:"10s"`
	// Only count, log and tell what would be refused.
	DryRun bool `yaml:"dry_run"`
}

// Limit is one of several quotas.
type Limit struct {
	// How many requests in a period, or units of cost.
	Limit int64 `yaml:"limit" required:"true" min:"1" max:"1000000000000"`
	// The period.
	Period string `yaml:"period" required:"true" enum:"hour,day,week,month"`
	// Count back from each moment, as in quota.rolling.
	Rolling bool `yaml:"rolling"`
	// Name of the quota in fields and usage. Default: its period.
	Name string `yaml:"name"`
}

// Repeatable says that the quotas of all levels are in force.
func (*Config) Repeatable() {}

const mostLimits = 8

// Compile finds the store.
func (c *Config) Compile(env *policy.Env) (policy.Policy, error) {
	var faults []error
	fault := func(field, text, hint string) {
		faults = append(faults, &policy.Fault{Field: field, Text: text, Hint: hint})
	}
	list := c.Limits
	switch {
	case list == nil && c.Limit == 0:
		fault("limit", "there is no limit", "write limit: 10000, or a list of limits")
	case list == nil:
		list = []*Limit{{Limit: c.Limit, Period: c.Period, Rolling: c.Rolling, Name: c.Name}}
	case c.Limit != 0 || c.Name != "":
		fault("limits", "limits stand beside a limit of the policy itself", "write all of them as limits")
	case len(list) == 0 || len(list) > mostLimits:
		fault("limits", fmt.Sprintf("%d limits: a policy has 1 to %d", len(list), mostLimits), "")
	}
	zone, err := time.LoadLocation(c.TimeZone)
	if err != nil || c.TimeZone == "" || c.TimeZone == "Local" {
		fault("time_zone", fmt.Sprintf("%q is not a time zone", c.TimeZone), "write UTC or Europe/Berlin")
	}
	by, f := key.Parse(c.By)
	if f != nil {
		fault("by", f.Text, f.Hint)
	}
	if c.CostHeader != "" {
		if f := policy.CheckField(c.CostHeader); f != nil {
			fault("cost_header", f.Text, f.Hint)
		}
	}
	if c.Endpoint != "" && c.Endpoint[0] != '/' {
		fault("endpoint", fmt.Sprintf("%q is not a path", c.Endpoint), "write /"+c.Endpoint)
	}
	service, hint := "durable", "add data_folder: /var/lib/gatehouse to the configuration, or use redis"
	if c.Store == "redis" {
		service, hint = "redis", "add redis: { url: redis://127.0.0.1:6379 } to the configuration"
	}
	store, ok := env.Service(service).(limit.Quotas)
	if !ok {
		fault("store", fmt.Sprintf("there is nowhere to keep counts: %s is not configured", service), hint)
	}
	m := &meter{
		store: store, by: by, cost: c.Cost, costHeader: c.CostHeader, endpoint: c.Endpoint, headers: c.Headers,
		open: c.OnFailure == "open", timeout: c.Timeout.D(), slot: policy.NewSlot[state](env), tell: policy.NewTeller(env), dryRun: c.DryRun,
	}
	names := make(map[string]bool)
	for i, l := range list {
		p := period{name: l.Name, unit: l.Period, limit: l.Limit, rolling: l.Rolling, zone: zone}
		if p.name == "" {
			p.name = l.Period
		}
		at := ""
		if c.Limits != nil {
			at = fmt.Sprintf("limits[%d].", i)
		}
		switch {
		case !limit.IsName(p.name):
			fault(at+"name", fmt.Sprintf("%q is not a name of a quota", p.name), "use at most 64 printable ASCII characters")
		case names[p.name]:
			fault(at+"name", fmt.Sprintf("name %q stands twice", p.name), "")
		case l.Limit < c.Cost:
			fault(at+"limit", fmt.Sprintf("a request costs %d, and the limit is %d: none would ever pass", c.Cost, l.Limit), "")
		}
		names[p.name] = true
		// The numbers are not part of the key: a quota that is changed goes on
		// from what was used.
		p.key = "quota:" + key.Digest(env.At+"\x00"+p.name+"\x00"+p.unit+"\x00"+fmt.Sprint(p.rolling)+"\x00"+c.By)
		m.periods = append(m.periods, p)
	}
	if err := errors.Join(faults...); err != nil {
		return nil, err
	}
	m.policy = m.describe()
	return m, nil
}

var exceeded = exchange.Problem{
	Status: 429, Code: "quota_exceeded", Side: exchange.SideClient,
	Detail: "The quota is used up.",
}

var unknown = exchange.Problem{
	Status: 503, Code: "quota_unavailable", Side: exchange.SideGateway,
	Detail: "The gateway cannot count against the quota at present.", Retry: time.Second,
}

// period is one quota.
type period struct {
	key, name, unit string
	limit           int64
	rolling         bool
	zone            *time.Location
}

// rollingSlots is how finely a rolling period is counted: to a hundredth of
// it. One slot more is looked at, so that no stretch of the period's length
// has more than the limit.
const rollingSlots = 100

func (p *period) length() time.Duration {
	switch p.unit {
	case "hour":
		return time.Hour
	case "day":
		return 24 * time.Hour
	case "week":
		return 7 * 24 * time.Hour
	}
	return 30 * 24 * time.Hour
}

// at returns the present slot, how many count, and when all is back.
func (p *period) at(now time.Time) (slot, slots int64, reset time.Time) {
	if p.rolling {
		width := p.length() / rollingSlots
		return now.UnixNano() / int64(width), rollingSlots + 1, now.Add(p.length())
	}
	begin, end := p.calendar(now)
	return begin.Unix(), 1, end
}

// calendar returns when the present hour, day, week or month begins and ends.
// A day has 23 or 25 hours where clocks change.
func (p *period) calendar(now time.Time) (begin, end time.Time) {
	t := now.In(p.zone)
	year, month, day := t.Date()
	switch p.unit {
	case "hour":
		begin = t.Add(-time.Duration(t.Minute())*time.Minute - time.Duration(t.Second())*time.Second - time.Duration(t.Nanosecond()))
		return begin, begin.Add(time.Hour)
	case "day":
		return time.Date(year, month, day, 0, 0, 0, 0, p.zone), time.Date(year, month, day+1, 0, 0, 0, 0, p.zone)
	case "week":
		monday := day - (int(t.Weekday())+6)%7
		return time.Date(year, month, monday, 0, 0, 0, 0, p.zone), time.Date(year, month, monday+7, 0, 0, 0, 0, p.zone)
	}
	return time.Date(year, month, 1, 0, 0, 0, 0, p.zone), time.Date(year, month+1, 1, 0, 0, 0, 0, p.zone)
}
