/** Whoever wants to use a suspended VM has it go on. */
import type { Operation } from '../../api/operation.ts';
import { fromProblem } from '../../api/problem.ts';
import { BangerError, messageOf } from '../../errors.ts';
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

/** One that could not go on is not tried again for every query. */
const RETRY_MS = 60_000;

/** @returns what lets a VM go on for whoever asks for its name; while it does, or has failed lately, nothing more is done */
export function createWaker(host: Pick<Host, 'stores' | 'operations' | 'log'>, life: Resumer): (name: string) => void {
  const busy = new Set<string>();
  return (name) => {
    const vm = host.stores.vms.find(name);
    if (!vm || busy.has(vm.id)) return;
    busy.add(vm.id);
    host.log.info({ vm: name }, 'goes on, as its name was asked for');
    awaken(host, life, vm.id, new AbortController().signal).then(
      () => busy.delete(vm.id),
      (error) => {
        host.log.warn({ vm: name, error: messageOf(error) }, 'a suspended VM could not go on');
        setTimeout(() => busy.delete(vm.id), RETRY_MS).unref();
      },
    );
  };
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
