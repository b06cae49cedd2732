-- Attempts from one address at all gateways, each under a name of its own, by its moment.
local account, window, limit = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])
local nonce, attempt = ARGV[3], ARGV[4]
local number = function(n) return string.format('%.0f', n) end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
-- what the gateway allowed before: a Redis that has forgotten it learns it again
for i = 5, #ARGV, 2 do
  redis.call('ZADD', account, 'NX', number(now - tonumber(ARGV[i + 1])), ARGV[i])
end
redis.call('ZREMRANGEBYSCORE', account, '-inf', number(now - window))
redis.call('PEXPIRE', account, number(math.ceil(window / 1000)))

-- another attempt of its gateway may have told of this one already
if redis.call('ZSCORE', account, attempt) then
  return { nonce, '1', '0' }
end

local count = redis.call('ZCARD', account)
if count >= limit then
  -- all but the newest must be gone, should the limit have become smaller
  local oldest = redis.call('ZRANGE', account, count - limit, count - limit, 'WITHSCORES')
  return { nonce, '0', number(math.max(1, tonumber(oldest[2]) + window - now)) }
end
redis.call('ZADD', account, number(now), attempt)
redis.call('PEXPIRE', account, number(math.ceil(window / 1000)))
return { nonce, '1', '0' }
