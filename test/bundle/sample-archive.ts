/** A package archive that exists only in this process; programs that work on files alone are the real ones. */
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import { BangerError } from '../../src/errors.ts';
import type { Argv, Runner, RunOptions, RunResult } from '../../src/system/runner.ts';
import { bzImage, elfKernel, moduleTree, RELEASE, runner } from './sample-bundle.ts';

export interface SampleArchive extends Runner {
  /** every command so far, as one text each */
  calls: string[];
  /** versions of the packages, by name */
  versions: Record<string, string>;
  /** whether the package lists can be fetched */
  reachable: boolean;
  /** what installing the packages does, after the tree was made */
  onInstall: (root: string) => Promise<void>;
}

const KERNEL = `linux-image-${RELEASE}`;

const MODULES = ['virtio_mmio', 'virtio_blk', 'virtio_net', 'ext4'];

const OS_DUMP = `Dir "/";
Dir::Etc "etc/apt";
Acquire::Check-Valid-Until "false";
Acquire::http::Proxy "http://proxy.example:3128";
Acquire::https::Proxy "http://user:secret@proxy.example:3128";
Acquire::https::CAInfo "/etc/company.pem";
Acquire::Languages:: "de";
Acquire::GzipIndexes "true";
`;

const DONE: RunResult = { exitCode: 0, stdout: '', stderr: '' };

export function sampleArchive(): SampleArchive {
  const archive: SampleArchive = {
    calls: [],
    versions: { apt: '2.6.1', 'busybox-static': '1.35', [KERNEL]: '6.1.1-1' },
    reachable: true,
    onInstall: async () => {},
    startDetached: () => Promise.reject(new Error('nothing is started detached')),
    async run(argv, options = {}) {
      const inner = unwrapped(argv);
      archive.calls.push(inner.join(' '));
      options.signal?.throwIfAborted();
      return await answer(archive, inner, options);
    },
  };
  return archive;
}

/** The command without what makes it root and contains it. */
function unwrapped(argv: Argv): Argv {
  const [program, ...args] = argv.includes('--kill-child') ? argv.slice(argv.indexOf('--') + 1) : argv;
  return [program ?? '', ...args];
}

async function answer(archive: SampleArchive, argv: Argv, options: RunOptions): Promise<RunResult> {
  const [program, first] = argv;
  const says = (stdout: string) => ({ ...DONE, stdout });
  switch (program) {
    case 'apt-config':
      return says(OS_DUMP);
    case 'apt-cache':
      return says(
        `Package: linux-image-cloud-amd64\nDepends: ${KERNEL} (= ${archive.versions[KERNEL]}), initramfs-tools\n`,
      );
    case 'apt-get':
      if (argv.includes('download')) return await download(options.cwd ?? '');
      if (argv.includes('--simulate')) return says(simulated(archive));
      if (archive.reachable) return DONE;
      throw new BangerError('command_failed', '`apt-get update` ended with 100: E: Temporary failure resolving');
    case 'dpkg-deb':
      await unpack(argv[3] ?? '');
      return DONE;
    case 'depmod':
      return DONE;
    case 'dpkg-query':
      return says('zlib1g 1.2 amd64\napt 2.6.1 amd64\n');
    case 'mmdebstrap':
      await install(archive, argv);
      return DONE;
    default:
      if (['rm', 'cp', 'chmod', 'mkdir', 'mke2fs', 'true'].includes(program)) return await runner.run(argv, options);
      throw new Error(`nobody expected: ${program} ${first}`);
  }
}

function simulated(archive: SampleArchive): string {
  return Object.entries(archive.versions)
    .filter(([name]) => name !== KERNEL)
    .map(([name, version]) => `Inst ${name} (${version} Debian:12/stable [amd64])\nConf ${name} (${version})\n`)
    .join('');
}

async function download(dir: string): Promise<RunResult> {
  await writeFile(join(dir, `${KERNEL}.deb`), '');
  return DONE;
}

async function unpack(dir: string): Promise<void> {
  for (const sub of ['boot', 'bin']) await mkdir(join(dir, sub), { recursive: true });
  await writeFile(join(dir, 'boot', `vmlinuz-${RELEASE}`), bzImage(gzipSync(elfKernel())));
  await writeFile(join(dir, 'bin/busybox'), 'a busybox');
  const tree = join(dir, 'lib/modules', RELEASE);
  const files = Object.fromEntries(MODULES.map((name) => [`kernel/${name}.ko`, elfKernel()]));
  await moduleTree(tree, { dep: MODULES.map((name) => `kernel/${name}.ko:\n`).join('') }, files);
}

async function install(archive: SampleArchive, argv: Argv): Promise<void> {
  const root = argv.find((arg) => arg.endsWith('/scratch/root')) ?? '';
  const files: Record<string, string> = {
    'etc/hostname': 'the-build-host\n',
    'etc/machine-id': 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n',
    'etc/ssh/ssh_host_rsa_key': 'secret',
    'etc/ssh/ssh_host_rsa_key.pub': 'public',
    'etc/ssh/sshd_config': 'UsePAM yes\n',
    'etc/apt/apt.conf.d/99mmdebstrap': 'Acquire::http::Proxy "x";',
    'etc/apt/sources.list.d/0000banger.sources': 'Types: deb\n',
    'var/lib/apt/lists/archive_Packages': 'Package: apt\n',
    'var/cache/apt/archives/a.deb': 'deb',
    'var/log/dpkg.log': 'installed\n',
    'var/log/journal/.keep': '',
    'tmp/leftover': '',
    'usr/lib/os-release': 'ID=debian\n',
  };
  for (const [path, text] of Object.entries(files)) {
    await mkdir(join(root, path, '..'), { recursive: true });
    await writeFile(join(root, path), text);
  }
  await archive.onInstall(root);
}
