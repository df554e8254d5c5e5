/**
 * QEMU's command line for one microVM. Strings that come from clients go in as whole arguments or as JSON,
 * never into QEMU's comma-separated option lists.
 */
import type { StoredBalloon } from '../vmm/balloon.ts';
import type { StoredDrive } from '../vmm/drives.ts';
import type { StoredInterface } from '../vmm/net/interfaces.ts';
import type { StoredLimiter } from '../vmm/rate-limiter.ts';
import type { StoredVsock } from '../vmm/vsock/vsock.ts';
import { CONSOLE_FD, ENTROPY_FD, FIRST_TAP_FD, MEMORY_FD, QMP_FD, VSOCK_FD } from './process.ts';

export type Accelerator = 'kvm' | 'tcg';

export interface QemuDrive extends StoredDrive {
  /** what the guest reads as the disk's serial number */
  serial: string;
  /** the backing file is a block device */
  isBlockDevice: boolean;
}

export interface QemuSpec {
  instanceId: string;
  accelerator: Accelerator;
  vcpuCount: number;
  memoryMib: number;
  kernelPath: string;
  initrdPath: string | null;
  commandLine: string;
  /** in the order of the guest's vda, vdb, … */
  drives: QemuDrive[];
  interfaces: (StoredInterface & { mac: string })[];
  /** whether network devices can have the guest announce itself, which Firecracker's cannot; those of earlier states can */
  announces: boolean;
  entropy: { rate_limiter: StoredLimiter | null } | null;
  balloon: StoredBalloon | null;
  vsock: StoredVsock | null;
  /** confine QEMU with its seccomp filter */
  sandbox: boolean;
  /** build the machine for a state that is loaded into it, with the file at MEMORY_FD as its memory */
  restore: boolean;
}

/**
 * Under TCG an AMD model: the kernel uses no page table isolation on it, which costs a TLB flush per system
 * call when emulated (measured 13 times slower with Nehalem). It also brings RDRAND, AES and AVX2.
 */
const CPU: Record<Accelerator, string> = { kvm: 'host', tcg: 'EPYC,check=off' };

const ENTROPY = { id: 'entropy' } as const;

/** Cache of translated code in `MiB`: QEMU's own default would be a gigabyte for every guest. */
const TCG_CACHE_MIB = { least: 64, most: 1024 };

/**
 * A guest with more memory runs more and larger programs. When the cache is full all of it is thrown away: in a guest
 * of 5 GiB a Node process started three times as fast with 512 MiB as with 64.
 */
const TCG_CACHE_SHARE = 8;

function tcgCacheMib(memoryMib: number): number {
  return Math.min(TCG_CACHE_MIB.most, Math.max(TCG_CACHE_MIB.least, Math.floor(memoryMib / TCG_CACHE_SHARE)));
}

export function qemuArguments(spec: QemuSpec): string[] {
  return [
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-S', '-name', spec.instanceId],
    // threads say whose processor they run, as Firecracker's do
    ...['-name', 'debug-threads=on'],
    ...machineArguments(spec),
    ...(spec.restore ? [] : kernelArguments(spec)),
    ...['-chardev', `socket,id=console,fd=${CONSOLE_FD}`, '-serial', 'chardev:console'],
    ...['-chardev', `socket,id=qmp,fd=${QMP_FD}`, '-mon', 'chardev=qmp,mode=control'],
    // a reset ends the VM; a guest that powers off leaves a halted machine behind, as Firecracker does
    ...['-action', 'reboot=shutdown,shutdown=pause,panic=none'],
    // the state is QEMU's short form, without the machine's description before and after it
    ...(spec.restore ? ['-incoming', 'defer', '-global', 'migration.send-configuration=off'] : []),
    ...(spec.sandbox ? ['-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny'] : []),
    // for Ctrl-Alt-Del and for reboot=k
    ...['-device', 'i8042'],
    ...deviceArguments(spec),
  ];
}

/** A restored machine has its kernel in memory already, and the files may be gone. */
function kernelArguments({ kernelPath, initrdPath, commandLine }: QemuSpec): string[] {
  return [
    ...['-kernel', kernelPath],
    ...(initrdPath === null ? [] : ['-initrd', initrdPath]),
    ...['-append', commandLine],
  ];
}

function machineArguments(spec: QemuSpec): string[] {
  const { accelerator, vcpuCount, memoryMib } = spec;
  // pit, pic and rtc: without kvmclock the guest calibrates its clocks with them; acpi gives 24 virtio slots
  const machine =
    'microvm,acpi=on,pit=on,pic=on,rtc=on,isa-serial=on,x-option-roms=off,auto-kernel-cmdline=off,memory-backend=ram';
  return [
    ...['-accel', accelerator === 'kvm' ? 'kvm' : `tcg,thread=multi,tb-size=${tcgCacheMib(memoryMib)}`],
    ...['-cpu', CPU[accelerator], '-smp', String(vcpuCount), '-m', `${memoryMib}M`],
    ...['-machine', spec.restore ? `${machine},suppress-vmdesc=on` : machine],
    ...['-global', 'virtio-mmio.force-legacy=false'],
    ...json('-object', memoryBackend(spec)),
  ];
}

/**
 * Anonymous memory, in huge pages where the host has them: it is gone at once when QEMU is killed, and only then does
 * the kernel close QEMU's taps. After a restore a private mapping of the snapshot's memory file, which all clones share
 * until they write.
 */
function memoryBackend({ memoryMib, restore }: QemuSpec): Record<string, unknown> {
  const common = { id: 'ram', size: memoryMib * 1024 * 1024 };
  if (!restore) return { ...common, 'qom-type': 'memory-backend-ram' };
  return { ...common, 'qom-type': 'memory-backend-file', 'mem-path': `/proc/self/fd/${MEMORY_FD}`, share: false };
}

/** The guest finds virtio devices in the order of these arguments, which is Firecracker's. */
function deviceArguments(spec: QemuSpec): string[] {
  return [
    ...(spec.balloon ? balloonArguments(spec.balloon) : []),
    ...spec.drives.flatMap(driveArguments),
    ...spec.interfaces.flatMap((iface, index) => interfaceArguments(iface, index, spec.announces)),
    ...(spec.vsock ? vsockArguments() : []),
    ...(spec.entropy ? entropyArguments(spec.entropy.rate_limiter) : []),
  ];
}

/** Node names of a drive: `format` is what the device sees and survives a change of the file below it. */
export function driveNodes(index: number): { format: string; file: string; device: string } {
  return { format: `drive${index}`, file: `file${index}`, device: `block${index}` };
}

/** The file node of a drive, for the command line and for `blockdev-add` alike. */
export function fileNode(
  name: string,
  drive: Pick<QemuDrive, 'path_on_host' | 'is_read_only' | 'io_engine' | 'cache_type' | 'isBlockDevice'>,
): Record<string, unknown> {
  return {
    driver: drive.isBlockDevice ? 'host_device' : 'file',
    'node-name': name,
    filename: drive.path_on_host,
    'read-only': drive.is_read_only,
    aio: drive.io_engine === 'Async' ? 'io_uring' : 'threads',
    cache: { direct: false, 'no-flush': drive.cache_type === 'Unsafe' },
    // Firecracker takes no locks either; callers keep writers apart
    locking: 'off',
  };
}

function driveArguments(drive: QemuDrive, index: number): string[] {
  const nodes = driveNodes(index);
  return [
    ...json('-blockdev', fileNode(nodes.file, drive)),
    ...json('-blockdev', {
      driver: 'raw',
      'node-name': nodes.format,
      file: nodes.file,
      'read-only': drive.is_read_only,
      cache: { direct: false, 'no-flush': drive.cache_type === 'Unsafe' },
    }),
    ...json('-device', {
      driver: 'virtio-blk-device',
      id: nodes.device,
      drive: nodes.format,
      serial: drive.serial,
      // the guest gets an I/O error and goes on; QEMU's own choice is to stop the guest when the host's disk is full
      werror: 'report',
      rerror: 'report',
      // features Firecracker's block device does not offer
      discard: false,
      'write-zeroes': false,
    }),
  ];
}

/** Id of the backend of an interface, by index. */
export function netdevId(index: number): string {
  return `net${index}`;
}

/**
 * A device that could have its guest announce itself, and does not after a restore, ends QEMU 7.2 by SIGSEGV when the guest
 * resets it: it has no timer for announcements any more, and stops it.
 */
function interfaceArguments(iface: StoredInterface & { mac: string }, index: number, announces: boolean): string[] {
  const id = netdevId(index);
  const more = {
    ...(iface.mtu === null ? {} : { host_mtu: iface.mtu }),
    ...(announces ? {} : { guest_announce: false }),
  };
  return [
    ...json('-netdev', { type: 'tap', id, fd: String(FIRST_TAP_FD + index), vhost: false }),
    ...json('-device', { driver: 'virtio-net-device', id: `nic${index}`, netdev: id, mac: iface.mac, ...more }),
  ];
}

function balloonArguments(balloon: StoredBalloon): string[] {
  return json('-device', {
    driver: 'virtio-balloon-device',
    id: 'balloon0',
    'deflate-on-oom': balloon.deflate_on_oom,
    'free-page-reporting': balloon.free_page_reporting,
    // guests that want zeros in pages they reported must not report them: a restored one finds the snapshot's content
    'page-poison': false,
  });
}

/** One serial port to an agent in the guest; QEMU has no vsock that could be migrated. */
function vsockArguments(): string[] {
  return [
    ...['-chardev', `socket,id=vsock,fd=${VSOCK_FD}`],
    ...json('-device', { driver: 'virtio-serial-device', id: 'ports', max_ports: 2 }),
    ...json('-device', { driver: 'virtserialport', bus: 'ports.0', nr: 1, chardev: 'vsock', name: 'fcqemu.vsock' }),
  ];
}

/** With a limit the bytes come from this process, which keeps to it. */
function entropyArguments(limiter: StoredLimiter | null): string[] {
  const source = limiter
    ? [
        '-chardev',
        `socket,id=entropy-source,fd=${ENTROPY_FD}`,
        ...json('-object', { ...ENTROPY, 'qom-type': 'rng-egd', chardev: 'entropy-source' }),
      ]
    : json('-object', { ...ENTROPY, 'qom-type': 'rng-random', filename: '/dev/urandom' });
  return [...source, ...json('-device', { driver: 'virtio-rng-device', id: 'rng0', rng: ENTROPY.id })];
}

function json(option: string, value: Record<string, unknown>): [string, string] {
  return [option, JSON.stringify(value)];
}
