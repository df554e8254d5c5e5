/** What bringing in and giving away has in common, for bundles and images. */
import type { KernelArch } from '../../bundle/boot/kernel.ts';
import { BangerError } from '../../errors.ts';
import { kernelArch } from '../../system/host-facts.ts';
import { formatSize } from '../../units.ts';
import type { Progress } from '../operations.ts';

/** Bytes between two reports: a disk image is read in thousands of pieces, and every report is kept. */
const REPORT_EVERY_BYTES = 16 * 1024 * 1024;

/** @throws BangerError `host_unprepared` on a machine nothing is made for */
export function hostArch(): KernelArch {
  const arch = kernelArch(process.arch);
  if (arch === 'x86_64' || arch === 'aarch64') return arch;
  throw new BangerError('host_unprepared', `There are no bundles and images for this machine, which is ${arch}.`, {
    hint: 'They are for x86_64 and aarch64.',
  });
}

/** Adds up pieces and reports them now and then, and when the last of `total` is there. */
export function countBytes(progress: Progress, label: string, total: number | undefined): (bytes: number) => void {
  let done = 0;
  let reported = 0;
  return (bytes) => {
    done += bytes;
    if (done - reported < REPORT_EVERY_BYTES && done !== total) return;
    reported = done;
    if (total === undefined) progress.report({ label, detail: formatSize(done) });
    else progress.report({ label, detail: `${formatSize(done)} of ${formatSize(total)}`, done, total });
  };
}
