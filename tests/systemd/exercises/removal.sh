# Removed is stopped; purged is gone.
if [ ! -e tollgate-1.deb ]; then
    exit 0
fi
start
dpkg --remove tollgate >"$WORK/dpkg" 2>&1 || fail "dpkg --remove: $(cat "$WORK/dpkg")"
answers && fail "a removed gateway is stopped"
[ -e /etc/tollgate/tollgate.yaml ] || fail "the configuration stays until it is purged"
dpkg --purge tollgate >"$WORK/dpkg" 2>&1 || fail "dpkg --purge: $(cat "$WORK/dpkg")"
for left in /etc/tollgate /var/lib/tollgate /var/lib/tollgate-control-plane /var/log/tollgate /usr/bin/tollgate /usr/lib/systemd/system/tollgate.service; do
    [ ! -e "$left" ] || fail "$left is left after the purge: $(ls -la "$left")"
done
[ -z "$(find /etc/systemd /var/lib/systemd -name 'tollgate*' 2>/dev/null)" ] || fail "systemd has something left of it"
ok "removed: stopped; purged: nothing left"
rm -rf etc
