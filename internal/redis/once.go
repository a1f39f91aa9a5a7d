package redis

import (
	"context"
	"time"

	"github.com/redis/rueidis"
)

// do carries out commands in one round trip, each on a key of its own. An
// answer that is nil is no failure.
func (s *Store) do(ctx context.Context, commands func(c rueidis.Client) rueidis.Commands) ([]rueidis.RedisResult, error) {
	p := s.client.Load()
	if p == nil || s.down.Load() {
		return nil, ErrDown
	}
	results := (*p).DoMulti(ctx, commands(*p)...)
	for i := range results {
		if err := results[i].Error(); err != nil && !rueidis.IsRedisNil(err) {
			return nil, s.failed(err)
		}
	}
	return results, nil
}

// Once takes down the use of a key for as long as given, and tells whether
// nobody did before.
func (s *Store) Once(ctx context.Context, key string, keep time.Duration) (first bool, err error) {
	results, err := s.do(ctx, func(c rueidis.Client) rueidis.Commands {
		return rueidis.Commands{c.B().Set().Key(s.prefix + key).Value("1").Nx().PxMilliseconds(max(1, keep.Milliseconds())).Build()}
	})
	if err != nil {
		return false, err
	}
	return !rueidis.IsRedisNil(results[0].Error()), nil
}

// raise: ARGV are the number and how long to keep it.
var raise = newScript(`
local have = tonumber(redis.call('GET', KEYS[1]) or 0)
if have < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
return 1
`)

// Raise keeps a number under a key for as long as given, if it is larger than
// the one that is there.
func (s *Store) Raise(ctx context.Context, key string, n int64, keep time.Duration) error {
	_, err := s.call(ctx, []invocation{{raise, key, []string{number(n), number(max(1, keep.Milliseconds()))}}})
	return err
}

// Numbers returns what Raise keeps under keys, 0 where there is nothing.
func (s *Store) Numbers(ctx context.Context, keys ...string) ([]int64, error) {
	results, err := s.do(ctx, func(c rueidis.Client) rueidis.Commands {
		out := make(rueidis.Commands, len(keys))
		for i, key := range keys {
			out[i] = c.B().Get().Key(s.prefix + key).Build()
		}
		return out
	})
	if err != nil {
		return nil, err
	}
	list := make([]int64, len(results))
	for i := range results {
		if rueidis.IsRedisNil(results[i].Error()) {
			continue
		}
		if list[i], err = results[i].AsInt64(); err != nil {
			return nil, s.failed(err)
		}
	}
	return list, nil
}
