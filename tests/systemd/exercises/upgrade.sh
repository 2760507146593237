# systemctl reload, twenty times, while clients ask: no request is lost, and each time another process serves.
UPGRADES=20
with_origin
start
descriptors() { ls "/proc/$(main_pid)/fd" | wc -l; }
stored() { property NFileDescriptorStore; }

wrk --threads 1 --connections 16 --duration 600s --latency "$GATEWAY/" >"$WORK/wrk" 2>&1 &
wrk=$!
start_clients 2
seen=" $(main_pid) "
for round in $(seq "$UPGRADES"); do
    before=$(main_pid)
    systemctl reload tollgate || fail "reload $round: $(journalctl -u tollgate -n 20 -o cat)"
    after=$(main_pid)
    case $seen in *" $after "*) fail "reload $round: process $after again" ;; esac
    seen="$seen$after "
    is_alive "$after" || fail "reload $round: MAINPID=$after is not there"
    [ "$(property ActiveState)-$(property SubState)" = active-running ] || fail "reload $round: $(property SubState)"
    wait_for "the process before is gone ($before)" is_gone "$before"
    [ "$round" != 1 ] || { first_descriptors=$(descriptors); first_stored=$(stored); }
done
last_descriptors=$(descriptors)
stop_clients
kill -INT "$wrk" && wait "$wrk" || true
no_failures
cat "$WORK/wrk"
grep --quiet "Socket errors\|Non-2xx" "$WORK/wrk" && fail "requests on kept connections failed"
total=$(sed -n 's/^ *\([0-9]*\) requests in.*/\1/p' "$WORK/wrk")
[ "${total:-0}" -gt 0 ] || fail "wrk has asked for something"
ok "$UPGRADES upgrades under $total requests on kept connections and $REQUESTS on new ones, none lost"
wait_for "one process is left" alone
[ "$(stored)" -le "$first_stored" ] || fail "descriptors kept by systemd grow: $first_stored, then $(stored)"
# Under load there are some more or less connections; a leak would be some for each upgrade.
[ "$last_descriptors" -lt $((first_descriptors + UPGRADES)) ] || fail "descriptors grow: $first_descriptors, then $last_descriptors"
ok "one process is left, with $last_descriptors descriptors (after the first upgrade: $first_descriptors)"

# A new process that can not take over changes nothing.
unharmed() { # unharmed WHAT SINCE TEXT
    [ "$(main_pid)" = "$pid" ] || fail "$1: another process is the main one"
    is_ready && answers || fail "$1: the gateway does not answer any more"
    [ "$(property ActiveState)" = active ] || fail "$1: the unit is $(property ActiveState)"
    wait_for "$1: nothing of the attempt is left" alone
    said "$2" "$3" || fail "$1: the journal does not say '$3': $(journalctl -u tollgate --since "@$2" -o cat)"
    ok "$1: reload fails and says why, the gateway serves on"
}
pid=$(main_pid)
cp /etc/tollgate/tollgate.yaml "$WORK/good.yaml"
since=$(date +%s)
echo "sever: {}" >>/etc/tollgate/tollgate.yaml
start_clients 2
systemctl reload tollgate 2>/dev/null && fail "a broken configuration is taken over"
stop_clients
no_failures
unharmed "a configuration with a mistake" "$since" "sever"
cp "$WORK/good.yaml" /etc/tollgate/tollgate.yaml

# As `tollgate upgrade` it works, so that the reload gets as far as the new process.
cat >"$WORK/broken" <<-'PROGRAM'
	#!/bin/sh
	[ "$1" != run ] || { echo "this program is broken" >&2; exit 9; }
	exec /exercises/tollgate "$@"
	PROGRAM
put_program "$WORK/broken"
since=$(date +%s)
start_clients 2
systemctl reload tollgate 2>/dev/null && fail "a broken program is taken over"
stop_clients
no_failures
unharmed "a program that ends at once" "$since" "this program is broken"
put_program /exercises/tollgate
systemctl reload tollgate || fail "with both repaired, the gateway is handed over"
[ "$(main_pid)" != "$pid" ] || fail "with both repaired, another process serves"
ok "with both repaired, it is handed over"
