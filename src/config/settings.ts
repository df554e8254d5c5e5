/** Every setting: its key in TOML, what it takes, what it is without configuration, and what it is for. */
import { join } from 'node:path';
import { GIB, MIB } from '../units.ts';
import {
  absolutePath,
  address,
  duration,
  durationSeconds,
  type Kind,
  listOf,
  memory,
  nameOrPath,
  networkInterface,
  oneOf,
  pool,
  program,
  size,
  text,
  userRange,
  webAddress,
  wholeNumber,
  workMount,
  yesOrNo,
  zone,
} from './kinds.ts';
import type { Paths } from './paths.ts';
import type { Config } from './schema.ts';

/** What built-in values depend on. */
export interface BuiltInFacts {
  paths: Paths;
  /** `process.arch` */
  arch: string;
  /** values decided so far, by key; settings are decided in the order of `SETTINGS` */
  decided: ReadonlyMap<string, unknown>;
}

export interface Setting<T> {
  /** key path in TOML, e.g. `vm.root_disk` */
  key: string;
  kind: Kind<NonNullable<T>>;
  builtIn: (facts: BuiltInFacts) => T;
  /** what the documentation says of the built-in value where it depends on user or machine */
  builtInText?: string;
  /** one sentence without its final dot */
  about: string;
  /** a client must find it without reading files, so only the environment decides it */
  environmentOnly?: true;
}

/** The same tree as `T` with a setting for each value. */
export type SettingTree<T> = {
  [K in keyof T]-?: NonNullable<T[K]> extends string | number | boolean | string[]
    ? Setting<T[K]>
    : SettingTree<NonNullable<T[K]>>;
};

const SETTINGS: SettingTree<Config> = {
  vmm: always(
    'vmm',
    oneOf('auto', 'firecracker', 'fcqemu'),
    'auto',
    'What runs VMs; `auto` takes Firecracker when it is installed and guests run under KVM here, else fcqemu',
  ),
  paths: {
    state: {
      key: 'paths.state',
      kind: absolutePath(),
      builtIn: ({ paths }) => paths.state,
      builtInText: '`/var/lib/banger` for root, else `$XDG_STATE_HOME/banger` (`~/.local/state/banger`)',
      about: 'Database, keys and logs',
    },
    cache: {
      key: 'paths.cache',
      kind: absolutePath(),
      builtIn: ({ paths }) => paths.cache,
      builtInText: '`/var/cache/banger` for root, else `$XDG_CACHE_HOME/banger` (`~/.cache/banger`)',
      about: 'What can be made again: downloads and verdicts',
    },
    run: {
      key: 'paths.run',
      kind: absolutePath(),
      builtIn: ({ paths }) => paths.run,
      builtInText: '`/run/banger` for root, else `$XDG_RUNTIME_DIR/banger`',
      about: "The daemon's socket and what belongs to running VMs",
      environmentOnly: true,
    },
    store: {
      key: 'paths.store',
      kind: absolutePath(),
      builtIn: ({ decided }) => join(String(decided.get('paths.state')), 'store'),
      builtInText: '`store` in `paths.state`',
      about:
        'Disks of images, build layers and VMs; clones cost nothing when its file system can share blocks (XFS, btrfs)',
    },
    bundles: {
      key: 'paths.bundles',
      kind: absolutePath(),
      builtIn: ({ decided }) => join(String(decided.get('paths.state')), 'bundles'),
      builtInText: '`bundles` in `paths.state`',
      about: 'Runtime bundles, one directory each',
    },
  },
  programs: {
    firecracker: tool('firecracker', 'The Firecracker binary'),
    fcqemu: {
      key: 'programs.fcqemu',
      kind: program(),
      builtIn: () => 'auto',
      about: "Firecracker's stand-in where KVM does not work; `auto` is the one beside the banger executable",
    },
    qemu: {
      key: 'programs.qemu',
      kind: program(),
      builtIn: ({ arch }) => (arch === 'arm64' ? 'qemu-system-aarch64' : 'qemu-system-x86_64'),
      builtInText: '`qemu-system-x86_64`, on arm64 `qemu-system-aarch64`',
      about: 'QEMU, which fcqemu runs guests with',
    },
    ssh: tool('ssh', 'Used by `banger ssh`'),
    ip: tool('ip', 'Makes taps and routes'),
    nft: tool('nft', 'Loads the packet rules'),
    sysctl: tool('sysctl', 'Turns forwarding on'),
    mke2fs: tool('mke2fs', 'Makes work disks'),
    e2fsck: tool('e2fsck', 'Checks a disk before it grows'),
    resize2fs: tool('resize2fs', 'Grows disks'),
    debugfs: tool('debugfs', 'Reads root file systems without mounting them'),
    tar: tool('tar', 'Packs and unpacks bundles and images, and what `banger cp` copies'),
    zstd: tool('zstd', 'Compresses bundles and images'),
    xz: tool('xz', 'Unpacks kernels and modules that distributions pack with it'),
    lz4: tool('lz4', 'Unpacks kernels that distributions pack with it'),
    cp: tool('cp', 'Copies disks where the file system cannot share blocks'),
    sudo: tool('sudo', 'Asked for single programs when the user is not root'),
    mmdebstrap: tool('mmdebstrap', 'Makes the root file system of a bundle'),
    skopeo: tool('skopeo', 'Fetches OCI images'),
  },
  releases: {
    firecracker: always(
      'releases.firecracker',
      webAddress(),
      'https://github.com/firecracker-microvm/firecracker/releases/download',
      'Where `banger vmm install` fetches from: `/vVERSION/FILE` is added',
    ),
  },
  bundle: {
    default: always('bundle.default', nameOrPath(), 'default', 'The bundle VMs boot from unless told otherwise'),
    kernel: part('kernel', 'kernel (uncompressed ELF)'),
    initrd: part('initrd', 'initrd'),
    rootfs: part('rootfs', 'root file system'),
  },
  vm: {
    vcpus: ofBundle('vcpus', wholeNumber(1, 32), 'then 1', 'Virtual CPUs of a new VM'),
    memoryMib: ofBundle('memory', memory(), 'then `1GiB`', 'Memory of a new VM'),
    rootDiskBytes: ofBundle('root_disk', size(MIB), 'then `8GiB`', 'Root disk of a new VM'),
    workDiskBytes: ofBundle('work_disk', size(0), 'then `8GiB`', 'Work disk of a new VM; `0B` for none'),
    workMount: ofBundle('work_mount', workMount(), 'then `/root`', 'Where a new VM mounts its work disk'),
    bootArgs: ofBundle('boot_args', text(), 'then nothing', 'Added to the kernel command line'),
  },
  network: {
    pool: always(
      'network.pool',
      pool(),
      'auto',
      'IPv4 range of the VMs; `auto` takes 172.30.0.0/16 or the next one that no route of this host touches',
    ),
    uplink: always(
      'network.uplink',
      networkInterface(),
      'auto',
      'Interface VMs get their MTU from; `auto` is the one of the default route. VMs reach what the host reaches, by whichever',
    ),
    vmToVm: always('network.vm_to_vm', yesOrNo(), true, 'Whether VMs of this host may talk to each other'),
    vmToHost: always(
      'network.vm_to_host',
      yesOrNo(),
      false,
      'Whether VMs reach what listens on this host, by any of its addresses; without it names and ping alone',
    ),
    nameservers: always(
      'network.nameservers',
      listOf(address()),
      [],
      "DNS servers of the guests; empty: banger itself, which knows VMs and asks the host's for the rest",
    ),
  },
  storage: {
    minFreeBytes: always(
      'storage.min_free',
      size(0),
      256 * MIB,
      'Room on the store below which no VM is started, and the running VM that takes the most is paused; `0` for neither',
    ),
    trimTimeoutMs: always(
      'storage.trim_timeout',
      duration(0),
      5000,
      'How long a stop may take longer to give free space of the disks back to the host; `0s` for never',
    ),
  },
  warm: {
    automatic: always(
      'warm.automatic',
      yesOrNo(),
      true,
      'Whether a template is made in the background after the first boot of an image or bundle, from which later VMs start',
    ),
    templates: always(
      'warm.templates',
      wholeNumber(0, 1000),
      3,
      'How many templates are kept; the longest unused goes first. `0` for none',
    ),
    roomBytes: always('warm.room', size(0), 4 * GIB, 'What all templates together may take of the store'),
  },
  pool: {
    ready: always(
      'pool.ready',
      wholeNumber(0, 64),
      0,
      'How many guests of the templates used last stand ready for new VMs, with disks and a network device; `0` for none',
    ),
  },
  dns: {
    enabled: always('dns.enabled', yesOrNo(), true, 'Whether the daemon answers DNS questions for VM names'),
    address: always('dns.address', address(), '127.0.0.1', 'Address the DNS server listens on'),
    port: always('dns.port', wholeNumber(1, 65_535), 42_069, 'UDP and TCP port the DNS server listens on'),
    zone: always('dns.zone', zone(), 'vm', 'Zone of the VM names'),
    ttlSeconds: always('dns.ttl', durationSeconds(0), 10, 'How long an answer may be remembered'),
  },
  metrics: {
    listen: always(
      'metrics.listen',
      yesOrNo(),
      false,
      'Whether `/metrics` is also served over TCP, to this machine only (127.0.0.1)',
    ),
    port: always('metrics.port', wholeNumber(1, 65_535), 42_070, 'TCP port of `/metrics` when `metrics.listen` is on'),
  },
  daemon: {
    idleTimeoutMs: always(
      'daemon.idle_timeout',
      duration(0),
      10 * 60_000,
      'After how long a daemon ends that systemd starts at the next command, when no VM runs and nobody asks; `0s` for never',
    ),
  },
  privilege: {
    sudo: always(
      'privilege.sudo',
      oneOf('auto', 'never'),
      'auto',
      'Whether `sudo -n` is asked for single programs when the user is not root',
    ),
    helper: always(
      'privilege.helper',
      nameOrPath('an absolute path or "never"'),
      '/run/bangernet.sock',
      'Socket of the network helper, which sets up networks for users; `never` asks sudo instead',
    ),
    vmUsers: always(
      'privilege.vm_users',
      userRange(),
      'auto',
      'User ids that VMs of a daemon of root run as, one each; `auto` takes 1879048192-1895825407, in small containers 40000-59999; `none` runs them as root',
    ),
  },
  limits: {
    bootTimeoutMs: always(
      'limits.boot_timeout',
      duration(1000),
      180_000,
      'How long a guest may take until it answers over SSH',
    ),
    readyTimeoutMs: always(
      'limits.ready_timeout',
      duration(1000),
      // a service that waits for something has 90 s in systemd
      300_000,
      'How long a guest may take until its boot is over, from its start',
    ),
    stopTimeoutMs: always(
      'limits.stop_timeout',
      duration(0),
      // what systemd gives a service to stop; less would cut off a database in the middle of its own shutdown
      90_000,
      'How long a guest may take to shut down before it is killed',
    ),
    trashForMs: always(
      'limits.trash_for',
      duration(0),
      24 * 60 * 60_000,
      'How long a deleted VM can be had back; `"0s"` deletes at once',
    ),
  },
};

/** A setting and its place in `Config`. */
export interface PlacedSetting {
  /** property names from the root of `Config` */
  path: string[];
  setting: Setting<unknown>;
}

/** All settings with their places, in the order in which they are decided. */
export function placedSettings(): PlacedSetting[] {
  return collect(SETTINGS, []);
}

/** All settings in the order in which they are decided. */
export function listSettings(): Setting<unknown>[] {
  return placedSettings().map(({ setting }) => setting);
}

/** A configuration with `values.get(key)` in the place of each setting that has a value. */
export function assembleConfig(values: ReadonlyMap<string, unknown>): Config {
  const root: Record<string, unknown> = {};
  for (const { path, setting } of placedSettings()) {
    let section = root;
    for (const name of path.slice(0, -1)) {
      section[name] ??= {};
      section = section[name] as Record<string, unknown>;
    }
    if (values.has(setting.key)) section[path.at(-1) ?? ''] = values.get(setting.key);
  }
  // SettingTree<Config> has one setting for each value of Config, and each reads exactly that type
  return root as unknown as Config;
}

/** The variable that holds a setting, e.g. `BANGER_VM_ROOT_DISK`. */
export function variableOf(key: string): string {
  return `BANGER_${key.replaceAll('.', '_').toUpperCase()}`;
}

type Node = Setting<unknown> | { [name: string]: Node };

function collect(node: object, above: string[]): PlacedSetting[] {
  return Object.entries(node as Record<string, Node>).flatMap(([name, child]) => {
    const path = [...above, name];
    return isSetting(child) ? [{ path, setting: child }] : collect(child, path);
  });
}

function isSetting(node: Node): node is Setting<unknown> {
  return typeof node.builtIn === 'function';
}

function always<T extends NonNullable<unknown>>(
  key: string,
  kind: Kind<T>,
  builtIn: NoInfer<T>,
  about: string,
): Setting<T> {
  return { key, kind: kind as Kind<NonNullable<T>>, builtIn: () => builtIn, about };
}

function tool(name: string, about: string): Setting<string> {
  return always(`programs.${name.replaceAll('-', '_')}`, program(), name, about);
}

function part(name: string, what: string): Setting<string | undefined> {
  return {
    key: `bundle.${name}`,
    kind: absolutePath(),
    builtIn: () => undefined,
    builtInText: "the bundle's own",
    about: `Replaces the bundle's ${what}`,
  };
}

function ofBundle<T extends NonNullable<unknown>>(
  name: string,
  kind: Kind<T>,
  otherwise: string,
  about: string,
): Setting<T | undefined> {
  return {
    key: `vm.${name}`,
    kind: kind as Kind<NonNullable<T | undefined>>,
    builtIn: () => undefined,
    builtInText: `the bundle's default, ${otherwise}`,
    about,
  };
}
