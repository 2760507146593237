# What the exercises have in common.
set -u

GATEWAY=http://127.0.0.1:8280
STATUS=http://127.0.0.1:7085
# The sample upstream: a gateway too, which answers itself.
ORIGIN_PORT=9301
# Another one, which takes its time (slow_upstream.sh). Not a slow upload: the sample upstream answers one before it has it
# all, and then it depends on who is faster whether curl still sends the rest.
SLOW_PORT=9302
WORK=/run/exercise

fail() {
    echo "not so: $*" >&2
    exit 1
}

ok() { echo "ok: $*"; }

# Waits until a command succeeds. Machines are slow: this is how long a hang may take to be called one.
wait_for() { # wait_for WHAT COMMAND...
    local what=$1 until=$((SECONDS + 60))
    shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$until" ] || fail "$what, within a minute"
        sleep 0.1
    done
}

property() { systemctl show --property "$1" --value "${2:-tollgate}"; }
main_pid() { property MainPID; }
answers() { curl --silent --fail --max-time 5 --output /dev/null "${1:-$GATEWAY/}"; }
is_ready() { answers "$STATUS/status/ready"; }
is_alive() { kill -0 "$1" 2>/dev/null; }
is_gone() { ! kill -0 "$1" 2>/dev/null; }
# Processes of the unit beside the main one: those that are leaving.
others() {
    pgrep --full '^/usr/bin/tollgate run --config /etc/tollgate/tollgate.yaml' | grep --invert-match --line-regexp "$(main_pid)"
}
restarted() { [ "$(property NRestarts)" -gt 0 ]; }
alone() { [ -z "$(others)" ]; }
said() { # said SINCE TEXT
    journalctl --sync
    journalctl --unit tollgate --since "@$1" --no-pager --output cat | grep --quiet --fixed-strings -- "$2"
}
drop_in() { # drop_in NAME [UNIT]: from standard input
    mkdir -p "/run/systemd/system/${2:-tollgate.service}.d"
    cat >"/run/systemd/system/${2:-tollgate.service}.d/$1.conf"
    systemctl daemon-reload
}

# From the package, or what `make install` has put there.
install_it() {
    if [ -e /exercises/tollgate-1.deb ]; then
        dpkg --install /exercises/tollgate-1.deb >"$WORK/dpkg" 2>&1 || fail "dpkg --install: $(cat "$WORK/dpkg")"
    else
        systemd-sysusers tollgate.conf && systemd-tmpfiles --create tollgate.conf || fail "users and modes can be made"
    fi
    cp -a /etc/tollgate /exercises/etc
}

# A gateway as it was installed, stopped.
begin() { # begin EXERCISE
    rm -rf /run/systemd/system/tollgate*.d "$WORK"
    systemctl daemon-reload
    systemctl stop tollgate.socket tollgate.service tollgate-control-plane.service 2>/dev/null
    systemctl reset-failed 2>/dev/null
    mkdir -m 755 "$WORK"
    [ "$1" = package ] && return
    [ -d /exercises/etc ] || install_it
    systemctl stop tollgate.service
    rm -rf /etc/tollgate
    cp -a /exercises/etc /etc/tollgate
    put_program /exercises/tollgate
}

put_program() { # put_program FILE
    install -m 755 "$1" /usr/bin/tollgate.new
    mv /usr/bin/tollgate.new /usr/bin/tollgate
}

# An upstream that answers at /, and a gateway that sends requests there.
with_origin() {
    cat >"$WORK/origin.yaml" <<-YAML
	listeners: [{ address: "127.0.0.1:$ORIGIN_PORT" }]
	status: { address: "127.0.0.1:7301" }
	revision: { file: $WORK/origin-revision.yaml }
	telemetry: { access_log: { path: "off", format: json, sample: 1.0 } }
	YAML
    cat >"$WORK/origin-revision.yaml" <<-YAML
	version: 1
	apis:
	  - { name: origin, base_path: /, auth: none, routes: [{ path: "/", respond: { body: "from the origin\n" } }] }
	YAML
    cat >/etc/tollgate/revision.yaml <<-YAML
	version: 1
	upstreams:
	  - { name: origin, endpoints: [{ address: "127.0.0.1:$ORIGIN_PORT" }] }
	  - { name: slow, endpoints: [{ address: "127.0.0.1:$SLOW_PORT" }], timeouts: { read: 2m } }
	apis:
	  - { name: everything, base_path: /, auth: none, upstream: origin }
	  - { name: slow, base_path: /slow, auth: none, upstream: slow }
	YAML
    systemctl is-active --quiet origin || systemd-run --quiet --unit origin --service-type=exec \
        /exercises/tollgate run --config "$WORK/origin.yaml"
    wait_for "the sample upstream answers" answers "http://127.0.0.1:$ORIGIN_PORT/"
    listen slow "$SLOW_PORT" /exercises/slow_upstream.sh
}

# A script that serves each connection to a port on its standard input and output.
listen() { # listen NAME PORT SCRIPT
    cat >"/run/systemd/system/$1.socket" <<-UNIT
	[Socket]
	ListenStream=127.0.0.1:$2
	Accept=yes
	MaxConnections=512
	UNIT
    cat >"/run/systemd/system/$1@.service" <<-UNIT
	[Unit]
	CollectMode=inactive-or-failed
	[Service]
	ExecStart=/bin/bash $3
	StandardInput=socket
	StandardOutput=socket
	StandardError=journal
	UNIT
    systemctl daemon-reload
    systemctl start "$1.socket" || fail "systemd listens for $1"
}

start() {
    systemctl start tollgate || fail "systemctl start tollgate: $(property Result), $(property ExecMainStatus)"
    is_ready || fail "a gateway that has said it is ready is not"
    answers || fail "a gateway that has said it is ready does not answer"
}

# Clients that make a new connection for each request, until stop_clients; what did not get its answer is a line in a file,
# with curl's reason.
CLIENTS=()
start_clients() { # start_clients NUMBER
    : >"$WORK/failures"
    : >"$WORK/stop-not"
    local client
    for client in $(seq "$1"); do
        (
            count=0
            while [ -e "$WORK/stop-not" ]; do
                curl --silent --show-error --fail --max-time 30 --output /dev/null "$GATEWAY/" 2>>"$WORK/failures"
                count=$((count + 1))
            done
            echo "$count" >"$WORK/count.$client"
        ) &
        CLIENTS+=($!)
    done
}

stop_clients() {
    rm -f "$WORK/stop-not"
    wait "${CLIENTS[@]}"
    CLIENTS=()
    REQUESTS=$(cat "$WORK"/count.* | awk '{ n += $1 } END { print n + 0 }')
    [ "$REQUESTS" -gt 0 ] || fail "the clients have asked for something"
}

# A request whose answer takes this long; its status is in a file when it is over.
slow_request() { # slow_request NAME SECONDS
    curl --silent --output /dev/null --write-out '%{http_code}' --max-time 60 "$GATEWAY/slow/$2" >"$WORK/slow.$1" &
    wait_for "a slow request is on its way" in_flight
}
in_flight() { curl --silent --max-time 5 "$STATUS/metrics" | grep --quiet '^tollgate_requests_in_flight [1-9]'; }

no_failures() { [ ! -s "$WORK/failures" ] || fail "requests failed: $(sort "$WORK/failures" | uniq -c | head -n 5)"; }
