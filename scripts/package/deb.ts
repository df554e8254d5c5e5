/** banger_VERSION_ARCH.deb, made by dpkg-deb from the list of what is installed and the scripts in packaging/debian. */
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Entry, installedContent, layoutOf, type Origin } from './content.ts';
import { DESCRIPTION, MAINTAINER } from './identity.ts';
import { stage } from './stage.ts';

const PACKAGING = join(import.meta.dirname, '../../packaging/debian');
const LAYOUT = layoutOf('/usr');
/** Name Debian has for the machine that Node says it is. */
const ARCHITECTURES: Partial<Record<string, string>> = { x64: 'amd64', arm64: 'arm64' };

/**
 * Programs that every start of a VM needs, and what the executable is linked against; libraries with the first version that has the
 * symbols Node needs.
 */
export const DEPENDS = [
  'libc6 (>= 2.28)',
  'libgcc-s1 (>= 3.4)',
  'libstdc++6 (>= 9)',
  'libatomic1 (>= 4.8)',
  'e2fsprogs',
  'iproute2',
  'nftables',
  'openssh-client',
  'procps',
  'zstd',
];
export const RECOMMENDS = ['qemu-system-x86', 'mmdebstrap', 'kmod', 'lz4', 'skopeo', 'sudo', 'uidmap', 'xz-utils'];
const SUGGESTS = ['firecracker', 'bash-completion', 'systemd-resolved', 'xfsprogs'];

export interface DebOptions extends Origin {
  /** directory the package is written to */
  output: string;
  /** of dpkg-deb: `xz`, `gzip`, `none`, … */
  compression: string;
}

/** @returns path of the package */
export async function buildDeb({ output, compression, ...origin }: DebOptions): Promise<string> {
  const architecture = ARCHITECTURES[process.arch] ?? process.arch;
  const work = mkdtempSync(join(tmpdir(), 'banger-deb-'));
  try {
    const tree = join(work, 'tree');
    const entries = [...(await installedContent(LAYOUT, origin)), overrides()];
    stage(tree, entries, origin.date);
    control(tree, entries, { ...origin, architecture });
    mkdirSync(output, { recursive: true });
    const file = join(output, `banger_${origin.version}_${architecture}.deb`);
    // times of the archive's own members; those of files were set above, and what is newer is cut to this
    const env = { ...process.env, SOURCE_DATE_EPOCH: String(Math.floor(origin.date.getTime() / 1000)) };
    const options = ['--root-owner-group', `-Z${compression}`, '--build'];
    execFileSync('dpkg-deb', [...options, tree, file], { env, stdio: ['ignore', 'ignore', 'inherit'] });
    return file;
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

function control(
  tree: string,
  entries: readonly Entry[],
  { version, architecture }: Origin & { architecture: string },
): void {
  const directory = join(tree, 'DEBIAN');
  mkdirSync(directory);
  const write = (name: string, content: string, mode = 0o644) => {
    writeFileSync(join(directory, name), content);
    chmodSync(join(directory, name), mode);
  };
  chmodSync(directory, 0o755);
  write(
    'control',
    `${[
      'Package: banger',
      `Version: ${version}`,
      `Architecture: ${architecture}`,
      `Maintainer: ${MAINTAINER}`,
      'Section: admin',
      'Priority: optional',
      `Installed-Size: ${installedKib(tree, entries)}`,
      `Depends: ${DEPENDS.join(', ')}`,
      `Recommends: ${RECOMMENDS.join(', ')}`,
      `Suggests: ${SUGGESTS.join(', ')}`,
      `Description: ${summary(DESCRIPTION)}`,
      ...readFileSync(join(PACKAGING, 'description'), 'utf8').trimEnd().split('\n'),
    ].join('\n')}\n`,
  );
  const conffiles = entries.map(({ path }) => path).filter((path) => path.startsWith('/etc/'));
  write('conffiles', conffiles.map((path) => `${path}\n`).join(''));
  write('md5sums', sums(tree, entries));
  write('triggers', readFileSync(join(PACKAGING, 'triggers'), 'utf8'));
  for (const script of ['postinst', 'prerm', 'postrm']) {
    write(script, readFileSync(join(PACKAGING, script), 'utf8'), 0o755);
  }
}

/** Tags of lintian that do not hold here, each with its reason. */
function overrides(): Entry {
  const content = readFileSync(join(PACKAGING, 'lintian-overrides'));
  return { path: '/usr/share/lintian/overrides/banger', kind: 'file', mode: 0o644, content };
}

/** As dpkg-gencontrol counts: each file in whole KiB, a link or directory as one. */
function installedKib(tree: string, entries: readonly Entry[]): number {
  const directories = readdirSync(tree, { recursive: true, withFileTypes: true }).filter((each) => each.isDirectory());
  const files = entries.map((entry) =>
    entry.kind === 'file' || entry.kind === 'copy' ? Math.ceil(statSync(join(tree, entry.path)).size / 1024) : 1,
  );
  return directories.length + files.reduce((sum, kib) => sum + kib, 0);
}

/** Sums of what is a file of the package and no configuration (deb-md5sums(5)). */
function sums(tree: string, entries: readonly Entry[]): string {
  const paths = entries
    .filter(({ kind, path }) => kind !== 'symlink' && !path.startsWith('/etc/'))
    .map(({ path }) => path.slice(1));
  return execFileSync('md5sum', ['--', ...paths], { cwd: tree, encoding: 'utf8' });
}

/** The first part of the description: what it is, without what it promises. */
function summary(description: string): string {
  return description.split(': ').at(-1) ?? description;
}
