/** Room for what is about to happen: disk and memory. */
import { statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import { systemCode } from '../../errors.ts';
import { formatSize, GIB, MIB } from '../../units.ts';
import { type Check, failed, ok, warning } from '../check.ts';
import type { PreflightContext } from '../context.ts';

/** A file system that is full to the last block hurts everybody on it. */
const RESERVE_BYTES = 64 * MIB;

/** Below this a guest that writes soon fills the host's disk. */
const COMFORT_BYTES = 2 * GIB;

export const diskSpaceCheck: Check<PreflightContext> = {
  id: 'disk.space',
  title: 'disk space',
  async run({ config, needs }) {
    const needed = needs.diskBytes + RESERVE_BYTES;
    const lookedFor = `${formatSize(needed)} free in ${config.paths.store}`;
    const { bavail, bsize } = await statfsAbove(config.paths.store);
    const free = bavail * bsize;
    const detail = `${formatSize(free)} are free`;
    const fix = 'Free some space (banger ls shows what could be deleted), or set paths.store to a larger disk.';
    if (free < needed) return failed(lookedFor, `Only ${detail}.`, fix);
    if (free < COMFORT_BYTES) return warning(lookedFor, `Only ${detail}: guests that write may fill this disk.`, fix);
    return ok(lookedFor, detail);
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

/** The store is made at the first use: until then its parent's file system counts. */
async function statfsAbove(path: string): Promise<{ bavail: number; bsize: number }> {
  try {
    return await statfs(path);
  } catch (error) {
    if (systemCode(error) !== 'ENOENT' || dirname(path) === path) throw error;
    return await statfsAbove(dirname(path));
  }
}
