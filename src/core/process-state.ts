/** How the process of an OCI image is doing, by what its guest says of it; guests may say anything. */

export interface ProcessState {
  /** `waiting`: it failed and begins again in a moment; `none`: nothing is to run */
  state: 'running' | 'waiting' | 'ended' | 'failed' | 'none';
  /** how it ended the last time, e.g. `status 3`, or why it could not begin; empty while it has not */
  detail: string;
  /** how often it was begun again since the guest booted */
  restarts: number;
  /** what its HEALTHCHECK found; null without one, and while it does not run */
  health: { state: HealthState; detail: string } | null;
}

/** `starting`: not well yet, and not asked often enough to say that it will not be. */
export type HealthState = 'starting' | 'healthy' | 'unhealthy';

/** More than any guest of ours writes. */
const MAX_DETAIL = 200;

/** Run in a guest: the agent's own record, or what systemd says of the unit. */
export const PROCESS_STATE_COMMAND = `if [ -r /run/banger/service-state ]; then cat /run/banger/service-state
elif [ -e /run/systemd/system/banger-process.service ]; then
  systemctl show banger-process.service -p ActiveState,SubState,NRestarts,ExecMainCode,ExecMainStatus
fi
[ ! -r /run/banger/health-state ] || cat /run/banger/health-state`;

const STATES = ['running', 'waiting', 'ended', 'failed', 'none'] as const satisfies readonly ProcessState['state'][];
const HEALTH = ['starting', 'healthy', 'unhealthy'] as const satisfies readonly HealthState[];
/** systemd's, by ActiveState. */
const UNIT_STATES: ReadonlyMap<string, ProcessState['state']> = new Map(
  Object.entries({
    ...{ active: 'running', activating: 'waiting', inactive: 'ended', deactivating: 'running', failed: 'failed' },
  } as const),
);

/** Undefined where nothing of the kind was said. */
export function parseProcessState(text: string): ProcessState | undefined {
  const fields = new Map(
    text.split('\n').flatMap((line): [string, string][] => {
      const at = line.indexOf('=');
      return at < 0 ? [] : [[line.slice(0, at), line.slice(at + 1).trim()]];
    }),
  );
  const own = STATES.find((word) => word === fields.get('state'));
  const healthState = HEALTH.find((word) => word === fields.get('health'));
  const health = healthState ? { state: healthState, detail: cut(fields.get('health-detail') ?? '') } : null;
  if (own !== undefined) {
    return { state: own, detail: cut(fields.get('detail') ?? ''), restarts: count(fields.get('restarts')), health };
  }
  const unit = UNIT_STATES.get(fields.get('ActiveState') ?? '');
  if (unit === undefined) return undefined;
  // si_code of its end: CLD_EXITED, CLD_KILLED, CLD_DUMPED (siginfo.h)
  const [code, status] = [fields.get('ExecMainCode'), fields.get('ExecMainStatus')];
  const how = code === '1' ? 'status' : code === '2' || code === '3' ? 'signal' : undefined;
  const detail = how === undefined || status === undefined ? '' : `${how} ${status}`;
  return { state: unit, detail: cut(detail), restarts: count(fields.get('NRestarts')), health };
}

const LINE =
  /^banger-init: service (?:(started)|ended with ([\w ]{1,40}?)( and begins again in \d{1,9} s)?|could not begin: (.{1,400}))$/;

/** What a line of the console says of the process; undefined for all others. */
export function processEventOf(
  line: string,
): { state: Exclude<ProcessState['state'], 'none'>; detail: string } | undefined {
  const [, started, how, again, trouble] = LINE.exec(line) ?? [];
  if (started !== undefined) return { state: 'running', detail: '' };
  if (trouble !== undefined) return { state: 'failed', detail: cut(trouble) };
  if (how === undefined) return undefined;
  if (again !== undefined) return { state: 'waiting', detail: how };
  return { state: how === 'status 0' ? 'ended' : 'failed', detail: how };
}

const HEALTH_LINE = /^banger-init: service is (starting|healthy|unhealthy)(?:: (.{1,300}))?$/;

/** What a line of the console says of its health; undefined for all others. */
export function healthEventOf(line: string): { state: HealthState; detail: string } | undefined {
  const [, word = '', detail = ''] = HEALTH_LINE.exec(line) ?? [];
  const state = HEALTH.find((each) => each === word);
  return state && { state, detail: cut(detail) };
}

function cut(text: string): string {
  return text.slice(0, MAX_DETAIL);
}

function count(text: string | undefined): number {
  return text !== undefined && /^\d{1,9}$/.test(text) ? Number(text) : 0;
}
