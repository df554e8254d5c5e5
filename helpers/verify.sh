#!/bin/bash
# Smoke test of a bundle on this machine: its checksums, then a VM made from it that must boot, answer over SSH,
# have settled services, its address, and modules that fit its kernel. Works in a banger of its own and leaves nothing.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: verify.sh [BUNDLE]

BUNDLE is a bundle's directory (default: the one this script lies in).
TEXT
}

fail() {
  echo "verify.sh: FAILED: $1" >&2
  exit 1
}

case ${1:-} in
-h | --help)
  usage
  exit 0
  ;;
-*)
  usage >&2
  exit 2
  ;;
esac
bundle=$(cd "${1:-$(dirname "${BASH_SOURCE[0]}")/..}" && pwd) || fail "there is no directory ${1:-}"
banger=${BANGER:-banger}
command -v "$banger" >/dev/null || fail 'banger is not installed, or set BANGER to where it is'

home=$(mktemp -d)
export BANGER_HOME=$home
export BANGER_BUNDLE_DEFAULT=$bundle
export BANGER_DNS_ENABLED=false
export BANGER_WARM_AUTOMATIC=false
vm=verify

cleanup() {
  "$banger" rm --force --now "$vm" >/dev/null 2>&1 || true
  "$banger" daemon stop >/dev/null 2>&1 || true
  rm -rf "$home"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

"$banger" bundle verify "$bundle" || fail 'the bundle is not what its bundle.json says'
"$banger" run "$vm" || fail 'a VM made from the bundle does not start'
in_vm() {
  "$banger" exec "$vm" -- "$@"
}

[ "$(in_vm id -u)" = 0 ] || fail 'the login is not root'
[ "$(in_vm cat /proc/sys/kernel/hostname)" = "$vm" ] || fail 'the VM does not have its name'
# the login answers before systemd does
for _ in $(seq 60); do
  state=$(in_vm systemctl is-system-running --wait 2>/dev/null || true)
  case $state in
  running | degraded | maintenance) break ;;
  esac
  sleep 1
done
if [ "$state" != running ]; then
  in_vm systemctl --failed --no-legend --plain >&2 || true
  fail "the services did not settle: $state"
fi
in_vm ip -4 -o addr show eth0 | grep -q 'inet .*/32' || fail 'the VM does not have its address'
in_vm sh -c 'modprobe --dry-run --quiet tun' || fail 'the kernel modules do not fit the kernel'
in_vm sh -c 'test -s /etc/machine-id && test -w /root' || fail 'the VM has no identity or no work disk'
echo "$bundle works on this machine."
