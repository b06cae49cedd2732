-- What all gateways use of one account, and a grant from what is left.
--
-- The account is a hash: `STRETCH|NODE` holds what a gateway used in a stretch of time, `o|NODE` what
-- it holds and since when. Each gateway writes its own fields anew whenever it calls, so that a
-- hash that was lost, in part or whole, is soon right again.
local account, node = KEYS[1], ARGV[1]
local limit, window, stretch = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local stretches, dead = tonumber(ARGV[5]), tonumber(ARGV[6])
local outstanding, amount = tonumber(ARGV[7]), tonumber(ARGV[8])
local wanted, batch, nonce = tonumber(ARGV[9]), tonumber(ARGV[10]), ARGV[11]
local number = function(n) return string.format('%.0f', n) end

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local oldest = math.floor(now / stretch) - stretches

local mine = {}
for i = 12, #ARGV, 2 do
  mine[ARGV[i] .. '|' .. node] = true
  redis.call('HSET', account, ARGV[i] .. '|' .. node, ARGV[i + 1])
end

local total, others, newest, used = outstanding, 0, 0, {}
local all = redis.call('HGETALL', account)
for i = 1, #all, 2 do
  local field, value = all[i], all[i + 1]
  local first, who = string.match(field, '^(.-)|(.*)$')
  local own = who == node
  if first == 'o' then
    local held, since = string.match(value, '^(%d+)@(%d+)$')
    if not own and since and now - tonumber(since) < dead then
      total, others = total + tonumber(held), others + tonumber(held)
      newest = math.max(newest, tonumber(since) + dead)
    elseif not own then
      redis.call('HDEL', account, field)
    end
  else
    local at, sum = tonumber(first), tonumber(value)
    if not at or not sum or at < oldest or (own and not mine[field]) then
      redis.call('HDEL', account, field)
    else
      total = total + sum
      used[#used + 1] = { at, sum }
      if not own then
        others = others + sum
        newest = math.max(newest, (at + 1) * stretch + window)
      end
    end
  end
end

local free = math.max(0, limit - total)
local grant, wait = 0, 0
if amount > 0 and free >= amount then
  -- a batch is at most a quarter of what is left, so that the last of it can be had anywhere
  grant = math.min(free, math.max(amount, wanted, math.min(batch, math.floor(free / 4))))
elseif amount > 0 then
  table.sort(used, function(a, b) return a[1] < b[1] end)
  local freed = free
  wait = window
  for _, each in ipairs(used) do
    freed = freed + each[2]
    if freed >= amount then
      wait = math.max(1, (each[1] + 1) * stretch + window - now)
      break
    end
  end
end

outstanding = outstanding + grant
if outstanding > 0 then
  redis.call('HSET', account, 'o|' .. node, number(outstanding) .. '@' .. number(now))
else
  redis.call('HDEL', account, 'o|' .. node)
end
redis.call('PEXPIRE', account, number(math.ceil((window + stretch + dead) / 1000)))
return { nonce, grant, others, wait, math.max(0, newest - now), now }
