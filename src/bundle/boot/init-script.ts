/**
 * `/init` of the initrd: finds disks and network, lays the seed over the root, hands over to the guest's own init.
 *
 * Contract with the host: the kernel command line names the disks (`banger.root`, `banger.seed`, optionally
 * `banger.work`); the seed disk holds a ustar archive with `config` (KEY='value' lines: HOSTNAME, ADDRESS, GATEWAY,
 * MTU, WORK_DIR), `authorized_keys` and `rootfs/`. Every line on the console begins with `banger-init:`; a failure
 * prints `banger-init: FAILED: WHAT` and `banger-init: reason: WHY`, then resets the machine.
 */

import { DISK_FUNCTIONS } from './disk-boot.ts';
import { PROCESS_FUNCTIONS } from './process-boot.ts';
import { SYSTEMD_FUNCTIONS } from './systemd-boot.ts';
import { USER_DATA_FUNCTIONS } from './user-data-boot.ts';

/** Makes `ssh.service` (Debian) or `sshd.service` (others) take over the server that the initrd started. */
const SSHD_DROPIN = `# Made by banger's initrd at each boot, gone with it: the SSH server runs already, this unit adopts it.
[Service]
Type=forking
PIDFile=/run/sshd.pid
ExecStartPre=
ExecStart=
ExecStart=/bin/sh /run/banger/sshd-handover
`;

/** Priority of the early server and the sessions it began; a value nothing else in a booting guest has. */
const EARLY_NICE = -10;

/**
 * Moves the early server into the unit's control group and everything it began to normal priority; starts a new
 * server where there is none (a restart).
 */
const SSHD_HANDOVER = `put_back_in_line() {
  for stat in /proc/[0-9]*/stat; do
    read -r line < "$stat" || continue
    set -- \${line##*) }
    [ "\${17}" = ${EARLY_NICE} ] || continue
    process=\${stat%/stat}
    renice -n 0 -p "\${process#/proc/}" > /dev/null
  done 2> /dev/null
}
for record in /run/sshd.pid /run/banger/early-sshd.pid; do
  pid=''
  [ -r "$record" ] && read -r pid < "$record"
  [ -n "$pid" ] && [ "$(readlink "/proc/$pid/exe")" = /usr/sbin/sshd ] || continue
  renice -n 0 -p "$pid" > /dev/null
  put_back_in_line
  read -r group < /proc/self/cgroup
  echo "$pid" > "/sys/fs/cgroup\${group#0::}/cgroup.procs" || continue
  # the unit may have been stopped before it knew the server: then systemd has removed the file it looks for
  echo "$pid" > /run/sshd.pid
  # adopted before: somebody restarts the unit, which must read the configuration again
  [ -e /run/banger/sshd-adopted ] && kill -HUP "$pid"
  : > /run/banger/sshd-adopted
  exit 0
done
# not exec: sshd goes into the background only where it is not the leader of its session
/usr/sbin/sshd $SSHD_OPTS
`;

/** Where the initrd stays reachable once the guest's root is the root. */
const HERE = '/run/.banger-initrd';

/** Marks a work disk whose copy of the image's own files is complete. */
const SEEDED = 'lost+found/.banger-seeded';

/** Where an init may be, in the order they are tried. */
const INITS = '/sbin/init /lib/systemd/systemd /bin/init';
const START_INIT = "start the guest's init";
const NO_INIT = 'no /sbin/init, /lib/systemd/systemd or /bin/init on the root disk';

/** Shell for busybox ash. It runs as process 1, then once more inside the new root (`/init inside`). */
export const INIT_SCRIPT = `#!/bin/sh
# Made by banger. Everything a command complains about goes to /err and is shown only when it mattered.
PATH=${HERE}/bin:/bin
export PATH
umask 022

say() {
  echo "banger-init: $1"
}

# WHAT failed; the reason is the last complaint of the last command
fail() {
  reason=''
  while read -r line; do
    reason=$line
  done < "$here/err"
  say "FAILED: $1"
  say "reason: \${2:-\${reason:-unknown}}"
  [ "$stage" = inside ] && exit 1
  stop
}

stop() {
  sync
  sleep 1
  reboot -f
  sleep 60
}

mark() {
  read -r uptime _ < /proc/uptime
  say "$1 $uptime"
}

wait_for_disk() {
  tries=0
  while [ ! -b "$1" ]; do
    tries=$((tries + 1))
    [ "$tries" -gt 500 ] && fail "find the $2 disk" "$1 did not appear within 5 s"
    usleep 10000
  done
}

wait_for_network() {
  tries=0
  while [ ! -e /sys/class/net/eth0 ]; do
    tries=$((tries + 1))
    [ "$tries" -gt 500 ] && fail "find the network" "eth0 did not appear within 5 s"
    usleep 10000
  done
}

load_modules() {
  while read -r module; do
    insmod "/modules/$module" || fail "load the kernel module $module"
  done < /modules.order
  # 19: a vsock device
  for device in /sys/bus/virtio/devices/*/device; do
    [ -r "$device" ] || continue
    read -r id < "$device"
    [ "$id" = 0x0013 ] || continue
    # without it the host goes on by SSH
    while read -r module; do insmod "/modules/$module"; done < /modules.vsock
  done
}

read_cmdline() {
  read -r cmdline < /proc/cmdline
  root='' seed='' work=''
  for word in $cmdline; do
    case $word in
    banger.root=*) root=\${word#*=} ;;
    banger.seed=*) seed=\${word#*=} ;;
    banger.work=*) work=\${word#*=} ;;
    esac
  done
  [ -n "$root" ] || fail "find the root disk" "the kernel command line has no banger.root="
}

read_seed() {
  HOSTNAME='' ADDRESS='' GATEWAY='' MTU='' WORK_DIR=/root
  [ -n "$seed" ] || return 0
  wait_for_disk "$seed" seed
  mkdir /seed
  tar -x -f "$seed" -C /seed || fail "read the seed disk"
  [ -f /seed/config ] || fail "read the seed disk" "it has no file config"
  . /seed/config
}

set_address() {
  ip link set lo up || fail "bring up lo"
  [ -n "$ADDRESS" ] || return 0
  wait_for_network
  ip link set eth0 mtu "\${MTU:-1500}" up || fail "bring up eth0"
  ip addr add "$ADDRESS/32" dev eth0 || fail "set the address $ADDRESS"
  if [ -n "$GATEWAY" ]; then
    ip route add "$GATEWAY" dev eth0 || fail "route the gateway $GATEWAY"
    ip route add default via "$GATEWAY" dev eth0 || fail "set the default route"
  fi
}

mount_root() {
  wait_for_disk "$root" root
  mount_root_disk
  for dir in proc sys dev run; do
    [ -d "/newroot/$dir" ] || mkdir -p "/newroot/$dir" || fail "make /$dir on the root disk"
  done
}

# The copy may be cut short by a power loss: only the marker, written last, ends it.
mount_work() {
  [ -n "$work" ] || return 0
  wait_for_disk "$work" work
  mount -t ext4 -o rw,noatime,noinit_itable "$work" /work || fail "mount the work disk"
  if [ ! -e /work/${SEEDED} ]; then
    if [ -d "/newroot$WORK_DIR" ]; then
      cp -a -f "/newroot$WORK_DIR/." /work/ || fail "copy the image's $WORK_DIR to the work disk"
    fi
    [ "$WORK_DIR" = /root ] && chmod 0700 /work
    mkdir -p /work/lost+found
    sync
    : > /work/${SEEDED} || fail "mark the work disk as complete"
    sync
  fi
  [ -d "/newroot$WORK_DIR" ] || mkdir -p "/newroot$WORK_DIR" || fail "make $WORK_DIR on the root disk"
  mount -o move /work "/newroot$WORK_DIR" || fail "mount the work disk at $WORK_DIR"
}

# Inside the new root, so that its symbolic links mean what they mean to the guest and lead nowhere else.
lay_seed() {
  former=''
  [ -r /etc/hostname ] && read -r former < /etc/hostname
  if [ -d "$here/seed/rootfs" ]; then
    tar -x -f "$seed" -C / --strip-components 1 rootfs || fail "lay the seed over the root disk"
  fi
  add_keys
  name_host
}

add_keys() {
  [ -s "$here/seed/authorized_keys" ] || return 0
  keys=/root/.ssh/authorized_keys
  if [ ! -d /root/.ssh ]; then
    mkdir -p /root/.ssh || fail "make /root/.ssh"
    chmod 0700 /root/.ssh
  fi
  if [ ! -e "$keys" ]; then
    : > "$keys" || fail "make $keys"
    chmod 0600 "$keys"
  fi
  while read -r key; do
    [ -n "$key" ] || continue
    grep -qxF -e "$key" "$keys" && continue
    # a last line without an end would swallow the key
    [ -z "$(tail -c 1 "$keys")" ] || echo >> "$keys"
    echo "$key" >> "$keys" || fail "write $keys"
  done < "$here/seed/authorized_keys"
}

name_host() {
  [ -n "$HOSTNAME" ] || return 0
  # the first login may come before the guest's own init gets to it
  echo "$HOSTNAME" > /proc/sys/kernel/hostname
  # renamed while it was stopped: its old name may be another's now
  if [ -n "$former" ] && [ "$former" != "$HOSTNAME" ] && grep -qxF "127.0.1.1 $former" /etc/hosts; then
    grep -vxF "127.0.1.1 $former" /etc/hosts > "$here/hosts"
    cat "$here/hosts" > /etc/hosts || fail "write /etc/hosts"
  fi
  while read -r address name rest; do
    [ "$address $name" = "127.0.1.1 $HOSTNAME" ] && return 0
  done < /etc/hosts
  if [ -s /etc/hosts ] && [ -n "$(tail -c 1 /etc/hosts)" ]; then
    echo >> /etc/hosts
  fi
  echo "127.0.1.1 $HOSTNAME" >> /etc/hosts || fail "write /etc/hosts"
}

${SYSTEMD_FUNCTIONS}
${PROCESS_FUNCTIONS}
${DISK_FUNCTIONS}
${USER_DATA_FUNCTIONS}
# A session begun now must find the devices that systemd would mount later.
mount_devices() {
  mkdir -p /dev/pts /dev/shm
  mount -t devpts -o nosuid,noexec,gid=5,mode=0620,ptmxmode=0666 devpts /dev/pts
  mount -t tmpfs -o nosuid,nodev tmpfs /dev/shm
}

# The agent goes on from /run when the initrd is gone; systemd finds it where it puts everything that ran before it.
start_agent() {
  mkdir -p /run/banger/modules
  cp "$here/bin/banger-agent" /run/banger/agent || return 0
  while read -r module; do cp "$here/modules/$module" /run/banger/modules/; done < "$here/modules.agent"
  /run/banger/agent < /dev/null > /dev/null 2> /run/banger/agent.err &
  [ -e /run/banger/beside ] && /run/banger/agent --init < /dev/null > /dev/null 2> /run/banger/process.err &
}

# Asked before anything answers to the host: a guest whose SSH server is there is taken for one that boots.
require_init() {
  [ -e /run/banger/supervised ] && return 0
  for init in ${INITS}; do
    [ -x "$init" ] && return 0
  done
  fail "${START_INIT}" "${NO_INIT}"
}

# A stock systemd reaches its SSH server late in the boot. The server itself needs nothing but the network, so it is
# started here and handed over: the drop-in makes the unit adopt the running server without closing its port.
start_sshd_early() {
  unit=''
  for name in ssh sshd; do
    [ -e "/etc/systemd/system/multi-user.target.wants/$name.service" ] && unit=$name
  done
  # an init that is not systemd starts its own server, if it has one
  if [ ! -x /usr/sbin/sshd ] || [ -z "$unit" ]; then
    ls /etc/runlevels/*/sshd > /dev/null 2>&1 || start_private_sshd
    return 0
  fi
  # whoever else would listen on the port must get it
  [ -e /etc/systemd/system/sockets.target.wants/ssh.socket ] && return 0
  mkdir -p /run/sshd /run/banger "/run/systemd/system/$unit.service.d"
  cat > /run/banger/sshd-handover <<'HANDOVER'
${SSHD_HANDOVER}HANDOVER
  cat > "/run/systemd/system/$unit.service.d/10-banger.conf" <<'DROPIN'
${SSHD_DROPIN}DROPIN
  # ahead of everything else that boots, or a login on one slow CPU takes as long as the whole boot; the handover
  # puts it back in line (needs noautogroup on the kernel command line: nice counts only within a session otherwise)
  PATH=/usr/sbin:/usr/bin:/sbin:/bin nice -n ${EARLY_NICE} /usr/sbin/sshd -D -o PidFile=/run/sshd.pid < /dev/null > /dev/null 2> /run/banger/sshd.err &
  echo $! > /run/banger/early-sshd.pid
}

if [ "$1" = inside ]; then
  stage=inside
  here=${HERE}
  HOSTNAME=''
  . "$here/seed/config"
  seed=$2 root=$3
  lay_seed
  adopt_disk
  prepare_systemd
  mount_devices
  place_tools
  require_init
  start_agent
  start_sshd_early
  run_user_data
  shorten_boot
  exit 0
fi

stage=first
here=''
exec 2> /err
mount -t proc -o nosuid,nodev,noexec proc /proc || fail "mount /proc"
mark start
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys || fail "mount /sys"
mount -t devtmpfs -o nosuid,mode=0755 devtmpfs /dev || fail "mount /dev"
mount -t tmpfs -o nosuid,nodev,mode=0755 tmpfs /run || fail "mount /run"
read_cmdline
load_modules
read_seed
set_address
mount_root
mount_work
for dir in proc sys dev run; do
  mount -o move "/$dir" "/newroot/$dir" || fail "move /$dir into the root disk"
done
if [ -n "$seed" ]; then
  mkdir /newroot${HERE}
  mount -o bind / /newroot${HERE} || fail "keep the initrd within reach"
  chroot /newroot ${HERE}/bin/busybox sh ${HERE}/init inside "$seed" "$root" || stop
  # what was started there may still be on its way to the program that it becomes
  umount -l /newroot${HERE} && rmdir /newroot${HERE}
fi
if [ -e /newroot/run/banger/supervised ]; then
  read -r uptime _ < /newroot/proc/uptime
  say "handover $uptime"
  exec switch_root /newroot /run/banger/agent --init 2> /newroot/dev/console
fi
for init in ${INITS}; do
  # an absolute link means something only inside the new root, so a link is taken at its word
  [ -h "/newroot$init" ] || [ -x "/newroot$init" ] || continue
  read -r uptime _ < /newroot/proc/uptime
  say "handover $uptime"
  exec switch_root /newroot "$init" 2> /newroot/dev/console
done
fail "${START_INIT}" "${NO_INIT}"
`;
