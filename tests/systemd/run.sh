#!/bin/bash
# The units under a real systemd: a Debian of its own, booted in a container with a network of its own, into which the
# package is installed and where tests/systemd/exercises/ are run.
#
#   bash tests/systemd/run.sh [EXERCISE]...     all of them, or those with these names (upgrade, crash, …);
#                                             `recipes` is a comparison and not among them, see tests/systemd/recipes.sh
#
#   PROGRAM    the program to install; target/debug/tollgate by default
#   REQUIRE=1  where the machine can not do it, that is a failure; by default it is said, and nothing is tested
#
# It needs root, systemd-nspawn and, once, debootstrap with the Debian mirror that this machine's apt is configured with:
# the root file system is kept in target/systemd-test. Nothing is left running or mounted.
set -euo pipefail
cd "$(dirname "$0")/../.."

# What is in the image; another list makes another image.
RELEASE=bookworm
PACKAGES=systemd,systemd-sysv,dbus,curl,wrk,procps,init-system-helpers,ca-certificates
# Until systemd in the container runs the exercises, and until they are done.
BOOT_SECONDS=120
TOTAL_SECONDS=1200

program=${PROGRAM:-target/debug/tollgate}
work=$PWD/target/systemd-test
PATH=$PWD/target/tools/bin:$PATH:/usr/sbin:/sbin

cannot() {
    echo "systemd-test: ################################################################" >&2
    echo "systemd-test: SKIPPED, the units were not run: $*" >&2
    echo "systemd-test: ################################################################" >&2
    [ "${REQUIRE:-0}" = 0 ] || exit 1
    exit 0
}

# The first Debian mirror in apt's sources, of either format.
mirror() {
    # Not all of these are there.
    { cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources 2>/dev/null || true; } | awk '
        $1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /^(http|https|file|ftp):/) { uri = $i; suite = $(i + 1); break }
                      if (suite !~ /security/ && uri ~ /debian/) { print uri; exit } }
        $1 == "URIs:" { uri = $2 }
        $1 == "Suites:" && $2 !~ /security/ && uri ~ /debian/ { print uri; exit }'
}

container=
scratch=
cleanup() {
    if [ -n "$container" ] && kill -0 "$container" 2>/dev/null; then
        # With it goes everything that runs inside.
        kill -KILL "$container" 2>/dev/null || true
        wait "$container" 2>/dev/null || true
    fi
    [ -z "$scratch" ] || rm -rf --one-file-system "$scratch"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

[ "$(id -u)" = 0 ] || cannot "only root can boot a container; run: sudo make systemd-test"
command -v systemd-nspawn >/dev/null || cannot "systemd-nspawn is missing (package systemd-container)"
if [ ! -x "$program" ]; then
    echo "systemd-test: $program is not there; run: cargo build" >&2
    exit 1
fi
mkdir -p "$work"
# Two at a time would build the same image.
exec 9>"$work/lock"
flock -w 1800 9 || cannot "another run does not end"

image=$work/$RELEASE-$(echo "$PACKAGES" | cksum | cut -d' ' -f1)
if [ ! -d "$image" ]; then
    command -v debootstrap >/dev/null || cannot "debootstrap is missing (package debootstrap)"
    uri=$(mirror)
    [ -n "$uri" ] || cannot "apt's sources on this machine name no Debian mirror"
    echo "systemd-test: building the image, once"
    rm -rf --one-file-system "$image.part"
    timeout 900 debootstrap --variant=minbase --include="$PACKAGES" "$RELEASE" "$image.part" "$uri" \
        >"$work/debootstrap.log" 2>&1 9>&- || cannot "debootstrap failed: $(tail -n 1 "$work/debootstrap.log")"
    mv "$image.part" "$image"
fi

scratch=$(mktemp -d "$work/run.XXXXXX")
root=$scratch/root
# What the container sees as /exercises, and writes its results to.
shared=$scratch/shared
cp -a --reflink=auto "$image" "$root"
mkdir "$shared"
cp -R tests/systemd/exercises/. tests/systemd/recipes tests/systemd/recipes.sh "$shared/"
printf '%s\n' "$@" >"$shared/only"
strip -o "$shared/tollgate" "$program" 2>/dev/null || cp "$program" "$shared/tollgate"
chmod -R a+rX "$shared"

# A package if there is cargo-deb (scripts/install-tools.sh test brings it), so that its scripts are exercised too.
if command -v cargo-deb >/dev/null; then
    PROGRAM=$shared/tollgate sh scripts/build-deb.sh --quiet --fast --no-strip --output "$shared/tollgate-1.deb" \
        >"$work/cargo-deb.log" 2>&1 9>&- || {
        tail -n 20 "$work/cargo-deb.log" >&2
        echo "systemd-test: the package can not be built" >&2
        exit 1
    }
    # The same under a later number, so that one can be upgraded to the other.
    dpkg-deb --raw-extract "$shared/tollgate-1.deb" "$scratch/package"
    sed -i 's/^Version: .*/&.1/' "$scratch/package/DEBIAN/control"
    dpkg-deb -Znone --root-owner-group --build "$scratch/package" "$shared/tollgate-2.deb" >/dev/null
else
    echo "systemd-test: without cargo-deb, what is exercised is what make install installs"
    sh scripts/install.sh install "$root" /usr /etc "$shared/tollgate"
fi

cat >"$root/etc/systemd/system/exercises.service" <<'UNIT'
[Unit]
Description=Exercises
[Service]
Type=exec
ExecStart=/bin/bash /exercises/main.sh
StandardOutput=append:/exercises/log
StandardError=append:/exercises/log
[Install]
WantedBy=multi-user.target
UNIT
ln -s ../exercises.service "$root/etc/systemd/system/multi-user.target.wants/exercises.service"
touch "$shared/log"

timeout --kill-after=10 "$TOTAL_SECONDS" systemd-nspawn --quiet --register=no --keep-unit --boot --private-network \
    --directory="$root" --bind="$shared:/exercises" --machine="tollgate-$$" --link-journal=no --console=pipe \
    --timezone=off --resolv-conf=off \
    </dev/null >"$work/boot.log" 2>&1 9>&- &
container=$!

waited=0
until [ -s "$shared/log" ]; do
    if ! kill -0 "$container" 2>/dev/null || [ "$waited" -ge "$BOOT_SECONDS" ]; then
        cannot "systemd does not boot in a container here: $(grep -v '^$' "$work/boot.log" | tail -n 1)"
    fi
    sleep 1
    waited=$((waited + 1))
done
tail --pid="$container" -n +1 -s 0.5 -F "$shared/log" 2>/dev/null 9>&- || true
wait "$container" || true
container=

case $(cat "$shared/result" 2>/dev/null) in
passed) echo "systemd-test: passed" ;;
failed)
    echo "systemd-test: FAILED" >&2
    exit 1
    ;;
*)
    echo "systemd-test: FAILED, the exercises did not come to an end within $TOTAL_SECONDS s" >&2
    exit 1
    ;;
esac
