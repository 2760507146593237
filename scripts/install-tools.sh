#!/bin/sh
# Installs the programs that building ("build"), testing ("test") or measuring ("loadtest") needs and that are missing. Where it can not, it
# says exactly what to run.
set -eu

# Debian keeps servers where only root looks.
PATH=$PATH:/usr/sbin
packages=""
servers=""
need() { # need COMMAND PACKAGE
    command -v "$1" >/dev/null 2>&1 || packages="$packages $2"
}

# A server that measurements start by themselves: the one of the package stays down.
server() { # server COMMAND PACKAGE SERVICE
    command -v "$1" >/dev/null 2>&1 || {
        packages="$packages $2"
        servers="$servers $3"
    }
}

need cmake cmake                 # zlib-ng, inside the proxy engine's compression
need cc gcc
case "${1:-build}" in
loadtest)
    need wrk wrk
    need strace strace
    need taskset util-linux
    need python3 python3
    # For the package that carries Envoy.
    python3 -c "import ensurepip, venv" >/dev/null 2>&1 || packages="$packages python3-venv"
    server redis-server redis-server redis-server
    server nginx nginx-light nginx
    server haproxy haproxy haproxy
    ;;
test)
    need redis-server redis-server
    # Debian puts the server on no PATH.
    ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || packages="$packages postgresql"
    need curl curl
    need python3 python3
    # The units: looked at, and run in a container. The second needs root; without it, its tools are of no use.
    need systemd-analyze systemd
    if [ "$(id -u)" = 0 ]; then
        need systemd-nspawn systemd-container
        [ -x /usr/sbin/debootstrap ] || packages="$packages debootstrap"
    fi
    need valgrind valgrind
    ;;
deb)
    need dpkg-deb dpkg
    need dpkg-shlibdeps dpkg-dev
    ;;
esac

if ! command -v cargo >/dev/null 2>&1; then
    echo "tollgate: cargo is missing; install Rust 1.91 or newer from https://rustup.rs" >&2
    exit 1
fi
if [ "${1:-build}" = test ]; then
    for component in rustfmt clippy; do
        cargo "${component#rust}" --version >/dev/null 2>&1 || {
            echo "tollgate: $component is missing; run: rustup component add $component" >&2
            exit 1
        }
    done
fi

# Last, because it needs what is installed before: what Debian does not have, into target, for this repository alone.
more() {
    case "$1" in
    loadtest)
        command -v oha >/dev/null 2>&1 || [ -x target/tools/bin/oha ] && return 0
        echo "tollgate: building oha into target/tools (a few minutes, once)"
        cargo install --quiet --locked --root target/tools oha@1.16.0
        ;;
    test | deb)
        command -v cargo-deb >/dev/null 2>&1 || [ -x target/tools/bin/cargo-deb ] && return 0
        echo "tollgate: building cargo-deb into target/tools (a minute or two, once)"
        cargo install --quiet --locked --root target/tools cargo-deb@3.8.0 && return 0
        echo "tollgate: cargo-deb can not be installed" >&2
        # The tests go on with what `make install` installs.
        [ "$1" = test ]
        ;;
    esac
}

if [ -z "$packages" ]; then
    more "${1:-build}"
    exit
fi

if [ "$(id -u)" = 0 ]; then
    sudo=""
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    sudo="sudo"
else
    sudo="none"
fi
if [ "$sudo" = none ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "tollgate: these programs are missing. On Debian, run:" >&2
    echo "    sudo apt-get update && sudo apt-get install -y$packages" >&2
    exit 1
fi
echo "tollgate: installing$packages"
$sudo apt-get update -qq
# Debian starts a server as soon as it is installed, unless this file says no.
policy=/usr/sbin/policy-rc.d
if [ -n "$servers" ] && [ ! -e "$policy" ]; then
    trap '$sudo rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' | $sudo tee "$policy" >/dev/null
    $sudo chmod 755 "$policy"
fi
# shellcheck disable=SC2086 # a list of names
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $packages >/dev/null
# Nor is it to run from the next start of the machine on.
if [ -n "$servers" ] && [ -d /run/systemd/system ]; then
    # shellcheck disable=SC2086 # a list of names
    $sudo systemctl disable --quiet $servers
fi
more "${1:-build}"
