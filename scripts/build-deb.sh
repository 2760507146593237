#!/bin/sh
# scripts/build-deb.sh [OPTION-OF-CARGO-DEB]... : a package of the program that was built, in target/debian. PROGRAM says
# which one that is. Needs cargo-deb; `make deb` installs it into target/tools.
set -eu
cd "$(dirname "$0")/.."

PATH=$PWD/target/tools/bin:$PATH
rm -rf target/package
sh scripts/install.sh install "$PWD/target/package" /usr /etc "${PROGRAM:-target/release/tollgate}"
exec cargo deb --no-build --no-separate-debug-symbols "$@"
