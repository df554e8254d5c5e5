/** What signals do: most end the VM with a code of their own, SIGTERM and SIGINT end the process as such. */
import { constants } from 'node:os';
import { EXIT } from './exit-code.ts';
import type { ThreadLog } from './log.ts';
import type { Metrics } from './metrics.ts';
import type { Vmm } from './vmm/vmm.ts';

/**
 * Faults (SIGSEGV, SIGBUS, SIGILL) are left to the kernel: a JavaScript handler could never run in time, and
 * QEMU dies with the process anyway.
 */
const CODES: Partial<Record<NodeJS.Signals, [exitCode: number, counter: string]>> = {
  SIGHUP: [EXIT.hangup, 'sighup'],
  SIGXCPU: [EXIT.cpuTimeLimit, 'sigxcpu'],
  SIGXFSZ: [EXIT.fileSizeLimit, 'sigxfsz'],
  SIGSYS: [EXIT.badSyscall, 'sigsys'],
};

export function handleSignals(vmm: Vmm, metrics: Metrics, log: ThreadLog): void {
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    // Firecracker does not catch these: callers must see death by the signal, and QEMU must be gone by then
    process.once(signal, () => void vmm.kill().finally(() => process.kill(process.pid, signal)));
  }
  for (const signal of Object.keys(CODES) as NodeJS.Signals[]) {
    const [exitCode, counter] = CODES[signal] ?? [EXIT.unexpected, 'unknown'];
    process.once(signal, () => {
      log.error(`Shutting down VM after intercepting signal ${constants.signals[signal]}, code 0.`);
      metrics.count('signals', counter);
      void vmm
        .kill()
        .then(() => metrics.flush())
        .finally(() => process.exit(exitCode));
    });
  }
}
