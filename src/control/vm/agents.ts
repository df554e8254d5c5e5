/**
 * Connections to the agents of VMs that run, kept open. A VM without one is served over SSH: its initrd is older or another's,
 * or its agent is gone. Which of them it is is remembered, so that nobody waits for it twice, and told once.
 */
import { access, constants, open } from 'node:fs/promises';
import { basename } from 'node:path';
import type { VmRecord } from '../../core/vm.ts';
import { messageOf, systemCode } from '../../errors.ts';
import { connectAgent, type GuestAgent } from '../../guest/agent/agent.ts';
import { AgentError } from '../../guest/agent/errors.ts';
import { MAX_SOCKET_PATH_BYTES, vmFiles } from '../../storage/layout.ts';
import type { AgentStanding, Agents, Host } from '../host.ts';

/** What connecting and the first word may take: a guest under load is slow, and whoever waits could go on by SSH. */
const CONNECT_LIMIT_MS = 2000;

/** How long a VM without an agent is believed to have none: one that fell is begun again within a second. */
const ABSENT_MS = 5000;

interface Known {
  /** of the run it is known of */
  startedAt: string | null;
  standing: AgentStanding;
  /** of `performance.now()` */
  until: number;
}

type Deps = Pick<Host, 'config' | 'log' | 'events' | 'system'>;

export function createAgents({ config, log, events, system }: Deps): Agents {
  const connected = new Map<string, GuestAgent>();
  const connecting = new Map<string, Promise<GuestAgent | undefined>>();
  const known = new Map<string, Known>();

  async function connect(vm: Pick<VmRecord, 'id'>, timeoutMs: number, signal?: AbortSignal): Promise<GuestAgent> {
    const { directory, vsock } = vmFiles(config.paths.store, vm.id);
    await takeSocket(vsock);
    if (Buffer.byteLength(vsock) <= MAX_SOCKET_PATH_BYTES) return await connectAgent(vsock, { timeoutMs, signal });
    // a path may be longer than an address: the directory is named by a descriptor then
    const place = await open(directory, constants.O_RDONLY | constants.O_DIRECTORY);
    try {
      return await connectAgent(`/proc/self/fd/${place.fd}/${basename(vsock)}`, { timeoutMs, signal });
    } finally {
      await place.close();
    }
  }

  /** One that a VMM run by sudo has made belongs to root. */
  async function takeSocket(path: string): Promise<void> {
    const mine = await access(path, constants.W_OK).then(
      () => true,
      (error) => systemCode(error) !== 'EACCES',
    );
    if (!mine) await system.privileged.run(['chown', String(system.uid), path]);
  }

  function keep(vm: Pick<VmRecord, 'id' | 'name' | 'startedAt'>, agent: GuestAgent): void {
    const old = connected.get(vm.id);
    connected.set(vm.id, agent);
    const { version, features } = agent.hello;
    note(vm, { kind: 'present', version, features: [...features] }, Number.POSITIVE_INFINITY);
    agent.onClose(() => {
      if (connected.get(vm.id) !== agent) return;
      connected.delete(vm.id);
      known.delete(vm.id);
    });
    if (old && old !== agent) void old[Symbol.asyncDispose]();
  }

  function note(vm: Pick<VmRecord, 'id' | 'startedAt'>, standing: AgentStanding, until: number): void {
    known.set(vm.id, { startedAt: vm.startedAt, standing, until });
  }

  /** Says once for each run what is the matter with an agent that is there. */
  function noteTrouble(vm: Pick<VmRecord, 'id' | 'name' | 'startedAt'>, error: unknown): void {
    const trouble = error instanceof AgentError ? error.trouble : 'gone';
    const before = known.get(vm.id);
    const told = before?.startedAt === vm.startedAt && before.standing.kind !== 'present' ? before.standing : undefined;
    const standing: AgentStanding =
      trouble === 'absent' ? { kind: 'absent' } : { kind: 'troubled', why: messageOf(error) };
    note(vm, standing, performance.now() + ABSENT_MS);
    if (standing.kind === 'absent' || (told?.kind === 'troubled' && told.why === standing.why)) return;
    log.warn({ vm: vm.name, trouble, error: messageOf(error) }, 'the agent of a guest cannot be used; SSH is');
    events.publish({ type: 'vm.agent-troubled', vm: vm.name, id: vm.id, reason: standing.why });
  }

  return {
    async get(vm) {
      const ready = connected.get(vm.id);
      if (ready && !ready.closed) return ready;
      const before = known.get(vm.id);
      if (before && before.startedAt === vm.startedAt && before.until > performance.now()) return undefined;
      const pending =
        connecting.get(vm.id) ??
        connect(vm, CONNECT_LIMIT_MS)
          .then(
            (agent) => {
              keep(vm, agent);
              return agent;
            },
            (error) => {
              noteTrouble(vm, error);
              return undefined;
            },
          )
          .finally(() => connecting.delete(vm.id));
      connecting.set(vm.id, pending);
      return await pending;
    },
    async connect(vm, { timeoutMs, signal }) {
      const agent = await connect(vm, timeoutMs, signal);
      keep(vm, agent);
      return agent;
    },
    failed(vm, error) {
      noteTrouble(vm, error);
      const agent = connected.get(vm.id);
      connected.delete(vm.id);
      void agent?.[Symbol.asyncDispose]();
    },
    standing(vm) {
      const now = known.get(vm.id);
      // one that woke its guest was met before the run had begun
      if (now?.standing.kind === 'present' && connected.get(vm.id)?.closed === false) return now.standing;
      return now?.startedAt === vm.startedAt ? now.standing : undefined;
    },
    async drop(vm) {
      const agent = connected.get(vm.id);
      connected.delete(vm.id);
      known.delete(vm.id);
      await agent?.[Symbol.asyncDispose]();
    },
    async [Symbol.asyncDispose]() {
      await Promise.all([...connected.keys()].map((id) => this.drop({ id })));
    },
  };
}
