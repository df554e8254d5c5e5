/** What a VM boots from: kernel, initrd and root file system are there, readable and for this machine. */
import { open, stat } from 'node:fs/promises';
import { inspectKernel, kernelProblem } from '../../bundle/boot/kernel.ts';
import { BangerError, messageOf, systemCode } from '../../errors.ts';
import { readRootVolume } from '../../storage/volume.ts';
import { formatSize } from '../../units.ts';
import { type Check, type CheckOutcome, failed, notApplicable, ok } from '../check.ts';
import { type BootFiles, hasBoot, type PreflightContext } from '../context.ts';

const REBUILD = 'banger bundle build';

export const bundleCheck: Check<PreflightContext> = {
  id: 'boot.bundle',
  title: 'bundle',
  async run({ boot, config }) {
    const lookedFor = `the bundle ${config.bundle.default} in ${config.paths.bundles}`;
    if (boot instanceof BangerError) return failed(lookedFor, boot.message, boot.hint ?? REBUILD);
    return ok(lookedFor, boot.name);
  },
};

export const kernelCheck: Check<PreflightContext> = {
  id: 'boot.kernel',
  title: 'kernel',
  run: (context) =>
    withBoot(context, 'an uncompressed kernel', async ({ kernel }) => {
      const lookedFor = `an uncompressed ${context.facts.arch} kernel at ${kernel}`;
      const inspected = await inspectKernel(kernel);
      const arch = context.facts.arch === 'aarch64' ? 'aarch64' : 'x86_64';
      const problem = kernelProblem(inspected, arch);
      if (problem !== undefined) return failed(lookedFor, `The kernel ${kernel} ${problem}.`, REBUILD);
      return ok(lookedFor, `${kernel}, ${formatSize(inspected.sizeBytes)}`);
    }),
};

export const initrdCheck: Check<PreflightContext> = {
  id: 'boot.initrd',
  title: 'initrd',
  run: (context) =>
    withBoot(context, 'an initrd', async ({ initrd }) => {
      if (initrd === undefined) return notApplicable('an initrd', 'This bundle boots without an initrd.');
      const lookedFor = `a readable initrd at ${initrd}`;
      const problem = await whyNotReadable(initrd);
      if (problem !== undefined) return failed(lookedFor, `The initrd ${initrd} ${problem}.`, REBUILD);
      return ok(lookedFor, initrd);
    }),
};

export const rootfsCheck: Check<PreflightContext> = {
  id: 'boot.rootfs',
  title: 'root file system',
  run: (context) =>
    withBoot(context, 'a root file system', async ({ rootfs }) => {
      const lookedFor = `a root file system at ${rootfs}`;
      const problem = await whyNotReadable(rootfs);
      if (problem !== undefined) return failed(lookedFor, `The root file system ${rootfs} ${problem}.`, REBUILD);
      try {
        const { bytes } = await readRootVolume(rootfs);
        return ok(lookedFor, `${rootfs}, ${formatSize(bytes)}`);
      } catch (error) {
        return failed(lookedFor, messageOf(error), REBUILD);
      }
    }),
};

async function withBoot(
  context: PreflightContext,
  lookedFor: string,
  check: (boot: BootFiles) => Promise<CheckOutcome>,
): Promise<CheckOutcome> {
  if (!hasBoot(context)) return notApplicable(lookedFor, 'There is no bundle to look in.');
  return await check(context.boot);
}

/** The rest of a sentence about a file, or undefined when it can be read and is not empty. */
async function whyNotReadable(path: string): Promise<string | undefined> {
  try {
    const { size } = await stat(path);
    await (await open(path)).close();
    return size === 0 ? 'is empty' : undefined;
  } catch (error) {
    const code = systemCode(error);
    if (code === 'ENOENT' || code === 'ENOTDIR') return 'does not exist';
    return code === 'EACCES' ? 'may not be read by this user' : `cannot be read: ${messageOf(error)}`;
  }
}
