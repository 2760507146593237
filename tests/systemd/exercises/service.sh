# Started, working, stopped.
with_origin
start
pid=$(main_pid)
ok "started: active ($(property SubState)), process $pid, ready"
[ "$(property NotifyAccess)" = main ] || fail "only the main process is listened to"
[ -n "$(property StatusText)" ] || fail "systemctl status says how it goes"
ok "systemctl status says: $(property StatusText)"
[ "$(stat -c %U "/proc/$pid")" = tollgate ] || fail "it does not run as root"
# What the unit asks for, or what the container may have at most.
descriptors() { awk '/^Max open files/ { print $5 }' "/proc/$1/limits"; }
[ "$(descriptors "$pid")" = 1048576 ] || [ "$(descriptors "$pid")" = "$(descriptors 1)" ] \
    || fail "it may have $(descriptors "$pid") descriptors"
grep --quiet '^CapEff:[[:space:]]*0*$' "/proc/$pid/status" || fail "it has a capability: $(grep Cap "/proc/$pid/status")"
grep --quiet '^NoNewPrivs:[[:space:]]*1$' "/proc/$pid/status" || fail "it can not gain privileges"
ok "runs as tollgate, without capabilities, with $(descriptors "$pid") descriptors"
said "$(date +%s -d '-1 minute')" " WARN" && fail "a start in the sandbox warns: $(journalctl -u tollgate -n 20 -o cat)"
in_good_order() {
    [ "$(property Result)-$(property ExecMainStatus)-$(property ActiveState)" = success-0-inactive ] \
        || fail "it ends in good order: $(property Result), $(property ExecMainStatus), $(property ActiveState)"
}
since=$SECONDS
slow_request stopped 4
systemctl stop tollgate || fail "systemctl stop"
in_good_order
wait
[ "$(cat "$WORK/slow.stopped")" = 200 ] || fail "a request in flight is answered: $(cat "$WORK/slow.stopped")"
# Nothing is in flight then; with the drain deadline it would be a minute more.
[ $((SECONDS - since)) -lt 50 ] || fail "it ends as soon as nothing is in flight"
is_gone "$pid" || fail "it is gone"
ok "stopped in good order after $((SECONDS - since)) s, with the request that was in flight answered"

# The same for a process that was handed over to, which systemd has not started itself; and at once, while the one before
# is still there with a request of its own.
start
before=$(main_pid)
slow_request before 8
systemctl reload tollgate || fail "it is handed over"
is_alive "$before" || fail "the process before stays until its request is answered"
slow_request after 4
systemctl stop tollgate || fail "systemctl stop after a reload"
in_good_order
wait
for name in before after; do
    [ "$(cat "$WORK/slow.$name")" = 200 ] || fail "the request in flight in the process $name is answered: $(cat "$WORK/slow.$name")"
done
is_gone "$before" || fail "the process before is gone too"
ok "stopped right after a reload: in good order, the requests of both processes answered"
