/** The record of a VM that has just got its name and address. */
import { macFor, type VmRecord } from './vm.ts';

/** What a VM is made from; what is left out gets what most VMs have. */
export interface NewVm
  extends Pick<
    VmRecord,
    'id' | 'name' | 'image' | 'vcpus' | 'memoryMib' | 'workDiskMount' | 'address' | 'hostKeyPrivate' | 'hostKeyPublic'
  > {
  createdAt: Date;
  imageId?: string | undefined;
  /** 0 until it has one */
  rootDiskBytes?: number | undefined;
  workDiskBytes?: number | undefined;
  nat?: boolean | undefined;
  autostart?: boolean | undefined;
  restartPolicy?: VmRecord['restartPolicy'] | undefined;
  forkedFrom?: VmRecord['forkedFrom'] | undefined;
  idleSuspendMs?: number | undefined;
  temporary?: VmRecord['temporary'] | undefined;
  machineId?: VmRecord['machineId'] | undefined;
  process?: VmRecord['process'] | undefined;
}

/**
 * What a VM that begins as another takes over of it beside image, sizes and disks. Whether one starts with the host is said of
 * each by itself, and data for a first boot is for that of the other.
 */
export function settingsOf({
  nat,
  restartPolicy,
  idleSuspendMs,
  process,
}: VmRecord): Pick<VmRecord, 'nat' | 'restartPolicy' | 'idleSuspendMs' | 'process'> {
  return { nat, restartPolicy, idleSuspendMs, process };
}

/** A VM that is being created: it has never run. */
export function newVm(vm: NewVm): VmRecord {
  return {
    id: vm.id,
    name: vm.name,
    image: vm.image,
    imageId: vm.imageId ?? null,
    vcpus: vm.vcpus,
    memoryMib: vm.memoryMib,
    rootDiskBytes: vm.rootDiskBytes ?? 0,
    workDiskBytes: vm.workDiskBytes ?? 0,
    workDiskMount: vm.workDiskMount,
    address: vm.address,
    mac: macFor(vm.address),
    nat: vm.nat ?? true,
    autostart: vm.autostart ?? false,
    restartPolicy: vm.restartPolicy ?? 'never',
    idleSuspendMs: vm.idleSuspendMs ?? 0,
    awakeUntil: null,
    user: null,
    hostKeyPrivate: vm.hostKeyPrivate,
    hostKeyPublic: vm.hostKeyPublic,
    createdAt: vm.createdAt.toISOString(),
    phase: 'creating',
    failure: null,
    startedAt: null,
    vmm: null,
    bootTimeline: [],
    bootMs: null,
    ready: null,
    run: null,
    restarts: null,
    lastEnd: null,
    temporary: vm.temporary ?? null,
    forkedFrom: vm.forkedFrom ?? null,
    memory: null,
    paused: null,
    machineId: vm.machineId ?? null,
    process: vm.process ?? null,
  };
}
