/** Whoever wants to use a VM has it go on that is suspended, and waits for what else has its guest. */
import type { Operation } from '../../api/operation.ts';
import { LETS_GO_ON, waitText } from '../../api/operation-words.ts';
import { fromProblem } from '../../api/problem.ts';
import type { VmPhase, VmRecord } from '../../core/vm.ts';
import { BangerError, messageOf } from '../../errors.ts';
import type { Host } from '../host.ts';
import { inTheWay } from '../operations.ts';

/** How long somebody waits for others before it is said what for. */
const SAY_AFTER_MS = 2000;

/** Operations at whose end a VM goes on or is suspended, whatever its record says until then. */
const PASSING = new Set(['vm.suspend', 'vm.resume']);

/** Operations after which nobody can use a VM before it is started again. */
const ENDING = new Set(['vm.stop', 'vm.kill', 'vm.delete']);

/** Phases of a VM whose guest stands still or is on disk. */
const AWAY: ReadonlySet<VmPhase> = new Set(['suspending', 'suspended', 'resuming']);

type AwakenHost = Pick<Host, 'stores' | 'operations'>;

/** What of a VM's owner is needed: `Life` is one. */
export interface Resumer {
  resume(name: string): Operation;
}

export interface Patience {
  signal: AbortSignal;
  /** hears what else is at work on the VM, when that takes long */
  say?: ((text: string) => void) | undefined;
  /** what others get to come to an end, in `ms`; as long as they take without */
  limitMs?: number | undefined;
}

/**
 * Lets a VM go on if it is suspended, or about to be. What else is at work on it comes first, if its guest stands still or is on
 * disk meanwhile: a snapshot, say. Any other VM is left as it is, also one that was stopped or deleted while it was waited for.
 * @throws BangerError what keeps it from going on, `conflict` after `limitMs`, `cancelled` when `signal` was aborted
 */
export async function awaken(host: AwakenHost, life: Resumer, vmId: string, patience: Patience): Promise<void> {
  const { signal, limitMs = Number.POSITIVE_INFINITY, say } = patience;
  const deadline = performance.now() + limitMs;
  const said = new Set<string>();
  const sayOnce = (text: string) => {
    if (!said.has(text)) say?.(text);
    said.add(text);
  };
  for (;;) {
    const vm = host.stores.vms.findById(vmId);
    if (!vm) return;
    const operation = whatComesFirst(host, life, vm);
    if (!operation) return;
    const { kind, error } = await untilOver(host, vm, operation, { signal, deadline, say: say && sayOnce });
    if (error && LETS_GO_ON.has(kind)) throw fromProblem(error);
  }
}

/** Whether somebody who wants to use a VM has to wait for an operation that nobody can join, and after which it can be used. */
export function isHeldUp({ operations }: Pick<Host, 'operations'>, { name, phase }: VmRecord): boolean {
  const kind = operations.activeOn(name)?.kind;
  return kind !== undefined && AWAY.has(phase) && !LETS_GO_ON.has(kind) && !ENDING.has(kind);
}

/** @returns what has to be over before it is looked at again, a resume of its own if nothing else; undefined when nothing has */
function whatComesFirst({ operations }: AwakenHost, life: Resumer, { name, phase }: VmRecord): Operation | undefined {
  const active = operations.activeOn(name);
  if (active && (PASSING.has(active.kind) || (AWAY.has(phase) && !LETS_GO_ON.has(active.kind)))) return active;
  if (phase !== 'suspended') return AWAY.has(phase) ? active : undefined;
  try {
    return life.resume(name);
  } catch (error) {
    // also what works on all there is, and so not on this VM alone
    const busy = inTheWay(error);
    if (busy === undefined) throw error;
    return operations.get(busy);
  }
}

/** Waits for the end of an operation; a guest that is held for a moment goes on long before the end of a fork or snapshot. */
async function untilOver(
  { stores, operations }: AwakenHost,
  vm: VmRecord,
  operation: Operation,
  { signal, say, deadline }: Pick<Patience, 'signal' | 'say'> & { deadline: number },
): Promise<Operation> {
  const { promise, resolve, reject } = Promise.withResolvers<Operation>();
  const unfollow = stores.vms.onChange(({ before, after }) => {
    const isOver = vm.phase === 'suspending' && after?.phase !== vm.phase;
    if (isOver && (after ?? before)?.id === vm.id) resolve(operation);
  });
  const leave = () => {
    const why: unknown = signal.reason;
    reject(why instanceof BangerError ? why : new BangerError('cancelled', 'The client left.'));
  };
  signal.addEventListener('abort', leave, { once: true });
  const timers: NodeJS.Timeout[] = [];
  // one that lets it go on is what was asked for
  if (!LETS_GO_ON.has(operation.kind)) {
    if (say) timers.push(setTimeout(() => say(waitText(vm.name, operation)), SAY_AFTER_MS));
    const leftMs = deadline - performance.now();
    if (leftMs < Number.POSITIVE_INFINITY)
      timers.push(setTimeout(() => reject(stillBusy(vm, operation)), Math.max(0, leftMs)));
  }
  try {
    if (signal.aborted) leave();
    return await Promise.race([promise, operations.finished(operation.id)]);
  } finally {
    for (const timer of timers) clearTimeout(timer);
    signal.removeEventListener('abort', leave);
    unfollow();
  }
}

function stillBusy({ name }: VmRecord, operation: Operation): BangerError {
  return new BangerError('conflict', `${waitText(name, operation)}, which goes on.`, {
    hint: `Follow it with: banger operation wait ${operation.id}   and try again.`,
  });
}

/** One that could not go on is not tried again for every query. */
const RETRY_MS = 60_000;

/** @returns what lets a VM go on for whoever asks for its name; while it does, or has failed lately, nothing more is done */
export function createWaker(host: AwakenHost & Pick<Host, 'log'>, life: Resumer): (name: string) => void {
  const busy = new Set<string>();
  return (name) => {
    const vm = host.stores.vms.find(name);
    if (!vm || busy.has(vm.id)) return;
    busy.add(vm.id);
    host.log.info({ vm: name }, 'goes on, as its name was asked for');
    awaken(host, life, vm.id, { signal: new AbortController().signal }).then(
      () => busy.delete(vm.id),
      (error) => {
        host.log.warn({ vm: name, error: messageOf(error) }, 'a suspended VM could not go on');
        setTimeout(() => busy.delete(vm.id), RETRY_MS).unref();
      },
    );
  };
}
