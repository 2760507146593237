# Started, working, stopped.
with_origin
start
pid=$(main_pid)
ok "started: active ($(property SubState)), process $pid, ready"
[ "$(property NotifyAccess)" = main ] || fail "only the main process is listened to"
[ -n "$(property StatusText)" ] || fail "systemctl status says how it goes"
ok "systemctl status says: $(property StatusText)"
[ "$(stat -c %U "/proc/$pid")" = tollgate ] || fail "it does not run as root"
grep --quiet '^Max open files *1048576 *1048576 ' "/proc/$pid/limits" || fail "descriptors: $(grep open "/proc/$pid/limits")"
grep --quiet '^CapEff:[[:space:]]*0*$' "/proc/$pid/status" || fail "it has a capability: $(grep Cap "/proc/$pid/status")"
grep --quiet '^NoNewPrivs:[[:space:]]*1$' "/proc/$pid/status" || fail "it can not gain privileges"
ok "runs as tollgate, without capabilities, with 1048576 descriptors"
said "$(date +%s -d '-1 minute')" " WARN" && fail "a start in the sandbox warns: $(journalctl -u tollgate -n 20 -o cat)"
since=$SECONDS
systemctl stop tollgate || fail "systemctl stop"
[ "$(property Result)-$(property ExecMainStatus)-$(property ActiveState)" = success-0-inactive ] \
    || fail "it ends in good order: $(property Result), $(property ExecMainStatus)"
# The announcement and nothing in flight; with the drain deadline it would be a minute more.
[ $((SECONDS - since)) -lt 60 ] || fail "it ends as soon as nothing is in flight"
is_gone "$pid" || fail "it is gone"
ok "stopped in good order, after $((SECONDS - since)) s"
