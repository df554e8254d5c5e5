/** Changes the settings of a VM, at once where that can be done and otherwise for its next start. */
import { type PlannedChange, planSet, type Settable, type Wanted } from '../../core/plan-set.ts';
import type { VmRecord } from '../../core/vm.ts';
import type { Host } from '../host.ts';
import type { Progress } from '../operations.ts';
import { requireHostMemory } from './limits.ts';

export interface SetVm {
  vm: VmRecord;
  changes: PlannedChange[];
}

/** @param dryRun only say what would change */
export async function setVm(
  host: Host,
  name: string,
  wanted: Wanted,
  dryRun: boolean,
  progress: Progress,
): Promise<SetVm> {
  const vm = host.stores.vms.get(name);
  const changes = planSet(vm, wanted);
  if (wanted.memoryMib !== undefined) requireHostMemory(name, wanted.memoryMib);
  if (dryRun || changes.length === 0) return { vm, changes };
  // a stopped VM is checked when it starts
  if (wanted.nat === true && vm.phase === 'running') await host.checks.beforeNat(progress.warn);
  const values = Object.fromEntries(changes.map(({ setting, to }) => [setting, to])) as Partial<Settable>;
  // a plan made under another policy is no plan any more
  host.stores.vms.update(vm.id, { ...values, ...(values.restartPolicy === undefined ? {} : { restarts: null }) });
  if (values.nat !== undefined) {
    progress.step('write-rules', 'writing the packet rules');
    try {
      await host.network.rewrite();
    } catch (error) {
      host.stores.vms.update(vm.id, { nat: vm.nat });
      throw error;
    }
  }
  return { vm: host.stores.vms.get(name), changes };
}
