/** Programs for disks, SSH and bundles, one check for each use. */
import { DROPPER, LIMITER } from '../../system/confinement.ts';
import type { Check } from '../check.ts';
import type { PreflightContext } from '../context.ts';
import { programsOutcome } from '../programs.ts';

export const workDiskCheck: Check<PreflightContext> = {
  id: 'disk.programs',
  title: 'disk programs',
  run: (context) => {
    const { mke2fs, e2fsck, resize2fs } = context.config.programs;
    // the others run them with fewer rights
    return programsOutcome(context, [mke2fs, e2fsck, resize2fs, LIMITER, DROPPER]);
  },
};

export const copyCheck: Check<PreflightContext> = {
  id: 'disk.copy',
  title: 'copies of disks',
  run: (context) => programsOutcome(context, [context.config.programs.cp]),
};

export const sshCheck: Check<PreflightContext> = {
  id: 'ssh.programs',
  title: 'SSH client',
  run: (context) => programsOutcome(context, [context.config.programs.ssh]),
};

/** What carries kernel modules and files of a recipe into the VM of a build. */
export const archiveCheck: Check<PreflightContext> = {
  id: 'build.archives',
  title: 'archives',
  run: (context) => programsOutcome(context, [context.config.programs.tar]),
};

/** What reads the list of packages out of a finished image without mounting it. */
export const imageReadCheck: Check<PreflightContext> = {
  id: 'build.inspection',
  title: 'looking into images',
  run: (context) => programsOutcome(context, [context.config.programs.debugfs]),
};

/** What `banger bundle build` starts; see the bundle room. It works with the host's own apt. */
export const buildCheck: Check<PreflightContext> = {
  id: 'image.programs',
  title: 'build programs',
  async run(context) {
    const { mmdebstrap, mke2fs, xz } = context.config.programs;
    const asOwner = context.uid === 0 ? ['unshare', 'setpriv'] : ['unshare'];
    const needed = [mmdebstrap, 'apt-get', 'dpkg-deb', 'depmod', mke2fs, xz, ...asOwner];
    const outcome = await programsOutcome(context, needed);
    if (outcome.status === 'ok' || context.facts.distribution.family === 'debian') return outcome;
    const fix =
      'Build a bundle on Debian or Ubuntu and export it there: banger bundle export   Then here: banger bundle import FILE';
    return { ...outcome, fix };
  },
};

/** What fetches OCI images; nothing else needs it. */
export const pullCheck: Check<PreflightContext> = {
  id: 'image.transport',
  title: 'fetching of OCI images',
  async run(context) {
    const outcome = await programsOutcome(context, [context.config.programs.skopeo]);
    return outcome.status === 'ok' ? outcome : { ...outcome, status: 'warning' };
  },
};

/** Distributions pack their kernels in one of several ways: what is missing is missed by some of them only. */
export const unpackCheck: Check<PreflightContext> = {
  id: 'kernel.programs',
  title: 'unpacking of kernels',
  async run(context) {
    const { xz, lz4 } = context.config.programs;
    const outcome = await programsOutcome(context, [xz, lz4]);
    if (outcome.status === 'ok') return outcome;
    return { ...outcome, status: 'warning', detail: `${outcome.detail} Kernels packed with it cannot be imported.` };
  },
};
