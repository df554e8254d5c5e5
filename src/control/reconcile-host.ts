/** Brings records and host together: at daemon start everything, every 30 s what can drift. */
import { reconcile, type SeenVm } from '../core/reconcile.ts';
import type { VmRecord } from '../core/vm.ts';
import { messageOf } from '../errors.ts';
import { connectVmm } from '../firecracker/api.ts';
import { lastLines } from '../firecracker/console.ts';
import { findVmm } from '../firecracker/launch.ts';
import { vmFiles, vmmSocket } from '../storage/layout.ts';
import { expiry } from '../system/abort.ts';
import { readBootId } from '../system/processes.ts';
import { discardVm } from './create-vm.ts';
import type { Host } from './host.ts';
import { clearInterruptedWork } from './interrupted-work.ts';
import { releaseVm } from './release-vm.ts';
import { type Supervisor, vmmExitedCleanly } from './supervisor.ts';

/** What `seen` needs an answer for; a living VMM that takes longer is wedged. */
const DESCRIBE_TIMEOUT_MS = 2000;

/** Recovers every VM after the daemon was away; VMs are handled side by side. */
export async function reconcileHost(
  host: Host,
  supervisor: Supervisor,
  startAgain: (vm: VmRecord) => void,
): Promise<void> {
  await Promise.all(
    host.vms.list().map(async (vm) => {
      try {
        await reconcileVm(host, supervisor, startAgain, vm);
      } catch (error) {
        host.log.error({ vm: vm.name, error: messageOf(error) }, 'reconcile failed');
        host.vms.update(vm.id, { phase: 'failed', failure: `After the daemon's restart: ${messageOf(error)}` });
      }
    }),
  );
  // entries without a VM: a deletion that a crash cut in two, or an image build
  for (const { owner } of host.ledger.all()) {
    if (owner === 'host' || host.vms.findById(owner)) continue;
    await releaseVm(host, { id: owner, name: owner });
    await clearInterruptedWork(host, { id: owner });
    await discardVm(host, { id: owner });
  }
  await host.network.reassert();
}

async function reconcileVm(
  host: Host,
  supervisor: Supervisor,
  startAgain: (vm: VmRecord) => void,
  vm: VmRecord,
): Promise<void> {
  if (vm.phase === 'creating' || vm.phase === 'starting') await clearInterruptedWork(host, vm);
  const action = reconcile(vm.phase, await observe(host, vm));
  if (action.do !== 'nothing') host.log.info({ vm: vm.name, ...action }, 'reconcile');
  switch (action.do) {
    case 'adopt':
      supervisor.watch(vm);
      return;
    case 'release':
      await releaseVm(host, vm);
      host.vms.update(vm.id, { phase: 'stopped', failure: null, startedAt: null, vmm: null });
      return;
    case 'fail': {
      const words = (await lastLines(vmFiles(host.config.paths.store, vm.id).vmmLog, 3)).join(' | ');
      await releaseVm(host, vm);
      const failure = `${action.because}.${words ? ` Its log ends with: ${words}` : ''}`;
      host.vms.update(vm.id, { phase: 'failed', failure, startedAt: null, vmm: null });
      return;
    }
    case 'start-again':
      await releaseVm(host, vm);
      host.vms.update(vm.id, { phase: 'stopped', startedAt: null, vmm: null });
      startAgain(vm);
      return;
    case 'discard':
      await releaseVm(host, vm);
      await discardVm(host, vm);
      return;
    case 'nothing':
      return;
  }
}

async function observe(host: Host, vm: VmRecord): Promise<SeenVm> {
  const socketPath = vmmSocket(host.config.paths.run, vm.id);
  const vmmAlive = (await findVmm(socketPath)) !== undefined;
  const recorded = host.ledger.of(vm.id).find((resource) => resource.kind === 'vmm');
  const bootId = recorded?.kind === 'vmm' ? recorded.identity?.bootId : undefined;
  return {
    vmmAlive,
    guestStarted: vmmAlive && (await guestStarted(socketPath)),
    guestRebooted: !vmmAlive && (await vmmExitedCleanly(vmFiles(host.config.paths.store, vm.id).vmmLog)),
    hostRestarted: bootId !== undefined && bootId !== (await readBootId()),
  };
}

async function guestStarted(socketPath: string): Promise<boolean> {
  await using api = connectVmm(socketPath);
  const state = await Promise.race([
    api.describe().then((instance) => instance.state),
    expiry(DESCRIBE_TIMEOUT_MS),
  ]).catch(() => undefined);
  return state === 'Running' || state === 'Paused';
}
