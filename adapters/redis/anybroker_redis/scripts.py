"""The two Lua scripts that make all transitions, a batch in each call.

The value of an event's key is ``C<fence> <since> <until> <lease> <token>`` while it is claimed, ``D<fence>`` when it is
done; times are microseconds on the server's clock. The token is unique to one call of ``claim``: it says whose claim it
is before the caller knows the fence.

Every transition may be repeated: a claim by the same token gets the same answer, and everything else compares fences or
tokens. So a call whose answer was lost can be sent again.
"""

from __future__ import annotations

from hashlib import sha1

__all__ = ["CLAIM", "END", "Script"]


class Script:
    """A script and the name that EVALSHA knows it by."""

    def __init__(self, text: str) -> None:
        self.text = text.encode()
        self.sha = sha1(self.text, usedforsecurity=False).hexdigest().encode()


# KEYS: the counters, then one key for each claim. ARGV: how many counters, then for each claim
# "<its counter> <lease> <milliseconds to keep it> <token>".
# The fence is the server's time, or one more than the last fence of the tag where the clock has not moved on: it goes
# up even if the counter is lost with the data, or the clock is set back.
# A lease that ends later than it can was written before the clock went back: it begins anew, and ends in its own time.
CLAIM = Script("""
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local counters = tonumber(ARGV[1])
local match, format = string.match, string.format
local fences, answers = {}, {format('%.0f', now)}
for n = 2, #ARGV do
  local key = KEYS[counters + n - 1]
  local counter, lease, keep, token = match(ARGV[n], '^(%d+) (%d+) (%d+) (.*)$')
  local value = redis.pcall('GET', key)
  if type(value) == 'table' and value.err and not string.find(value.err, 'WRONGTYPE', 1, true) then
    return value
  end
  local fence, since, ends, held, holder
  if type(value) == 'string' then
    fence, since, ends, held, holder = match(value, '^C(%d+) (%d+) (%d+) (%d+) (.*)$')
  end
  if value and not fence then
    answers[n] = (type(value) == 'string' and match(value, '^D%d+$')) and 'D' or 'X'
  else
    local ours, left = fence and holder == token, 0
    if fence and not ours then
      held = tonumber(held)
      left = tonumber(ends) - now
      if left > held then
        left = held
        redis.call('SET', key, format('C%s %s %.0f %.0f %s', fence, since, now + held, held, holder), 'KEEPTTL')
      end
    end
    if left > 0 then
      answers[n] = format('B%.0f,%.0f', math.max(now - since, 0), left)
    else
      if not ours then
        counter = tonumber(counter)
        local last = fences[counter] or tonumber(redis.call('GET', KEYS[counter]) or 0) or 0
        fence = format('%.0f', math.max(last + 1, now, (tonumber(fence) or 0) + 1))
        fences[counter] = tonumber(fence)
      end
      redis.call('SET', key, format('C%s %.0f %.0f %s %s', fence, now, now + lease, lease, token), 'PX', keep)
      answers[n] = 'C' .. fence
    end
  end
end
for counter, fence in pairs(fences) do
  redis.call('SET', KEYS[counter], format('%.0f', fence))
end
return table.concat(answers, ' ')
""")


# KEYS: one for each operation. ARGV: "D <fence> <milliseconds to keep the mark>" marks done,
# "E <fence> <lease> <milliseconds to keep it>" extends, "R <fence>" releases, "U <token>" undoes a claim.
# Allowed when memory is full: it frees some.
END = Script("""#!lua flags=allow-oom
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local match, format = string.match, string.format
local answers = {}
for n = 1, #ARGV do
  local key, argument = KEYS[n], ARGV[n]
  local kind, what = match(argument, '^(%u) (.*)$')
  local value = redis.pcall('GET', key)
  if type(value) == 'table' and value.err and not string.find(value.err, 'WRONGTYPE', 1, true) then
    return value
  end
  value = type(value) == 'string' and value or ''
  local state, fence = match(value, '^([CD])(%d+)')
  local answer = '0'
  if kind == 'D' then
    local wanted, keep = match(what, '^(%d+) (%d+)$')
    if fence == wanted then
      answer = '1'
      if state == 'C' then
        redis.call('SET', key, 'D' .. fence, 'PX', keep)
      end
    end
  elseif kind == 'E' then
    local wanted, lease, keep = match(what, '^(%d+) (%d+) (%d+)$')
    if fence == wanted then
      answer = '1'
      if state == 'C' then
        local since, holder = match(value, '^C%d+ (%d+) %d+ %d+ (.*)$')
        redis.call('SET', key, format('C%s %s %.0f %s %s', fence, since, now + lease, lease, holder), 'PX', keep)
      end
    end
  elseif state == 'C' then
    if kind == 'R' and fence == what or kind == 'U' and match(value, '^C%d+ %d+ %d+ %d+ (.*)$') == what then
      redis.call('DEL', key)
      answer = '1'
    end
  end
  answers[n] = answer
end
return format('%.0f ', now) .. table.concat(answers)
""")
