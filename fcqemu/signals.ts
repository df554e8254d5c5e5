/** What signals do: most end the VM with a code of their own, others end the process as such. */
import { constants } from 'node:os';
import { EXIT } from './exit-code.ts';
import type { ThreadLog } from './log.ts';
import { createLogLimit } from './log-limit.ts';
import type { Metrics } from './metrics.ts';
import type { Vmm } from './vmm/vmm.ts';

/** Faults are here because they can be sent; one of the process's own leaves no handler time to run. */
const CODES: Partial<Record<NodeJS.Signals, [exitCode: number, counter: string]>> = {
  SIGBUS: [EXIT.busError, 'sigbus'],
  SIGSEGV: [EXIT.segmentationFault, 'sigsegv'],
  SIGILL: [EXIT.illegalInstruction, 'sigill'],
  SIGHUP: [EXIT.hangup, 'sighup'],
  SIGXCPU: [EXIT.cpuTimeLimit, 'sigxcpu'],
  SIGXFSZ: [EXIT.fileSizeLimit, 'sigxfsz'],
  // one that was sent, not raised by a filter
  SIGSYS: [EXIT.unexpected, 'num_faults'],
};

export function handleSignals(vmm: Vmm, metrics: Metrics, log: ThreadLog): void {
  const limited = createLogLimit(log, metrics);
  process.on('SIGPIPE', () => {
    metrics.count('signals', 'sigpipe');
    // every client that leaves early may cause one
    limited(() => log.error(`Received signal ${constants.signals.SIGPIPE}, code 0.`));
  });
  // SIGUSR1 would start Node's debugger
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGUSR1'] as const) {
    // Firecracker does not catch these: callers must see death by the signal, and QEMU must be gone by then
    process.once(signal, () => void vmm.kill().finally(() => process.kill(process.pid, signal)));
  }
  for (const signal of Object.keys(CODES) as NodeJS.Signals[]) {
    const [exitCode, counter] = CODES[signal] ?? [EXIT.unexpected, 'unknown'];
    process.once(signal, () => {
      log.error(`Shutting down VM after intercepting signal ${constants.signals[signal]}, code 0.`);
      metrics.count(signal === 'SIGSYS' ? 'seccomp' : 'signals', counter);
      void vmm
        .kill()
        .then(() => metrics.flush())
        .finally(() => process.exit(exitCode));
    });
  }
}
