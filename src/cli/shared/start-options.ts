/** When a command counts a VM as up, and how it says that it is. */
import type { Until, Vm } from '../../api/vm.ts';
import { BangerError } from '../../errors.ts';
import { formatDuration } from '../../units.ts';
import type { OptionSpecs } from '../command-shape.ts';
import type { Context } from '../context.ts';

export const UNTIL = {
  type: 'text',
  placeholder: 'when',
  choices: ['ready', 'reachable'] as const satisfies Until[],
  help: 'what to wait for: the end of its boot, or the first login',
  default: 'ready',
} as const satisfies OptionSpecs[string];

export const START_OPTIONS = {
  until: UNTIL,
  timeout: { type: 'duration', short: 't', help: 'how long the VM may take, e.g. 30s' },
} as const satisfies OptionSpecs;

export const DISCARD_MEMORY = {
  type: 'flag',
  help: 'give up the memory of a suspended VM, with what its programs hold in it',
} as const satisfies OptionSpecs[string];

/** The word as given; the parser let only those of `choices` through. */
export function untilRequest(until: string | undefined): { until?: Until } {
  return until === undefined ? {} : { until: until as Until };
}

/** The body of a request that starts a VM. */
export function startRequest({ until, timeout }: { until: string | undefined; timeout: number | undefined }): {
  until?: Until;
  timeoutMs?: number;
} {
  return { ...untilRequest(until), ...(timeout === undefined ? {} : { timeoutMs: timeout }) };
}

/**
 * A start that another client had begun may have ended at the first login; the rest is waited for here.
 * @throws BangerError `cancelled` after Ctrl-C: the start is not ours to undo
 */
export async function settled(
  ctx: Context,
  vm: Vm,
  until: string | undefined,
  timeoutMs: number | undefined,
): Promise<Vm> {
  if (vm.ready || vm.state !== 'running' || until === 'reachable') return vm;
  const query = { for: 'ready', ...(timeoutMs === undefined ? {} : { timeoutMs }) };
  const leave = new AbortController();
  const left = ctx.interrupts().first.then(() => {
    throw new BangerError('cancelled', `${vm.name} runs and is not ready yet; another client had begun its start.`, {
      hint: `Wait for the rest: banger wait ${vm.name} --for ready`,
    });
  });
  try {
    return await Promise.race([
      ctx.api.call('waitVm', { params: { name: vm.name }, query, signal: leave.signal }),
      left,
    ]);
  } finally {
    leave.abort();
  }
}

/** e.g. `login after 6.2 s, ready after 9.1 s` */
export function startTimes({ bootMs, readyMs }: Pick<Vm, 'bootMs' | 'readyMs'>): string {
  const login = bootMs === null ? '' : `login after ${formatDuration(bootMs)}, `;
  return `${login}${readyMs === null ? 'not ready yet' : `ready after ${formatDuration(readyMs)}`}`;
}
