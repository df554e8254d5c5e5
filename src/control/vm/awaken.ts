/** Whoever wants to use a suspended VM has it go on. */
import type { Operation } from '../../api/operation.ts';
import { fromProblem } from '../../api/problem.ts';
import { BangerError } from '../../errors.ts';
import { sleep } from '../../system/abort.ts';
import type { Host } from '../host.ts';

/** A VM that is being forked stands still for a fraction of a second. */
const FORK_LOOK_MS = 20;

/** What of a VM's owner is needed: `Life` is one. */
export interface Resumer {
  resume(name: string): Operation;
}

/** Operations at whose end a VM goes on, or can. */
const PASSING = new Set(['vm.suspend', 'vm.resume']);

/**
 * Lets a VM go on if it is suspended, or about to be; any other is left as it is.
 * @throws BangerError what keeps it from going on, `cancelled` when `signal` was aborted
 */
export async function awaken(
  host: Pick<Host, 'stores' | 'operations'>,
  life: Resumer,
  vmId: string,
  signal: AbortSignal,
): Promise<void> {
  for (;;) {
    const vm = host.stores.vms.findById(vmId);
    if (!vm) return;
    const active = host.operations.activeOn(vm.name);
    if (vm.phase === 'suspending' && active?.kind === 'vm.fork') {
      await sleep(FORK_LOOK_MS, signal);
      continue;
    }
    const passing = active && PASSING.has(active.kind) ? active : undefined;
    if (!passing && vm.phase !== 'suspended') return;
    const operation = passing ?? life.resume(vm.name);
    const { kind, error } = await untilEnd(host, operation.id, signal);
    if (error && kind !== 'vm.suspend') throw fromProblem(error);
  }
}

async function untilEnd({ operations }: Pick<Host, 'operations'>, id: string, signal: AbortSignal) {
  const left = Promise.withResolvers<never>();
  const leave = () => left.reject(new BangerError('cancelled', 'The client left.'));
  signal.addEventListener('abort', leave, { once: true });
  try {
    if (signal.aborted) leave();
    return await Promise.race([operations.finished(id), left.promise]);
  } finally {
    signal.removeEventListener('abort', leave);
  }
}
