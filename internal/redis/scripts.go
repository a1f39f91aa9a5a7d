package redis

import (
	"crypto/sha1"
	"encoding/hex"
)

// script is a Lua script and the name that Redis has for it.
type script struct{ source, sha string }

func newScript(source string) *script {
	sum := sha1.Sum([]byte(source)) //nolint:gosec // a name, not a proof
	return &script{source, hex.EncodeToString(sum[:])}
}

// All times are microseconds of the server's clock, which all gateways share.
// They begin in 2023, so that a number of Lua keeps fractions of them. Each
// script uses one key, so that it runs on any node of a cluster.
const preamble = `
local t = redis.call('TIME')
local now = (t[1] - 1700000000) * 1000000 + t[2]
local key = KEYS[1]
`

// takeRate is GCRA. ARGV: interval, tau, cost. It answers whether the cost was
// taken, how many remain, and how long until all are back and until the cost
// would pass, -1 for never.
var takeRate = newScript(preamble + `
local interval, tau, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local tat = math.max(math.min(tonumber(redis.call('GET', key) or 0), now + 2 * tau), now)
local after = tat + cost * interval
if after - now <= tau + 0.01 then
  redis.call('SET', key, string.format('%.3f', after), 'PX', math.ceil((after - now) / 1000) + 1)
  return {1, math.floor((tau - after + now) / interval + 0.0001), math.ceil(after - now), 0}
end
local retry = math.ceil(after - now - tau)
if cost * interval > tau + 0.01 then retry = -1 end
return {0, math.max(math.floor((tau - tat + now) / interval + 0.0001), 0), math.ceil(tat - now), retry}
`)

// addRate charges or gives back. A debt is at most one more limit.
var addRate = newScript(preamble + `
local interval, tau, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local tat = math.max(tonumber(redis.call('GET', key) or 0), now)
local after = math.min(tat + cost * interval, now + 2 * tau)
if after <= now then
  redis.call('DEL', key)
else
  redis.call('SET', key, string.format('%.3f', after), 'PX', math.ceil((after - now) / 1000) + 1)
end
return {1, 0, 0, 0}
`)

// takeWindow is an exact window: a list of when each unit was taken. ARGV: per,
// count, cost.
var takeWindow = newScript(preamble + `
local per, count, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local n = redis.call('LLEN', key)
while n > 0 and tonumber(redis.call('LINDEX', key, 0)) + per <= now do
  redis.call('LPOP', key)
  n = n - 1
end
if n + cost <= count then
  for i = 1, cost do redis.call('RPUSH', key, string.format('%.0f', now)) end
  redis.call('PEXPIRE', key, math.ceil(per / 1000) + 1)
  return {1, count - n - cost, per, 0}
end
if n == 0 then return {0, count, 0, -1} end
local reset = tonumber(redis.call('LINDEX', key, -1)) + per - now
if cost > count then return {0, math.max(count - n, 0), reset, -1} end
return {0, math.max(count - n, 0), reset, tonumber(redis.call('LINDEX', key, n + cost - count - 1)) + per - now}
`)

// addWindow charges or gives back.
var addWindow = newScript(preamble + `
local per, count, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if cost < 0 then
  for i = 1, -cost do redis.call('RPOP', key) end
  return {1, 0, 0, 0}
end
local room = 2 * count - redis.call('LLEN', key)
for i = 1, math.min(cost, room) do redis.call('RPUSH', key, string.format('%.0f', now)) end
redis.call('PEXPIRE', key, math.ceil(per / 1000) + 1)
return {1, 0, 0, 0}
`)

// useQuota counts over slots of time. ARGV: limit, cost, slot, slots, keep,
// force. It answers whether the cost was counted, and the count after that.
var useQuota = newScript(`
local key = KEYS[1]
local limit, cost, slot, slots, keep, force = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], ARGV[6]
local used = 0
local all = redis.call('HGETALL', key)
for i = 1, #all, 2 do
  if tonumber(all[i]) <= slot - slots then
    redis.call('HDEL', key, all[i])
  else
    used = used + tonumber(all[i + 1])
  end
end
if cost > 0 and used + cost > limit and force ~= '1' then return {0, used} end
if used + cost < 0 then cost = 0 - used end -- -used is -0 where nothing was used, and that is no integer to HINCRBY
if cost ~= 0 then
  redis.call('HINCRBY', key, slot, cost)
  redis.call('PEXPIRE', key, keep)
end
return {1, used + cost}
`)
