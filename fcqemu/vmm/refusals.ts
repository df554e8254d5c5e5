/** Actions whose answer is always a refusal, because QEMU's microvm machine has no counterpart. */
import type { ActionArguments } from '../api/actions.ts';
import { Fault, unsupported } from '../fault.ts';
import { asU64 } from '../json/number-text.ts';

const DEVICE_NOT_FOUND = 'Failed perform action on device: Device not found';

/** Before the start. An empty CPU configuration changes nothing and is accepted. */
export const refusedBeforeStart = {
  PutCpuConfiguration: (config: ActionArguments['PutCpuConfiguration']) => {
    if (Object.values(config).some((modifiers) => modifiers.length > 0)) {
      throw unsupported('Configure CPU error', 'CPU modifiers are');
    }
  },
  SetMemoryHotplugDevice: (config: ActionArguments['SetMemoryHotplugDevice']) => {
    const problem = hotplugProblem(config);
    if (problem) throw new Fault(`Memory hotplug config error: ${problem}`);
    throw unsupported('Memory hotplug config error', 'hotpluggable memory is');
  },
};

/** `MiB` */
const MIN_BLOCK_SIZE = 2n;
const MIN_SLOT_SIZE = 128n;

/** What Firecracker refuses itself is told first. */
function hotplugProblem(config: ActionArguments['SetMemoryHotplugDevice']): string | undefined {
  const [total, block, slot] = [config.total_size_mib, config.block_size_mib, config.slot_size_mib].map(asU64) as [
    bigint,
    bigint,
    bigint,
  ];
  if (block < MIN_BLOCK_SIZE) return `Block size must not be lower than ${MIN_BLOCK_SIZE} MiB`;
  if (block & (block - 1n)) return 'Block size must be a power of 2';
  if (slot < MIN_SLOT_SIZE) return `Slot size must not be lower than ${MIN_SLOT_SIZE} MiB`;
  if (slot % block) return `Slot size must be a multiple of block size (${block} MiB)`;
  if (total < slot) return `Total size must not be lower than slot size (${slot} MiB)`;
  if (total % slot) return `Total size must be a multiple of slot size (${slot} MiB)`;
  return undefined;
}

/** What Firecracker refuses itself is told first. */
export function refusePmem({ root_device }: ActionArguments['InsertPmemDevice'], hasRootDrive: boolean): never {
  const prefix = 'Pmem config error';
  if (!root_device || !hasRootDrive) throw unsupported(prefix, 'pmem devices are');
  throw new Fault(`${prefix}: Attempt to add pmem as a root device while the root device defined as a block device`);
}

/** After the start, on a machine that has none of the devices. */
export const refusedAfterStart = {
  UpdatePmemDevice: ({ rate_limiter }: ActionArguments['UpdatePmemDevice']) => {
    if (rate_limiter === null) return;
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

/** Hot-plug of devices, which needs PCI. */
export function refusedHotplug(warn: (message: string) => void) {
  const refuse = (feature: string) => () => {
    warn(`[DevPreview] PCI device ${feature} is in development preview.`);
    throw new Fault('PCI is not enabled');
  };
  return {
    InsertBlockDevice: refuse('hotplug'),
    InsertNetworkDevice: refuse('hotplug'),
    InsertPmemDevice: refuse('hotplug'),
    RemoveBlockDevice: refuse('hot-unplug'),
    RemoveNetworkDevice: refuse('hot-unplug'),
    RemovePmemDevice: refuse('hot-unplug'),
  };
}
