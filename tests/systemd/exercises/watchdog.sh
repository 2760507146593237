# A process that hangs is ended and started again.
drop_in watchdog <<-'UNIT'
	[Service]
	WatchdogSec=5s
	UNIT
start
pid=$(main_pid)
sleep 12
[ "$(main_pid)-$(property NRestarts)" = "$pid-0" ] || fail "one that works is left alone"
kill -STOP "$pid"
wait_for "the hanging process is ended" is_gone "$pid"
wait_for "another one serves" is_ready
restarted || fail "systemd has started it again"
ok "a process that hangs is ended by the watchdog and started again"
systemctl reload tollgate || fail "it is handed over"
pid=$(main_pid)
sleep 12
[ "$(main_pid)" = "$pid" ] || fail "a process that was handed over to feeds the watchdog too"
ok "after an upgrade the new process feeds the watchdog"
