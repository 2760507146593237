# tollgate.socket: systemd opens the ports.
with_origin
systemctl start tollgate.socket || fail "systemd listens"
systemctl start tollgate || fail "a gateway takes sockets that systemd has opened"
answers || fail "it answers on them"
inode() { awk '$4 == "0A" && $2 == "0100007F:2058" { print $10 }' /proc/net/tcp; }
socket=$(inode)
[ "$(echo "$socket" | wc -w)" = 1 ] || fail "there is one socket on port 8280: $socket"
ok "started with the sockets of tollgate.socket"
pid=$(main_pid)
start_clients 3
kill -KILL "$pid"
wait_for "it is started again" is_ready
stop_clients
! grep --quiet "Failed to connect\|refused" "$WORK/failures" || fail "connections were refused: $(sort "$WORK/failures" | uniq -c)"
ok "killed: started again, no connection refused"
start_clients 3
systemctl reload tollgate || fail "it is handed over"
stop_clients
no_failures
ok "handed over under $REQUESTS requests, none lost"
# Also a restart: connections wait in the socket.
start_clients 3
systemctl restart tollgate || fail "systemctl restart"
stop_clients
no_failures
[ "$(inode)" = "$socket" ] || fail "it is the same socket all the time"
ok "restarted under $REQUESTS requests, none lost"
systemctl stop tollgate
# The first connection starts it.
answers || fail "a connection starts the gateway"
systemctl is-active --quiet tollgate || fail "a connection has started the gateway"
ok "stopped, and started by a connection"
systemctl stop tollgate.socket tollgate
