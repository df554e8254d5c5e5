/**
 * A bundle whose guest comes up in half the time: kernel, initrd and SSH server of the Debian bundle under an init that
 * is a few lines of shell. For tests that boot many VMs and do not care what else runs in them.
 */
import { existsSync } from 'node:fs';
import {
  appendFile,
  chmod,
  copyFile,
  link,
  mkdir,
  mkdtemp,
  readdir,
  rename,
  rm,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { sumDisk, sumFile, sumTree } from '../../src/bundle/store/checksum.ts';
import { type BundleManifest, readBundle, STANDARD_DEFAULTS, writeManifest } from '../../src/bundle/store/manifest.ts';
import { createRunner } from '../../src/system/runner.ts';

const runner = createRunner({ ...process.env, PATH: `${process.env.PATH}:/usr/sbin:/sbin` });

/** Programs a test may want in a guest, below /usr. */
const PROGRAMS = (
  'sh dash bash perl cat ls mkdir rm rmdir mv cp ln chmod touch sync sleep head tail cut tr sort wc dd sha256sum ' +
  'base64 stat df date uname id env hostname grep sed find seq true false test kill stty tty nice nproc od yes ' +
  'expr mktemp readlink timeout xargs echo chown cmp scp tar gzip ip ss ping findmnt mount umount dmesg getent su ps tee'
)
  .split(' ')
  .map((name) => `bin/${name}`);
const ADMIN_PROGRAMS = ['sshd', 'resize2fs', 'fstrim', 'fsfreeze'].map((name) => `sbin/${name}`);

/** Directories of libraries that nothing above needs. */
const UNUSED_LIBRARIES = /^(perl|perl-base|gconv|systemd|krb5|sasl2|e2fsprogs|audit)/;

/**
 * Process 1: waits, and restarts the machine when told to (what `banger stop` and Ctrl-Alt-Del do), or powers it off: by the system
 * call, reboot(RB_POWER_OFF). SysRq's `o` leaves a kernel without ACPI, as under Firecracker, running. File systems are remounted by a
 * worker of the kernel, which a busy machine can keep waiting, so the end waits until they can be written no more.
 */
const INIT = `#!/bin/sh
down() {
  sync
  echo u > /proc/sysrq-trigger
  tries=0
  while grep -q ' ext4 rw' /proc/mounts && [ $tries -lt 200 ]; do sleep 0.05; tries=$((tries + 1)); done
}
trap 'down; echo b > /proc/sysrq-trigger' INT TERM
trap 'down; perl -e "syscall(169, 0xfee1dead, 0x28121969, 0x4321fedc, 0)"' USR1
while :; do sleep 3600 & wait $!; done
`;

/** Makes it below `directory` unless it is there; returns where it is. */
export async function leanBundle(from: string, directory: string): Promise<string> {
  const full = await readBundle(from);
  const sumOf = (path: string) => {
    const sum = full.manifest.files[path];
    return sum === undefined ? '' : 'sha256' in sum ? sum.sha256 : sum.fsverity;
  };
  const { kernel: kernelFile, initrd: initrdFile, rootfs: rootFile } = full.manifest;
  const sums = [kernelFile, initrdFile, rootFile].map(sumOf);
  const ownSum = (await sumFile(import.meta.filename)).sha256;
  const target = join(directory, `lean-${[...sums, ownSum].map((sum) => sum.slice(0, 6)).join('')}`);
  if (existsSync(join(target, 'bundle.json'))) return target;
  await mkdir(directory, { recursive: true });
  const work = await mkdtemp(join(directory, 'lean-part-'));
  try {
    for (const file of [full.manifest.kernel, full.manifest.initrd])
      await linkOrCopy(join(from, file), join(work, file));
    await makeRoot(full.rootfs, join(work, 'tree'), join(work, 'rootfs.ext4'));
    const files: BundleManifest['files'] = {};
    for (const file of [full.manifest.kernel, full.manifest.initrd]) files[file] = await sumFile(join(work, file));
    files['rootfs.ext4'] = await sumDisk(join(work, 'rootfs.ext4'));
    const modules = `modules/${full.manifest.modules?.split('/').at(-1) ?? 'none'}`;
    await mkdir(join(work, modules), { recursive: true });
    await writeFile(join(work, modules, 'modules.dep'), '');
    const { arch, created, kernel, initrd } = full.manifest;
    await writeManifest(work, {
      ...{ schema: 2, name: 'lean', arch, created, kernel, initrd, modules, rootfs: 'rootfs.ext4', helpers: [], files },
      defaults: { ...STANDARD_DEFAULTS, memoryMib: 256, rootDiskSize: '256MiB', workDiskSize: '256MiB' },
      trees: { [modules]: await sumTree(join(work, modules)) },
    });
    await rename(work, target).catch(async (error) => {
      if (!existsSync(join(target, 'bundle.json'))) throw error; // another test was first
    });
    return target;
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

async function makeRoot(rootfs: string, tree: string, image: string): Promise<void> {
  for (const dir of [
    'usr/bin',
    'usr/sbin',
    'usr/lib',
    'root',
    'opt',
    'proc',
    'sys',
    'dev',
    'run',
    'tmp',
    'var/log',
    'var/empty',
  ]) {
    await mkdir(join(tree, dir), { recursive: true });
  }
  for (const dir of ['bin', 'sbin', 'lib', 'lib64']) await symlink(`usr/${dir}`, join(tree, dir));
  const commands = [
    `rdump /etc ${tree}`,
    `rdump /usr/lib/x86_64-linux-gnu ${join(tree, 'usr/lib')}`,
    `rdump /usr/lib/openssh ${join(tree, 'usr/lib')}`,
    ...[...PROGRAMS, ...ADMIN_PROGRAMS].map((path) => `dump -p /usr/${path} ${join(tree, 'usr', path)}`),
  ];
  await writeFile(`${tree}.commands`, `${commands.join('\n')}\n`);
  await runner.run(['debugfs', '-f', `${tree}.commands`, rootfs]);
  const libraries = join(tree, 'usr/lib/x86_64-linux-gnu');
  for (const name of await readdir(libraries)) {
    if (UNUSED_LIBRARIES.test(name)) await rm(join(libraries, name), { recursive: true });
  }
  await mkdir(join(tree, 'usr/lib64'));
  await symlink('/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2', join(tree, 'usr/lib64/ld-linux-x86-64.so.2'));
  // a dump of a link is an empty file or none; the shell is what matters
  await rm(join(tree, 'usr/bin/sh'), { force: true });
  await symlink('dash', join(tree, 'usr/bin/sh'));
  // images can be built from it, but there are no packages
  await rm(join(tree, 'etc/apt'), { recursive: true, force: true });
  await rm(join(tree, 'etc/os-release'), { force: true });
  await writeFile(join(tree, 'etc/os-release'), 'ID=lean\n');
  await writeFile(join(tree, 'usr/sbin/init'), INIT);
  await chmod(join(tree, 'usr/sbin/init'), 0o755);
  await writeFile(
    join(tree, 'etc/passwd'),
    'root:x:0:0:root:/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\nnobody:x:65534:65534::/:/usr/sbin/nologin\n',
  );
  await appendFile(join(tree, 'etc/ssh/sshd_config'), '\nUsePAM no\nMaxStartups 100\n');
  await chmod(join(tree, 'root'), 0o700);
  // what tells the initrd that this root wants its SSH server started early
  const wants = join(tree, 'etc/systemd/system/multi-user.target.wants');
  await mkdir(wants, { recursive: true });
  await rm(join(wants, 'ssh.service'), { force: true });
  await writeFile(join(wants, 'ssh.service'), '');
  await runner.run(['mke2fs', '-q', '-F', '-t', 'ext4', '-E', 'root_owner=0:0', '-d', tree, image, '160M']);
  await rm(tree, { recursive: true });
  await rm(`${tree}.commands`);
}

async function linkOrCopy(from: string, to: string): Promise<void> {
  await mkdir(dirname(to), { recursive: true });
  await link(from, to).catch(() => copyFile(from, to));
}
