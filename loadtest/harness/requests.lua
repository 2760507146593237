-- Sends requests of several kinds, each with its share, and prints what came of it as one JSON line.
-- The argument is a file with a line for each: weight, key, method, path, bytes of body.

local requests, choices = {}, {}

function init(args)
  math.randomseed(tonumber(args[2]))
  for line in io.lines(args[1]) do
    local weight, key, method, path, size = line:match("^(%d+) (%S+) (%S+) (%S+) (%d+)$")
    local body = tonumber(size) > 0 and string.rep("x", tonumber(size)) or nil
    local headers = {}
    if key ~= "-" then headers["X-API-Key"] = key end
    if body then headers["Content-Type"] = "application/octet-stream" end
    requests[#requests + 1] = wrk.format(method, path, headers, body)
    for _ = 1, tonumber(weight) do choices[#choices + 1] = #requests end
  end
end

function request()
  return requests[choices[math.random(#choices)]]
end

function done(summary, latency)
  local errors, times = summary.errors, {}
  for i = 1, #latency do
    local micros, count = latency(i)
    times[i] = string.format("[%d,%d]", micros, count)
  end
  io.write(string.format(
    'RESULT {"requests": %d, "seconds": %.6f, "connect": %d, "read": %d, "write": %d, "timeout": %d, "status": %d, "times": [%s]}\n',
    summary.requests, summary.duration / 1e6, errors.connect, errors.read, errors.write, errors.timeout, errors.status,
    table.concat(times, ",")))
end
