/** The initrd: static busybox, the agent, the few modules that lead to disks and network, and `/init`. */
import { readFile } from 'node:fs/promises';
import { BangerError } from '../../errors.ts';
import { type CpioEntry, writeCpio } from './cpio.ts';
import type { RootFileSystem } from './disk-boot.ts';
import { INIT_SCRIPT } from './init-script.ts';
import { loadOrder, type ModuleIndex, readModule, readModuleIndex } from './modules.ts';
import type { UnpackDeps } from './unpack.ts';

export interface InitrdParts {
  /** statically linked busybox */
  busybox: string;
  /** module tree of the kernel, `…/lib/modules/RELEASE` */
  modules: string;
  /** the program that goes on running in the guest */
  agent: Buffer;
}

/** Without these no guest finds its disks and network. */
const REQUIRED_MODULES = ['virtio_mmio', 'virtio_blk', 'virtio_net', 'ext4'];

/** Loaded where the kernel has them, in this order; what is missing is left out. */
const LOAD_SEQUENCE = [
  // fast checksums have to be there before ext4 asks for them
  ...['crc32c_generic', 'crc32c_intel'],
  ...REQUIRED_MODULES,
  ...['overlay', 'virtio_rng', 'virtio_console'],
  // SendCtrlAltDel arrives as keys of a PS/2 keyboard
  ...['i8042', 'atkbd'],
];

/** Loaded where there is a vsock device, which the agent is reached by: Firecracker has one, fcqemu a port instead. */
const VSOCK_MODULES = ['vsock', 'vmw_vsock_virtio_transport'];

/** Kept in the guest for the agent, which ends connections by them when a copy of the guest goes on. */
const AGENT_MODULES = ['inet_diag', 'tcp_diag'];

/** Programs /init runs, as links for a busybox that does not find them by itself. */
const APPLETS = [
  ...['sh', 'mount', 'umount', 'insmod', 'ip', 'tar', 'cp', 'mkdir', 'rmdir', 'chmod', 'chroot', 'switch_root'],
  ...['cat', 'grep', 'tail', 'sleep', 'usleep', 'sync', 'reboot', 'echo', '[', 'ln', 'rm', 'readlink'],
];

export interface Initrd {
  image: Buffer;
  /** names of the modules that every guest loads, in that order */
  modules: string[];
}

/**
 * Builds the initrd in memory, as a plain cpio archive: emulated guests unpack compressed ones slowly.
 * @throws BangerError `corrupt` when the kernel lacks a module no guest can do without
 */
export async function buildInitrd(deps: UnpackDeps, parts: InitrdParts): Promise<Initrd> {
  const modules = await collectModules(deps, parts.modules);
  return {
    image: writeCpio([...skeleton(await readFile(parts.busybox), parts.agent), ...modules.entries]),
    modules: modules.always,
  };
}

/** Modules of file systems that a root disk has besides ext4. */
const ROOT_MODULES: Readonly<Record<RootFileSystem, readonly string[]>> = { ext4: [], xfs: ['xfs'], btrfs: ['btrfs'] };

/**
 * A cpio archive to be put behind an initrd, whose modules count instead of its own: those of another kernel, or more of them.
 * @throws BangerError `corrupt` when the kernel lacks a module that such a guest cannot do without
 */
export async function modulesArchive(deps: UnpackDeps, tree: string, kind: RootFileSystem): Promise<Buffer> {
  const { entries } = await collectModules(deps, tree, ROOT_MODULES[kind]);
  return writeCpio([{ type: 'directory', path: 'modules' }, ...entries]);
}

/** Paths below a tree of all modules that its initrd has. @throws BangerError as `modulesArchive` */
export function modulesNeeded(index: ModuleIndex, tree: string, kind: RootFileSystem): string[] {
  const lists = moduleLists(index, tree, ROOT_MODULES[kind]);
  return [...new Set(Object.values(lists).flat())].map(({ path }) => path);
}

async function collectModules(
  deps: UnpackDeps,
  tree: string,
  more: readonly string[] = [],
): Promise<{ entries: CpioEntry[]; always: string[] }> {
  const lists = moduleLists(await readModuleIndex(tree), tree, more);
  const entries: CpioEntry[] = [];
  for (const module of new Set(Object.values(lists).flat())) {
    entries.push({ type: 'file', path: `modules/${module.name}.ko`, data: await readModule(deps, tree, module) });
  }
  for (const [path, modules] of Object.entries(lists)) {
    const lines = modules.map(({ name }) => `${name}.ko\n`);
    entries.push({ type: 'file', path, data: Buffer.from(lines.join('')) });
  }
  return { entries, always: lists['modules.order'].map(({ name }) => name) };
}

/** By the names of the files that list them in the initrd. */
function moduleLists(index: ModuleIndex, tree: string, more: readonly string[]) {
  const required = loadOrder(index, [...REQUIRED_MODULES, ...more]);
  if (required.missing.length > 0) {
    throw new BangerError('corrupt', `The kernel of ${tree} lacks the modules ${required.missing.join(', ')}.`, {
      hint: 'Take a kernel built for virtual machines, such as linux-image-cloud-amd64.',
    });
  }
  const always = loadOrder(index, [...LOAD_SEQUENCE, ...more]).order;
  const notAlways = (names: readonly string[]) => {
    const { order } = loadOrder(index, names);
    return order.filter(({ name }) => !always.some((module) => module.name === name));
  };
  return {
    'modules.order': always,
    'modules.vsock': notAlways(VSOCK_MODULES),
    'modules.agent': notAlways(AGENT_MODULES),
  };
}

function skeleton(busybox: Buffer, agent: Buffer): CpioEntry[] {
  const directories = ['bin', 'dev', 'proc', 'sys', 'run', 'newroot', 'work', 'modules'];
  return [
    ...directories.map((path): CpioEntry => ({ type: 'directory', path })),
    { type: 'device', path: 'dev/console', kind: 'char', major: 5, minor: 1 },
    { type: 'device', path: 'dev/null', kind: 'char', major: 1, minor: 3, mode: 0o666 },
    { type: 'file', path: 'bin/busybox', data: busybox, mode: 0o755 },
    { type: 'file', path: 'bin/banger-agent', data: agent, mode: 0o755 },
    ...APPLETS.map((name): CpioEntry => ({ type: 'symlink', path: `bin/${name}`, target: 'busybox' })),
    { type: 'file', path: 'init', data: Buffer.from(INIT_SCRIPT), mode: 0o755 },
  ];
}
