# Installing the package makes the gateway run; removing it is another exercise.
install_it
if [ ! -e tollgate-1.deb ]; then
    ok "installed by make install"
    exit 0
fi
systemctl is-enabled --quiet tollgate || fail "the gateway is started at boot"
! systemctl is-enabled --quiet tollgate-control-plane || fail "the control plane is started only where somebody wants it"
wait_for "the gateway runs after the installation" is_ready
curl --silent "$GATEWAY/" | grep --quiet "tollgate works" || fail "what is packaged answers at /"
ok "installed, enabled, started: $(curl --silent "$GATEWAY/")"

listening=$(awk 'NR > 1 && $4 == "0A" { print $2 }' /proc/net/tcp)
for address in $listening; do
    [ "${address%:*}" = 0100007F ] || fail "only this machine can connect to what is packaged: $address"
done
[ -z "$(awk 'NR > 1 && $4 == "0A"' /proc/net/tcp6)" ] || fail "nothing listens on IPv6"
ok "listens on the loopback interface alone"

for file in tollgate revision control-plane; do
    [ "$(stat -c %a-%U "/etc/tollgate/$file.yaml")" = 640-root ] || fail "$file.yaml is for root and its service"
done
[ "$(stat -c %G /etc/tollgate/tollgate.yaml)" = tollgate ] || fail "the gateway reads its configuration"
[ "$(stat -c %G /etc/tollgate/control-plane.yaml)" = tollgate-control-plane ] || fail "and not the control plane's"
[ "$(stat -c %a-%U-%G /etc/tollgate/credentials)" = 700-root-root ] || fail "credentials are root's"
for file in tollgate revision; do
    runuser -u tollgate -- tollgate check --config /etc/tollgate/tollgate.yaml >"$WORK/check" || fail "$(cat "$WORK/check")"
done
ok "configuration is readable for its service alone, and has no mistakes"

before=$(main_pid)
with_origin
# A command that asks anew each time: what <(...) says is asked for once.
serves_origin() {
    curl --silent "$GATEWAY/" | grep --quiet origin
}
wait_for "the new revision is applied" serves_origin
echo "# a change of an operator" >>/etc/tollgate/tollgate.yaml
start_clients 2
dpkg --install tollgate-2.deb >"$WORK/dpkg" 2>&1 || fail "dpkg --install of a newer one: $(cat "$WORK/dpkg")"
stop_clients
no_failures
[ "$(main_pid)" != "$before" ] || fail "a newer package hands the gateway over: $(cat "$WORK/dpkg")"
grep --quiet "a change of an operator" /etc/tollgate/tollgate.yaml || fail "the configuration stays"
ok "upgraded by dpkg under $REQUESTS requests, none lost; the configuration stays as it was changed"
