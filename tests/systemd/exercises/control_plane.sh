# The control plane's unit: starts, answers, keeps its store to itself, ends in good order.
UNIT=tollgate-control-plane
rm -rf /var/lib/tollgate-control-plane
since=$(date +%s)
systemctl start $UNIT || fail "systemctl start: $(property Result $UNIT), $(property ExecMainStatus $UNIT)"
answers http://127.0.0.1:9443/healthz || fail "it answers as soon as it is started"
pid=$(property MainPID $UNIT)
[ "$(stat -c %U "/proc/$pid")" = tollgate-control-plane ] || fail "it runs as its own user"
[ "$(stat -c %a /var/lib/tollgate-control-plane)" = 700 ] || fail "its store is its own"
[ -f /var/lib/tollgate-control-plane/control-plane.db ] || fail "its store is in its StateDirectory"
journalctl --sync
token=$(journalctl --unit $UNIT --since "@$since" --no-pager --output cat | sed -n 's/^first admin token (shown once): //p')
[ -n "$token" ] || fail "the first start prints a token"
TOLLGATE_SERVER=http://127.0.0.1:9443 TOLLGATE_TOKEN=$token tollgate environment list >"$WORK/list" || fail "the token works"
ok "started, and the token of its first start works"

# A gateway that gets its revisions from it, with its token as a credential.
TOLLGATE_SERVER=http://127.0.0.1:9443 TOLLGATE_TOKEN=$token tollgate revision publish -f /etc/tollgate/revision.yaml -e Default \
    >"$WORK/published" 2>&1 || fail "publishing: $(cat "$WORK/published")"
mkdir -p -m 700 /etc/tollgate/credentials
(umask 077 && printf %s "$token" >/etc/tollgate/credentials/control-plane)
drop_in control-plane <<-'UNIT'
	[Service]
	LoadCredential=control-plane:/etc/tollgate/credentials/control-plane
	UNIT
sed -i 's|^  file: .*|  control_plane: { urls: ["http://127.0.0.1:9443"], token: "${cred:control-plane}", state_dir: /var/lib/tollgate }|' \
    /etc/tollgate/tollgate.yaml
systemctl start tollgate || fail "a gateway beside it starts"
wait_for "the gateway has the published revision" answers
ok "a gateway gets its revision from it"

since=$SECONDS
systemctl stop $UNIT || fail "systemctl stop"
[ "$(property Result $UNIT)-$(property ExecMainStatus $UNIT)" = success-0 ] || fail "it ends in good order: $(property Result $UNIT)"
[ $((SECONDS - since)) -lt 40 ] || fail "it does not wait to be killed"
answers || fail "the gateway serves on without it"
ok "stopped in good order after $((SECONDS - since)) s; the gateway serves on"
systemctl start $UNIT && answers http://127.0.0.1:9443/healthz || fail "it starts again with the store that it has"
systemctl stop tollgate || fail "the gateway stops"
