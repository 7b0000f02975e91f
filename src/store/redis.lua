-- The rules of a record's life on Redis, as src/store/model.rs has them and on Redis's own clock.
-- KEYS: the records, one an operation. ARGV[1]: the operations, as src/store/redis.rs packs them.
-- Returns one packed answer an operation. A record is one string, in the form that src/record.rs gives it.

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local FORMAT, KIND, LOCK, SIMILAR, KEPT, BODIES_MAX, LARGE = 2, 0, 1, 2, 8, 4194304, 65536
local OPEN, RUNNING, UNKNOWN, COMPLETED = 0, 1, 2, 3
local op, record, bodies

local function check(right)
  if not right then error({ err = 'CORRUPT' }, 0) end
end

-- A command that fails ends the operation, and leaves its error behind.
local function call(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then error({ err = reply.err }, 0) end
  return reply
end

local function option(data, at)
  local flag = struct.unpack('B', data, at)
  check(flag <= 1)
  if flag == 0 then return nil, at + 1 end
  return true, at + 1
end

local function parse(data)
  local r, at, some, format, kind, flags = {}, nil, nil, nil, nil, nil
  -- What is of another format or kind may be longer or shorter, so this comes before anything else is read.
  format, kind, at = struct.unpack('BB', data)
  check(format == FORMAT and kind == KIND)
  r.state, flags, r.attempt, r.expires, at = struct.unpack('<BBI4I8', data, at)
  check(flags <= 3)
  r.doubt, r.inherited = flags % 2, flags >= 2
  local form = struct.unpack('B', data, at)
  check(form <= 2)
  local length = form == 2 and 17 or 1
  check(#data >= at + length)
  r.key, at = data:sub(at, at + length - 1), at + length
  local count
  count, at = struct.unpack('B', data, at)
  check(count <= KEPT and #data >= at + 16 * count - 1)
  r.released, at = data:sub(at, at + 16 * count - 1), at + 16 * count
  if r.state == OPEN then
    some, at = option(data, at)
    if some then r.fingerprint, at = struct.unpack('c32', data, at) end
  elseif r.state == COMPLETED then
    some, at = option(data, at)
    if some then r.fingerprint, at = struct.unpack('c32', data, at) end
    r.owner, r.status, r.since, at = struct.unpack('<c16I2I8', data, at)
    some, at = option(data, at)
    if some then r.response, at = data:sub(at), #data + 1 end
  else
    check(r.state == RUNNING or r.state == UNKNOWN)
    r.fingerprint, r.owner, r.till, at = struct.unpack('<c32c16I8', data, at)
  end
  check(at == #data + 1)
  return r
end

local function optional(value)
  return value and '\1' .. value or '\0'
end

-- When it is forgotten: never before its lease has ended.
local function forgotten(r)
  if r.state == RUNNING or r.state == UNKNOWN then return math.max(r.expires, r.till) end
  return r.expires
end

local function write(r)
  local tail
  if r.state == OPEN then
    tail = optional(r.fingerprint)
  elseif r.state == COMPLETED then
    tail = optional(r.fingerprint) .. r.owner .. struct.pack('<I2I8', r.status, r.since) .. optional(r.response)
  else
    tail = r.fingerprint .. r.owner .. struct.pack('<I8', r.till)
  end
  local flags = r.doubt + (r.inherited and 2 or 0)
  local head = struct.pack('<BBBBI4I8', FORMAT, KIND, r.state, flags, r.attempt, r.expires)
  local data = head .. r.key .. struct.pack('B', #r.released / 16) .. r.released .. tail
  call('SET', op.record, data, 'PXAT', string.format('%.0f', forgotten(r)))
end

local function is_released(owner)
  for at = 1, #record.released, 16 do
    if record.released:sub(at, at + 15) == owner then return true end
  end
  return false
end

-- Has late tries of this owner's claim refused from here on; tells whether they were before.
local function refuse_from_now(owner)
  if is_released(owner) then return true end
  record.released = (record.released .. owner):sub(-16 * KEPT)
  return false
end

-- Running or unknown, and of the owner that asks.
local function is_own()
  return (record.state == RUNNING or record.state == UNKNOWN) and record.owner == op.owner
end

-- The record of an operation that Redis has no other word of than this.
local function blank()
  return { attempt = op.attempt, key = op.key, doubt = 0, inherited = false, released = '', state = OPEN, expires = 0 }
end

-- Never before an owner was told, though the clock was set back in between.
local function expires(r, lease_end)
  if not op.in_window then return math.max(now + op.ttl, r.expires, lease_end) end
  if r.expires == 0 then return now + op.ttl end
  return r.expires > now and r.expires or forgotten(r)
end

local function run(r)
  local lease_end = now + op.lease
  r.expires = expires(r, lease_end)
  r.state, r.fingerprint, r.owner, r.till = RUNNING, op.fingerprint, op.owner, lease_end
  write(r)
end

local function grant(r, attempt)
  attempt = math.min(attempt, 4294967295)
  -- A claim that is granted once more has left nothing itself.
  if attempt ~= r.attempt then r.inherited = r.fingerprint ~= nil end
  r.attempt = attempt
  run(r)
  return 'G' .. struct.pack('<I4B', r.attempt, r.doubt) .. r.key .. struct.pack('<I8', forgotten(r))
end

local function settle(r, state, expires)
  r.state, r.expires = state, expires
  write(r)
  return 'O'
end

local operations = {}

-- Another attempt runs, or may have run.
local function in_the_way()
  local left = math.max(record.till - now, 0)
  if record.state == RUNNING and left > 0 then return 'I' .. struct.pack('<I4', record.attempt) end
  return 'U' .. struct.pack('<I4I8', record.attempt, left)
end

local function claim(may_retry, max_attempt)
  if not record then return op.may_begin and grant(blank(), 1) or 'Z' end
  if is_released(op.owner) then return 'S' end
  if record.fingerprint and record.fingerprint ~= op.fingerprint then return 'M' end
  local attempt = record.attempt
  if record.state == OPEN and attempt >= max_attempt then return 'H' .. struct.pack('<I4', attempt) end
  if record.state == OPEN then return grant(record, attempt + 1) end
  if is_own() then return grant(record, attempt) end
  if record.state == COMPLETED then
    local response = record.response or ''
    if op.has_other_way and #response > LARGE or bodies > 0 and bodies + #response > BODIES_MAX then return 'A' end
    bodies = bodies + #response
    local age = math.max(now - record.since, 0)
    return 'D' .. struct.pack('<I4I2I8I8', attempt, record.status, age, record.expires - now) .. optional(record.response)
  end
  if may_retry and record.till <= now then
    record.doubt = 1
    return grant(record, attempt + 1)
  end
  return in_the_way()
end

function operations.c() -- claim
  return claim(op.flag, 4294967295)
end

function operations.p() -- poll
  return claim(false, op.attempt)
end

function operations.l() -- look
  if not record then return 'Z' end
  local lapsed = record.state == RUNNING and record.till <= now
  local ttl, status = forgotten(record) - now, record.status or 0
  return 'V' .. struct.pack('<BI4I2I8', lapsed and UNKNOWN or record.state, record.attempt, status, ttl)
end

function operations.n() -- renew
  if record and (is_released(op.owner) or not is_own() or record.attempt ~= op.attempt) then return 'L' end
  local r = record or blank()
  run(r)
  return 'N' .. struct.pack('<I8', forgotten(r))
end

function operations.d() -- complete
  local r = record or blank()
  if r.state == RUNNING and r.owner ~= op.owner and now < r.till then return 'L' end
  if r.state == COMPLETED then return r.owner == op.owner and 'O' or 'L' end
  r.attempt, r.fingerprint, r.owner = math.max(r.attempt, op.attempt), op.fingerprint, op.owner
  r.status, r.since, r.response = op.status, now, op.flag and op.response or nil
  return settle(r, COMPLETED, op.in_window and expires(r, 0) or now + op.ttl)
end

-- A withdrawal says nothing of its own about the fingerprint: it stays as it stood before the claim.
local function release(keep)
  local known = record ~= nil
  record = record or blank()
  local is_repeat = refuse_from_now(op.owner)
  if keep == nil then keep = record.inherited end
  local till = expires(record, 0)
  if known and is_own() then
    if record.doubt == 1 then
      record.till = now
      return settle(record, UNKNOWN, till)
    end
    record.fingerprint = keep and record.fingerprint or nil
    return settle(record, OPEN, till)
  end
  if not known then
    -- What cannot begin leaves nothing behind that could.
    if not op.may_begin then return 'O' end
    record.fingerprint = keep and op.fingerprint or nil
    return settle(record, OPEN, till)
  end
  if record.state == OPEN and is_repeat then return 'O' end
  write(record)
  return 'L'
end

function operations.f() -- release
  return release(op.flag)
end

function operations.w() -- withdraw
  return release(nil)
end

function operations.u() -- mark unknown
  if record and record.owner ~= op.owner then return 'L' end
  if record and record.state == UNKNOWN then return 'O' end
  if record and record.state ~= RUNNING then return 'L' end
  local r = record or blank()
  r.till, r.fingerprint, r.owner = r.till or now + op.lease, op.fingerprint, op.owner
  return settle(r, UNKNOWN, expires(r, r.till))
end

-- An operator's word, for which no lease may live.
local function resolve(ran, keep)
  if not record then return 'Z' end
  if record.till and now < record.till then return in_the_way() end
  local completed = record.state == COMPLETED
  if completed and keep and not ran then return 'L' end
  if keep and not ran and op.attempt ~= record.attempt then return 'S' end
  local till = forgotten(record)
  if ran and not completed then
    record.owner, record.status, record.since, record.response = op.owner, op.status, now, nil
  end
  if ran then return settle(record, COMPLETED, math.max(till, now + op.ttl)) end
  if record.owner then refuse_from_now(record.owner) end
  record.doubt, record.fingerprint = 0, keep and record.fingerprint or nil
  return settle(record, OPEN, till)
end

function operations.r() -- resolve: it ran, or it did not
  return resolve(op.flag, true)
end

function operations.x() -- forget
  return resolve(false, false)
end

-- Locks, under names of their own. One that is free has no end of a lease.
local locks, lock = {}, nil

local function parse_lock(data)
  local l, format, kind, at = {}, nil, nil, nil
  format, kind, l.owner, l.till, l.fence, l.expires, at = struct.unpack('<BBc16I8I8I8', data)
  check(format == FORMAT and kind == LOCK and at == #data + 1)
  return l
end

local function keep(l)
  local data = struct.pack('<BBc16I8I8I8', FORMAT, LOCK, l.owner, l.till, l.fence, l.expires)
  call('SET', op.record, data, 'PXAT', string.format('%.0f', l.expires))
end

local function keep_own(till, fence)
  local expires = math.max(now + 2 * op.lease, lock and lock.expires or 0)
  keep({ owner = op.owner, till = till, fence = fence, expires = expires })
end

local function hold(fence)
  keep_own(now + op.lease, fence)
  return 'K' .. struct.pack('<I8', fence)
end

function locks.k() -- lock
  if not lock then return hold(now) end
  if lock.owner == op.owner then return lock.till > 0 and hold(lock.fence) or 'L' end
  if now < lock.till then return 'B' .. struct.pack('<I8', lock.till - now) end
  return hold(math.max(lock.fence + 1, now))
end

function locks.h() -- renew lock
  local fence = struct.unpack('<I8', op.response)
  if lock and not (lock.owner == op.owner and lock.till > 0 and lock.fence == fence) then return 'L' end
  return hold(fence)
end

function locks.o() -- unlock
  if lock and lock.owner ~= op.owner then return 'L' end
  if lock then return locks.x() end
  keep_own(0, #op.response > 0 and struct.unpack('<I8', op.response) or 0)
  return 'O'
end

-- Which other operation with this content was begun last; the own one is noted. Under names of their own.
local function similar(data)
  local kept, others, other, age = '', '', nil, nil
  if data then
    local format, kind, expires = struct.unpack('<BBI8', data)
    check(format == FORMAT and kind == SIMILAR and (#data - 10) % 40 == 0)
    for at = 11, #data, 40 do
      local name, begun = struct.unpack('<c32I8', data, at)
      local entry = data:sub(at, at + 39)
      if now < math.min(expires, begun + op.ttl) and entry ~= op.response then
        kept = kept .. entry
        if name ~= op.fingerprint then others, other, age = others .. entry, entry, math.max(now - begun, 0) end
      end
    end
  end
  if not (other and op.flag) then kept = (others .. op.fingerprint .. struct.pack('<I8', now)):sub(-160) end
  local expires = now + op.ttl
  call('SET', op.record, struct.pack('<BBI8', FORMAT, SIMILAR, expires) .. kept, 'PXAT', string.format('%.0f', expires))
  return other and 'Y' .. other .. struct.pack('<I8', age) or 'O'
end

function locks.x() -- forget
  if not lock then return 'Z' end
  lock.till = 0
  keep(lock)
  return 'O'
end

function locks.l() -- look
  if not lock then return 'Z' end
  return 'V' .. struct.pack('<BI4I2I8', now < lock.till and RUNNING or OPEN, 0, 0, lock.expires - now)
end

local function apply()
  if op.deadline > 0 and op.deadline <= now then return 'L' end
  local data = call('GET', op.record)
  -- What can be asked of both is asked of what stands there.
  if locks[op.kind] and (not operations[op.kind] or data and data:byte(2) == LOCK) then
    lock = data and parse_lock(data) or nil
    if lock and lock.expires <= now then lock = nil end
    return locks[op.kind]()
  end
  if op.kind == 's' then return similar(data) end
  record = data and parse(data) or nil
  if record and forgotten(record) <= now then record = nil end
  return operations[op.kind]()
end

local answers, at = {}, 1
bodies = 0
for i, key in ipairs(KEYS) do
  op = { record = key }
  op.kind, op.nonce, op.owner, op.fingerprint, op.attempt, op.key, op.flag, op.lease, op.ttl, op.deadline, op.status,
    op.response, at = struct.unpack('<c1c16c16c32I4Bc0BI8I8I8I2I4c0', ARGV[1], at)
  op.may_begin, op.has_other_way = op.flag < 8, op.flag % 8 >= 4
  op.flag, op.in_window = op.flag % 2 == 1, op.flag % 4 >= 2
  local done, answer = pcall(apply)
  if not done then
    -- Redis 7 hands over the text of an error alone, and 6.2 writes before it where it happened. One of Lua's own, in
    -- small letters, is a record cut short.
    local text = type(answer) == 'table' and answer.err or tostring(answer)
    answer = 'E' .. (text:match('^%-?(%u+)') or text:match('^@user_script: %d+: %-(%u+)') or 'CORRUPT')
  end
  answers[i] = op.nonce .. answer
end
return answers
