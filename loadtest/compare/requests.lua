-- Sends the prepared requests in turn, and prints what came of it as one JSON line.

local paths, keys = {}, {}
local sent = 0

function init(args)
  for line in io.lines(args[1]) do
    local key, path = line:match("^(%S+) (%S+)$")
    wrk.headers["X-API-Key"] = key
    paths[#paths + 1] = wrk.format("GET", path)
  end
end

function request()
  sent = sent % #paths + 1
  return paths[sent]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "seconds": %.6f, "p50_us": %d, "p99_us": %d, "p999_us": %d, "failed": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50), latency:percentile(99), latency:percentile(99.9),
    errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
