/** What the VMM of a VM may do on the host: its user, its programs, its limits. */
import { join } from 'node:path';
import type { VmRecord } from '../core/vm.ts';
import { BangerError } from '../errors.ts';
import type { VmmChoice } from '../preflight/vmm-choice.ts';
import { apparentBytes } from '../storage/disk.ts';
import { vmFiles } from '../storage/layout.ts';
import { isOpenToAll } from '../storage/ownership.ts';
import { enterCgroup, makeCgroup } from '../system/cgroup.ts';
import { confinedArgv, fileLimitArgv, groupOfDevice, type Limits, TUN_DEVICE } from '../system/confinement.ts';
import { childrenOf } from '../system/processes.ts';
import type { Argv } from '../system/runner.ts';
import { GIB, MIB } from '../units.ts';
import { userOf, withinReach } from './handover.ts';
import type { Host } from './host.ts';
import { findVmmOf } from './vmm.ts';

type GuestShape = Pick<VmRecord, 'vcpus' | 'memoryMib'>;

/** As the jailer's: each connection of a vsock takes one. */
const OPEN_FILES = 2048;

/** Threads of Node and of QEMU, which does input and output in up to 64 of them, besides one for each virtual processor. */
const TASKS = 256;

/** What a VMM writes of its devices beside a guest's memory, and what its log has left to grow by. */
const LEAST_FILE_BYTES = GIB;

/**
 * The command line of a VMM with the rights that are left to it.
 * @param shape of the guest that it runs: of one that goes on from memory not what the VM's next start will give it
 */
export async function confinementOf(
  host: Pick<Host, 'config' | 'system'>,
  vm: VmRecord,
  shape: GuestShape,
  { acceleration }: Pick<VmmChoice, 'acceleration'>,
): Promise<(argv: Argv) => Argv> {
  const user = userOf(host, vm);
  const { kvmGroup } = host.system.vmUsers;
  const devices = [acceleration === 'kvm' ? kvmGroup : undefined, await groupOfDevice(TUN_DEVICE)];
  const groups = devices.filter((group) => group !== undefined);
  const limits: Limits = {
    ...(await fileLimitOf(host, vm, shape)),
    openFiles: OPEN_FILES,
    tasks: TASKS + shape.vcpus,
  };
  return (argv) => confinedArgv(argv, { user, groups, limits });
}

/**
 * No file that a VMM writes is larger than its VM's largest disk or its guest's memory. A guest loses what its VMM may not
 * write, so a VM of whose root disk nothing is known yet has no limit.
 */
async function fileLimitOf(
  host: Pick<Host, 'config'>,
  vm: VmRecord,
  { memoryMib }: Pick<GuestShape, 'memoryMib'>,
): Promise<{ fileBytes?: number }> {
  const { rootDisk, workDisk } = vmFiles(host.config.paths.store, vm.id);
  const [root, work] = await Promise.all([rootDisk, workDisk].map((path) => apparentBytes(path).catch(() => 0)));
  const known = { root: Math.max(vm.rootDiskBytes, root ?? 0), work: Math.max(vm.workDiskBytes, work ?? 0) };
  if (known.root === 0) return {};
  return { fileBytes: Math.max(known.root, known.work, memoryMib * MIB, LEAST_FILE_BYTES) };
}

/**
 * A VMM's command line whose program its user may execute.
 * @throws BangerError `host_unprepared` when what it interprets may not be read by everybody
 */
export async function programWithinReach(host: Host, vm: VmRecord, [program, ...args]: Argv): Promise<Argv> {
  if (userOf(host, vm) === undefined) return [program, ...args];
  for (const script of args.filter((word) => word.startsWith('/'))) {
    if (await isOpenToAll(script)) continue;
    throw new BangerError('host_unprepared', `The user that ${vm.name} runs as may not read ${script}.`, {
      hint: `Let everybody read it and enter the directories above: chmod o+r ${script}   or set privilege.vm_users = "none"`,
    });
  }
  return [await withinReach(host, vm, program, true), ...args];
}

/** What a VMM takes besides the memory of its guest: Node, QEMU, and under emulation a share for translated code. */
const OVERHEAD_BYTES = 512 * MIB;
const OVERHEAD_SHARE = 4;

/**
 * Makes the control group of a VM, in the ledger before it exists.
 * @param shape of the guest that runs in it
 * @returns puts a process into it; undefined where there are none
 */
export async function groupOf(
  host: Pick<Host, 'stores' | 'system'>,
  { id }: Pick<VmRecord, 'id'>,
  { memoryMib, vcpus }: GuestShape,
): Promise<((pid: number) => Promise<void>) | undefined> {
  const { directory } = host.system.cgroups;
  if (directory === undefined) return undefined;
  const path = join(directory, id);
  host.stores.ledger.record(id, { kind: 'cgroup', name: path });
  const memoryBytes = memoryMib * MIB * (1 + 1 / OVERHEAD_SHARE) + OVERHEAD_BYTES;
  await makeCgroup(path, { memoryBytes, tasks: TASKS + vcpus });
  return async (pid) => await enterCgroup(path, pid);
}

/** Lets a VMM that runs write to a disk, or a log, that has become larger, and to all other files as before. */
export async function letFilesGrow(host: Pick<Host, 'config' | 'stores' | 'system'>, vm: VmRecord): Promise<void> {
  const vmm = await findVmmOf(host, vm);
  if (!vmm) return;
  const known = await fileLimitOf(host, vm, vm.run ?? vm);
  if (known.fileBytes === undefined) return;
  // a log that was freed of its old lines goes on where it was
  const logBytes = await apparentBytes(vmFiles(host.config.paths.store, vm.id).vmmLog).catch(() => 0);
  const fileBytes = Math.max(known.fileBytes, logBytes + LEAST_FILE_BYTES);
  for (const pid of [vmm.pid, ...childrenOf(vmm.pid)]) {
    await host.system.runner.run(fileLimitArgv(pid, fileBytes, userOf(host, vm)));
  }
}
