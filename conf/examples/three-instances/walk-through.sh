#!/usr/bin/env bash
# The commands of README.md in order, and a look at what came of each. Asks nothing, ends with "ok: everything".
#
#   walk-through.sh [OFFSET]
#
#   OFFSET           added to every port (default 0)
#   TOLLGATE         the program (default: tollgate, from PATH)
#   DIR              where everything is kept, new or empty (default: a new directory, removed at the end)
#   ORDERS_ADDRESS   host:port of something that answers GET /orders/7 (default: a small server is started, with python3)
#   KEEP             1: leave everything running at the end, and say how to end it
set -euo pipefail
umask 077

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
offset=${1:-0}
tollgate=${TOLLGATE:-tollgate}
keep=${KEEP:-0}
case $offset in '' | *[!0-9]*) echo "walk-through.sh: the offset is a number, not \"$offset\"" >&2; exit 2 ;; esac

made=
if [ -z "${DIR:-}" ]; then
    DIR=$(mktemp -d)
    made=$DIR
fi
mkdir -p "$DIR"
if [ -n "$(ls -A "$DIR")" ]; then
    echo "walk-through.sh: $DIR is not empty; name a new directory with DIR" >&2
    exit 2
fi

production=http://127.0.0.1:$((8280 + offset + 1))
sandbox=http://127.0.0.1:$((8280 + offset + 2))
export DIR TOLLGATE_SERVER=http://127.0.0.1:$((9443 + offset))
unset TOLLGATE_TOKEN TOLLGATE_CA

pids=()
end() {
    code=$?
    trap - EXIT
    if [ "$code" != 0 ]; then
        echo "walk-through.sh: failed; what the processes said:" >&2
        tail -n 20 "$DIR"/*.log >&2 || true
    elif [ "$keep" = 1 ]; then
        echo "still running; end it with: kill ${pids[*]}; everything is in $DIR"
        exit 0
    fi
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" 2>/dev/null || true; done
    if [ -n "$made" ]; then rm -rf "$made"; fi
    exit "$code"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# start NAME COMMAND...: in the background, with what it says in files of its name.
start() {
    name=$1
    shift
    "$@" >"$DIR/$name.out" 2>"$DIR/$name.log" &
    pids+=($!)
}

# until_it WHAT COMMAND...: waits until the command succeeds.
until_it() {
    what=$1
    shift
    for _ in $(seq 300); do
        if "$@" >/dev/null 2>&1; then
            echo "ok: $what"
            return
        fi
        sleep 0.2
    done
    echo "walk-through.sh: after a minute, still not: $what" >&2
    return 1
}

# answers STATUS KEY URL: whether a call with this key gets this status.
answers() {
    [ "$(curl -s -o /dev/null -m 5 -w '%{http_code}' -H "X-API-Key: $2" "$3")" = "$1" ]
}

# member NAME: a text member of the JSON on standard input.
member() {
    sed -n "s/^ *\"$1\": \"\(.*\)\",\{0,1\}\$/\1/p"
}

serves() { curl -fsS -m 5 "http://127.0.0.1:$((7085 + offset + $1))/status/ready"; }
in_sync() { [ "$("$tollgate" gateway list | grep -c ' in_sync ')" = 2 ]; }

echo "# 1. The control plane"
start control-plane "$tollgate" control-plane --config "$here/control-plane.yaml" --port-offset "$offset"
control_plane=${pids[0]}
until_it "the control plane is up" curl -fsS -m 5 "$TOLLGATE_SERVER/readyz"
TOLLGATE_TOKEN=$(sed -n 's/^first admin token (shown once): *//p' "$DIR/control-plane.out")
export TOLLGATE_TOKEN

echo "# 2. Two environments, and a token for their gateways"
"$tollgate" environment create Production --type production --http "$production" --description "real traffic"
"$tollgate" environment create Sandbox --type sandbox --http "$sandbox" --description "trials"
GATEWAY_TOKEN=$("$tollgate" --output json token new --scope gateway -e Production,Sandbox --note gateways | member token)
export GATEWAY_TOKEN

echo "# 3. Two gateways"
start production "$tollgate" run --config "$here/production.yaml" --port-offset $((offset + 1))
start sandbox "$tollgate" run --config "$here/sandbox.yaml" --port-offset $((offset + 2))

echo "# 4. An API in both environments"
if [ -z "${ORDERS_ADDRESS:-}" ]; then
    mkdir -p "$DIR/upstream/orders"
    echo '{"order": 7}' >"$DIR/upstream/orders/7"
    ORDERS_ADDRESS=127.0.0.1:$((9001 + offset))
    start orders python3 -m http.server --bind 127.0.0.1 --directory "$DIR/upstream" $((9001 + offset))
    until_it "the upstream is up" curl -fsS -m 5 "http://$ORDERS_ADDRESS/orders/7"
fi
sed "s/127\.0\.0\.1:9001/$ORDERS_ADDRESS/" "$here/orders.yaml" >"$DIR/orders.yaml"
"$tollgate" api create orders --description "what was ordered"
"$tollgate" api publish orders -f "$DIR/orders.yaml" --deploy Production,Sandbox --note "first"

echo "# 5. An application, and a key for each environment"
echo '{ name: gold, limits: [{ name: minute, rate: 6000/m }] }' | "$tollgate" plan apply -f -
"$tollgate" application create mobile
"$tollgate" application subscribe mobile --api orders --plan gold
production_key=$("$tollgate" --output json key new --application mobile --id mobile-production | member key)
sandbox_key=$("$tollgate" --output json key new --application mobile --type sandbox --id mobile-sandbox | member key)

echo "# 6. Calls"
until_it "the production gateway is ready" serves 1
until_it "the sandbox gateway is ready" serves 2
until_it "the production key opens Production" answers 200 "$production_key" "$production/orders/7"
until_it "the sandbox key opens Sandbox" answers 200 "$sandbox_key" "$sandbox/orders/7"
until_it "the sandbox key does not open Production" answers 403 "$sandbox_key" "$production/orders/7"
until_it "the production key does not open Sandbox" answers 403 "$production_key" "$sandbox/orders/7"
until_it "without a key, nothing opens" answers 401 "" "$production/orders/7"
until_it "both gateways serve the newest revision" in_sync
"$tollgate" gateway list
"$tollgate" catalog

echo "# 7. A new revision of the API, in Sandbox only; then back"
before=$("$tollgate" --output json environment show Sandbox | sed -n 's/^ *"revision": \([0-9]*\),\{0,1\}$/\1/p')
sed 's|base_path: /orders|base_path: /v2/orders|' "$DIR/orders.yaml" >"$DIR/orders-2.yaml"
"$tollgate" api publish orders -f "$DIR/orders-2.yaml" --deploy Sandbox --note "moved"
until_it "Sandbox does not know the old path any more" answers 404 "$sandbox_key" "$sandbox/orders/7"
until_it "Production still does" answers 200 "$production_key" "$production/orders/7"
"$tollgate" revision list -e Sandbox
"$tollgate" revision rollback -e Sandbox "$before" --note "too early"
until_it "Sandbox is back" answers 200 "$sandbox_key" "$sandbox/orders/7"

echo "# 8. A key that got lost"
"$tollgate" key revoke mobile-sandbox
until_it "the revoked key opens nothing" answers 401 "$sandbox_key" "$sandbox/orders/7"

echo "# 9. The control plane goes away"
kill "$control_plane"
wait "$control_plane" || true
until_it "Production serves on" answers 200 "$production_key" "$production/orders/7"
until_it "what was revoked stays revoked" answers 401 "$sandbox_key" "$sandbox/orders/7"

echo "ok: everything"
