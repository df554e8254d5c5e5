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

  /** @returns undefined where connections are never seen, `blind` where they only are not this time */
  async function seeFlows(): Promise<Flow[] | undefined | 'blind'> {
    const flows = await sights.flows();
    const saw = sees;
    sees = { now: flows !== undefined, ever: saw.ever || flows !== undefined };
    // what is not seen this time may be a connection without a packet: nobody is suspended on half of the evidence
    if (flows !== undefined || !sees.ever) return flows;
    if (saw.now) host.log.warn({}, 'connections cannot be seen any more; until they can, no idle VM is suspended');
    return 'blind';
  }

  /** @returns the VM and the run that it was seen in when that is to be suspended, by what is known of it now */
  async function weigh(id: string, flows: typeof seeFlows): Promise<{ vm: VmRecord; run: string } | undefined> {
    const seen = await sightOf(host, id, flows, sights);
    if (seen === 'blind') return undefined;
    const vm = watchedVm(host, id);
    // whoever began something meanwhile is at it
    if (!seen || !vm || host.operations.activeOn(vm.name)) {
      spans.delete(id);
      return undefined;
    }
    const { span, suspend } = judgeIdle(spans.get(id), seen, vm.idleSuspendMs, vm.awakeUntil);
    spans.set(id, span);
    return suspend ? { vm, run: seen.run } : undefined;
  }

  async function judge(id: string, flows: Awaited<ReturnType<typeof seeFlows>>): Promise<void> {
    // those before it may have taken minutes to be suspended: what was seen by then says nothing of this moment
    const idle = (await weigh(id, async () => flows)) && (await weigh(id, seeFlows));
    if (!idle) return;
    const { vm, run } = idle;
    spans.delete(id);
    host.log.info({ vm: vm.name, idleMs: vm.idleSuspendMs }, 'suspended, as nobody uses it');
    const operation = life.suspend(vm.name);
    const { error } = await host.operations.finished(operation.id);
    if (!error || told.get(id) === run) return;
    told.set(id, run);
    host.log.warn({ vm: vm.name, error: error.message }, 'an idle VM was not suspended');
  }

  return {
    async look() {
      const watched = host.stores.vms.list().filter(isWatched);
      for (const id of spans.keys()) if (!watched.some((vm) => vm.id === id)) spans.delete(id);
      if (watched.length === 0) return;
      const flows = await seeFlows();
      if (flows === 'blind') return;
      for (const { id, name } of watched) {
        await judge(id, flows).catch((error) =>
          host.log.error({ vm: name, error: messageOf(error) }, 'it could not be seen whether a VM is used'),
        );
      }
    },
  };
}

/** Whether it is to be suspended when idle; one that still boots, or is held, is not idle. */
function isWatched({ phase, ready, paused, idleSuspendMs }: VmRecord): boolean {
  return idleSuspendMs > 0 && phase === 'running' && ready !== null && paused === null;
}

function watchedVm({ stores }: Pick<Host, 'stores'>, id: string): VmRecord | undefined {
  const vm = stores.vms.findById(id);
  return vm && isWatched(vm) ? vm : undefined;
}

/** @param flows what is asked last, as connections begin at any moment; `blind` when it cannot tell them */
async function sightOf(
  host: Host,
  id: string,
  flows: () => Promise<readonly Flow[] | undefined | 'blind'>,
  sights: Sights,
): Promise<IdleSight | undefined | 'blind'> {
  const vm = watchedVm(host, id);
  const pid = vm && vmmProcess(host, vm);
  if (!vm || pid === undefined || host.operations.activeOn(vm.name)) return undefined;
  const [processes, packets] = await Promise.all([readProcessTree(pid), sights.packets(vm)]);
  const [vmm] = processes;
  if (!vmm || packets === undefined) return undefined;
  const seen = await flows();
  if (seen === 'blind') return 'blind';
  return {
    nowMs: host.now().getTime(),
    run: `${pid} ${vmm.startTicks}`,
    sessions: host.stores.sessions.count(id),
    sessionsBegun: host.stores.sessions.begun(id),
    connections: seen && connectionsOf(host, vm, seen),
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
