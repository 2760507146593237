# What the service may, tried by a script in its place: the same user, the same sandbox.
cat >"$WORK/probe.sh" <<'PROBE'
wrong=
may() { "$@" >/dev/null 2>&1 || wrong="$wrong; must be able to: $*"; }
may_not() { ! "$@" >/dev/null 2>&1 || wrong="$wrong; must not be able to: $*"; }
[ "$(id -u)" != 0 ] || wrong="is root"
may touch /var/lib/tollgate/probe
may touch /var/log/tollgate/probe
may touch /run/tollgate/probe
may touch /tmp/probe
may cat /etc/tollgate/tollgate.yaml
may_not cat /etc/tollgate/control-plane.yaml
may_not cat /etc/tollgate/credentials/secret
may_not cat /etc/shadow
for place in / /etc /etc/tollgate /usr /usr/bin /var /var/lib /opt /home /root /boot /dev /run /sys /proc/sys/kernel; do
    may_not touch "$place/probe"
done
may_not ls /home/visible
may_not mknod /tmp/null c 1 3
may_not unshare --user true
may_not chown 0 /var/lib/tollgate/probe
may_not chmod u+s /var/lib/tollgate/probe
may_not kill -0 1
# Of /proc, its own processes.
may_not ls /proc/1
may_not cat /proc/kcore
may_not cat /proc/sysrq-trigger
may_not dmesg
may_not hostname probe
may_not renice -n -5 $$
[ -z "$wrong" ] || { echo "probe${wrong}"; exit 1; }
echo "the probe holds"
PROBE
mkdir -p /home/visible
echo secret >/etc/tollgate/credentials/secret && chmod 600 /etc/tollgate/credentials/secret
drop_in probe <<-UNIT
	[Service]
	ExecStartPre=/bin/bash $WORK/probe.sh
	UNIT
since=$(date +%s)
systemctl start tollgate || fail "$(journalctl -u tollgate --since "@$since" -o cat | grep probe)"
said "$since" "the probe holds" || fail "the probe has run"
ok "of the host it writes StateDirectory, LogsDirectory and RuntimeDirectory, and reads no secret of others"
[ ! -e /tmp/probe ] || fail "its /tmp is its own"
[ "$(stat -c %a-%U /run/tollgate)" = 700-tollgate ] || fail "the directory of the upgrade socket is its own"

# Files of two services.
runuser -u tollgate -- ls /var/lib/tollgate-control-plane >/dev/null 2>&1 && fail "the gateway can see the control plane's store"
ok "the gateway's user has nothing of the control plane's"
