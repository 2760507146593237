# The two ways in which a service of systemd can be upgraded without closing its port, under the same load: recipe A, a
# socket of systemd and two units that take turns (tests/systemd/recipes/), and recipe B, one unit whose process hands
# over to the next one (systemd/tollgate.service). Prints a table. `make systemd-recipes` runs it in the container.
ROUNDS=${ROUNDS:-20}
# Requests to the limited API that are let through in a day.
LIMIT=10
DRAIN_SECONDS=10
# Long enough to be under way when the old process is told to leave, and over before its drain deadline.
LONG_REQUEST_SECONDS=6
WEBSOCKET_PORT=9303

# ---- The two recipes: start, upgrade, what is left of the one before ----

A_begin() {
    COLOUR=blue
    cp /exercises/recipes/tollgate-held.socket /exercises/recipes/tollgate@.service /run/systemd/system/
    systemctl daemon-reload
    configure /etc/tollgate/blue.yaml gw-blue 7085
    configure /etc/tollgate/green.yaml gw-green 7087
    systemctl start tollgate-held.socket tollgate@blue || fail "A: blue starts"
}
A_other() { [ "$COLOUR" = blue ] && echo green || echo blue; }
A_start_next() { systemctl start "tollgate@$(A_other)"; }
# Ends with the old process: systemctl stop waits.
A_finish() {
    local before=$COLOUR
    COLOUR=$(A_other)
    # Said on standard error each time: the socket could start it again. It does not while the other one runs.
    systemctl stop "tollgate@$before" 2>/dev/null
}
A_next_configuration() { echo "/etc/tollgate/$(A_other).yaml"; }
A_pid() { property MainPID "tollgate@$COLOUR"; }
A_end() { systemctl stop tollgate-held.socket tollgate@blue tollgate@green 2>/dev/null; }

B_begin() {
    configure /etc/tollgate/tollgate.yaml gw-one 7085
    systemctl start tollgate || fail "B: it starts"
    OLD=$(main_pid)
}
B_start_next() { systemctl reload tollgate; }
B_finish() {
    wait_for "B: the process before is gone" is_gone "$OLD"
    OLD=$(main_pid)
}
B_next_configuration() { echo /etc/tollgate/tollgate.yaml; }
B_pid() { main_pid; }
B_end() { systemctl stop tollgate; }

# ---- What both serve ----

configure() { # configure FILE ID STATUS_PORT
    cat >"$1" <<-YAML
	gateway: { id: $2 }
	server: { timeouts: { drain: ${DRAIN_SECONDS}s } }
	listeners: [{ address: "127.0.0.1:8280" }]
	status: { address: "127.0.0.1:$3" }
	revision: { file: /etc/tollgate/revision.yaml }
	telemetry: { access_log: { path: "off", format: json, sample: 1.0 } }
	YAML
    chown root:tollgate "$1"
    chmod 640 "$1"
}

upstreams() {
    with_origin
    cat >/etc/tollgate/revision.yaml <<-YAML
	version: 1
	upstreams:
	  - { name: origin, endpoints: [{ address: "127.0.0.1:$ORIGIN_PORT" }] }
	  - { name: slow, endpoints: [{ address: "127.0.0.1:$SLOW_PORT" }] }
	  - { name: echo, endpoints: [{ address: "127.0.0.1:$WEBSOCKET_PORT" }] }
	apis:
	  - { name: everything, base_path: /, auth: none, upstream: origin }
	  - { name: slow, base_path: /slow, auth: none, upstream: slow }
	  - { name: echo, base_path: /echo, auth: none, upstream: echo }
	  - name: limited
	    base_path: /limited
	    auth: none
	    upstream: origin
	    strip_base_path: true
	    limits: [{ name: day, rate: $LIMIT/d }]
	YAML
    listen websocket "$WEBSOCKET_PORT" /exercises/recipes/websocket.sh
}

# ---- Clients ----

# Connections that are kept, and clients that make one for each request; until stop_load.
start_load() { # start_load NAME
    wrk --threads 1 --connections 8 --duration 900s --timeout 30s "$GATEWAY/" >"$WORK/$1.wrk" 2>&1 &
    WRK=$!
    : >"$WORK/load"
    CLIENTS=()
    local client
    for client in 1 2; do
        while [ -e "$WORK/load" ]; do
            curl --silent --max-time 30 --output /dev/null --write-out '%{http_code} %{time_total} %{errormsg}\n' "$GATEWAY/"
        done >"$WORK/$1.new.$client" &
        CLIENTS+=($!)
    done
}

stop_load() {
    rm "$WORK/load"
    wait "${CLIENTS[@]}"
    kill -INT "$WRK"
    wait "$WRK" || true
}

# How many requests to the limited API are let through, until one is not.
let_through() {
    local number=0
    while [ "$number" -lt $((3 * LIMIT)) ] \
        && [ "$(curl --silent --max-time 30 --output /dev/null --write-out '%{http_code}' "$GATEWAY/limited")" = 200 ]; do
        number=$((number + 1))
    done
    echo "$number"
}

# Sends a frame and takes it back twice a second, until it is cut or stop_websocket; how many seconds it lived.
start_websocket() { # start_websocket NAME
    : >"$WORK/websocket"
    rm -f "$WORK/$1.open"
    (
        LC_ALL=C
        frame=$'\x81\x81abcd\x19'
        exec 3<>/dev/tcp/127.0.0.1/8280
        printf 'GET /echo HTTP/1.1\r\nHost: gateway\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n' >&3
        read -r -t 30 line <&3 || exit
        case $line in *" 101 "*) ;; *) exit ;; esac
        while read -r -t 30 line <&3 && [ "${line%$'\r'}" ]; do :; done
        since=$SECONDS
        while [ -e "$WORK/websocket" ]; do
            printf '%s' "$frame" >&3 2>/dev/null || break
            read -r -t 30 -N ${#frame} answer <&3 || break
            [ "$answer" = "$frame" ] || break
            echo $((SECONDS - since)) >"$WORK/$1.open"
            sleep 0.5
        done
        [ -e "$WORK/websocket" ] && echo "cut after $(cat "$WORK/$1.open") s" || echo "lived"
    ) >"$WORK/$1.websocket" 2>/dev/null &
    WEBSOCKET=$!
    wait_for "a WebSocket is open" test -s "$WORK/$1.open"
}

stop_websocket() {
    rm -f "$WORK/websocket"
    wait "$WEBSOCKET"
}

long_request() { # long_request NAME
    curl --silent --output /dev/null --write-out '%{http_code}' --max-time 60 "$GATEWAY/slow/$LONG_REQUEST_SECONDS" >"$WORK/$1.long" &
    LONG=$!
    # It has to have reached the old process.
    sleep 1
}

# ---- The comparison ----

now() { date +%s%N; }
# Of numbers in a file, in milliseconds.
mean_and_max() { awk '{ s += $1; if ($1 > m) m = $1 } END { printf "%d / %d ms", s / NR / 1e6, m / 1e6 }' "$1"; }
row() { printf '%s\t%s\n' "$2" "$3" >>"$WORK/$1.table"; }

compare() { # compare RECIPE
    local recipe=$1 round begun served let resets=0 beyond=0 before
    upstreams
    "${recipe}_begin"
    wait_for "$recipe: it answers" answers
    [ "$(let_through)" = "$LIMIT" ] || fail "$recipe: a limit of $LIMIT lets $LIMIT through"
    : >"$WORK/$recipe.served"
    : >"$WORK/$recipe.over"
    : >"$WORK/$recipe.table"

    start_load "$recipe"
    for round in $(seq "$ROUNDS"); do
        before=$("${recipe}_pid")
        begun=$(now)
        "${recipe}_start_next" || fail "$recipe: round $round"
        served=$(now)
        "${recipe}_finish" || fail "$recipe: the end of round $round"
        echo $((served - begun)) >>"$WORK/$recipe.served"
        echo $(($(now) - begun)) >>"$WORK/$recipe.over"
        [ "$("${recipe}_pid")" != "$before" ] || fail "$recipe: round $round: another process serves"
        let=$(let_through)
        [ "$let" = 0 ] || resets=$((resets + 1))
        beyond=$((beyond + let))
    done
    stop_load
    clients "$recipe"
    row "$recipe" "upgrades after which a spent limit let through again" "$resets of $ROUNDS"
    row "$recipe" "requests let through beyond a limit of $LIMIT" "$beyond"
    row "$recipe" "until the new process serves (mean / max)" "$(mean_and_max "$WORK/$recipe.served")"
    row "$recipe" "until the one before is gone (mean / max)" "$(mean_and_max "$WORK/$recipe.over")"

    # What is under way during an upgrade.
    start_websocket "$recipe"
    long_request "$recipe"
    "${recipe}_start_next" || fail "$recipe: with a WebSocket"
    begun=$SECONDS
    "${recipe}_finish_later"
    wait "$LONG"
    sleep $((2 * DRAIN_SECONDS - (SECONDS - begun)))
    stop_websocket
    "${recipe}_finished"
    row "$recipe" "a request of $LONG_REQUEST_SECONDS s that was under way" "status $(cat "$WORK/$recipe.long")"
    row "$recipe" "a WebSocket, with a drain of $DRAIN_SECONDS s" "$(cat "$WORK/$recipe.websocket")"

    # A new process that can not start.
    cp "$("${recipe}_next_configuration")" "$WORK/good.yaml"
    echo "sever: {}" >>"$("${recipe}_next_configuration")"
    row "$recipe" "a mistake in the new configuration" "$(broken "$recipe")"
    cp "$WORK/good.yaml" "$("${recipe}_next_configuration")"
    "${recipe}_end"
}

# Stop and wait beside the clients: a WebSocket may keep the process before for a while.
A_finish_later() {
    A_finish &
    FINISHING=$!
    COLOUR=$(A_other)
}
A_finished() { wait "$FINISHING"; }
B_finish_later() { :; }
B_finished() { B_finish; }

clients() { # clients RECIPE: what became of their requests
    local kept errors new failed
    kept=$(sed -n 's/^ *\([0-9]*\) requests in.*/\1/p' "$WORK/$1.wrk")
    [ "${kept:-0}" -gt 0 ] || fail "$1: wrk has asked for something: $(cat "$WORK/$1.wrk")"
    errors=$(sed -n 's/^ *\(Socket errors:.*\|Non-2xx.*\)/\1/p' "$WORK/$1.wrk" | tr '\n' ' ')
    new=$(cat "$WORK/$1".new.* | wc -l)
    failed=$(cat "$WORK/$1".new.* | grep --count --invert-match '^200 ')
    row "$1" "requests on kept connections, failed" "$kept, ${errors:-0}"
    row "$1" "requests on new connections, failed" "$new, $failed"
    row "$1" "slowest answer, kept connections" "$(awk '$1 == "Latency" { print $4 }' "$WORK/$1.wrk")"
    row "$1" "slowest answer, new connections" "$(awk '$2 > m { m = $2 } END { printf "%d ms", m * 1000 }' "$WORK/$1".new.*)"
}

# Starts what can not start, under load; says what became of it.
broken() { # broken RECIPE
    local before failed
    before=$("${1}_pid")
    start_load "$1.broken"
    if "${1}_start_next" 2>/dev/null; then
        echo "taken over"
    else
        sleep 1
        failed=$(cat "$WORK/$1.broken".new.* | grep --count --invert-match '^200 ')
        [ "$("${1}_pid")" = "$before" ] && is_alive "$before" && echo -n "refused, the old one serves on"
        echo ", $failed requests failed"
    fi
    stop_load
}

compare A
# Two units are two gateways: what they can not share.
A_begin
configure /etc/tollgate/green.yaml gw-blue 7085
row A "blue and green with the same configuration" "$(broken A): $(journalctl --unit tollgate@green --output cat | grep --only-matching -i '[^ ]* [^ ]* [^ ]* address .*in use.*' | tail -n 1)"
A_end
rm /run/systemd/system/tollgate-held.socket /run/systemd/system/tollgate@.service
systemctl daemon-reload

compare B
row B "blue and green with the same configuration" "there is one configuration"
systemctl stop websocket.socket

echo
echo "$ROUNDS upgrades each"
paste "$WORK/A.table" "$WORK/B.table" | awk -F'\t' 'BEGIN { f = "%-58s %-52s %s\n"; printf f, "", "A: two units, a socket of systemd", "B: reload" } { printf f, $1, $2, $4 }'
