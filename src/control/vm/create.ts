/** Creates a VM: its record, its address for life, its keys and its root disk. Nothing is started. */
import { mkdir } from 'node:fs/promises';
import type { VmCreate } from '../../api/vm.ts';
import { vmDefaults } from '../../config/schema.ts';
import { newVm } from '../../core/new-vm.ts';
import type { VmRecord } from '../../core/vm.ts';
import { stopped } from '../../core/vm-changes.ts';
import { workMountProblem } from '../../core/work-mount.ts';
import { BangerError } from '../../errors.ts';
import { generateKeyPair } from '../../guest/keys.ts';
import type { BootFiles } from '../../preflight/context.ts';
import { cloneThroughBase } from '../../storage/base-cache.ts';
import { requireDiskSize } from '../../storage/disk.ts';
import { MIN_WORK_DISK_BYTES } from '../../storage/ext4.ts';
import { imageFiles, vmFiles } from '../../storage/layout.ts';
import { readRootVolume } from '../../storage/volume.ts';
import { formatSize, MIB } from '../../units.ts';
import { findBootFiles } from '../bundles/boot-files.ts';
import { adoptWorkDisk, claimKept, findWorkDisk, keptNameOf, settleKept, type WorkDiskSource } from '../disks/keep.ts';
import { freeUser } from '../handover.ts';
import type { Host } from '../host.ts';
import { holdImage, requireImage } from '../images/hold.ts';
import { readOciRecord } from '../images/oci-record.ts';
import type { Progress } from '../operations.ts';
import { costOfClone } from '../store/space.ts';
import { freeAddress, newVmId } from './identity.ts';
import { requireHostMemory } from './limits.ts';
import { discardVm } from './release.ts';
import { decideUserData, keepUserData } from './user-data.ts';

/** @property lease it is temporary under */
export type NewVmRequest = VmCreate & { lease?: string | undefined };

/**
 * @throws BangerError `conflict` when the name or the kept disk is taken, `not_found` for an unknown image, `invalid_input` for
 *   sizes this host or image cannot have
 */
export async function createVm(
  host: Host,
  request: NewVmRequest,
  progress: Progress,
  signal: AbortSignal,
): Promise<VmRecord> {
  requireFreeName(host, request.name);
  const keptDisk = keptNameOf(request.workDiskFrom);
  using _claim = keptDisk === undefined ? undefined : claimKept(host, keptDisk, `the creation of ${request.name}`);
  const boot = await findBootFiles(host, request.image);
  await using _hold = holdImage(host, boot, `the creation of ${request.name}`);
  const source = request.workDiskFrom === undefined ? undefined : await findWorkDisk(host, request.workDiskFrom);
  const shape = await decideShape(host, request, boot, source);
  if (request.process !== undefined) await requireProcess(host, request.name, boot);
  const userData = await decideUserData(host, request, boot, signal);
  await host.checks.beforeCreate(boot, await costOfClone(host, boot.rootfs), progress.warn);
  const vm = await admitVm(host, request, boot, { ...shape, keptDisk: keptDisk ?? null }, signal);
  const files = vmFiles(host.config.paths.store, vm.id);
  try {
    await mkdir(files.directory, { recursive: true, mode: 0o700 });
    if (userData) await keepUserData(host, vm, userData);
    progress.step('clone-root-disk', 'cloning the root disk');
    const { programs } = host.config;
    const { store } = host.config.paths;
    await cloneThroughBase(
      host.system.runner,
      programs.cp,
      store,
      boot.rootfs,
      files.rootDisk,
      vm.rootDiskBytes,
      signal,
    );
    if (source) await adoptWorkDisk(host, vm, source, signal);
    host.stores.vms.update(vm.id, stopped());
    if (source) await settleKept(source);
  } catch (error) {
    await discardVm(host, vm);
    throw error;
  }
  return host.stores.vms.get(vm.name);
}

/** @throws BangerError `conflict` */
export function requireFreeName({ stores }: Pick<Host, 'stores'>, name: string): void {
  if (!stores.vms.find(name)) return;
  throw new BangerError('conflict', `A VM named "${name}" exists already.`, {
    hint: `Start it with: banger start ${name}   or choose another name.`,
  });
}

/**
 * Records a new VM, with its address for life; nothing of it is on the host yet.
 * @param standby what it takes over with all that it has on the host
 */
export async function admitVm(
  host: Host,
  { name, nat, autostart, restartPolicy, idleSuspendMs, lease, process }: NewVmRequest,
  boot: BootFiles,
  { keptDisk, ...shape }: Shape & { keptDisk: string | null; machineId?: string },
  signal: AbortSignal,
  standby?: Pick<VmRecord, 'id' | 'address' | 'user'>,
): Promise<VmRecord> {
  const hostKey = await generateKeyPair(name);
  signal.throwIfAborted();
  // no await between choosing the address and taking it: two creations cannot get the same one
  const address = standby?.address ?? freeAddress(host);
  const temporary = temporaryOf(host, lease, keptDisk);
  const vm = newVm({
    ...{ id: standby?.id ?? newVmId(), name, image: boot.name, imageId: boot.imageId },
    ...{ ...shape, address, nat, autostart, restartPolicy, idleSuspendMs, temporary, process: process ?? null },
    ...{ hostKeyPrivate: hostKey.privateKey, hostKeyPublic: hostKey.publicKey, createdAt: host.now() },
  });
  vm.user = standby ? standby.user : freeUser(host, vm.id);
  host.stores.atomically(() => {
    requireImage(host, boot);
    host.stores.vms.insert(vm);
    host.stores.ledger.record(vm.id, {
      kind: 'directory',
      name: vmFiles(host.config.paths.store, vm.id).directory,
    });
  });
  if (standby) host.stores.buildVms.forget(standby.id);
  return vm;
}

/** @throws BangerError `cancelled` when the lease has ended */
function temporaryOf(
  { stores }: Pick<Host, 'stores'>,
  id: string | undefined,
  keptDisk: string | null,
): VmRecord['temporary'] {
  if (id === undefined) return null;
  const lease = stores.leases.find(id);
  if (!lease) throw new BangerError('cancelled', 'No temporary VM is made: the client that asked for it has left.');
  return { lease: id, holder: lease.holder, keptDisk };
}

/** @throws BangerError `invalid_input` for an image that runs nothing of its own */
async function requireProcess({ config }: Pick<Host, 'config'>, name: string, boot: BootFiles): Promise<void> {
  const { imageId } = boot;
  if (imageId !== undefined && (await readOciRecord(imageFiles(config.paths.store, imageId).oci))) return;
  throw new BangerError(
    'invalid_input',
    `process is for OCI images; ${boot.name} is none and runs no process of its own.`,
    {
      hint: `Run a command in the VM: banger run ${name} -- COMMAND`,
    },
  );
}

/** Sizes of a new VM. */
export type Shape = Pick<VmRecord, 'vcpus' | 'memoryMib' | 'rootDiskBytes' | 'workDiskBytes' | 'workDiskMount'>;

/** @throws BangerError `invalid_input` for what this host or image cannot have */
export async function decideShape(
  host: Pick<Host, 'config'>,
  request: Pick<VmCreate, 'name' | 'vcpus' | 'memoryMib' | 'rootDiskBytes' | 'workDiskBytes' | 'workMount'>,
  boot: BootFiles,
  source?: WorkDiskSource,
): Promise<Shape> {
  const defaults = vmDefaults(host.config, boot.defaults);
  const image = await readRootVolume(boot.rootfs);
  const shape: Shape = {
    vcpus: request.vcpus ?? defaults.vcpus,
    memoryMib: request.memoryMib ?? defaults.memoryMib,
    rootDiskBytes: request.rootDiskBytes ?? Math.max(defaults.rootDiskBytes, image.bytes),
    workDiskBytes: request.workDiskBytes ?? source?.size ?? defaults.workDiskBytes,
    workDiskMount: request.workMount ?? defaults.workMount,
  };
  const mountProblem = workMountProblem(shape.workDiskMount);
  if (mountProblem !== undefined) {
    throw new BangerError(
      'invalid_input',
      `A work disk cannot be mounted at "${shape.workDiskMount}": ${mountProblem}`,
      {
        hint: 'Choose a directory of its own, for example --work-mount /srv/work',
      },
    );
  }
  if (source && shape.workDiskBytes < source.size) {
    throw new BangerError(
      'invalid_input',
      `The disk ${source.path} has ${formatSize(source.size)} and cannot shrink to ${formatSize(shape.workDiskBytes)}.`,
      { hint: 'Leave --work-disk out, or ask for more.' },
    );
  }
  for (const bytes of [shape.rootDiskBytes, shape.workDiskBytes]) requireDiskSize(bytes);
  requireHostMemory(request.name, shape.memoryMib);
  if (shape.rootDiskBytes < image.bytes) {
    throw new BangerError(
      'invalid_input',
      `A root disk of ${formatSize(shape.rootDiskBytes)} is smaller than the image ${boot.name}, which has ${formatSize(image.bytes)}.`,
      { hint: `Ask for at least --disk ${Math.ceil(image.bytes / MIB)}M` },
    );
  }
  if (shape.workDiskBytes !== 0 && shape.workDiskBytes < MIN_WORK_DISK_BYTES) {
    throw new BangerError(
      'invalid_input',
      `A work disk of ${formatSize(shape.workDiskBytes)} is too small for a file system.`,
      {
        hint: `Ask for at least --work-disk ${MIN_WORK_DISK_BYTES / MIB}M, or none with --work-disk 0`,
      },
    );
  }
  return shape;
}
