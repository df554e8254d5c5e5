/**
 * Programs of Debian packages for host tests: installed ones where they are, others unpacked from their
 * packages into a directory, so that nothing of this machine changes.
 */
import { execFile } from 'node:child_process';
import { access, mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

const SYSTEM_DIRS = [
  '/usr/local/sbin',
  '/usr/local/bin',
  '/usr/sbin',
  '/usr/bin',
  '/sbin',
  '/bin',
  '/usr/lib/systemd',
  '/lib/systemd',
];
const PACKAGES = join(tmpdir(), `banger-test-packages-${process.getuid?.() ?? 0}`);
const TIMEOUT_MS = 120_000;

export interface Unpacked {
  /** directory the package's files are under; `/` when it is installed */
  root: string;
  /** PATH that finds its programs first */
  path: string;
  /** LD_LIBRARY_PATH that finds its libraries */
  libraries: string;
}

/**
 * A package that has this program, installed or unpacked.
 * @throws Error with the reason when it can not be had, for the test to print
 */
export async function debianPackage(name: string, program: string): Promise<Unpacked> {
  if (await findIn('/', program)) return unpacked('/');
  const root = join(PACKAGES, name);
  if (!(await findIn(root, program))) {
    await download(name, root).catch((error: unknown) => {
      const reason = error instanceof Error ? error.message.split('\n')[0] : String(error);
      throw new Error(`the Debian package ${name} is not installed and can not be downloaded (${reason})`);
    });
  }
  return unpacked(root);
}

function unpacked(root: string): Unpacked {
  const within = SYSTEM_DIRS.map((directory) => join(root, directory));
  const libraries = ['usr/lib/x86_64-linux-gnu', 'usr/lib/aarch64-linux-gnu', 'usr/lib', 'lib/x86_64-linux-gnu', 'lib'];
  return {
    root,
    path: [...new Set([...within, ...SYSTEM_DIRS])].join(':'),
    libraries: root === '/' ? '' : libraries.map((directory) => join(root, directory)).join(':'),
  };
}

async function findIn(root: string, program: string): Promise<string | undefined> {
  for (const directory of SYSTEM_DIRS) {
    const path = join(root, directory, program);
    if (
      await access(path).then(
        () => true,
        () => false,
      )
    )
      return path;
  }
  return undefined;
}

/** Fetches a package and what it needs beyond what is installed, and unpacks all of it. */
async function download(name: string, root: string): Promise<void> {
  await mkdir(PACKAGES, { recursive: true });
  // of its own: other test files may want the same package at the same time
  const partial = await mkdtemp(`${root}.partial-`);
  try {
    await unpackInto(partial, name);
    await rename(partial, root).catch((error: NodeJS.ErrnoException) => {
      if (error.code !== 'ENOTEMPTY' && error.code !== 'EEXIST') throw error; // another was first
    });
  } finally {
    await rm(partial, { recursive: true, force: true });
  }
}

async function unpackInto(partial: string, name: string): Promise<void> {
  const options = { cwd: partial, timeout: TIMEOUT_MS };
  // simulated: a list of addresses to download from would lack what lies in apt's cache already
  const simulated = await run('apt-get', ['-s', '--no-install-recommends', 'install', name], options);
  const needed = [...simulated.stdout.matchAll(/^Inst (\S+) /gm)].map((match) => match[1] ?? '');
  if (needed.length === 0) throw new Error('apt-get names no packages');
  await run('apt-get', ['download', ...needed], options);
  for (const file of await readdir(partial)) {
    if (file.endsWith('.deb')) await run('dpkg', ['-x', file, partial], options);
  }
}
