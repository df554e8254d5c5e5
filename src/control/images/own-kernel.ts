/** The kernel that an image brings along: taken when guests of banger boot with it, and otherwise said why not. */
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { modulesArchive, modulesNeeded } from '../../bundle/boot/initrd.ts';
import { inspectKernel, kernelProblem } from '../../bundle/boot/kernel.ts';
import { readModuleIndex } from '../../bundle/boot/modules.ts';
import { extractVmlinux } from '../../bundle/boot/vmlinux.ts';
import { BangerError } from '../../errors.ts';
import { hostArch } from '../bundles/support.ts';
import type { GuestFiles } from './guest-files.ts';
import type { ImportHost } from './sources.ts';

export type OwnKernel =
  /** `kernel` is a file, `modules` an archive to be put behind an initrd */
  | { release: string; kernel: string; modules: Buffer }
  /** why there is none that can be used, without a full stop */
  | { problem: string };

const KERNEL = /^vmlinuz-([\w.+~-]{1,100})$/;
const INDEXES = ['modules.dep', 'modules.builtin', 'modules.softdep'];
const MODULES = ['/usr/lib/modules', '/lib/modules'];

/**
 * The newest one that fits.
 * @param root its modules are there
 * @param boots where kernels lie: directories of the root, and of a boot partition
 * @param scratch directory of this work alone
 */
export async function findOwnKernel(
  host: ImportHost,
  root: GuestFiles,
  boots: readonly { files: GuestFiles; directory: string }[],
  scratch: string,
  signal: AbortSignal,
): Promise<OwnKernel> {
  const found = new Map<string, () => Promise<Buffer | undefined>>();
  for (const { files, directory } of boots) {
    for (const name of await files.list(directory)) {
      const [, release] = KERNEL.exec(name) ?? [];
      if (release !== undefined && !release.includes('rescue')) {
        found.set(release, () => files.read(join(directory, name)));
      }
    }
  }
  for (const place of MODULES) {
    for (const release of await root.list(place)) {
      // some distributions keep it beside its modules
      const names = found.has(release) ? [] : await root.list(`${place}/${release}`);
      if (names.includes('vmlinuz')) found.set(release, () => root.read(`${place}/${release}/vmlinuz`));
    }
  }
  const newest = [...found].sort(([a], [b]) => b.localeCompare(a, 'en', { numeric: true }));
  const problems: string[] = [];
  for (const [release, read] of newest) {
    const one = await takeKernel(host, root, { release, read }, scratch, signal);
    if (!('problem' in one)) return one;
    problems.push(one.problem);
  }
  return { problem: problems.slice(0, 3).join('; ') || 'it has none that is found' };
}

async function takeKernel(
  host: ImportHost,
  root: GuestFiles,
  { release, read }: { release: string; read: () => Promise<Buffer | undefined> },
  scratch: string,
  signal: AbortSignal,
): Promise<OwnKernel> {
  const tree = join(scratch, release);
  const packed = join(scratch, 'vmlinuz');
  const kernel = join(scratch, 'vmlinux');
  const deps = { runner: host.system.runner, programs: host.config.programs };
  try {
    await mkdir(tree, { recursive: true, mode: 0o700 });
    const copyIn = async (path: string): Promise<boolean> => {
      for (const place of MODULES) {
        const bytes = await root.read(`${place}/${release}/${path}`);
        if (!bytes) continue;
        await mkdir(dirname(join(tree, path)), { recursive: true });
        await writeFile(join(tree, path), bytes, { mode: 0o600 });
        return true;
      }
      return false;
    };
    for (const index of INDEXES) await copyIn(index);
    for (const path of modulesNeeded(await readModuleIndex(tree), tree, 'ext4')) {
      if (path.split('/').includes('..') || path.startsWith('/')) return { problem: `${release} has odd modules` };
      if (!(await copyIn(path))) return { problem: `${release} lacks its module ${path}` };
    }
    const bytes = await read();
    if (!bytes) return { problem: `${release} cannot be read` };
    await writeFile(packed, bytes, { mode: 0o600 });
    if ((await inspectKernel(packed)).kind === 'bzimage') await extractVmlinux(deps, packed, kernel, signal);
    else await writeFile(kernel, bytes, { mode: 0o600 });
    const problem = kernelProblem(await inspectKernel(kernel), hostArch());
    if (problem !== undefined) return { problem: `${release} ${problem}` };
    return { release, kernel, modules: await modulesArchive(deps, tree, 'ext4') };
  } catch (error) {
    signal.throwIfAborted();
    if (!(error instanceof BangerError)) throw error;
    return { problem: `${release}: ${error.message.replace(/\.$/, '').replace(tree, 'its module tree')}` };
  } finally {
    await rm(packed, { force: true });
    await rm(tree, { recursive: true, force: true });
  }
}
