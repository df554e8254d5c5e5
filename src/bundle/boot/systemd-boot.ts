/**
 * Shell functions of `/init` for guests whose init is systemd, run inside their root before it starts: `/tmp` is emptied
 * before anybody can log in, what idles in a VM stays out of the boot, and the guest says when it is ready.
 *
 * All of it lies in `/run`. What `/etc` asks for wins over that, by systemd's own rules; docs/guest-contract.md says what
 * is left out when.
 */
import { dirname } from 'node:path';
import { READY_ANNOUNCED, READY_LINE, UDEV_GOES_FIRST } from '../../core/boot-words.ts';

/** Time between `ready` and what was left for then: whoever waited has the machine first. */
const REST_DELAY = '1s';

/** A boot that waits for something which was left for later gets it after this time. */
const REST_AT_LATEST = '60s';

/**
 * Left out of the boot and started after it. Links in /usr/lib only: what somebody enabled is linked in /etc, and counts.
 * One line for each target: its name, then units.
 */
const LATER = [
  [
    'sysinit.target',
    ...['systemd-journal-flush.service', 'systemd-random-seed.service', 'systemd-update-utmp.service'],
    ...['sys-kernel-debug.mount', 'sys-kernel-tracing.mount', 'sys-kernel-config.mount'],
    ...['sys-fs-fuse-connections.mount', 'dev-hugepages.mount', 'dev-mqueue.mount'],
    'proc-sys-fs-binfmt_misc.automount',
  ],
  ['multi-user.target', 'systemd-update-utmp-runlevel.service'],
  ['graphical.target', 'systemd-update-utmp-runlevel.service'],
];

/** Rules that come with systemd and device mapper. Others may be there for what the boot needs. */
const KNOWN_RULES = [
  ...[
    '50-firmware',
    '50-udev-default',
    '55-dm',
    '60-*',
    '64-btrfs',
    '70-camera',
    '70-joystick',
    '70-memory',
    '70-mouse',
  ],
  ...['70-power-switch', '70-touchpad', '70-uaccess', '71-seat', '73-seat-late', '73-special-net-names'],
  ...['75-net-description', '75-probe_mtd', '78-sound-card', '80-debian-compat', '80-drivers', '80-net-setup-link'],
  ...[
    '81-net-dhcp',
    '81-net-bridge',
    '85-hwclock',
    '90-iocost',
    '90-vconsole',
    '95-dm-notify',
    '99-systemd',
    '96-e2scrub',
  ],
]
  .map((name) => `${name}.rules`)
  .join(' | ');

/** Needs `say` and `fail` of the script it becomes part of. */
export const SYSTEMD_FUNCTIONS = `is_systemd() {
  for init in /sbin/init /lib/systemd/systemd /bin/init; do
    [ -h "$init" ] || [ -x "$init" ] || continue
    case $(readlink -f "$init") in
    */systemd) return 0 ;;
    *) return 1 ;;
    esac
  done
  return 1
}

# What must be done before anybody can log in.
prepare_systemd() {
  target=''
  is_systemd || return 0
  read -r cmdline < /proc/cmdline
  target=default.target
  for word in $cmdline; do
    case $word in
    systemd.unit=*) target=\${word#*=} ;;
    # somebody looks for a fault: the boot is as its maker meant it
    emergency | rescue | single | s | S | 1) target='' && return 0 ;;
    esac
  done
  mkdir -p /run/banger /run/systemd/system /run/tmpfiles.d || { target='' && return 0; }
  mount_tmp
  clear_tmp
  announce_ready
}

# The rest, while the SSH server starts beside it.
shorten_boot() {
  [ -n "$target" ] || return 0
  [ "$target" = default.target ] && [ ! -e /etc/banger/full-boot ] && leave_out
}

# The guest mounts a file system of memory at /tmp: it would cover what an early session wrote there.
mount_tmp() {
  if grep -qsE '^[^#[:space:]]+[[:space:]]+[^[:space:]]+[[:space:]]+tmpfs[[:space:]]' /etc/fstab; then
    PATH=/usr/sbin:/usr/bin:/sbin:/bin mount -a -t tmpfs
  fi
  for dir in /etc/systemd/system /usr/local/lib/systemd/system /usr/lib/systemd/system /lib/systemd/system; do
    [ -h "$dir/tmp.mount" ] || [ -e "$dir/tmp.mount" ] || continue
    # a link to nothing forbids it
    [ -s "$dir/tmp.mount" ] || return 0
    options=mode=1777,nosuid,nodev
    while read -r line; do
      case $line in Options=*) options=\${line#*=} ;; esac
    done < "$dir/tmp.mount"
    case $options in *%%*) options=\${options%%"%%"*}%\${options#*"%%"} ;; esac
    grep -qs ' /tmp ' /proc/mounts || mount -t tmpfs -o "$options" tmpfs /tmp
    return 0
  done
}

# systemd-tmpfiles empties directories that "D" lines name. It does so now, and in the boot their "d" lines, which come
# first and differ in the mask of the mode, replace them: nothing that a session wrote is lost.
clear_tmp() {
  grep -sE '^D[^[:space:]]*[[:space:]]+/(var/)?tmp(/[^[:space:]*?[]*)?[[:space:]]' \\
    /etc/tmpfiles.d/*.conf /usr/local/lib/tmpfiles.d/*.conf /usr/lib/tmpfiles.d/*.conf |
    while IFS=: read -r file line; do
      name=\${file##*/}
      # of two files with one name the first counts
      for dir in /etc /usr/local/lib /usr/lib; do
        { [ -e "$dir/tmpfiles.d/$name" ] || [ -h "$dir/tmpfiles.d/$name" ]; } && break
      done
      [ "$file" = "$dir/tmpfiles.d/$name" ] || continue
      read -r kind place mode rest <<LINE
$line
LINE
      for entry in "$place"/* "$place"/.[!.]* "$place"/..?*; do
        [ -e "$entry" ] || [ -h "$entry" ] || continue
        rm -rf "$entry"
      done
      case $mode in
      [0-7]*) mode=~$mode ;;
      ~*) mode=\${mode#?} ;;
      *) continue ;;
      esac
      echo "d\${kind#D} $place $mode $rest" >> /run/tmpfiles.d/00-banger.conf
    done
}

# Takes a file of /usr/lib out of this boot; put back when the guest is ready.
left_out() {
  : > "$1" && echo "$1" >> /run/banger/left-out
}

leave_out() {
  units=/run/systemd/system
  later=''
  while read -r wanting names; do
    mkdir -p "$units/$wanting.wants"
    for name in $names; do
      left_out "$units/$wanting.wants/$name"
      case " $later " in *" $name "*) ;; *) later="$later $name" ;; esac
    done
  done <<'LATER'
${LATER.map((words) => words.join(' ')).join('\n')}
LATER
  if nothing_needs_devices; then
    left_out "$units/sysinit.target.wants/systemd-udev-trigger.service"
    # its sockets stay: the first event starts it
    left_out "$units/sysinit.target.wants/systemd-udevd.service"
    # what a guest does with its console and its screen needs a console and a screen
    [ -e /etc/systemd/system/getty@tty1.service ] || [ -e /etc/systemd/system/getty@tty1.service.d ] ||
      left_out "$units/getty@tty1.service"
    later="$later systemd-udevd.service systemd-udev-trigger.service"
    # nor is there anything that a shutdown needs it for: it must not wait for devices that are still looked at
    mkdir -p ${dirname(UDEV_GOES_FIRST)}
    cat > ${UDEV_GOES_FIRST} <<'UNIT'
[Unit]
Conflicts=shutdown.target
Before=shutdown.target
UNIT
  fi
  if [ -z "$(echo /var/lib/systemd/linger/*)" ] || [ ! -e "$(echo /var/lib/systemd/linger/*)" ]; then
    left_out "$units/multi-user.target.wants/systemd-logind.service"
    left_out "$units/multi-user.target.wants/dbus.service"
    later="$later systemd-logind.service"
  fi
  grep -qsE '^[^#;[:space:]]' /etc/modules /etc/modules-load.d/*.conf /usr/lib/modules-load.d/*.conf ||
    left_out "$units/sysinit.target.wants/systemd-modules-load.service"
  # there is nothing for it to do, and yet it loads two modules
  ls /etc/repart.d/* /run/repart.d/* /usr/local/lib/repart.d/* /usr/lib/repart.d/* > /dev/null 2>&1 ||
    left_out "$units/sysinit.target.wants/systemd-repart.service"
  # Debian's packages make their users when they are installed, and nothing there ends the need to do so at each boot
  if [ -e /var/lib/dpkg/status ] && [ ! -e /etc/.updated ] &&
    ! ls /etc/sysusers.d/* /usr/local/lib/sysusers.d/* > /dev/null 2>&1; then
    left_out "$units/sysinit.target.wants/systemd-sysusers.service"
    later="$later systemd-sysusers.service"
  fi
  # no firmware of this machine keeps anything over a crash
  left_out "$units/modprobe@efi_pstore.service"
  leave_out_generators
  cat > "$units/banger-rest.target" <<UNIT
[Unit]
Description=What a virtual machine does after it is ready
DefaultDependencies=no
Conflicts=shutdown.target
Wants=$later
UNIT
  cat > "$units/banger-rest.timer" <<'UNIT'
[Unit]
Description=Starts what was left for after the boot
DefaultDependencies=no
Conflicts=shutdown.target
After=banger-ready.service
[Timer]
OnActiveSec=${REST_DELAY}
AccuracySec=100ms
Unit=banger-rest.target
UNIT
  cat > "$units/banger-rest-at-latest.timer" <<'UNIT'
[Unit]
Description=Starts what was left for after the boot, however long that takes
DefaultDependencies=no
Conflicts=shutdown.target
[Timer]
OnBootSec=${REST_AT_LATEST}
Unit=banger-rest.target
UNIT
  mkdir -p "$units/$target.wants"
  ln -s ../banger-rest-at-latest.timer "$units/$target.wants/banger-rest-at-latest.timer"
}

# Devices are there before systemd is; looking at all of them once more costs an emulated guest a third of its boot.
nothing_needs_devices() {
  for rule in /etc/udev/rules.d/* /usr/local/lib/udev/rules.d/* /usr/lib/udev/rules.d/*; do
    [ -e "$rule" ] || continue
    case $rule in /etc/* | /usr/local/*) return 1 ;; esac
    case \${rule##*/} in
    ${KNOWN_RULES}) ;;
    *) return 1 ;;
    esac
  done
  grep -qsE '^[[:space:]]*(/dev/|UUID=|LABEL=|PARTUUID=|PARTLABEL=)' /etc/fstab && return 1
  grep -qsE '^[[:space:]]*[^#[:space:]]' /etc/crypttab && return 1
  grep -qsE '\\.device|udev|networkd|NetworkManager|ifup|lvm|multipath|mdadm' /etc/systemd/system/*.* \\
    /etc/systemd/system/*.wants/* /etc/systemd/system/*.requires/* /etc/systemd/system/*.d/* && return 1
  return 0
}

# Programs that make units of what they find, each taken out where there is nothing for it to find.
leave_out_generators() {
  [ -d /usr/lib/systemd/system-generators ] || return 0
  mkdir -p /run/systemd/system-generators
  out='gpt-auto getty tpm2'
  grep -qsE '^[[:space:]]*[^#[:space:]]' /etc/fstab || out="$out fstab"
  grep -qsE '^[[:space:]]*[^#[:space:]]' /etc/crypttab || out="$out cryptsetup"
  [ -e /etc/integritytab ] || out="$out integritysetup"
  [ -e /etc/veritytab ] || out="$out veritysetup"
  [ -x /etc/rc.local ] || out="$out rc-local"
  [ -h /system-update ] || [ -h /etc/system-update ] || out="$out system-update"
  has_own_init_script || out="$out sysv"
  case " $cmdline " in *" resume="*) ;; *) out="$out hibernate-resume" ;; esac
  case $cmdline in *systemd.*) ;; *) out="$out debug run" ;; esac
  for name in $out; do
    [ -e "/usr/lib/systemd/system-generators/systemd-$name-generator" ] || continue
    left_out "/run/systemd/system-generators/systemd-$name-generator"
  done
}

has_own_init_script() {
  for script in /etc/init.d/*; do
    [ -x "$script" ] || continue
    name=\${script##*/}
    name=\${name%.sh}
    for dir in /etc/systemd/system /usr/lib/systemd/system /lib/systemd/system; do
      { [ -e "$dir/$name.service" ] || [ -h "$dir/$name.service" ]; } && continue 2
    done
    return 0
  done
  return 1
}

announce_ready() {
  units=/run/systemd/system
  mkdir -p "$units/$target.wants" || return 0
  cat > /run/banger/ready <<'READY'
if [ -s /run/banger/left-out ]; then
  set --
  while read -r path; do set -- "$@" "$path"; done < /run/banger/left-out
  rm -f "$@"
fi
failed=$(systemctl list-units --state=failed --plain --no-legend --no-pager 2> /dev/null |
  while read -r unit _; do printf ' %s' "$unit"; done)
read -r uptime _ < /proc/uptime
# the agent is told by a file that is whole when it gets its name
echo "$uptime$failed" > /run/banger/ready-said.new && mv /run/banger/ready-said.new /run/banger/ready-said
echo "${READY_LINE} $uptime$failed" > /dev/console
READY
  cat > "$units/banger-ready.service" <<UNIT
[Unit]
Description=Tells the host that this machine is ready
DefaultDependencies=no
After=$target
Wants=banger-rest.timer
[Service]
Type=oneshot
ExecStart=/bin/sh /run/banger/ready
UNIT
  ln -s ../banger-ready.service "$units/$target.wants/banger-ready.service" || return 0
  : > /run/banger/ready-announced
  echo "${READY_ANNOUNCED} $target" > /dev/console
}
`;
