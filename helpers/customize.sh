#!/bin/bash
# Boots a copy of a bundle's root file system, runs a script in it, and keeps the result as a bundle of its own.
# It works in a banger of its own, so VMs, names and settings of yours are neither seen nor touched.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: customize.sh [options] NEW SCRIPT
       customize.sh [options] --interactive NEW

Runs SCRIPT (as root, with bash) in a VM made from a bundle, or gives you a shell in it, and writes the
bundle NEW (a directory that does not exist yet) with what became of the root file system.

  --bundle DIR       bundle to begin with (default: the one this script lies in)
  --disk SIZE        size of the new root file system, e.g. 8G
  --memory SIZE      memory while the script runs, e.g. 2G
  --keep-keys        leave SSH host keys, login keys and the machine id in
TEXT
}

fail() {
  echo "customize.sh: $1" >&2
  exit 1
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bundle=$(dirname "$here")
new=
script=
interactive=no
keep_keys=no
vm_options=()
while [ $# -gt 0 ]; do
  case $1 in
  -h | --help)
    usage
    exit 0
    ;;
  --interactive) interactive=yes ;;
  --keep-keys) keep_keys=yes ;;
  --bundle | --disk | --memory)
    [ $# -ge 2 ] || fail "$1 needs a value"
    case $1 in
    --bundle) bundle=$(cd "$2" && pwd) || fail "there is no directory $2" ;;
    *) vm_options+=("$1" "$2") ;;
    esac
    shift
    ;;
  -*) fail "unknown option $1 (see --help)" ;;
  *)
    if [ -z "$new" ]; then
      new=$1
    elif [ -z "$script" ] && [ $interactive = no ]; then
      script=$1
    else
      fail "too many arguments: $1"
    fi
    ;;
  esac
  shift
done
if [ -z "$new" ] || { [ -z "$script" ] && [ $interactive = no ]; }; then
  usage >&2
  exit 2
fi
[ $interactive = yes ] || [ -r "$script" ] || fail "the script $script cannot be read"
[ ! -e "$new" ] || fail "$new exists already"
for file in vmlinux initrd.img rootfs.ext4; do
  [ -r "$bundle/$file" ] || fail "$bundle is no bundle: it has no $file (name one with --bundle)"
done
banger=${BANGER:-banger}
command -v "$banger" >/dev/null || fail 'banger is not installed, or set BANGER to where it is'

# disks beside the result, so that copies cost nothing where the file system can share blocks; the short path is for
# sockets, whose names may not be long
mkdir -p "$(dirname "$new")"
work=$(mktemp -d "$new.XXXXXX")
work=$(cd "$work" && pwd)
home=$(mktemp -d)
export BANGER_HOME=$home
export BANGER_PATHS_STORE=$work/store
export BANGER_BUNDLE_DEFAULT=$bundle
export BANGER_DNS_ENABLED=false
export BANGER_WARM_AUTOMATIC=false
vm=customize

cleanup() {
  "$banger" rm --force --now "$vm" >/dev/null 2>&1 || true
  "$banger" daemon stop >/dev/null 2>&1 || true
  rm -rf "$work" "$home"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# no work disk: what is written to /root belongs to the new image
"$banger" run "$vm" --work-disk none "${vm_options[@]}"
if [ $interactive = yes ]; then
  echo "Change what you like; the image is kept when you leave the shell with status 0 (exit 1 throws it away)."
  "$banger" ssh "$vm"
else
  "$banger" exec "$vm" -- bash -s <"$script"
fi

mkdir "$work/bundle"
# shellcheck disable=SC2016 # dpkg-query's own placeholders
"$banger" exec "$vm" -- sh -c 'command -v dpkg-query >/dev/null &&
  dpkg-query --show --showformat="\${Package} \${Version} \${Architecture}\n" || true' |
  LC_ALL=C sort >"$work/bundle/rootfs.packages"
disk=$("$banger" vm show --json "$vm" | grep -o '"[^"]*/root\.ext4"' | head -n 1 | tr -d '"')
[ -r "$disk" ] || fail "the VM's root disk cannot be read: $disk"

if [ $keep_keys = no ]; then
  "$banger" exec "$vm" -- sh -c '
    rm -f /etc/ssh/ssh_host_*_key /etc/ssh/ssh_host_*_key.pub /root/.ssh/authorized_keys
    : > /etc/machine-id
    sed -i "/^127\.0\.1\.1 /d" /etc/hosts
    echo localhost > /etc/hostname
    sync'
fi
"$banger" stop "$vm"

for entry in "$bundle"/*; do
  case ${entry##*/} in
  bundle.json | rootfs.ext4 | rootfs.packages) ;;
  *) cp -R --reflink=auto "$entry" "$work/bundle/" ;;
  esac
done
cp --sparse=always --reflink=auto "$disk" "$work/bundle/rootfs.ext4"
mv "$work/bundle" "$new"
"$banger" bundle adopt "$new"
echo "$new is ready. Use it: BANGER_BUNDLE_DEFAULT=$(cd "$new" && pwd) banger run NAME"
