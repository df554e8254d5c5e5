/** What is wrong with a VM that runs, in a sentence for people: seen at the moment when somebody asks. */
import { type Paused, tapName, type VmRecord } from '../../core/vm.ts';
import { BangerError } from '../../errors.ts';
import { tapExists } from '../../network/tap.ts';
import { haltedBy } from '../../system/processes.ts';
import type { Host } from '../host.ts';

/** The process of a VM that is halted: its VMM, or what runs below it; undefined when none is. */
export function haltedProcess(host: Pick<Host, 'stores'>, vm: Pick<VmRecord, 'id'>): number | undefined {
  const pid = vmmProcess(host, vm);
  return pid === undefined ? undefined : haltedBy(pid);
}

/** Process id of a VM's VMM, undefined when none is known. */
export function vmmProcess(host: Pick<Host, 'stores'>, vm: Pick<VmRecord, 'id'>): number | undefined {
  const vmm = host.stores.ledger.of(vm.id).find((resource) => resource.kind === 'vmm');
  return vmm?.kind === 'vmm' ? vmm.identity?.pid : undefined;
}

/** How long an end that nobody wanted is told with the VM that runs again. */
const TOLD_MS = 3_600_000;

/** Null when nothing is, or the VM does not run. */
export async function problemOf(host: Pick<Host, 'stores' | 'health'>, vm: VmRecord): Promise<string | null> {
  if (vm.phase !== 'running') return null;
  const halted = haltedProcess(host, vm);
  if (halted !== undefined) {
    return `Its VMM is halted (process ${halted} got SIGSTOP). Let it go on with: kill -CONT ${halted}   or end it with: banger kill ${vm.name}`;
  }
  if (vm.paused !== null) return describePause(vm, vm.paused);
  const tap = tapName(vm.id);
  if (host.stores.ledger.of(vm.id).some(({ kind }) => kind === 'tap') && !(await tapExists(tap))) {
    return `Its network device ${tap} was deleted, so it has no network. Bring it back with: banger restart ${vm.name}`;
  }
  if (host.health.silent.has(vm.id)) {
    return `Its VMM does not answer. See: banger logs ${vm.name} --vmm   or end it with: banger kill ${vm.name}`;
  }
  if (host.health.emulatedMeanwhile.has(vm.id)) {
    return `It is emulated: KVM had not shown by its start that guests run under it. See whether it does by now: banger doctor   and give it KVM: banger restart ${vm.name}`;
  }
  if (vm.lastEnd !== null && Date.now() - Date.parse(vm.lastEnd.at) < TOLD_MS) {
    return `It was started again after ${vm.lastEnd.at}: ${vm.lastEnd.why} See: banger show ${vm.name}   banger logs ${vm.name} --previous`;
  }
  return null;
}

/** Why the daemon holds it, when it goes on, and what helps. */
function describePause({ name }: Pick<VmRecord, 'name'>, { at, why, until }: Paused): string {
  return `It is paused since ${at}: ${why} It goes on ${until}. ${MAKE_ROOM}   or let it go on now: banger start ${name}`;
}

const MAKE_ROOM =
  'See what takes the room: banger storage show   Make some: banger trash empty   banger image prune   banger gc';

/** @throws BangerError `conflict` unless the VM runs and its guest is not held */
export function requireRunning(vm: VmRecord): void {
  if (vm.phase === 'running' && vm.paused !== null) {
    throw new BangerError('conflict', `${vm.name} is paused: ${vm.paused.why}`, {
      hint: `${MAKE_ROOM}   or let it go on now: banger start ${vm.name}`,
    });
  }
  if (vm.phase === 'running') return;
  const state = vm.phase === 'failed' ? `failed: ${vm.failure ?? 'unknown reason'}` : vm.phase;
  throw new BangerError('conflict', `${vm.name} is not running (${state}).`, { hint: wayToRun(vm) });
}

function wayToRun({ name, phase, memory }: VmRecord): string {
  if (phase === 'starting' || phase === 'suspending' || phase === 'resuming') {
    return `Wait for it: banger wait ${name} --for running`;
  }
  return memory === null ? `Start it with: banger start ${name}` : `Let it go on with: banger resume ${name}`;
}
