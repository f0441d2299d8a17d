#!/usr/bin/env bash
# The README's first promise, kept on a pristine machine: a Debian root with python3, python3-venv, git and make, and
# nothing else. Runs the demo as an ordinary user (no sshd there: the database half) and as root (sshd gets installed).
# Needs root and debootstrap. FRESH_BASE keeps the bare root between runs.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
base=${FRESH_BASE:-/var/tmp/gw-fresh-base}
root=$(mktemp -d /var/tmp/gw-fresh-XXXXXX)
trap 'rm -rf --one-file-system "$root"' EXIT

if [ ! -e "$base/etc/debian_version" ]; then
    debootstrap --variant=minbase --include=python3,python3-venv,git,make,ca-certificates "${FRESH_SUITE:-stable}" "$base"
fi
cp -a "$base/." "$root/"

# How this machine reaches its mirrors is its own business; the root needs the same.
for file in /etc/resolv.conf /etc/hosts /etc/pip.conf /etc/ssl/certs/ca-certificates.crt; do
    if [ -e "$file" ]; then cp -L "$file" "$root$file"; fi
done
cp -a /etc/apt/apt.conf.d/. "$root/etc/apt/apt.conf.d/"

git clone --quiet --depth 1 "file://$here" "$root/srv/gateway"
cp "$here/tests/fresh/inside.sh" "$root/srv/inside.sh"

# A mount and process namespace of its own: whatever the demo would leave behind is seen, and gone afterwards.
exec_inside() {
    unshare --mount --pid --fork --kill-child sh -c '
        root=$1; shift
        mount --make-rprivate / && mount -t proc proc "$root/proc" && mount --bind /dev "$root/dev"
        mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$root/dev/pts"
        mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
        mount -t tmpfs tmpfs "$root/run"
        exec chroot "$root" "$@"' sh "$root" "$@"
}
exec_inside /bin/bash /srv/inside.sh
