#!/bin/sh
# Installs the programs that building ("build"), testing ("test") or measuring ("loadtest") needs and that are missing. Where it can not, it
# says exactly what to run.
set -eu

packages=""
need() { # need COMMAND PACKAGE
    command -v "$1" >/dev/null 2>&1 || packages="$packages $2"
}

need cmake cmake                 # zlib-ng, inside the proxy engine's compression
need cc gcc
case "${1:-build}" in
loadtest)
    need wrk wrk
    need strace strace
    need taskset util-linux
    need python3 python3
    need redis-server redis-server
    ;;
test)
    need redis-server redis-server
    # Debian puts the server on no PATH.
    ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || packages="$packages postgresql"
    need curl curl
    # The units: looked at, and run in a container. The second needs root; without it, its tools are of no use.
    need systemd-analyze systemd
    if [ "$(id -u)" = 0 ]; then
        need systemd-nspawn systemd-container
        [ -x /usr/sbin/debootstrap ] || packages="$packages debootstrap"
    fi
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

# Into target, for this repository alone.
case "${1:-build}" in
test | deb)
    if ! command -v cargo-deb >/dev/null 2>&1 && [ ! -x "$(dirname "$0")/../target/tools/bin/cargo-deb" ]; then
        echo "tollgate: building cargo-deb, once"
        if ! cargo install --quiet --locked --version "^3.8" --root "$(dirname "$0")/../target/tools" cargo-deb; then
            echo "tollgate: cargo-deb can not be installed" >&2
            # The tests go on with what `make install` installs.
            [ "$1" = test ] || exit 1
        fi
    fi
    ;;
esac

[ -n "$packages" ] || exit 0

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
# shellcheck disable=SC2086 # a list of names
DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends $packages >/dev/null
