/** Suspends VMs that ask for it once nobody has used them for as long as they say. */
import { gatewayOf } from '../../core/addresses.ts';
import { type IdleSight, type IdleSpan, judgeIdle } from '../../core/idle.ts';
import { tapName, type VmRecord } from '../../core/vm.ts';
import { messageOf } from '../../errors.ts';
import { GUEST_SSH_PORT } from '../../guest/ssh.ts';
import { type Flow, listFlows } from '../../network/flows.ts';
import { readTapStats } from '../../network/tap-stats.ts';
import { readProcessTree } from '../../system/process-stats.ts';
import type { Host } from '../host.ts';
import type { Life } from '../vm/life.ts';
import { vmmProcess } from '../vm/problem.ts';

export interface IdleWatch {
  /** Looks at each VM that is to be suspended when idle, and suspends those that were for long enough. */
  look(): Promise<void>;
}

/** Of IP. */
const TCP = 6;

/** How use is seen from outside of a guest. */
interface Sights {
  /** undefined where connections cannot be seen */
  flows(): Promise<Flow[] | undefined>;
  /** packets a VM's device has carried; undefined when it has none */
  packets(vm: Pick<VmRecord, 'id'>): Promise<number | undefined>;
}

const OWN_EYES: Sights = {
  flows: listFlows,
  async packets({ id }) {
    const tap = await readTapStats(tapName(id));
    return tap && tap.sentPackets + tap.receivedPackets;
  },
};

export function createIdleWatch(host: Host, life: Pick<Life, 'suspend'>, sights: Sights = OWN_EYES): IdleWatch {
  /** by id of the VM */
  const spans = new Map<string, IdleSpan>();
  /** ids of VMs that could not be suspended: told once for each run */
  const told = new Map<string, string>();
  /** whether connections could be seen the last time, and whether they ever could */
  let sees = { now: true, ever: false };

  async function judge(vm: VmRecord, flows: readonly Flow[] | undefined): Promise<void> {
    const seen = await sightOf(host, vm, flows, sights);
    if (!seen) {
      spans.delete(vm.id);
      return;
    }
    const { span, suspend } = judgeIdle(spans.get(vm.id), seen, vm.idleSuspendMs, vm.awakeUntil);
    spans.set(vm.id, span);
    // whoever began something meanwhile is at it
    if (!suspend || host.operations.activeOn(vm.name) || host.stores.sessions.count(vm.id) > 0) return;
    spans.delete(vm.id);
    host.log.info({ vm: vm.name, idleMs: vm.idleSuspendMs }, 'suspended, as nobody uses it');
    const { id } = life.suspend(vm.name);
    const { error } = await host.operations.finished(id);
    if (!error || told.get(vm.id) === seen.run) return;
    told.set(vm.id, seen.run);
    host.log.warn({ vm: vm.name, error: error.message }, 'an idle VM was not suspended');
  }

  return {
    async look() {
      const watched = host.stores.vms.list().filter((vm) => vm.idleSuspendMs > 0 && isUp(vm));
      for (const id of spans.keys()) if (!watched.some((vm) => vm.id === id)) spans.delete(id);
      if (watched.length === 0) return;
      const flows = await sights.flows();
      const saw = sees;
      sees = { now: flows !== undefined, ever: saw.ever || flows !== undefined };
      // what is not seen this time may be a connection without a packet: nobody is suspended on half of the evidence
      if (flows === undefined && sees.ever) {
        if (saw.now) host.log.warn({}, 'connections cannot be seen any more; until they can, no idle VM is suspended');
        return;
      }
      for (const vm of watched) {
        await judge(vm, flows).catch((error) =>
          host.log.error({ vm: vm.name, error: messageOf(error) }, 'it could not be seen whether a VM is used'),
        );
      }
    },
  };
}

/** One that still boots, or is held, is not idle. */
function isUp({ phase, ready, paused }: VmRecord): boolean {
  return phase === 'running' && ready !== null && paused === null;
}

async function sightOf(
  host: Host,
  vm: VmRecord,
  flows: readonly Flow[] | undefined,
  sights: Sights,
): Promise<IdleSight | undefined> {
  const pid = vmmProcess(host, vm);
  if (pid === undefined || host.operations.activeOn(vm.name)) return undefined;
  const [processes, packets] = await Promise.all([readProcessTree(pid), sights.packets(vm)]);
  const [vmm] = processes;
  if (!vmm || packets === undefined) return undefined;
  return {
    nowMs: host.now().getTime(),
    run: `${pid} ${vmm.startTicks}`,
    sessions: host.stores.sessions.count(vm.id),
    connections: flows && connectionsOf(host, vm, flows),
    packets,
    cpuMs: processes.reduce((sum, { cpuMs }) => sum + cpuMs, 0),
  };
}

/**
 * Connections that somebody uses: open ones of TCP either way, and what others ask of it over other protocols. What a guest asks
 * of others without TCP is names and the time. The daemon's own connection is none.
 */
function connectionsOf(host: Host, { id, address }: VmRecord, flows: readonly Flow[]): number {
  const gateway = gatewayOf(host.network.pool);
  const used = flows.filter(
    ({ source, target, protocol, ended }) => !ended && (target === address || (source === address && protocol === TCP)),
  );
  const logins = used.filter(({ source, targetPort }) => source === gateway && targetPort === GUEST_SSH_PORT);
  const own = host.guests.peek({ id }) && logins.length > 0 ? 1 : 0;
  return used.length - own;
}
