#!/bin/sh
# scripts/install.sh install DESTDIR PREFIX SYSCONFDIR PROGRAM
# scripts/install.sh uninstall DESTDIR PREFIX SYSCONFDIR
#
# The one list of what is installed, and where. What was configured is never overwritten and never removed: a configuration
# that is there already stays, and the new one is put beside it.
set -eu
cd "$(dirname "$0")/.."

action=$1
root=$2
prefix=$3
sysconfdir=$4
program=${5:-}
bin=$prefix/bin
units=$prefix/lib/systemd/system
share=$prefix/share/tollgate
doc=$prefix/share/doc/tollgate

# As in the repository, but for where things are on this host.
adapt() { # adapt FILE
    sed -e "s|/usr/bin/tollgate|$bin/tollgate|g" \
        -e "s|/usr/share/|$prefix/share/|g" \
        -e "s|/etc/tollgate|$sysconfdir/tollgate|g" \
        -e "s|\$schema=\./schema/|\$schema=$share/schema/|" \
        -e "s|conf/revision.yaml|$sysconfdir/tollgate/revision.yaml|g" \
        -e "s|conf/tollgate.yaml|$sysconfdir/tollgate/tollgate.yaml|g" \
        -e "s|conf/control-plane.yaml|$sysconfdir/tollgate/control-plane.yaml|g" \
        -e "s|/var/lib/tollgate/control-plane.db|/var/lib/tollgate-control-plane/control-plane.db|g" \
        "$1"
}

put() { # put MODE FILE TARGET
    install -d -m 755 "$root$(dirname "$3")"
    adapt "$2" >"$root$3.new"
    chmod "$1" "$root$3.new"
    mv "$root$3.new" "$root$3"
}

copy() { # copy FILE TARGET
    install -D -m 644 "$1" "$root$2"
}

configure() { # configure FILE TARGET
    if [ -e "$root$2" ]; then
        adapt "$1" | cmp -s - "$root$2" && return
        put 640 "$1" "$2.dist"
        echo "tollgate: $root$2 stays as it is; the new one is beside it: $2.dist"
    else
        put 640 "$1" "$2"
    fi
}

case $action in
install)
    if [ ! -x "$program" ]; then
        echo "tollgate: $program is not there; run: make build" >&2
        exit 1
    fi
    install -d -m 755 "$root$bin"
    # Renamed into its place: a program that runs can be replaced, but not written to.
    install -m 755 "$program" "$root$bin/tollgate.new"
    mv "$root$bin/tollgate.new" "$root$bin/tollgate"

    for unit in tollgate.service tollgate.socket tollgate-control-plane.service; do
        put 644 "systemd/$unit" "$units/$unit"
    done
    put 644 systemd/sysusers.d/tollgate.conf "$prefix/lib/sysusers.d/tollgate.conf"
    put 644 systemd/tmpfiles.d/tollgate.conf "$prefix/lib/tmpfiles.d/tollgate.conf"
    put 644 systemd/sysctl.d/60-tollgate.conf "$prefix/lib/sysctl.d/60-tollgate.conf"
    put 644 systemd/drop-ins/low-ports.conf "$share/low-ports.conf"

    configure conf/tollgate.yaml "$sysconfdir/tollgate/tollgate.yaml"
    configure systemd/revision.yaml "$sysconfdir/tollgate/revision.yaml"
    configure conf/control-plane.yaml "$sysconfdir/tollgate/control-plane.yaml"
    for schema in tollgate revision control-plane; do
        copy "conf/schema/$schema.schema.json" "$share/schema/$schema.schema.json"
    done
    copy README.md "$doc/README.md"
    put 644 conf/revision.yaml "$doc/revision.yaml"

    if [ -z "$root" ]; then
        echo "tollgate: installed. What makes it run:"
        echo "    systemd-sysusers && systemd-tmpfiles --create tollgate.conf && sysctl --system"
        echo "    systemctl daemon-reload && systemctl enable --now tollgate"
    fi
    ;;
uninstall)
    if [ -z "$root" ] && [ -d /run/systemd/system ]; then
        systemctl disable --now tollgate.service tollgate.socket tollgate-control-plane.service || true
    fi
    rm -f "$root$bin/tollgate" \
        "$root$units/tollgate.service" "$root$units/tollgate.socket" "$root$units/tollgate-control-plane.service" \
        "$root$prefix/lib/sysusers.d/tollgate.conf" "$root$prefix/lib/tmpfiles.d/tollgate.conf" \
        "$root$prefix/lib/sysctl.d/60-tollgate.conf"
    rm -rf "$root$share" "$root$doc"
    if [ -z "$root" ] && [ -d /run/systemd/system ]; then
        systemctl daemon-reload
    fi
    echo "tollgate: $sysconfdir/tollgate, /var/lib/tollgate*, /var/log/tollgate and the users tollgate and" \
        "tollgate-control-plane stay"
    ;;
*)
    echo "usage: scripts/install.sh install|uninstall DESTDIR PREFIX SYSCONFDIR [PROGRAM]" >&2
    exit 2
    ;;
esac
