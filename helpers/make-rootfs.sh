#!/bin/bash
# Makes a root file system for banger by hand: Debian packages through mmdebstrap, then an ext4 image.
# `banger bundle build` does the same and more; this is for looking at each step, or for changing one.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: make-rootfs.sh [options] IMAGE

Writes the ext4 image IMAGE and, beside it, IMAGE's package list (.packages instead of .ext4).

  --suite NAME       Debian release (default: bookworm)
  --size SIZE        size of the file system, as truncate takes it (default: 2G)
  --packages LIST    packages to install, separated by commas, instead of the usual ones
  --include LIST     more packages
  --sources FILE     apt sources to install from; may be given more than once
                     (default: the host's own where it runs the same release)
TEXT
}

fail() {
  echo "make-rootfs.sh: $1" >&2
  exit 1
}

suite=bookworm
size=2G
packages=systemd-sysv,dbus,libpam-systemd,udev,kmod,openssh-server,iproute2,ca-certificates,procps,iputils-ping,less,rsync,netbase,nano
include=
sources=()
image=
while [ $# -gt 0 ]; do
  case $1 in
  -h | --help)
    usage
    exit 0
    ;;
  --suite | --size | --packages | --include | --sources)
    [ $# -ge 2 ] || fail "$1 needs a value"
    case $1 in
    --suite) suite=$2 ;;
    --size) size=$2 ;;
    --packages) packages=$2 ;;
    --include) include=$include,$2 ;;
    --sources) sources+=("$2") ;;
    esac
    shift
    ;;
  -*) fail "unknown option $1 (see --help)" ;;
  *)
    [ -z "$image" ] || fail 'only one image can be made at a time'
    image=$1
    ;;
  esac
  shift
done
if [ -z "$image" ]; then
  usage >&2
  exit 2
fi

PATH=$PATH:/usr/sbin:/sbin
for program in mmdebstrap mke2fs unshare truncate; do
  command -v "$program" >/dev/null || fail "$program is not installed: sudo apt install mmdebstrap e2fsprogs util-linux"
done

# root, or the root of a namespace in which the user's subordinate ids own the files
as_root() {
  if [ "$(id -u)" = 0 ]; then
    unshare --mount --pid --fork --kill-child -- "$@"
  else
    unshare --user --map-root-user --map-auto --mount --pid --fork --kill-child -- "$@"
  fi
}

if [ ${#sources[@]} = 0 ] && grep -qs "^VERSION_CODENAME=$suite\$" /etc/os-release; then
  for file in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; do
    if [ -s "$file" ]; then
      sources+=("$file")
    fi
  done
fi

work=$(mktemp -d "$image.XXXXXX")
trap 'as_root rm -rf --one-file-system "$work"' EXIT
tree=$work/root

as_root mmdebstrap --mode=root --variant=apt --format=directory --skip=output/dev \
  --include="$packages$include" "$suite" "$tree" "${sources[@]}"

# every machine makes or is given its own identity
as_root rm -f "$tree"/etc/ssh/ssh_host_*_key "$tree"/etc/ssh/ssh_host_*_key.pub "$tree/etc/hostname"
as_root truncate --size=0 "$tree/etc/machine-id"

# shellcheck disable=SC2016 # dpkg-query's own placeholders
dpkg-query --admindir="$tree/var/lib/dpkg" --show --showformat='${Package} ${Version} ${Architecture}\n' |
  LC_ALL=C sort >"${image%.ext4}.packages"

rm -f "$image"
truncate --size="$size" "$image"
as_root mke2fs -q -F -t ext4 -m 0 -E root_owner=0:0,lazy_itable_init=0 -d "$tree" "$image"
echo "$image and ${image%.ext4}.packages are ready."
