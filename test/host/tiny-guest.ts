/** A guest of a few hundred KiB that tells what the initrd did to it, booted by QEMU under emulation. */
import { spawn } from 'node:child_process';
import { chmod, mkdir, readFile, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { type Bundle, STANDARD_DEFAULTS } from '../../src/bundle/store/manifest.ts';
import { createRunner } from '../../src/system/runner.ts';
import { paced } from '../support/pace.ts';

const runner = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });

const BOOT_LIMIT_MS = paced(90_000);

export interface GuestFiles {
  /** text by path; a path that ends in `@` makes a symbolic link to the text */
  [path: string]: string;
}

const REBOOT = /\[ *\d+\.\d+\] reboot: [^\r\n]*\r?\n/g;

/** An ext4 disk whose /sbin/init runs `script` with busybox and then resets the machine. */
export async function tinyRoot(image: string, busybox: Buffer, script: string, files: GuestFiles = {}): Promise<void> {
  const tree = `${image}.tree`;
  await mkdir(join(tree, 'bin'), { recursive: true });
  await mkdir(join(tree, 'sbin'));
  await writeFile(join(tree, 'bin/busybox'), busybox, { mode: 0o755 });
  await writeFile(
    join(tree, 'sbin/init'),
    `#!/bin/busybox sh\nexec 2>&1\n${script}\necho end of script\nsync\nreboot -f\n`,
  );
  await chmod(join(tree, 'sbin/init'), 0o755);
  await writeFiles(tree, files);
  await makeDisk(image, '16M', tree);
}

export async function makeDisk(image: string, size: string, tree?: string): Promise<void> {
  const from = tree === undefined ? [] : ['-d', tree];
  await runner.run(['mke2fs', '-q', '-F', '-t', 'ext4', '-E', 'root_owner=0:0', ...from, image, size]);
}

/** A seed drive as the host makes it. */
export async function makeSeed(image: string, files: GuestFiles): Promise<void> {
  const tree = `${image}.tree`;
  await mkdir(tree, { recursive: true });
  await writeFiles(tree, files);
  const argv = ['tar', '--create', '--format=ustar', '--owner=0', '--group=0', '--sort=name', '--file', image] as const;
  await runner.run([
    ...argv,
    '--directory',
    tree,
    ...new Set(Object.keys(files).map((path) => path.split('/')[0] ?? '')),
  ]);
  await runner.run(['truncate', '--size=%65536', image]);
}

async function writeFiles(tree: string, files: GuestFiles): Promise<void> {
  for (const [path, text] of Object.entries(files)) {
    const target = join(tree, path.replace(/@$/, ''));
    await mkdir(dirname(target), { recursive: true });
    if (path.endsWith('@')) await symlink(text, target);
    else await writeFile(target, text);
  }
}

export interface Disks {
  root: string;
  seed?: string;
  work?: string;
}

/** Boots until the guest resets; returns what it printed, one line each, without the kernel's own. */
export async function bootTiny(bundle: Bundle, disks: Disks, more = ''): Promise<string[]> {
  const present = (['root', 'seed', 'work'] as const).filter((name) => disks[name] !== undefined);
  const names = present.map((name, index) => `banger.${name}=/dev/vd${'abc'[index]}`);
  const args = [
    ...[
      '-accel',
      'tcg,tb-size=64',
      '-cpu',
      'EPYC,check=off',
      '-m',
      '256',
      '-nodefaults',
      '-no-reboot',
      '-display',
      'none',
    ],
    ...['-M', 'microvm,acpi=on,pit=on,pic=on,rtc=on,x-option-roms=off,auto-kernel-cmdline=off'],
    ...['-serial', 'stdio', '-global', 'virtio-mmio.force-legacy=false'],
    ...['-kernel', bundle.kernel, '-initrd', bundle.initrd],
    ...[
      '-append',
      `console=ttyS0 quiet cryptomgr.notests reboot=k panic=1 pci=off tsc=reliable ${await tscArgument()} ${names.join(' ')} ${STANDARD_DEFAULTS.bootArgs} ${more}`,
    ],
    ...present.flatMap((name) => [
      ...['-drive', `id=${name},file=${disks[name]},format=raw,if=none,readonly=${name === 'seed' ? 'on' : 'off'}`],
      ...['-device', `virtio-blk-device,drive=${name}`],
    ]),
    ...['-netdev', 'user,id=net,restrict=on', '-device', 'virtio-net-device,netdev=net'],
  ];
  return await console(args);
}

function console(args: string[]): Promise<string[]> {
  const child = spawn('qemu-system-x86_64', args, { stdio: ['ignore', 'pipe', 'pipe'] });
  let text = '';
  child.stdout.on('data', (chunk: Buffer) => {
    text += chunk.toString('utf8');
  });
  const timer = setTimeout(() => child.kill('SIGKILL'), BOOT_LIMIT_MS);
  return new Promise((resolve, reject) => {
    child.once('error', reject);
    child.once('close', (code) => {
      clearTimeout(timer);
      // which the kernel says in the middle of what is still on its way to the console
      const lines = text
        .replace(REBOOT, '')
        .split(/\r?\n/)
        .map((line) => line.trimEnd());
      if (code === 0) resolve(lines.filter((line) => line !== '' && !/^\[ *\d+\.\d+\]/.test(line)));
      else reject(new Error(`QEMU ended with ${code} after at most ${BOOT_LIMIT_MS / 1000} s:\n${text.slice(-3000)}`));
    });
  });
}

/** Without it the guest measures its clock against an emulated timer, and one boot in five never ends. */
async function tscArgument(): Promise<string> {
  const bogomips = /^bogomips\s*:\s*([\d.]+)/m.exec(await readFile('/proc/cpuinfo', 'utf8'))?.[1];
  return bogomips === undefined ? '' : `tsc_early_khz=${Math.round((Number(bogomips) / 2) * 1000)}`;
}
