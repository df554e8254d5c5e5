/** Creates a VM: its record, its address for life, its keys and its root disk. Nothing is started. */
import { randomBytes } from 'node:crypto';
import { mkdir, rm } from 'node:fs/promises';
import { totalmem } from 'node:os';
import type { VmCreate } from '../api/schemas.ts';
import { vmDefaults } from '../config/schema.ts';
import { nextAddress } from '../core/addresses.ts';
import { macFor, type VmRecord } from '../core/vm.ts';
import { BangerError } from '../errors.ts';
import { generateKeyPair } from '../guest/keys.ts';
import type { BootFiles } from '../preflight/context.ts';
import { cloneFile } from '../storage/clone.ts';
import { readSuperblock } from '../storage/ext4.ts';
import { vmFiles } from '../storage/layout.ts';
import { formatSize, MIB } from '../units.ts';
import type { Host } from './host.ts';
import type { Progress } from './operation.ts';

/** Smallest ext4 that is of any use as a work disk. */
const MIN_WORK_DISK_BYTES = 16 * MIB;

/**
 * @throws BangerError `conflict` when the name is taken, `not_found` for an unknown image, `invalid_input` for
 *   sizes this host or image cannot have
 */
export async function createVm(
  host: Host,
  request: VmCreate,
  progress: Progress,
  signal: AbortSignal,
): Promise<VmRecord> {
  const taken = host.vms.find(request.name);
  if (taken) {
    throw new BangerError('conflict', `A VM named "${request.name}" exists already.`, {
      hint: `Start it with: banger start ${request.name}   or choose another name.`,
    });
  }
  const boot = await host.bootFiles(request.image);
  const shape = await decideShape(host, request, boot);
  const hostKey = await generateKeyPair(request.name);
  signal.throwIfAborted();

  // no await between choosing the address and taking it: two creations cannot get the same one
  const address = nextAddress(
    host.pool,
    [...host.vms.list(), ...host.buildVms.list()].map((vm) => vm.address),
  );
  const vm: VmRecord = {
    id: randomBytes(4).toString('hex'),
    name: request.name,
    image: boot.name,
    imageId: null,
    ...shape,
    address,
    mac: macFor(address),
    nat: request.nat ?? true,
    autostart: false,
    restartPolicy: 'never',
    workDiskMount: '/root',
    hostKeyPrivate: hostKey.privateKey,
    hostKeyPublic: hostKey.publicKey,
    createdAt: host.now().toISOString(),
    phase: 'creating',
    failure: null,
    startedAt: null,
    vmm: null,
    bootTimeline: [],
    bootMs: null,
  };
  const files = vmFiles(host.config.paths.store, vm.id);
  host.atomically(() => {
    host.vms.insert(vm);
    host.ledger.record(vm.id, { kind: 'directory', name: files.directory });
  });
  try {
    await mkdir(files.directory, { recursive: true, mode: 0o700 });
    progress.step('clone-root-disk', 'cloning the root disk');
    const { programs } = host.config;
    await cloneFile(host.runner, programs.cp, boot.rootfs, files.rootDisk, vm.rootDiskBytes, signal);
    host.vms.update(vm.id, { phase: 'stopped' });
  } catch (error) {
    await discardVm(host, vm);
    throw error;
  }
  return host.vms.get(vm.name);
}

/** Removes a VM with its disks, in an order that a crash cannot turn into a leak. */
export async function discardVm(host: Host, vm: Pick<VmRecord, 'id'>): Promise<void> {
  for (const resource of host.ledger.of(vm.id)) {
    if (resource.kind !== 'directory') continue;
    await rm(resource.name, { recursive: true, force: true });
    host.ledger.strike('directory', resource.name);
  }
  host.vms.remove(vm.id);
}

type Shape = Pick<VmRecord, 'vcpus' | 'memoryMib' | 'rootDiskBytes' | 'workDiskBytes'>;

async function decideShape(host: Host, request: VmCreate, boot: BootFiles): Promise<Shape> {
  const defaults = vmDefaults(host.config, boot.defaults);
  const image = await readSuperblock(boot.rootfs);
  const shape: Shape = {
    vcpus: request.vcpus ?? defaults.vcpus,
    memoryMib: request.memoryMib ?? defaults.memoryMib,
    rootDiskBytes: request.rootDiskBytes ?? Math.max(defaults.rootDiskBytes, image.bytes),
    workDiskBytes: request.workDiskBytes ?? defaults.workDiskBytes,
  };
  const hostMib = Math.floor(totalmem() / MIB);
  if (shape.memoryMib > hostMib) {
    throw new BangerError(
      'invalid_input',
      `${request.name} cannot have ${shape.memoryMib} MiB of memory: this host has ${hostMib} MiB.`,
      { hint: `Ask for less, for example --memory ${Math.max(128, Math.floor(hostMib / 2))}M` },
    );
  }
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
