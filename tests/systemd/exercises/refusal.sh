# What can not work is not tried for ever; what may work later is.
cp /etc/tollgate/tollgate.yaml "$WORK/good.yaml"
since=$(date +%s)
echo "sever: {}" >>/etc/tollgate/tollgate.yaml
systemctl start tollgate 2>/dev/null && fail "a gateway starts with a mistake in its configuration"
wait_for "it is called failed" systemctl is-failed --quiet tollgate
[ "$(property ExecMainStatus)-$(property NRestarts)" = 78-0 ] \
    || fail "refused is refused: $(property ExecMainStatus), restarted $(property NRestarts) times"
said "$since" "sever" || fail "the journal names the mistake"
ok "a configuration with a mistake: failed with 78, not tried again, the mistake is in the journal"

systemctl reset-failed tollgate
sed 's/127.0.0.1:8280/127.0.0.1:80/' "$WORK/good.yaml" >/etc/tollgate/tollgate.yaml
systemctl start tollgate 2>/dev/null && fail "port 80 is there for everybody"
wait_for "it is tried again" restarted
since=$(date +%s)
wait_for "the message names the way out" said "$((since - 30))" "CAP_NET_BIND_SERVICE"
systemctl stop tollgate
install -D -m 644 /usr/share/tollgate/low-ports.conf /run/systemd/system/tollgate.service.d/low-ports.conf
systemctl daemon-reload
systemctl reset-failed tollgate
systemctl start tollgate || fail "with low-ports.conf it can have port 80"
curl --silent --fail --output /dev/null http://127.0.0.1:80/ || fail "it answers on port 80"
ok "port 80: refused with the way out, and served with low-ports.conf"
systemctl reload tollgate || fail "a gateway on port 80 is handed over"
curl --silent --fail --output /dev/null http://127.0.0.1:80/ || fail "the new process answers on port 80"
ok "and handed over"
