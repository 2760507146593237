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
    need python3 python3
    need valgrind valgrind
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
