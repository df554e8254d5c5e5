/** Actions whose answer is always a refusal, because QEMU's microvm machine has no counterpart. */
import type { ActionArguments } from '../api/actions.ts';
import { Fault, unsupported } from '../fault.ts';

const DEVICE_NOT_FOUND = 'Failed perform action on device: Device not found';

/** Before the start. An empty CPU configuration changes nothing and is accepted. */
export const refusedBeforeStart = {
  PutCpuConfiguration: (config: ActionArguments['PutCpuConfiguration']) => {
    if (Object.values(config).some((modifiers) => modifiers.length > 0)) {
      throw unsupported('Configure CPU error', 'CPU modifiers are');
    }
  },
  SetMemoryHotplugDevice: () => {
    throw unsupported('Memory hotplug config error', 'hotpluggable memory is');
  },
};

/** What Firecracker refuses itself is told first. */
export function refusePmem({ root_device }: ActionArguments['InsertPmemDevice'], hasRootDrive: boolean): never {
  const prefix = 'Pmem config error';
  if (!root_device || !hasRootDrive) throw unsupported(prefix, 'pmem devices are');
  throw new Fault(`${prefix}: Attempt to add pmem as a root device while the root device defined as a block device`);
}

/** After the start: hot-plug needs PCI, which microvm machines have no part of here. */
export const refusedAfterStart = {
  InsertBlockDevice: () => withoutPci('Drive config error'),
  RemoveBlockDevice: () => withoutPci('Drive config error'),
  InsertNetworkDevice: () => withoutPci('Network config error'),
  RemoveNetworkDevice: () => withoutPci('Network config error'),
  InsertPmemDevice: () => withoutPci('Pmem config error'),
  RemovePmemDevice: () => withoutPci('Pmem config error'),
  UpdatePmemDevice: () => {
    throw new Fault(
      `Pmem config error: Unable to patch the pmem device: ${DEVICE_NOT_FOUND} Please verify the request arguments.`,
    );
  },
  GetMemoryHotplugStatus: () => {
    throw new Fault(`Internal VMM error: ${DEVICE_NOT_FOUND}`);
  },
  UpdateMemoryHotplugSize: () => {
    throw new Fault(`Memory hotplug update error: ${DEVICE_NOT_FOUND}`);
  },
};

function withoutPci(prefix: string): never {
  throw new Fault(`${prefix}: PCI is not enabled`);
}
