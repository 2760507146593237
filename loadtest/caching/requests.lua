-- Sends requests of a list, in turn or at random, and prints what came of it as one JSON line.

local requests, is_random = {}, false
local sent = 0

function init(args)
  for line in io.lines(args[1]) do
    local key, path = line:match("^(%S+) (%S+)$")
    wrk.headers["X-API-Key"] = key ~= "-" and key or nil
    requests[#requests + 1] = wrk.format("GET", path)
  end
  is_random = args[2] == "at-random"
  math.randomseed(os.time())
end

function request()
  if is_random then
    -- A few are asked for more often than the others.
    local among = math.random(4) == 1 and math.ceil(#requests / 50) or #requests
    return requests[math.random(among)]
  end
  sent = sent % #requests + 1
  return requests[sent]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "seconds": %.6f, "bytes": %d, "p50_us": %d, "p99_us": %d, "failed": %d}\n',
    summary.requests, summary.duration / 1e6, summary.bytes, latency:percentile(50), latency:percentile(99),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
