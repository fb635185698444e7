//! The operations as Lua scripts, which Redis 6, Valkey 7.2 and later run atomically.
//!
//! A place is three keys with one hash tag: `lease` (the holder, with a time to live), `fence` (a number), and `record` (a
//! hash: `n` the number, `v` the sealed record, `late` a record that came too late).

/// How a script reads a place: the store's time in microseconds, the number, the record and the late one. A record under the
/// known number is not sent. A value that is too large or of another kind is sent as an empty one, which opens under no key.
macro_rules! see {
    () => {
        r"
local function see(key, known, most)
  local time = redis.call('TIME')
  local now = string.format('%.0f', time[1] * 1000000 + time[2])
  local kind = redis.call('TYPE', key)['ok']
  if kind == 'none' then return {now, '0', false, false} end
  if kind ~= 'hash' then return {now, '0', '', false} end
  local number = redis.call('HGET', key, 'n') or '0'
  local function field(name)
    local bytes = redis.call('HSTRLEN', key, name)
    if bytes == 0 then return false end
    if bytes > most then return '' end
    return redis.call('HGET', key, name)
  end
  local record = false
  if number ~= known then record = field('v') or '' end
  return {now, number, record, field('late')}
end
"
    };
}

/// Takes the lease and reads. KEYS: lease, fence, record. ARGV: holder, ttl in ms, known number, largest record, fence.
pub(super) const TAKE: &str = concat!(
    see!(),
    r"
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return {0, redis.call('PTTL', KEYS[1]), see(KEYS[3], ARGV[3], tonumber(ARGV[4]))}
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local fence = redis.call('INCR', KEYS[2])
if fence <= tonumber(ARGV[5]) then
  fence = tonumber(ARGV[5]) + 1
  redis.call('SET', KEYS[2], string.format('%.0f', fence))
end
return {1, fence, see(KEYS[3], ARGV[3], tonumber(ARGV[4]))}
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
/// (0: none), whether to announce, whether to keep a late record, largest record, channel, place, whether to drop a late record.
pub(super) const WRITE: &str = concat!(
    see!(),
    r"
local kind = redis.call('TYPE', KEYS[1])['ok']
if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end
local number = redis.call('HGET', KEYS[1], 'n') or '0'
if number ~= ARGV[1] then
  if ARGV[6] == '1' then redis.call('HSET', KEYS[1], 'late', ARGV[3]) end
  return {0, see(KEYS[1], '', tonumber(ARGV[7]))}
end
redis.call('HSET', KEYS[1], 'n', ARGV[2], 'v', ARGV[3])
if ARGV[4] == '0' then redis.call('PERSIST', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
if ARGV[10] == '1' then redis.call('HDEL', KEYS[1], 'late') end
if ARGV[5] == '1' then redis.call('PUBLISH', ARGV[8], ARGV[9]) end
return {1, see(KEYS[1], ARGV[2], 0)}
"
);

/// Notes a replica and counts them. KEYS: replicas. ARGV: replica, the time in ms for which a note counts.
pub(super) const BEAT: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - tonumber(ARGV[2]))
redis.call('PEXPIRE', KEYS[1], tonumber(ARGV[2]) * 4)
return redis.call('ZCARD', KEYS[1])
";
