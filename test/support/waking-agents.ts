/** Agents of the guests of a host whose daemons die: they hold still and wake as they are told, and note it. */
import assert from 'node:assert/strict';
import type { Operation } from '../../src/api/operation.ts';
import type { Agents } from '../../src/control/host.ts';
import type { GuestAgent } from '../../src/guest/agent/agent.ts';
import type { WakeRequest } from '../../src/guest/agent/wake-request.ts';
import { effectOrNever } from './effects.ts';
import type { Daemon } from './mortal-host.ts';
import { NO_AGENTS } from './no-agents.ts';

export interface Guests {
  /** those who went on, oldest first */
  woken: WakeRequest[];
  /** called before one acknowledges */
  onWake?: (request: WakeRequest) => void;
}

/**
 * Agents of all guests of a host.
 * @param more what they can besides holding still and waking
 */
export function agentsOf(guests: Guests, more: Partial<GuestAgent> = {}): Agents {
  const done = async (what: string) => await effectOrNever(`agent: ${what}`);
  const agent: GuestAgent = {
    hello: {
      ...{ protocol: 1, version: '0', features: new Set(['quiesce', 'wake-same', 'wake-new']) },
      ...{ frozenBy: undefined, generation: undefined },
    },
    closed: false,
    quietMs: 0,
    onClose: () => {},
    ping: async () => {},
    ready: async () => undefined,
    async quiesce() {
      await done('quiesce');
      return { state: 'frozen', frozen: 1, notFrozen: 0, names: [] };
    },
    thaw: () => done('thaw'),
    async wake(request) {
      guests.onWake?.(request);
      await done(`wake ${request.mode}`);
      guests.woken.push(request);
      return { generation: request.generation, did: new Map() };
    },
    exec: () => assert.fail('nothing is run'),
    [Symbol.asyncDispose]: async () => {},
    ...more,
  };
  return { ...NO_AGENTS, get: async () => agent, connect: async () => agent };
}

/** Gives a daemon the agents of its host. */
export function withAgents(daemon: Daemon, guests: Guests): Daemon {
  daemon.host.agents = agentsOf(guests);
  return daemon;
}

/** What its agents do once one has held its guest. */
export function afterHolding({ host }: Daemon, changes: Partial<Agents>): void {
  const agents = { ...host.agents };
  host.agents = {
    ...agents,
    async drop(vm) {
      await agents.drop(vm);
      Object.assign(host.agents, changes);
    },
  };
}

/** What the client of an operation that has ended was warned of. */
export async function warningsOf({ host }: Daemon, operation: Operation | undefined): Promise<string[]> {
  const warnings: string[] = [];
  for await (const event of host.operations.events(operation?.id ?? '', new AbortController().signal)) {
    if (event.type === 'warning') warnings.push(event.message);
  }
  return warnings;
}
