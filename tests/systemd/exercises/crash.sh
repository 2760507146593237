# kill -9: systemd holds the sockets meanwhile, so that clients wait and nobody is refused.
with_origin
start
[ "$(property NFileDescriptorStore)" -gt 0 ] || fail "systemd keeps the sockets"
for crash in 1 2 3; do
    pid=$(main_pid)
    start_clients 3
    kill -KILL "$pid"
    wait_for "it is started again" is_ready
    [ "$(main_pid)" != "$pid" ] || fail "another process is the main one"
    stop_clients
    # Requests that the killed process had are lost with it; a new connection is never refused.
    ! grep --quiet "Failed to connect\|refused" "$WORK/failures" || fail "connections were refused: $(sort "$WORK/failures" | uniq -c)"
    [ "$(wc -l <"$WORK/failures")" -le 3 ] || fail "more than one request of each client failed: $(sort "$WORK/failures" | uniq -c)"
done
ok "killed three times: started again, no connection refused"
# The descriptors survive an upgrade as well.
systemctl reload tollgate || fail "it is handed over"
pid=$(main_pid)
start_clients 3
kill -KILL "$pid"
wait_for "it is started again" is_ready
stop_clients
! grep --quiet "Failed to connect\|refused" "$WORK/failures" || fail "connections were refused: $(sort "$WORK/failures" | uniq -c)"
ok "killed after an upgrade: started again, no connection refused"

# Right after an upgrade, while the process before is still leaving. It is the parent of the killed one, and systemd hears
# nothing: without the watchdog, it is the parent that has to see to it.
systemctl stop tollgate
drop_in watchdog <<-'UNIT'
	[Service]
	WatchdogSec=0
	UNIT
start
before=$(main_pid)
slow_request before 50
systemctl reload tollgate || fail "it is handed over"
is_alive "$before" || fail "the process before is leaving"
pid=$(main_pid)
since=$SECONDS
start_clients 3
kill -KILL "$pid"
wait_for "it is started again" is_ready
stop_clients
[ "$(main_pid)" != "$pid" ] || fail "another process is the main one"
! grep --quiet "Failed to connect\|refused" "$WORK/failures" || fail "connections were refused: $(sort "$WORK/failures" | uniq -c)"
ok "killed while the process before was leaving: started again after $((SECONDS - since)) s, no connection refused"
