/** When a guest is ready: learned from its agent or its console, kept in its record, waited for by starts and commands. */
import type { Until } from '../../api/vm.ts';
import type { VmRecord } from '../../core/vm.ts';
import { becameReady } from '../../core/vm-changes.ts';
import { BangerError } from '../../errors.ts';
import { watchVmm } from '../../firecracker/api.ts';
import { AgentError } from '../../guest/agent/errors.ts';
import { askGuest } from '../../guest/ask.ts';
import { runThroughAgent } from '../../guest/run-script.ts';
import { formatDuration, timerMs } from '../../units.ts';
import type { Host } from '../host.ts';
import { vmmSocketOf } from '../vmm.ts';
import { awaken, type Resumer } from './awaken.ts';
import { awaitReadyWord } from './boot.ts';
import { requireRunning } from './problem.ts';

/** How long a command waits before it says what for. */
const SAY_AFTER_MS = 2000;

/** What a guest gets to name the units it still starts. */
const ASK_LIMIT_MS = 20_000;

/** Operations that end with a VM that runs. */
const STARTING = new Set(['vm.start', 'vm.resume', 'vm.run', 'vm.restart', 'vm.rebase']);

/**
 * Waits until a guest says that it is ready, and writes that into its record.
 * @param adopted whether it may have said so before anybody listened
 */
export async function followReadiness(host: Host, vmId: string, adopted: boolean, signal: AbortSignal): Promise<void> {
  const word = await awaitWord(host, vmId, signal);
  const vm = host.stores.vms.findById(vmId);
  if (signal.aborted || vm?.phase !== 'running' || vm.ready !== null) return;
  const at = word && host.now();
  const uptimeMs = adopted ? word?.uptimeMs : undefined;
  host.stores.vms.update(vmId, becameReady(vm, { at, uptimeMs, failedUnits: word?.failedUnits ?? [] }));
}

/** The agent is told by the guest's init; where there is none, or it falls meanwhile, the console has the same word. */
async function awaitWord(host: Host, vmId: string, signal: AbortSignal): ReturnType<typeof awaitReadyWord> {
  const vm = host.stores.vms.findById(vmId);
  const agent = vm?.phase === 'running' ? await host.agents.get(vm) : undefined;
  if (agent?.hello.features.has('ready')) {
    try {
      const said = await agent.ready(signal);
      return said && { kind: 'ready', ...said };
    } catch (error) {
      if (!(error instanceof AgentError)) throw error;
    }
  }
  return await awaitReadyWord(host, vmId, signal);
}

/**
 * Waits until a VM that runs is ready.
 * @param timeoutMs counts from now
 * @throws BangerError `timeout` when the time is over, `guest_failed` when its VMM ended, `conflict` when it is paused; the VM is
 *   left as it is
 */
export async function awaitReady(host: Host, vmId: string, timeoutMs: number, signal: AbortSignal): Promise<VmRecord> {
  const ended = new AbortController();
  const stopWatching = watchVmm(vmmSocketOf(host, vmId), () => ended.abort());
  try {
    const isOver = ({ phase, ready, paused }: VmRecord) => ready !== null || phase !== 'running' || paused !== null;
    const vm = await untilRecord(host, vmId, isOver, timeoutMs, AbortSignal.any([signal, ended.signal]));
    if (vm?.ready) return vm;
    if (vm?.phase === 'running') requireRunning(vm); // it is held
    signal.throwIfAborted();
    const name = host.stores.vms.findById(vmId)?.name ?? vmId;
    if (ended.signal.aborted || (vm && vm.phase !== 'running')) {
      throw new BangerError('guest_failed', `${name} answered over SSH, and its VMM ended before it was ready.`, {
        hint: `See its console: banger logs ${name}`,
      });
    }
    const record = host.stores.vms.findById(vmId);
    throw new BangerError(
      'timeout',
      `${name} answers over SSH, but is not ready after ${formatDuration(timeoutMs)}${record ? await whatStarts(host, record) : ''}. It runs on.`,
      {
        hint: `See what it waits for: banger exec --until reachable ${name} -- systemctl list-jobs   or do not wait for it: --until reachable`,
      },
    );
  } finally {
    stopWatching();
  }
}

/**
 * Waits until a command may run in a VM: through a start that is under way, and to the end of its boot unless told
 * otherwise. One that is suspended goes on. A guest that has had its time is not waited for.
 * @param say hears what is waited for, when that takes long
 * @throws BangerError `conflict` when the VM neither runs nor is being started, `not_found` when it is deleted
 */
export async function awaitUsable(
  host: Host,
  life: Resumer,
  vmId: string,
  until: Until,
  say: (text: string) => void,
  signal: AbortSignal,
): Promise<VmRecord> {
  for (;;) {
    await awaken(host, life, vmId, { signal, say: (text) => say(`${text}; the command runs then`) });
    const vm = host.stores.vms.findById(vmId);
    if (!vm)
      throw new BangerError('not_found', 'The VM was deleted meanwhile.', { hint: 'See what exists: banger ls' });
    const startedBy = host.operations.activeOn(vm.name);
    if (vm.phase !== 'running' && startedBy && STARTING.has(startedBy.kind)) {
      const ended = host.operations.finished(startedBy.id);
      const said = setTimeout(() => say(`${vm.name} is being started; the command runs then`), SAY_AFTER_MS);
      await Promise.race([ended, untilRecord(host, vmId, ({ phase }) => phase === 'running', undefined, signal)]);
      clearTimeout(said);
      signal.throwIfAborted();
      if (host.stores.vms.findById(vmId)?.phase !== 'running') await ended;
      if (host.stores.vms.findById(vmId)?.phase === 'running') continue;
    }
    const now = host.stores.vms.findById(vmId) ?? vm;
    requireRunning(now);
    const left = until === 'ready' ? readyTimeLeft(host, now) : 0;
    if (now.ready !== null || left <= 0) return now;
    const said = setTimeout(
      () => say(`${now.name} still boots; the command runs when it is ready (--until reachable does not wait)`),
      SAY_AFTER_MS,
    );
    const after = await untilRecord(
      host,
      vmId,
      ({ phase, ready, paused }) => ready !== null || phase !== 'running' || paused !== null,
      left,
      signal,
    );
    clearTimeout(said);
    signal.throwIfAborted();
    if (after) continue;
    say(
      `${now.name} is not ready after ${formatDuration(host.config.limits.readyTimeoutMs)}; the command runs all the same`,
    );
    return now;
  }
}

/** What is left of the time a guest has to become ready, in `ms`. */
export function readyTimeLeft(host: Host, { startedAt, bootMs }: VmRecord): number {
  const began = startedAt === null ? 0 : Date.parse(startedAt) - (bootMs ?? 0);
  return began + host.config.limits.readyTimeoutMs - host.now().getTime();
}

/** Units that are still starting, for a sentence; empty when the guest does not say. */
async function whatStarts(host: Host, vm: VmRecord): Promise<string> {
  const command = 'systemctl list-jobs --no-legend --plain 2> /dev/null';
  const agent = await host.agents.get(vm);
  const connection = host.guests.peek(vm);
  const said = async (): Promise<string | undefined> => {
    if (agent?.hello.features.has('exec')) return (await runThroughAgent(agent, command, ASK_LIMIT_MS)).output;
    return connection && (await askGuest(connection, command, ASK_LIMIT_MS)).stdout;
  };
  const answer = await said().catch(() => undefined);
  const running = (answer ?? '').split('\n').flatMap((line) => {
    const [, unit, , state] = line.trim().split(/\s+/);
    return unit !== undefined && state === 'running' && /^[\w@.:\\-]+$/.test(unit) ? [unit] : [];
  });
  return running.length === 0 ? '' : `: its boot waits for ${running.slice(0, 5).join(', ')}`;
}

/**
 * Resolves with the record as soon as `holds` is true of it; with undefined when the time is over, the VM is gone or
 * `signal` is aborted.
 */
function untilRecord(
  host: Host,
  vmId: string,
  holds: (vm: VmRecord) => boolean,
  timeoutMs: number | undefined,
  signal: AbortSignal,
): Promise<VmRecord | undefined> {
  const { promise, resolve } = Promise.withResolvers<VmRecord | undefined>();
  const look = () => {
    const vm = host.stores.vms.findById(vmId);
    if (!vm || holds(vm)) resolve(vm);
  };
  const unsubscribe = host.stores.vms.onChange(({ before, after }) => {
    if ((after ?? before)?.id === vmId) look();
  });
  const give = () => resolve(undefined);
  const timer = timeoutMs === undefined ? undefined : setTimeout(give, timerMs(timeoutMs));
  signal.addEventListener('abort', give, { once: true });
  if (signal.aborted) give();
  else look();
  return promise.finally(() => {
    clearTimeout(timer);
    unsubscribe();
    signal.removeEventListener('abort', give);
  });
}
