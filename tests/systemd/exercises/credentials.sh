# A secret that only root can read reaches the gateway, and nobody else.
umask 077
mkdir -p /etc/tollgate/credentials
head -c 32 /dev/urandom | base64 --wrap 0 | tr -d '/+=' >/etc/tollgate/credentials/admin-token
token=$(cat /etc/tollgate/credentials/admin-token)
drop_in credentials <<-'UNIT'
	[Service]
	LoadCredential=admin-token:/etc/tollgate/credentials/admin-token
	UNIT
cat >>/etc/tollgate/tollgate.yaml <<-'YAML'
	admin: { address: "127.0.0.1:7086", token: "${cred:admin-token}" }
	YAML
start
ask() { curl --silent --output /dev/null --write-out '%{http_code}' --header "Authorization: Bearer $1" http://127.0.0.1:7086/admin/revision; }
[ "$(ask "$token")" = 200 ] || fail "the token of the credential opens the admin listener"
[ "$(ask "another-token-of-some-length")" = 401 ] || fail "another one does not"
runuser -u tollgate -- cat /etc/tollgate/credentials/admin-token >/dev/null 2>&1 && fail "the service's user can read root's file"
! tr '\0' '\n' <"/proc/$(main_pid)/environ" | grep --quiet --fixed-strings "$token" || fail "the token is in the environment"
ok "LoadCredential: the admin token comes from a file that only root can read"
systemctl reload tollgate || fail "a gateway with credentials is handed over"
[ "$(ask "$token")" = 200 ] || fail "the new process has the credentials too"
ok "and a new process has it too"
