/**
 * Shell functions of `/init` for images that were a partition of a disk: their root may be XFS or btrfs, their `/etc/fstab` names
 * partitions that are not there any more, and their network is set up for another machine.
 */
import { type CpioEntry, writeCpio } from './cpio.ts';

/** What a root disk is made as. */
export type RootFileSystem = 'ext4' | 'xfs' | 'btrfs';

/** What a root disk is that came as a part of a whole disk. */
export interface RootFacts {
  kind: RootFileSystem;
  uuid: string;
  label: string;
}

const FACTS = 'disk';

/** A cpio archive to be put behind an initrd. */
export function rootFactsArchive({ kind, uuid, label }: RootFacts): Buffer {
  // what a shell would see something in is left out: it is compared with and nothing else
  const safe = (text: string) => (/^[\w.+ -]*$/.test(text) ? text : '');
  const text = `ROOT_KIND='${kind}'\nROOT_UUID='${safe(uuid)}'\nROOT_LABEL='${safe(label)}'\n`;
  const entry: CpioEntry = { type: 'file', path: FACTS, data: Buffer.from(text), mode: 0o644 };
  return writeCpio([entry]);
}

/** Where distributions keep their system below the top of a btrfs. */
const SUBVOLUMES = 'root @ @rootfs @/.snapshots/1/snapshot';

/** Needs `fail`, `say`, `$here` and `$root` of the script it becomes part of. */
export const DISK_FUNCTIONS = `mount_root_disk() {
  ROOT_KIND=ext4
  [ -r /${FACTS} ] && . /${FACTS}
  options=rw
  # the tables of a disk that was grown are holes, which read as the zeros that the kernel would write into them
  [ "$ROOT_KIND" = ext4 ] && options=rw,noinit_itable
  mount -t "$ROOT_KIND" -o "$options" "$root" /newroot || fail "mount the root disk"
  [ "$ROOT_KIND" = ext4 ] && return 0
  if [ "$ROOT_KIND" = btrfs ] && [ ! -d /newroot/etc ]; then
    for subvolume in ${SUBVOLUMES}; do
      [ -d "/newroot/$subvolume/etc" ] || continue
      umount /newroot
      mount -t btrfs -o "rw,subvol=$subvolume" "$root" /newroot || fail "mount the subvolume $subvolume of the root disk"
      break
    done
  fi
  # the host has made the disk larger, and only a kernel that has mounted them can grow these
  banger-agent --grow "$root" /newroot || say "the root file system keeps its size"
}

# Inside the new root.
adopt_disk() {
  [ -r "$here/${FACTS}" ] || return 0
  . "$here/${FACTS}"
  [ -r /etc/fstab ] && sort_fstab
  mkdir -p /run/systemd/network /run/systemd/system /run/NetworkManager/conf.d
  printf '[Match]\nName=eth0\n[Link]\nUnmanaged=yes\n' > /run/systemd/network/00-banger.network
  printf '[keyfile]\nunmanaged-devices=interface-name:eth0\n' > /run/NetworkManager/conf.d/00-banger.conf
  # the network is there before they begin, and nothing they know of comes up
  for unit in systemd-networkd-wait-online NetworkManager-wait-online; do
    ln -sf /dev/null "/run/systemd/system/$unit.service"
  done
}

# Lines of devices that this machine has not would stop a boot.
sort_fstab() {
  changed=''
  while IFS= read -r line || [ -n "$line" ]; do
    read -r source point rest <<LINE
$line
LINE
    case $source in
    UUID=*) name=\${source#UUID=} known=$ROOT_UUID ;;
    LABEL=*) name=\${source#LABEL=} known=$ROOT_LABEL ;;
    PARTUUID=* | PARTLABEL=* | /dev/*) name=gone known='' ;;
    *) name='' known='' ;;
    esac
    name=\${name#[\\"]}
    name=\${name%[\\"]}
    if [ -z "$name" ] || { [ -n "$known" ] && [ "$name" = "$known" ]; }; then
      printf '%s\n' "$line"
    elif [ "$point" = / ]; then
      printf '%s\n' "$root $point $rest"
      changed=yes
    else
      printf '%s\n' "# not on this disk: $line"
      changed=yes
    fi
  done < /etc/fstab > "$here/fstab"
  [ -z "$changed" ] || cat "$here/fstab" > /etc/fstab || fail "write /etc/fstab"
}
`;
