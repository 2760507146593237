#!/bin/sh
# What systemd can say of the units without starting them: no warning, and little that an intruder could do. It looks at
# what `make install` installs, in an empty root, so that paths and substitutions are part of it.
set -eu
cd "$(dirname "$0")/../.."

# 0 is a service that can do nothing, 100 one that can do everything; 96 is what is said of a unit without any of it.
EXPOSURE_AT_MOST=20

if ! command -v systemd-analyze >/dev/null 2>&1; then
    echo "units: SKIPPED, systemd-analyze is missing (package systemd)"
    exit 0
fi
case $(systemd-analyze security --help) in
*--offline*) ;;
*)
    echo "units: SKIPPED, this systemd-analyze can not look at units offline; systemd 250 or newer can"
    exit 0
    ;;
esac

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
# Whether it is a program that runs is said by other tests.
printf '#!/bin/sh\n' >"$root/program"
chmod 755 "$root/program"
sh scripts/install.sh install "$root" /usr /etc "$root/program" >/dev/null
rm "$root/program"
# The targets that units refer to.
for directory in /usr/lib/systemd/system /lib/systemd/system; do
    [ -d "$directory" ] && cp -Rn "$directory/." "$root/usr/lib/systemd/system/"
done

failed=0
fail() {
    echo "units: $*" >&2
    failed=1
}

verify() { # verify UNIT...
    # An unknown key is a warning that does not change the exit status.
    said=$(systemd-analyze verify --man=no --root="$root" "$@" 2>&1) || fail "systemd-analyze verify $*: not accepted"
    said=$(printf '%s\n' "$said" | grep tollgate || true)
    [ -z "$said" ] || fail "systemd-analyze verify: $said"
}

expose() { # expose UNIT
    said=$(systemd-analyze security --no-pager --root="$root" --offline=true --threshold=$EXPOSURE_AT_MOST "$1" 2>&1) || {
        printf '%s\n' "$said" >&2
        fail "$1: exposed by more than $EXPOSURE_AT_MOST"
    }
    printf '%s\n' "$said" | tail -n 1
}

verify tollgate.service tollgate.socket tollgate-control-plane.service
expose tollgate.service
expose tollgate-control-plane.service

install -D -m 644 systemd/drop-ins/low-ports.conf "$root/etc/systemd/system/tollgate.service.d/low-ports.conf"
verify tollgate.service
expose tollgate.service

# A name that was renamed, a path that moved: what is checked here would otherwise be noticed at the next boot.
users=$(systemd-sysusers --root="$root" --dry-run "$root/usr/lib/sysusers.d/tollgate.conf" 2>&1) || fail "sysusers: $users"
for key in $(sed -n 's/^\([a-z][a-z0-9_.]*\) *=.*/\1/p' systemd/sysctl.d/60-tollgate.conf); do
    [ -e "/proc/sys/$(echo "$key" | tr . /)" ] || fail "sysctl.d/60-tollgate.conf: there is no $key"
done

[ $failed = 0 ] || exit 1
echo "units: verified"
