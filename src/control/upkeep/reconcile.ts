/** Brings records and host together: at daemon start, and every 30 s what no operation is at. */
import { type ReconcileAction, reconcile, type SeenVm } from '../../core/reconcile.ts';
import type { VmRecord } from '../../core/vm.ts';
import { ended, failed, interrupted, stopped, stopping, suspendedAgain } from '../../core/vm-changes.ts';
import { BangerError, messageOf } from '../../errors.ts';
import { describeVmm } from '../../firecracker/api.ts';
import { listVmms } from '../../firecracker/launch.ts';
import { lastWords, vmmExitedCleanly } from '../../firecracker/vmm-log.ts';
import { endSelfTests } from '../../preflight/self-test.ts';
import { removeProbes } from '../../storage/file-system.ts';
import { forgetShared } from '../../storage/kept-disks.ts';
import { memoryFiles, vmFiles } from '../../storage/layout.ts';
import { readBootId } from '../../system/processes.ts';
import { settleDiskWork } from '../disks/disk-work.ts';
import type { Host } from '../host.ts';
import { forgetMemory } from '../memory/checkpoint.ts';
import { readManifest } from '../memory/manifest.ts';
import { isUnused } from '../memory/restore.ts';
import { recoverSnapshots } from '../snapshots/restore.ts';
import { stepGuestClocks } from '../vm/guest-clock.ts';
import type { Life } from '../vm/life.ts';
import { holdAdopted } from '../vm/pause.ts';
import { haltedProcess } from '../vm/problem.ts';
import { recoverRebase } from '../vm/rebase.ts';
import { discardVm, releaseVm } from '../vm/release.ts';
import { guestEnd } from '../vm/run-end.ts';
import { goOnRunning } from '../vm/suspend.ts';
import { removeAbandoned } from '../vm/temporary.ts';
import { thawGuest } from '../vm/wake.ts';
import { findVmmOf, livesAsRecorded, vmmSocketOf, vmOfSocket } from '../vmm.ts';
import { sweepBundles } from './bundle-sweep.ts';
import { sweepImages } from './image-sweep.ts';
import { clearInterruptedWork, endInterruptedDownloads } from './interrupted-work.ts';
import type { Restarts } from './restarts.ts';

/** What `seen` needs an answer for; a living VMM that takes longer is wedged. */
const DESCRIBE_TIMEOUT_MS = 2000;

/** A check of a disk that takes longer is waited for by whoever needs the disk. */
const DISK_WORK_LIMIT_MS = 3000;

/** What a run of a VM has on the host, in the ledger. */
const OF_A_RUN: ReadonlySet<string> = new Set(['tap', 'vmm', 'cgroup']);

/** What follows the end of a run. */
type Followed = Pick<Restarts, 'ended' | 'startSoon'>;

/** Recovers every VM after the daemon was away; VMs are handled side by side. */
export async function reconcileHost(host: Host, life: Life, restarts: Followed): Promise<void> {
  const found = await listVmms((path) => vmOfSocket(host, path) !== undefined);
  const serving = new Set(found.map(({ socketPath }) => socketPath));
  await Promise.all(
    host.stores.vms.list().map(async (vm) => {
      try {
        const alive = serving.has(vmmSocketOf(host, vm.id)) || (await livesAsRecorded(host, vm));
        const action = await recoverVm(host, life, restarts, vm, alive);
        if (action.do === 'finish-resume') finishResume(host, life, restarts, vm);
      } catch (error) {
        host.log.error({ vm: vm.name, error: messageOf(error) }, 'reconcile failed');
        await attempt(host, 'recording that', () => recordFailure(host, vm, error));
      }
    }),
  );
  await attempt(host, 'deleting temporary VMs', () => removeAbandoned(host, life));
  const { cache, store } = host.config.paths;
  await attempt(host, 'ending downloads of an earlier daemon', () => endInterruptedDownloads(host));
  await attempt(host, 'removing tries of the file system', () => removeProbes(store));
  await attempt(host, 'freeing what no VM owns', () => freeOwnerless(host));
  await attempt(host, 'looking after images', () => sweepImages(host));
  await attempt(host, 'looking after bundles', () => sweepBundles(host));
  await attempt(host, 'ending a KVM test of an earlier daemon', () => endSelfTests(cache, host.system.vmUsers));
  // after the deletions: a disk that was being kept has its VM's name no more
  await attempt(host, 'looking after kept disks', () => forgetShared(store));
  await attempt(host, 'looking after the network', async () => void (await host.network.reassert()));
}

/**
 * What keeps a VM from being recovered may be over in a moment, as a program that took too long. So nothing is called failed
 * whose memory is saved or in a VMM that lives: what is called so loses both. Nor is what is being created or deleted, of which
 * half a VM would stay. The next sweep tries again.
 */
async function recordFailure(host: Host, { id }: Pick<VmRecord, 'id'>, error: unknown): Promise<void> {
  const vm = host.stores.vms.findById(id);
  if (!vm || vm.memory !== null || vm.phase === 'creating' || (await findVmmOf(host, vm))) return;
  host.stores.vms.update(id, failed(`After the daemon's restart: ${messageOf(error)}`));
}

/**
 * Its guest takes as long as it takes to answer: nobody waits for that but who wants the VM. One that does not go on is
 * started again if its policy wants it.
 */
function finishResume(host: Host, life: Life, restarts: Followed, vm: VmRecord): void {
  const { id } = life.resume(vm.name);
  void attempt(host, `what follows the resume of ${vm.name}`, async () => {
    const { error } = await host.operations.finished(id);
    if (error === null) return;
    host.log.error({ vm: vm.name, error: error.message }, 'a resume that was interrupted could not be finished');
    if (host.stores.vms.findById(vm.id)?.phase === 'failed') restarts.ended(vm, 'failure');
  });
}

/** A daemon that cannot put one thing right serves all others; the next sweep tries again. */
async function attempt(host: Pick<Host, 'log'>, what: string, work: () => Promise<unknown>): Promise<void> {
  try {
    await work();
  } catch (error) {
    host.log.error({ error: messageOf(error) }, `${what} failed`);
  }
}

/**
 * The same while the daemon works: whatever is neither as its record says nor being worked on. What an operation is
 * at is left to it; what is found is put right as an operation, so that no other can come in between.
 */
export async function sweepHost(host: Host, life: Life, restarts: Followed): Promise<void> {
  // all at once: a question for each VM would be most of what an idle daemon does
  const holding = new Set(
    host.stores.ledger.all().flatMap(({ owner, resource }) => (OF_A_RUN.has(resource.kind) ? [owner] : [])),
  );
  for (const seen of host.stores.vms.list()) {
    if (host.operations.activeOn(seen.name) || !isOff(life, seen, (id) => holding.has(id))) continue;
    // the ones before it took their time
    const vm = host.stores.vms.findById(seen.id);
    if (!vm || !isOff(life, vm, () => holdsSomething(host, vm))) continue;
    await attempt(host, `recovering ${vm.name}`, async () => {
      let action: ReconcileAction | undefined;
      const { id } = host.operations.start({
        kind: 'vm.recover',
        target: vm.name,
        run: async () => {
          const alive = (await findVmmOf(host, vm)) !== undefined;
          action = await recoverVm(host, life, restarts, vm, alive);
        },
      });
      await host.operations.finished(id);
      if (action?.do === 'finish-resume') finishResume(host, life, restarts, vm);
    });
  }
  await attempt(host, 'deleting temporary VMs', () => removeAbandoned(host, life));
  // what an operation makes for something other than a VM may have no owner yet that is known here
  if (host.operations.runningCount() === 0) {
    await attempt(host, 'freeing what no VM owns', () => freeOwnerless(host));
  }
  await host.network.reassert();
}

/** @param holds whether a VM has something of a run on the host */
function isOff(life: Life, vm: VmRecord, holds: (id: string) => boolean): boolean {
  switch (vm.phase) {
    case 'running':
      return !life.watches(vm.id);
    case 'stopped':
    case 'failed':
    case 'suspended':
      return holds(vm.id);
    default:
      return true;
  }
}

/** Whether anything on the host is a run's of this VM. */
function holdsSomething(host: Pick<Host, 'stores'>, { id }: Pick<VmRecord, 'id'>): boolean {
  return host.stores.ledger.of(id).some(({ kind }) => OF_A_RUN.has(kind));
}

/** Entries whose VM is gone: a deletion that a crash cut in two, an image build. Of a VM in the trash, disks stay. */
async function freeOwnerless(host: Host): Promise<void> {
  // of one moment with the ledger: one that becomes a VM meanwhile is among them
  const owners = new Set([...host.stores.vms.list(), ...host.stores.buildVms.list()].map(({ id }) => id));
  for (const { owner, resource } of host.stores.ledger.all()) {
    if (owner === 'host' || owners.has(owner)) continue;
    // had back from the trash while the ones before it were freed
    if (host.stores.vms.findById(owner)) continue;
    const trashed = host.stores.trash.has(owner);
    if (trashed && resource.kind === 'directory') continue;
    await attempt(host, `freeing what ${owner} had`, async () => {
      await releaseVm(host, { id: owner, name: owner });
      if (trashed) return;
      await clearInterruptedWork(host, { id: owner });
      await discardVm(host, { id: owner });
    });
  }
}

/** Asks every VMM that should answer whether it does; the answer is shown with its VM. */
export async function checkVmms(host: Host): Promise<void> {
  await Promise.all(
    host.stores.vms.list().map(async (vm) => {
      if (vm.phase !== 'running') return;
      // a halted one cannot answer, and is known by that
      if (haltedProcess(host, vm) !== undefined) return;
      const state = await askVmm(vmmSocketOf(host, vm.id));
      if (host.stores.vms.findById(vm.id)?.phase !== 'running') return;
      if (state === 'started') host.health.silent.delete(vm.id);
      else host.health.silent.add(vm.id);
    }),
  );
}

/** @returns what was done; a resume is still to be finished, by whoever asked */
async function recoverVm(
  host: Host,
  life: Life,
  restarts: Followed,
  vm: VmRecord,
  vmmAlive: boolean,
): Promise<ReconcileAction> {
  const action = await reconcileVm(host, life, restarts, vm, vmmAlive);
  // after it: the disks of a VM that runs are left alone
  if (await recoverRebase(host, vm, vm.phase)) restarts.startSoon(host.stores.vms.get(vm.name));
  if (await recoverSnapshots(host, vm)) restarts.startSoon(host.stores.vms.get(vm.name));
  return action;
}

async function reconcileVm(
  host: Host,
  life: Life,
  restarts: Followed,
  vm: VmRecord,
  vmmAlive: boolean,
): Promise<ReconcileAction> {
  const rebased = host.stores.ledger.of(vm.id).some(({ kind }) => kind === 'rebase');
  if (vm.phase === 'creating' || vm.phase === 'starting' || rebased) await clearInterruptedWork(host, vm);
  await settleDiskWork(host, vm, DISK_WORK_LIMIT_MS);
  // what an operation left that could not finish it, or a daemon that died
  if (vm.memory === null && vm.phase !== 'suspending') await forgetMemory(host, vm);
  const action = reconcile(vm.phase, await observe(host, vm, vmmAlive));
  if (action.do !== 'nothing') host.log.info({ vm: vm.name, ...action }, 'reconcile');
  await carryOut(host, life, restarts, vm, action);
  return action;
}

async function carryOut(
  host: Host,
  life: Life,
  restarts: Followed,
  vm: VmRecord,
  action: ReconcileAction,
): Promise<void> {
  switch (action.do) {
    case 'adopt':
      life.adopt(vm);
      await attempt(host, `holding ${vm.name}`, () => holdAdopted(host, vm));
      return;
    case 'go-on': {
      await goOnRunning(host, vm);
      const running = host.stores.vms.get(vm.name);
      life.adopt(running);
      // it may have stood still for as long as no daemon was there; it answers when it answers
      void thawGuest(host, running).then(() => stepGuestClocks(host, [running]));
      return;
    }
    case 'keep-suspended':
      await releaseVm(host, vm);
      if (vm.memory) host.stores.vms.update(vm.id, suspendedAgain(vm.memory));
      return;
    case 'release':
      // by what is freed first it is known that the host restarted: a death in between must not look like the VMM's
      if (vm.phase === 'running') host.stores.vms.update(vm.id, stopping());
      await releaseVm(host, vm);
      host.stores.vms.update(vm.id, interrupted(vm));
      await forgetMemory(host, vm);
      return;
    case 'fail': {
      const failure = `${action.because}.${await lastWords(vmFiles(host.config.paths.store, vm.id).vmmLog)}`;
      await releaseVm(host, vm);
      host.stores.vms.update(vm.id, failed(failure));
      await forgetMemory(host, vm);
      restarts.ended(vm, 'failure');
      return;
    }
    case 'start-again': {
      const end = await guestEnd(host, vm);
      await releaseVm(host, vm);
      if (end.kind === 'panic') {
        host.stores.vms.update(vm.id, ended({ at: host.now().toISOString(), ...end }));
        restarts.ended(vm, 'failure');
        return;
      }
      host.stores.vms.update(vm.id, stopped());
      if (end.kind === 'poweroff') restarts.ended(vm, 'poweroff');
      else restarts.startSoon(vm);
      return;
    }
    case 'discard':
      await releaseVm(host, vm);
      await discardVm(host, vm);
      return;
    case 'finish-resume':
    case 'nothing':
      return;
  }
}

async function observe(host: Host, vm: VmRecord, vmmAlive: boolean): Promise<SeenVm> {
  const socketPath = vmmSocketOf(host, vm.id);
  const recorded = host.stores.ledger.of(vm.id).find((resource) => resource.kind === 'vmm');
  const bootId = recorded?.kind === 'vmm' ? recorded.identity?.bootId : undefined;
  const current = await readBootId();
  return {
    vmmAlive,
    vmm: vmmAlive ? await askVmm(socketPath) : 'unreachable',
    guestRebooted: !vmmAlive && (await vmmExitedCleanly(vmFiles(host.config.paths.store, vm.id).vmmLog)),
    hostRestarted:
      (bootId !== undefined && bootId !== current) || (vm.memory?.spentOn != null && vm.memory.spentOn !== current),
    holdsSomething: holdsSomething(host, vm),
    memory: await memoryOf(host, vm),
  };
}

/** What can be said of the memory of a VM that was about to go on, after its VMM may have ended. */
async function memoryOf(host: Host, vm: VmRecord): Promise<SeenVm['memory']> {
  if (vm.memory === null) return 'none';
  if (vm.memory.spentOn === null) return 'whole';
  // a host that went down may have kept what the guest wrote and lost when it did
  if (vm.memory.spentOn !== (await readBootId())) return 'overtaken';
  try {
    const files = memoryFiles(host.config.paths.store, vm.id);
    const manifest = await readManifest(files, vm.memory.id);
    return (await isUnused(host, vm, files, manifest)) ? 'unused' : 'overtaken';
  } catch (error) {
    // what cannot be read now may be read in a moment
    if (!(error instanceof BangerError)) throw error;
    return 'overtaken';
  }
}

async function askVmm(socketPath: string): Promise<SeenVm['vmm']> {
  try {
    const answer = await describeVmm(socketPath, DESCRIBE_TIMEOUT_MS);
    if (answer === 'silent') return 'silent';
    return answer.state === 'Running' || answer.state === 'Paused' ? 'started' : 'not-started';
  } catch {
    return 'unreachable';
  }
}
