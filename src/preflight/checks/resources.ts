/** Room for what is about to happen: disk and memory. */
import { spaceState } from '../../core/store-space.ts';
import { spaceOf } from '../../storage/file-system.ts';
import { formatSize, MIB } from '../../units.ts';
import { type Check, failed, ok, warning } from '../check.ts';
import type { PreflightContext } from '../context.ts';

export const diskSpaceCheck: Check<PreflightContext> = {
  id: 'disk.space',
  title: 'disk space',
  async run({ config, needs }) {
    const needed = needs.diskBytes + config.storage.minFreeBytes;
    const lookedFor = `${formatSize(needed)} free in ${config.paths.store}`;
    const space = await spaceOf(config.paths.store);
    const detail = `${formatSize(space.freeBytes)} of ${formatSize(space.sizeBytes)} are free`;
    const fix = 'See what takes it: banger storage show. Free some, or set paths.store to a larger disk.';
    switch (spaceState(space, needed)) {
      case 'full':
        return failed(lookedFor, `Only ${detail}.`, fix);
      case 'low':
        return warning(lookedFor, `Only ${detail}: guests that write may fill this disk.`, fix);
      case 'ok':
        return ok(lookedFor, detail);
    }
  },
};

export const memoryCheck: Check<PreflightContext> = {
  id: 'memory',
  title: 'memory',
  async run({ facts, needs }) {
    const needed = needs.memoryMib * MIB;
    const lookedFor = needed > 0 ? `${formatSize(needed)} for the VM` : 'memory for VMs';
    const { memoryTotalBytes: total, memoryAvailableBytes: available } = facts;
    if (needed > total) {
      const detail = `This host has only ${formatSize(total)}.`;
      return failed(lookedFor, detail, `Give the VM less: BANGER_VM_MEMORY=${largestFit(total)}`);
    }
    const detail = `${formatSize(available)} of ${formatSize(total)} are available`;
    if (needed > available) return warning(lookedFor, `Only ${detail}: the host may have to swap.`);
    return ok(lookedFor, detail);
  },
};

/** Half of the host, in whole steps of 256 MiB. */
function largestFit(totalBytes: number): string {
  return `${Math.max(1, Math.floor(totalBytes / 2 / (256 * MIB))) * 256}MiB`;
}
