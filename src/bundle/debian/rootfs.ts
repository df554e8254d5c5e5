/** The base root file system: Debian packages laid out by mmdebstrap, cleaned of identity, made into an ext4 image. */
import { lstat, mkdir, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';

import { BangerError, systemCode } from '../../errors.ts';
import type { Argv, Runner, RunOptions } from '../../system/runner.ts';
import { formatSize } from '../../units.ts';
import type { BundlePrograms } from '../programs.ts';
import type { BundleProgress } from '../progress.ts';
import type { Apt } from './apt.ts';
import type { Superuser } from './superuser.ts';

/** What every base image holds beside Debian's essential packages and apt. */
export const BASE_PACKAGES: readonly string[] = [
  ...['systemd-sysv', 'dbus', 'libpam-systemd', 'udev', 'kmod', 'openssh-server', 'iproute2', 'ca-certificates'],
  // small things whose absence a developer notices within the first minutes
  ...['procps', 'iputils-ping', 'less', 'rsync', 'netbase', 'nano'],
];

export interface RootfsRequest {
  /** release to install, e.g. `bookworm` */
  suite: string;
  /** Debian's name of the architecture, e.g. `amd64` */
  arch: string;
  /** packages beside the essential ones */
  packages: readonly string[];
  /** module tree to install, `…/lib/modules/RELEASE` */
  modules: string;
  /** size of the file system; the file is sparse */
  sizeBytes: number;
  /** tree the packages are installed in; made and removed */
  root: string;
  /** existing directory for small files */
  scratch: string;
  /** ext4 image to write */
  image: string;
  /** package manifest to write */
  manifest: string;
}

export interface RootfsDeps {
  runner: Runner;
  superuser: Superuser;
  programs: Pick<BundlePrograms, 'mmdebstrap' | 'mke2fs'>;
  apt: Apt;
  /** environment of the programs, with the system programs in its PATH */
  env: NodeJS.ProcessEnv;
  progress: BundleProgress;
  signal?: AbortSignal;
}

/** Installing packages is the longest step; slow mirrors and emulated disks need patience. */
const INSTALL_TIMEOUT_MS = 60 * 60_000;

/** Copying the tree into the image takes seconds, minutes on a busy disk. */
const COPY_TIMEOUT_MS = 15 * 60_000;

/** Features every kernel since 4.x reads, named in full because the default of mke2fs grows from release to release. */
const EXT4_FEATURES = [
  ...['has_journal', 'ext_attr', 'resize_inode', 'dir_index', 'filetype', 'extent', '64bit', 'flex_bg'],
  ...['sparse_super', 'large_file', 'huge_file', 'dir_nlink', 'extra_isize', 'metadata_csum'],
];

/** Written over the installed packages; everything else stays as Debian ships it. */
const OVERLAY: Record<string, string> = {
  // empty: systemd makes a new one at the first boot and keeps it
  'etc/machine-id': '',
  'etc/fstab': '# banger mounts the root and the work disk before this file is read\n',
  'etc/hostname': 'localhost\n',
  'etc/hosts': '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n',
  'etc/resolv.conf': '',
};

/** Removed from the tree: identity, caches and logs. A trailing `/` empties the directory instead. */
const CLEANED: readonly string[] = [
  ...['etc/apt/apt.conf.d/99mmdebstrap', 'etc/dpkg/dpkg.cfg.d/99mmdebstrap', 'var/lib/dbus/machine-id'],
  ...['var/lib/systemd/random-seed', 'var/cache/ldconfig/aux-cache', 'etc/passwd-', 'etc/group-', 'etc/shadow-'],
  ...['etc/gshadow-', 'var/cache/debconf/templates.dat-old', 'var/cache/debconf/config.dat-old'],
  ...['var/lib/dpkg/status-old', 'var/lib/dpkg/available-old', 'var/lib/apt/lists/', 'var/cache/apt/archives/'],
  ...['var/cache/apt/pkgcache.bin', 'var/cache/apt/srcpkgcache.bin', 'var/log/apt/', 'var/log/dpkg.log'],
  ...['var/log/alternatives.log', 'var/log/bootstrap.log', 'var/log/faillog', 'tmp/', 'run/', 'dev/'],
];

/**
 * Makes the root file system's image and its package manifest.
 * @throws BangerError `invalid_input` when the packages do not fit into the size
 * @throws BangerError `command_failed` with the last words of the program that failed
 */
export async function buildRootfs(deps: RootfsDeps, request: RootfsRequest): Promise<void> {
  const { root } = request;
  deps.progress({ phase: 'install packages', detail: request.suite });
  await installPackages(deps, request, root);
  await writePackageManifest(deps, root, request.manifest);
  await finishTree(deps, request, root);
  deps.progress({ phase: 'make file system', detail: formatSize(request.sizeBytes) });
  await makeImage(deps, root, request);
  await removeTree(deps, [root]);
}

/** Removes directories whose files may belong to subordinate ids; missing ones are fine. */
export async function removeTree(deps: Pick<RootfsDeps, 'runner' | 'superuser'>, paths: string[]): Promise<void> {
  await deps.runner.run(deps.superuser.wrap(['rm', '-rf', '--one-file-system', '--', ...paths]), {
    timeoutMs: COPY_TIMEOUT_MS,
  });
}

async function installPackages(deps: RootfsDeps, request: RootfsRequest, root: string): Promise<void> {
  const options = join(request.scratch, 'apt-options');
  await writeFile(options, aptOptions(deps.apt));
  await asRoot(
    deps,
    [
      deps.programs.mmdebstrap,
      '--mode=root',
      '--variant=apt',
      '--format=directory',
      '--skip=output/dev',
      `--architectures=${request.arch}`,
      `--aptopt=${options}`,
      `--include=${request.packages.join(',')}`,
      request.suite,
      root,
      deps.apt.sourcesFile,
    ],
    {
      timeoutMs: INSTALL_TIMEOUT_MS,
      // what it leaves behind when it is killed goes with the scratch directory
      env: { ...deps.env, TMPDIR: request.scratch },
      onLine: followInstall(deps.progress),
    },
  );
}

/** mmdebstrap prints one line per step. */
function followInstall(progress: BundleProgress): (line: string) => void {
  return (line) => {
    const step = /^I: (.+?)(?:\.\.\.)?$/.exec(line)?.[1];
    if (step) progress({ phase: 'install packages', detail: step });
  };
}

/** For the build alone: `finishTree` removes them, since the host's proxy or key file need not exist in a guest. */
function aptOptions(apt: Apt): string {
  return `${[...apt.acquireLines, ...apt.credentialLines, 'Acquire::Languages "none";'].join('\n')}\n`;
}

/** The archive as the host sees it, so that packages install in the guest from where they came. */
async function guestAptFiles(apt: Apt): Promise<Record<string, string>> {
  const lines = apt.acquireLines.filter((line) => isUsableInGuest(line));
  return {
    'etc/apt/sources.list.d/debian.sources': await readFile(apt.sourcesFile, 'utf8'),
    ...(lines.length > 0 ? { 'etc/apt/apt.conf.d/90host-archive': `${lines.join('\n')}\n` } : {}),
  };
}

/** Validity checks and proxies; not files of the host, not its loopback, and no password in a proxy's address. */
function isUsableInGuest(line: string): boolean {
  if (/^Acquire::Check-(Valid-Until|Date) /i.test(line)) return true;
  return /^Acquire::https?::Proxy /i.test(line) && !/@|\/\/(localhost|127\.|\[::1\])/i.test(line);
}

/** One `name version arch` a line, sorted, as dpkg-query says it. */
async function writePackageManifest(deps: RootfsDeps, root: string, manifest: string): Promise<void> {
  const { stdout } = await deps.runner.run([
    'dpkg-query',
    `--admindir=${join(root, 'var/lib/dpkg')}`,
    '--show',
    // biome-ignore lint/suspicious/noTemplateCurlyInString: dpkg-query's own placeholders
    '--showformat=${Package} ${Version} ${Architecture}\n',
  ]);
  const lines = stdout.split('\n').filter((line) => line !== '');
  await writeFile(manifest, `${lines.sort().join('\n')}\n`);
}

async function finishTree(deps: RootfsDeps, request: RootfsRequest, root: string): Promise<void> {
  const overlay = join(request.scratch, 'overlay');
  const files = { ...OVERLAY, ...(await guestAptFiles(deps.apt)) };
  for (const [path, text] of Object.entries(files)) {
    await mkdir(dirname(join(overlay, path)), { recursive: true });
    await writeFile(join(overlay, path), text);
  }
  const remove = await cleanedPaths(root);
  if (remove.length > 0) await asRoot(deps, ['rm', '-rf', '--one-file-system', '--', ...remove]);
  const target = join(root, 'usr/lib/modules');
  await asRoot(deps, ['mkdir', '-p', target]);
  await asRoot(deps, ['cp', '-R', '--preserve=mode,timestamps', '--', request.modules, target], {
    timeoutMs: COPY_TIMEOUT_MS,
  });
  const tops = (await readdir(overlay)).map((name) => join(overlay, name));
  await asRoot(deps, ['cp', '-R', '--remove-destination', '--', ...tops, root]);
  // whatever our umask is: every user of a guest reads them
  const paths = [...Object.keys(files), ...Object.keys(files).map((path) => dirname(path))];
  const open = [target, ...new Set(paths.map((path) => join(root, path)))];
  await asRoot(deps, ['chmod', 'u=rwX,go=rX', '--', ...open]);
  await rm(overlay, { recursive: true });
}

/** What exists of CLEANED, mmdebstrap's sources, and every SSH host key: each VM is given its own. */
async function cleanedPaths(root: string): Promise<string[]> {
  const paths: string[] = [];
  for (const path of CLEANED) {
    if (path.endsWith('/')) paths.push(...(await entriesOf(join(root, path))));
    else if (await exists(join(root, path))) paths.push(join(root, path));
  }
  const keys = (await entriesOf(join(root, 'etc/ssh'))).filter((entry) => /\/ssh_host_\w+_key(\.pub)?$/.test(entry));
  // mmdebstrap numbers the files it copies the sources to
  const sources = (await entriesOf(join(root, 'etc/apt/sources.list.d'))).filter((entry) => /\/\d{4}/.test(entry));
  paths.push(...keys, ...sources);
  return paths;
}

async function makeImage(deps: RootfsDeps, root: string, request: RootfsRequest): Promise<void> {
  await writeFile(request.image, '');
  await truncate(request.image, request.sizeBytes);
  try {
    await asRoot(deps, mke2fsArgv(deps.programs.mke2fs, request.image, root), { timeoutMs: COPY_TIMEOUT_MS });
  } catch (error) {
    if (!(error instanceof BangerError) || !/allocate|no free|too small|No space/i.test(error.message)) throw error;
    throw new BangerError('invalid_input', `A root disk of ${formatSize(request.sizeBytes)} is too small.`, {
      cause: error,
      hint: 'Give it more: --size 4GiB',
    });
  }
}

/** Fills the file system without mounting it; nothing is left for the guest's kernel to initialise at its first mount. */
function mke2fsArgv(mke2fs: string, image: string, root: string): Argv {
  return [
    mke2fs,
    ...['-q', '-F', '-t', 'ext4', '-m', '0', '-b', '4096', '-I', '256', '-i', '16384', '-L', 'banger-root'],
    ...['-O', `none,${EXT4_FEATURES.join(',')}`],
    ...['-E', 'root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,assume_storage_prezeroed=1'],
    ...['-d', root, image],
  ];
}

async function asRoot(deps: RootfsDeps, argv: Argv, options: RunOptions = {}): Promise<void> {
  await deps.runner.run(deps.superuser.wrap(argv), {
    env: deps.env,
    ...options,
    ...(deps.signal ? { signal: deps.signal } : {}),
  });
}

async function entriesOf(dir: string): Promise<string[]> {
  try {
    return (await readdir(dir)).map((name) => join(dir, name));
  } catch (error) {
    if (systemCode(error) === 'ENOENT' || systemCode(error) === 'ENOTDIR') return [];
    throw error;
  }
}

async function exists(path: string): Promise<boolean> {
  return await lstat(path).then(
    () => true,
    () => false,
  );
}
