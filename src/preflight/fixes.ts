/** The one command that installs what is missing, for each family of distributions. */
import type { Distribution, DistributionFamily } from '../system/os-release.ts';
import type { Argv } from '../system/runner.ts';
import { type Repair, rootRepair } from './check.ts';

type PackageNames = Record<Exclude<DistributionFamily, 'unknown'>, string>;

const everywhere = (name: string): PackageNames => ({
  debian: name,
  fedora: name,
  arch: name,
  alpine: name,
  suse: name,
});

/** Package that has a program, by program. A family left out has no package for it. */
const PACKAGES: Record<string, Partial<PackageNames>> = {
  'qemu-system-x86_64': {
    debian: 'qemu-system-x86',
    fedora: 'qemu-system-x86-core',
    arch: 'qemu-system-x86',
    alpine: 'qemu-system-x86_64',
    suse: 'qemu-x86',
  },
  'qemu-system-aarch64': {
    debian: 'qemu-system-arm',
    fedora: 'qemu-system-aarch64-core',
    arch: 'qemu-system-aarch64',
    alpine: 'qemu-system-aarch64',
    suse: 'qemu-arm',
  },
  ip: { ...everywhere('iproute2'), fedora: 'iproute' },
  nft: everywhere('nftables'),
  sysctl: { ...everywhere('procps-ng'), debian: 'procps', suse: 'procps' },
  kill: everywhere('util-linux'),
  mke2fs: everywhere('e2fsprogs'),
  e2fsck: everywhere('e2fsprogs'),
  debugfs: { ...everywhere('e2fsprogs'), alpine: 'e2fsprogs-extra' },
  resize2fs: { ...everywhere('e2fsprogs'), alpine: 'e2fsprogs-extra' },
  ssh: {
    debian: 'openssh-client',
    fedora: 'openssh-clients',
    arch: 'openssh',
    alpine: 'openssh-client-default',
    suse: 'openssh-clients',
  },
  sudo: everywhere('sudo'),
  cp: everywhere('coreutils'),
  tar: everywhere('tar'),
  zstd: everywhere('zstd'),
  xz: { ...everywhere('xz'), debian: 'xz-utils' },
  lz4: everywhere('lz4'),
  unshare: everywhere('util-linux'),
  setpriv: everywhere('util-linux'),
  prlimit: everywhere('util-linux'),
  // a bundle is built with the host's own apt; where there is none, bundles are imported
  mmdebstrap: { debian: 'mmdebstrap' },
  'apt-get': { debian: 'apt' },
  'dpkg-deb': { debian: 'dpkg' },
  depmod: everywhere('kmod'),
  skopeo: everywhere('skopeo'),
};

const INSTALL: Record<Exclude<DistributionFamily, 'unknown'>, string> = {
  debian: 'apt install',
  fedora: 'dnf install',
  arch: 'pacman -S',
  alpine: 'apk add',
  suse: 'zypper install',
};

/** The same without questions: whoever asks for `doctor --fix` has said yes. */
const INSTALL_UNASKED: Record<Exclude<DistributionFamily, 'unknown'>, Argv> = {
  debian: ['apt-get', 'install', '-y'],
  fedora: ['dnf', 'install', '-y'],
  arch: ['pacman', '-S', '--noconfirm'],
  alpine: ['apk', 'add'],
  suse: ['zypper', '--non-interactive', 'install'],
};

/**
 * The command that installs the given programs; undefined when the distribution is unknown or has no package
 * for one of them.
 * @param programs program names as PATH knows them, e.g. `mke2fs`
 */
export function installCommand({ family }: Distribution, programs: readonly string[], uid: number): string | undefined {
  const packages = packagesOf(family, programs);
  if (family === 'unknown' || packages === undefined) return undefined;
  return asRoot(`${INSTALL[family]} ${packages.join(' ')}`, uid);
}

/** The same as a command that asks nothing; undefined where `installCommand` knows none. */
export function installRepair({ family }: Distribution, programs: readonly string[]): Repair | undefined {
  const packages = packagesOf(family, programs);
  if (family === 'unknown' || packages === undefined) return undefined;
  return rootRepair(...INSTALL_UNASKED[family], ...packages);
}

/** Packages that have the programs, each once; undefined when there is none for one of them. */
function packagesOf(family: DistributionFamily, programs: readonly string[]): string[] | undefined {
  if (family === 'unknown' || programs.length === 0) return undefined;
  const packages = new Set<string>();
  for (const program of programs) {
    const name = PACKAGES[program]?.[family];
    if (name === undefined) return undefined;
    packages.add(name);
  }
  return [...packages];
}

/** What to do about missing programs, in words where there is no command for this distribution. */
export function installAdvice(distribution: Distribution, programs: readonly string[], uid: number): string {
  const command = installCommand(distribution, programs, uid);
  if (command !== undefined) return command;
  return `Install ${programs.join(', ')} with the package manager of ${distribution.name}.`;
}

/** A command line a person would type: with sudo unless root. */
export function asRoot(command: string, uid: number): string {
  return uid === 0 ? command : `sudo ${command}`;
}
