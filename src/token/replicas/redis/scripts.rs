//! The operations as Lua scripts, which Redis 6, Valkey 7.2 and later run atomically.
//!
//! A place is three keys with one hash tag: `lease` (the holder, with a time to live), `fence` (a number), and `record` (a
//! hash: `n` the number, `v` the sealed record, `by` the holder that wrote it, `late` a record that came too late).

/// How a script reads a place: the store's time in microseconds, the number, the record, the late one, the flaw
/// ([`Flaw`](super::super::store::Flaw)) and who wrote. A record under the known number is not sent. A record that is too
/// large, has no number or is of another kind is sent as an empty one, which opens under no key.
macro_rules! see {
    () => {
        r"
local flaw = 0
local function own(key, kind)
  local found = redis.call('TYPE', key)['ok']
  if found == kind or found == 'none' then return false end
  redis.call('DEL', key)
  return true
end
local function numeral(text)
  if text and #text <= 15 and (text == '0' or string.match(text, '^[1-9]%d*$')) then return text end
end
local function number_of(key)
  local length = redis.call('HSTRLEN', key, 'n')
  if length == 0 then return '0' end
  local number = length <= 15 and numeral(redis.call('HGET', key, 'n'))
  if number then return number end
  flaw = 2
  return '0'
end
local function see(key, known, most)
  local time = redis.call('TIME')
  local now = string.format('%.0f', time[1] * 1000000 + time[2])
  local kind = redis.call('TYPE', key)['ok']
  if kind == 'none' then return {now, '0', false, false, flaw, false} end
  if kind ~= 'hash' then return {now, '0', '', false, 1, false} end
  local number = number_of(key)
  local function field(name, most)
    local bytes = redis.call('HSTRLEN', key, name)
    if bytes == 0 then return false end
    if bytes > most then return '' end
    return redis.call('HGET', key, name)
  end
  local record = false
  if flaw == 2 then
    record = ''
  elseif number ~= known then
    record = field('v', most) or ''
    if record == '' and redis.call('HSTRLEN', key, 'v') > most then flaw = 3 end
  end
  return {now, number, record, field('late', most), flaw, field('by', 256)}
end
"
    };
}

/// Takes the lease and reads. KEYS: lease, fence, record. ARGV: holder, ttl in ms, known number, largest record, fence.
pub(super) const TAKE: &str = concat!(
    see!(),
    r"
local altered = own(KEYS[1], 'string')
altered = own(KEYS[2], 'string') or altered
local holder = redis.call('GET', KEYS[1])
local taken = {0}
if holder and holder ~= ARGV[1] then
  taken[2] = redis.call('PTTL', KEYS[1])
  if taken[2] < 0 then
    -- No holder writes a lease that never ends.
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    altered = true
  end
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  local fence = redis.call('GET', KEYS[2])
  altered = altered or (fence and not numeral(fence))
  taken = {1, math.max(tonumber(numeral(fence) or '0'), tonumber(ARGV[5])) + 1}
  redis.call('SET', KEYS[2], string.format('%.0f', taken[2]))
end
taken[3] = see(KEYS[3], ARGV[3], tonumber(ARGV[4]))
if altered and taken[3][5] == 0 then taken[3][5] = 4 end
return taken
"
);

/// Renews a lease. KEYS: lease. ARGV: holder, ttl in ms.
pub(super) const RENEW: &str = r"
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
";

/// Gives a lease back. Who waits for the lease looks again by itself. KEYS: lease. ARGV: holder.
pub(super) const GIVE_BACK: &str = r"
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 1
";

/// Reads. KEYS: record. ARGV: known number, largest record.
pub(super) const READ: &str = concat!(see!(), "return see(KEYS[1], ARGV[1], tonumber(ARGV[2]))");

/// Replaces the record if its number is the expected one. KEYS: record. ARGV: expected number, new number, record, ttl in ms
/// (0: none), whether to announce, whether to keep a late record, largest record, channel, place, whether to drop a late record,
/// the holder (or nothing).
pub(super) const WRITE: &str = concat!(
    see!(),
    r"
own(KEYS[1], 'hash')
local number = number_of(KEYS[1])
if number ~= ARGV[1] then
  if ARGV[6] == '1' then redis.call('HSET', KEYS[1], 'late', ARGV[3]) end
  return {0, see(KEYS[1], '', tonumber(ARGV[7]))}
end
redis.call('HSET', KEYS[1], 'n', ARGV[2], 'v', ARGV[3])
if ARGV[11] ~= '' then redis.call('HSET', KEYS[1], 'by', ARGV[11]) end
if ARGV[4] == '0' then redis.call('PERSIST', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
if ARGV[10] == '1' then redis.call('HDEL', KEYS[1], 'late') end
if ARGV[5] == '1' then redis.call('PUBLISH', ARGV[8], ARGV[9]) end
flaw = 0
return {1, see(KEYS[1], ARGV[2], 0)}
"
);

/// Notes a replica and counts them. KEYS: replicas. ARGV: replica, the time in ms for which a note counts.
pub(super) const BEAT: &str = r"
local kind = redis.call('TYPE', KEYS[1])['ok']
if kind ~= 'zset' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[2]))
redis.call('PEXPIRE', KEYS[1], tonumber(ARGV[2]) * 4)
return redis.call('ZCARD', KEYS[1])
";
