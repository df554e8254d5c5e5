/** Which steps a start needs, from the record and from what is seen; steps of one stage run side by side. */
import { BangerError } from '../errors.ts';
import type { VmRecord } from './vm.ts';

export type StartStep =
  /** check the root disk and grow it to its size */
  | 'prepare-root-disk'
  | 'make-work-disk'
  /** grow the work disk to its size */
  | 'prepare-work-disk'
  | 'write-seed-drive'
  /** tap, address, route, firewall */
  | 'attach-network'
  | 'launch-vmm'
  /** machine, kernel, disks and network over the VMM's API */
  | 'configure-vmm'
  | 'boot-guest'
  /** until the first SSH login */
  | 'wait-for-ssh';

/** What the start shows a person while a step runs. */
export const STEP_LABELS: Record<StartStep, string> = {
  'prepare-root-disk': 'preparing the root disk',
  'make-work-disk': 'making the work disk',
  'prepare-work-disk': 'preparing the work disk',
  'write-seed-drive': 'writing the seed drive',
  'attach-network': 'attaching the network',
  'launch-vmm': 'launching the VMM',
  'configure-vmm': 'configuring the VM',
  'boot-guest': 'starting the kernel',
  'wait-for-ssh': 'waiting for SSH',
};

export interface ObservedVm {
  rootDiskExists: boolean;
  workDiskExists: boolean;
  /** a VMM process of this VM lives */
  vmmAlive: boolean;
}

/**
 * @throws BangerError `conflict` when it runs already
 * @throws BangerError `corrupt` when its root disk is gone
 */
export function planStart(vm: VmRecord, observed: ObservedVm): StartStep[][] {
  if (vm.phase === 'running' && observed.vmmAlive) {
    throw new BangerError('conflict', `${vm.name} is running already.`, { hint: `Log in with: banger ssh ${vm.name}` });
  }
  if (vm.memory !== null) {
    throw new BangerError('conflict', `${vm.name} is suspended; a boot would make its memory useless.`, {
      hint: `Let it go on: banger resume ${vm.name}   or give its memory up: banger start --discard-memory ${vm.name}`,
    });
  }
  if (!observed.rootDiskExists) {
    throw new BangerError('corrupt', `The root disk of ${vm.name} is gone.`, {
      hint: `Put the file back, or delete the VM with: banger rm ${vm.name}`,
    });
  }
  const workDisk = observed.workDiskExists ? 'prepare-work-disk' : 'make-work-disk';
  return [
    [
      'prepare-root-disk',
      ...(vm.workDiskBytes > 0 ? ([workDisk] as const) : []),
      'write-seed-drive',
      'attach-network',
      'launch-vmm',
    ],
    ['configure-vmm'],
    ['boot-guest'],
    ['wait-for-ssh'],
  ];
}
