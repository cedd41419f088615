-- Decides on units of every key together, or corrects them: Take::decide and Quota::settle of this
-- crate, in whole microseconds, which a double counts exactly for longer than a hundred years.
--
-- ARGV[1]: 1 to correct without asking whether the units are there, 0 to decide.
-- Then for each key: how long its burst takes to come back, and how long the units do; negative to
-- give them back.
--
-- A key's value is its TAT, and how long the longest of the bursts takes to come back that it is due
-- to: nodes that are told of a change one after the other count with several. Two doubles, because
-- Lua takes longer to read and write digits than for all the rest.
--
-- Answers whether the units were taken, and for each key how long what it owed before takes to come
-- back.
local corrects = ARGV[1] == '1'
local call = redis.call
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]

local function keep(key, tat, longest)
    if tat > now then
        -- A key owes nothing from its TAT on, and is forgotten then.
        local left = string.format('%d', math.ceil((tat - now) / 1000))
        call('SET', key, struct.pack('<dd', tat, longest), 'PX', left)
    else
        call('DEL', key)
    end
end

local reply, tats, bursts = {1}, {}, {}
for i = 1, #KEYS do
    local tolerance, units = tonumber(ARGV[2 * i]), tonumber(ARGV[2 * i + 1])
    local tat, longest = now, tolerance
    local kept = call('GET', KEYS[i])
    if kept then
        tat, longest = struct.unpack('<dd', kept)
    end
    if tat <= now then
        tat, longest = now, tolerance
    elseif tat > now + 2 * longest then
        -- The clock went back, which must not lock a key for longer than a burst takes, also when it
        -- is asked for in the meantime.
        tat = now + longest
        keep(KEYS[i], tat, longest)
    end
    reply[i + 1] = tat - now
    tats[i] = tat + units
    bursts[i] = math.max(longest, tolerance)
    if corrects and units < 0 then
        keep(KEYS[i], tats[i], longest)
    elseif corrects then
        -- What is owed already may be due to a greater quota, which this one does not forgive.
        keep(KEYS[i], math.max(tat, math.min(tats[i], now + 2 * tolerance)), bursts[i])
    elseif tats[i] > now + tolerance then
        reply[1] = 0
    end
end

if reply[1] == 1 and not corrects then
    for i = 1, #KEYS do
        -- Whoever only looks writes nothing.
        if tats[i] - now > reply[i + 1] then
            keep(KEYS[i], tats[i], bursts[i])
        end
    end
end
return reply
