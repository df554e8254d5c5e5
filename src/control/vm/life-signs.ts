/** Looks for signs of life of a guest that is being started: its console, its answers, the processor time of its VMM. */
import { createLifeWatch } from '../../core/life-signs.ts';
import type { VmRecord } from '../../core/vm.ts';
import { describeVmm } from '../../firecracker/api.ts';
import { apparentBytes } from '../../storage/disk.ts';
import { vmFiles } from '../../storage/layout.ts';
import { readProcessTree, readQueueWaitMs } from '../../system/process-stats.ts';
import { haltedBy } from '../../system/processes.ts';
import type { Host } from '../host.ts';
import { vmmSocketOf } from '../vmm.ts';
import { vmmProcess } from './problem.ts';

/** What a VMM that works needs to say who it is. */
const DESCRIBE_LIMIT_MS = 2000;

/**
 * A watch to be asked again and again while a guest is waited for.
 * @returns what is wrong with a guest that shows no sign of life although its VMM works; undefined while it may be well
 */
export function watchLifeSigns(host: Host, vm: VmRecord): (answered: boolean) => Promise<string | undefined> {
  const { consoleLog } = vmFiles(host.config.paths.store, vm.id);
  const verdictOf = createLifeWatch();
  return async (answered) => {
    const pid = vmmProcess(host, vm);
    // one that somebody has halted is no fault of the guest
    if (pid === undefined || haltedBy(pid) !== undefined) return undefined;
    const processes = await readProcessTree(pid);
    const waits = await Promise.all(processes.map((process) => readQueueWaitMs(process.pid)));
    const verdict = verdictOf({
      atMs: performance.now(),
      cpuMs: processes.reduce((sum, { cpuMs }) => sum + cpuMs, 0),
      waitedMs: waits.reduce((sum, each) => sum + each, 0),
      consoleBytes: await apparentBytes(consoleLog).catch(() => 0),
      answered,
    });
    if (verdict === undefined) return undefined;
    const vmm = await describeVmm(vmmSocketOf(host, vm.id), DESCRIBE_LIMIT_MS).catch(() => 'silent');
    return vmm === 'silent' ? undefined : verdict;
  };
}
