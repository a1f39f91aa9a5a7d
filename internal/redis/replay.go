package redis

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/rueidis"

	"gatehouse.dev/gatehouse/internal/replay"
)

var _ replay.Store = (*Store)(nil)

// A record is a hash: f the fingerprint, t the token, u until when it is
// carried out, and a the answer once there is one. Each script is one step that
// nobody else comes between.

// beginReplay: ARGV are fingerprint, token, lease, ttl, take over. It answers
// the state, the fingerprint and the answer.
var beginReplay = newScript(preamble + `
local have = redis.call('HMGET', key, 'f', 'u', 'a')
if have[1] then
  if have[3] then return {3, have[1], have[3]} end
  if tonumber(have[2]) > now then return {1, have[1], ''} end
  if ARGV[5] ~= '1' then return {2, have[1], ''} end
end
redis.call('DEL', key)
redis.call('HSET', key, 'f', ARGV[1], 't', ARGV[2], 'u', string.format('%.0f', now + ARGV[3] * 1000))
redis.call('PEXPIRE', key, ARGV[4])
return {0, ARGV[1], ''}
`)

// finishReplay: ARGV are token, answer, ttl.
var finishReplay = newScript(`
if redis.call('HGET', KEYS[1], 't') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'a', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
`)

// releaseReplay: ARGV is token.
var releaseReplay = newScript(`
if redis.call('HGET', KEYS[1], 't') ~= ARGV[1] or redis.call('HEXISTS', KEYS[1], 'a') == 1 then return 0 end
redis.call('DEL', KEYS[1])
return 1
`)

// abandonReplay: ARGV is token.
var abandonReplay = newScript(`
if redis.call('HGET', KEYS[1], 't') ~= ARGV[1] then return 0 end
redis.call('HSET', KEYS[1], 'u', '0')
return 1
`)

// Begin implements replay.Store.
func (s *Store) Begin(ctx context.Context, b replay.Begin) (replay.Record, error) {
	over := "0"
	if b.TakeOver {
		over = "1"
	}
	results, err := s.call(ctx, []invocation{{beginReplay, b.Key, []string{
		b.Fingerprint, b.Token, number(b.Lease.Milliseconds()), number(b.TTL.Milliseconds()), over,
	}}})
	if err != nil {
		return replay.Record{}, err
	}
	rec, err := record(results[0])
	if err != nil {
		return rec, s.failed(err)
	}
	return rec, nil
}

func record(r rueidis.RedisResult) (rec replay.Record, err error) {
	list, err := r.ToArray()
	if err != nil || len(list) != 3 {
		return rec, fmt.Errorf("redis answered no record: %w", err)
	}
	state, err := list[0].AsInt64()
	if err != nil || state < 0 || state > int64(replay.Done) {
		return rec, fmt.Errorf("redis answered a record without a state: %w", err)
	}
	rec.State = replay.State(state)
	if rec.Fingerprint, err = list[1].ToString(); err != nil {
		return rec, err
	}
	answer, err := list[2].ToString()
	rec.Answer = []byte(answer)
	return rec, err
}

// Finish implements replay.Store.
func (s *Store) Finish(ctx context.Context, key, token string, answer []byte, ttl time.Duration) error {
	_, err := s.call(ctx, []invocation{{finishReplay, key, []string{token, string(answer), number(ttl.Milliseconds())}}})
	return err
}

// Release implements replay.Store.
func (s *Store) Release(ctx context.Context, key, token string) error {
	_, err := s.call(ctx, []invocation{{releaseReplay, key, []string{token}}})
	return err
}

// Abandon implements replay.Store.
func (s *Store) Abandon(ctx context.Context, key, token string) error {
	_, err := s.call(ctx, []invocation{{abandonReplay, key, []string{token}}})
	return err
}
