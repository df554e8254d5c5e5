/** CPU and memory of the microVM: rules of `PUT` and `PATCH /machine-config`. */
import type { ActionArguments } from '../api/actions.ts';
import { Fault, unsupported } from '../fault.ts';

const PREFIX = 'Machine config error';
const MAX_VCPUS = 32;

export interface StoredMachineConfig {
  vcpu_count: number;
  mem_size_mib: number;
  smt: boolean;
  track_dirty_pages: boolean;
  huge_pages: 'None' | '2M';
}

export function defaultMachineConfig(): StoredMachineConfig {
  return { vcpu_count: 1, mem_size_mib: 128, smt: false, track_dirty_pages: false, huge_pages: 'None' };
}

/**
 * The configuration after an update; an absent field keeps its value.
 * @throws Fault
 */
export function updatedMachineConfig(
  before: StoredMachineConfig,
  update: ActionArguments['UpdateMachineConfiguration'],
  balloonMib: number,
): StoredMachineConfig {
  const after: StoredMachineConfig = {
    vcpu_count: update.vcpu_count ?? before.vcpu_count,
    mem_size_mib: update.mem_size_mib ?? before.mem_size_mib,
    smt: update.smt ?? before.smt,
    track_dirty_pages: update.track_dirty_pages ?? before.track_dirty_pages,
    huge_pages: update.huge_pages ?? before.huge_pages,
  };
  const { vcpu_count: vcpus, mem_size_mib: memory } = after;
  if (vcpus === 0 || vcpus > MAX_VCPUS || (after.smt && vcpus > 1 && vcpus % 2 === 1)) {
    throw new Fault(
      `${PREFIX}: The number of vCPUs must be greater than 0, less than 32 and must be 1 or an even number if SMT is enabled.`,
      { debug: 'InvalidVcpuCount' },
    );
  }
  if (memory === 0 || (after.huge_pages === '2M' && memory % 2 === 1)) {
    throw new Fault(`${PREFIX}: The memory size (MiB) is either 0, or not a multiple of the configured page size.`, {
      debug: 'InvalidMemorySize',
    });
  }
  if (memory < balloonMib) {
    throw new Fault(`${PREFIX}: The memory size (MiB) is smaller than the previously set balloon device target size.`, {
      debug: 'IncompatibleBalloonSize',
    });
  }
  if (update.cpu_template !== null && update.cpu_template !== 'None') {
    throw unsupported(PREFIX, `the CPU template ${update.cpu_template} is`);
  }
  if (after.huge_pages === '2M') throw unsupported(PREFIX, 'huge pages of 2M are');
  return after;
}
