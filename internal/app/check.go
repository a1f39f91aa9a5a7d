package app

import (
	"io"

	"gatehouse.dev/gatehouse/internal/certs"
	"gatehouse.dev/gatehouse/internal/config"
	"gatehouse.dev/gatehouse/internal/consumer"
	"gatehouse.dev/gatehouse/internal/durable"
	"gatehouse.dev/gatehouse/internal/exchange"
	"gatehouse.dev/gatehouse/internal/gateway"
	"gatehouse.dev/gatehouse/internal/observe"
	"gatehouse.dev/gatehouse/internal/redis"
	"gatehouse.dev/gatehouse/internal/upstream"
	"gatehouse.dev/gatehouse/internal/wire"
)

// Check reads a configuration and compiles it as a reload would, but opens no
// socket and serves nothing. It returns every fault and warning, by position.
func Check(source Source) config.Faults {
	return examine(source.load())
}

// examine adds the faults that only compiling finds to those of decoding.
func examine(cfg *config.Config, faults config.Faults) config.Faults {
	if cfg == nil {
		faults.Sort()
		return faults
	}
	faults = append(faults, compile(cfg, nil)...)
	faults = append(faults, certs.Check(cfg)...)
	faults.Sort()
	return faults
}

// compile compiles a configuration to be looked at: nothing is begun that asks
// others. see, which may be nil, gets the snapshot of one without a fault. What
// compiling began is ended again before compile returns.
func compile(cfg *config.Config, see func(*gateway.Pending)) config.Faults {
	sweeper := wire.NewSweeper()
	defer sweeper.Close()
	log := observe.NewLog(cfg.Observe.Log, io.Discard).Logger
	callers := consumer.New()
	g := gateway.New(gateway.Deps{
		Log: log, Metrics: observe.NewMetrics(cfg.Observe.Metrics), Still: true,
		Service: func(name string) any {
			if name == "consumers" {
				return callers
			}
			return unreached(name, cfg)
		},
		Upstream: func(name string, cfg *config.Upstream) (gateway.Upstream, error) {
			return upstream.New(name, cfg, upstream.Options{Sweeper: sweeper, Log: log, Still: true})
		},
	})
	change, faults := callers.Prepare(cfg)
	pending, more := g.Compile(cfg)
	faults = append(faults, more...)
	if pending == nil {
		return faults
	}
	defer pending.Discard()
	if see != nil && !faults.Fatal() {
		change.Commit()
		see(pending)
	}
	return faults
}

// unreached stands for what policies ask for by name, when nothing is to be
// written and nobody to be connected to.
func unreached(name string, cfg *config.Config) any {
	switch {
	case name == "access_log":
		return unwritten{}
	case name == "redis" && cfg.Redis != nil:
		return new(redis.Store)
	case name == "durable" && cfg.DataFolder != "":
		return new(durable.Store)
	}
	return nil
}

// unwritten is the access log of a configuration that is only looked at.
type unwritten struct{}

// Write writes nothing: there are no requests.
func (unwritten) Write(*exchange.Exchange) {}
