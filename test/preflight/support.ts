/** A machine on which everything a start needs is there, in one temporary directory, to take things away from. */
import { execFileSync } from 'node:child_process';
import { chmod, mkdir, rm, symlink, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import type { TestContext } from 'node:test';
import { loadConfig } from '../../src/config/load.ts';
import { formatSubnet, overlaps, parseSubnet } from '../../src/core/addresses.ts';
import { listRoutes } from '../../src/network/routes.ts';
import { type CheckResult, describe as describeCheck } from '../../src/preflight/check.ts';
import type { PreflightContext } from '../../src/preflight/context.ts';
import { findProgram } from '../../src/system/host-facts.ts';
import { createRights } from '../../src/system/privilege.ts';
import { createRunner } from '../../src/system/runner.ts';
import { tempDir } from '../support/temp-dir.ts';

/** Programs taken from this machine; QEMU and fcqemu are stood in for by scripts. */
export const REAL_PROGRAMS = [
  'setpriv',
  'prlimit',
  'ip',
  'nft',
  'mke2fs',
  'e2fsck',
  'resize2fs',
  'cp',
  'ssh',
  'sysctl',
  'unshare',
] as const;

export interface TestMachine {
  context: PreflightContext;
  /** the only directory in PATH */
  bin: string;
  home: string;
  files: { kernel: string; initrd: string; rootfs: string };
  /** Puts a program that does what a shell script says into PATH. */
  script(name: string, lines: string): Promise<string>;
  remove(program: string): Promise<void>;
}

/** A guest that never runs, as on hosts that only pretend to virtualize. */
const VERSION = '[ "$1" = --version ] && echo \'QEMU emulator version 7.2.22\' && exit\n';
export const SILENT = `${VERSION}exec /bin/sleep 30`;
export const BOOTS = `${VERSION}echo '[    0.000000] Linux version 6.1.0'; exec /bin/sleep 30`;
export const REFUSES = `${VERSION}echo 'Could not access KVM kernel module: No such file or directory' >&2; exit 1`;

export async function testMachine(
  t: TestContext,
  options: { env?: NodeJS.ProcessEnv; uid?: number } = {},
): Promise<TestMachine> {
  const home = await tempDir(t);
  const bin = join(home, 'bin');
  await mkdir(bin);
  const own: NodeJS.ProcessEnv = { PATH: [process.env.PATH, '/usr/sbin', '/sbin'].join(delimiter) };
  for (const program of REAL_PROGRAMS) {
    const found = await findProgram(program, own);
    if (found.found) await symlink(found.path, join(bin, program));
  }
  const env = { PATH: bin, BANGER_HOME: home, BANGER_PRIVILEGE_HELPER: 'never', ...options.env };
  const uid = options.uid ?? 0;
  const { config } = await loadConfig({ env, uid, arch: 'x64' });
  const runner = createRunner(env);
  const files = { kernel: join(home, 'vmlinux'), initrd: join(home, 'initrd.img'), rootfs: join(home, 'rootfs.ext4') };
  await writeFile(files.kernel, elfKernel());
  await writeFile(files.initrd, 'initrd');
  execFileSync(join(bin, 'mke2fs'), ['-q', '-F', '-t', 'ext4', files.rootfs, '4M']);

  const machine: TestMachine = {
    bin,
    home,
    files,
    context: {
      config,
      env,
      uid,
      facts: {
        distribution: { family: 'debian', id: 'debian', name: 'Debian GNU/Linux 12 (bookworm)', version: '12' },
        arch: 'x86_64',
        bootId: 'this-boot',
        memoryTotalBytes: 16 * 1024 ** 3,
        memoryAvailableBytes: 8 * 1024 ** 3,
        cpus: 4,
      },
      runner,
      rights: createRights(runner, { uid, sudo: config.privilege.sudo, sudoProgram: config.programs.sudo }),
      boot: { name: 'test', ...files, defaults: {} },
      fcqemu: [join(bin, 'fcqemu')],
      pool: await freePool(bin),
      table: 'banger_test',
      clientKeyFile: join(home, 'state', 'ssh', 'id_ed25519'),
      needs: { vcpus: 1, memoryMib: 512, diskBytes: 1024 },
      kvmDevice: '/dev/null',
    },
    async script(name, lines) {
      const path = join(bin, name);
      await rm(path, { force: true });
      await writeFile(path, `#!/bin/sh\n${lines}\n`);
      await chmod(path, 0o755);
      return path;
    },
    remove: (program) => rm(join(bin, program)),
  };
  await machine.script('fcqemu', 'exit 0');
  await machine.script('qemu-system-x86_64', REFUSES);
  return machine;
}

/** A range this machine has no route to: even those for documentation are somebody's network, such as a test host's. */
async function freePool(bin: string): Promise<string> {
  const routes = await listRoutes(createRunner({ PATH: bin }), join(bin, 'ip'), [parseSubnet('198.18.0.0/16')]);
  for (let third = 0; third < 256; third += 1) {
    const candidate = parseSubnet(`198.18.${third}.0/24`);
    if (!routes.some(({ destination }) => overlaps(destination, candidate))) return formatSubnet(candidate);
  }
  throw new Error('every range of the tests is covered by a route of this machine');
}

/** Checks that failed, in words for a test that expected none. */
export function failuresOf(checks: readonly CheckResult[]): string {
  return checks
    .filter(({ status }) => status === 'failed')
    .map(describeCheck)
    .join('\n');
}

/** The smallest file that is a kernel: ELF headers, one loaded segment, and the note with the PVH entry. */
export function elfKernel(): Buffer {
  const file = Buffer.alloc(64 + 2 * 56 + 20);
  file.write('\x7fELF', 0, 'latin1');
  file.set([2, 1, 1], 4);
  file.writeUInt16LE(2, 16);
  file.writeUInt16LE(62, 18);
  file.writeBigUInt64LE(64n, 32);
  file.writeUInt16LE(64, 52);
  file.writeUInt16LE(56, 54);
  file.writeUInt16LE(2, 56);
  const segment = (at: number, type: number, offset: number, size: number) => {
    file.writeUInt32LE(type, at);
    file.writeBigUInt64LE(BigInt(offset), at + 8);
    file.writeBigUInt64LE(BigInt(size), at + 32);
  };
  segment(64, 1, 0, 64);
  segment(64 + 56, 4, 176, 20);
  file.writeUInt32LE(4, 176);
  file.writeUInt32LE(4, 180);
  file.writeUInt32LE(18, 184);
  file.write('Xen\0', 188, 'latin1');
  file.writeUInt32LE(0x1000, 192);
  return file;
}

/** Why checks that need real rights cannot run here; undefined when they can. */
export function whyNotRoot(): string | undefined {
  return process.geteuid?.() === 0 ? undefined : 'needs root: rights and network namespaces are looked at for real';
}
