/** Makes a VM of the disks of a snapshot: with a name, an address, keys and a machine id of its own. */
import { randomBytes } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { newVm } from '../../core/new-vm.ts';
import type { SnapshotRecord, SnapshotValues } from '../../core/snapshots.ts';
import type { VmRecord } from '../../core/vm.ts';
import { stopped } from '../../core/vm-changes.ts';
import { BangerError } from '../../errors.ts';
import { generateKeyPair } from '../../guest/keys.ts';
import { cloneFile } from '../../storage/clone.ts';
import { snapshotFiles, vmFiles } from '../../storage/layout.ts';
import { throwIfCancelled } from '../../system/abort.ts';
import { formatSize } from '../../units.ts';
import { findVmBootFiles } from '../bundles/boot-files.ts';
import type { Host } from '../host.ts';
import type { Progress } from '../operations.ts';
import { costOfClone } from '../store/space.ts';
import { freeAddress, newVmId } from '../vm/identity.ts';
import { discardVm } from '../vm/release.ts';
import { getSnapshot, requireRoom } from './take.ts';

/** @throws BangerError `not_found`, `conflict` when the name is taken, `host_unprepared` without room */
export async function copySnapshot(
  host: Host,
  vmName: string,
  snapshotName: string,
  newName: string,
  progress: Progress,
  signal: AbortSignal,
): Promise<VmRecord> {
  const source = host.stores.vms.get(vmName);
  const snapshot = getSnapshot(host, source, snapshotName);
  const files = snapshotFiles(host.config.paths.store, source.id, snapshot.id);
  const costs = await Promise.all(disksOf(snapshot, files).map(([path]) => costOfClone(host, path)));
  const cost = costs.reduce((sum, each) => sum + each, 0);
  await requireRoom(host, cost, `the disks of ${newName}`);
  const id = newVmId();
  const { runner } = host.system;
  return await makeVm(host, { id, name: newName, values: snapshot.values, nat: source.nat }, signal, async (vm) => {
    progress.step('clone-disks', cost === 0 ? 'cloning the disks' : `copying the disks: ${formatSize(cost)}`);
    const own = vmFiles(host.config.paths.store, vm.id);
    for (const [from, to] of disksOf(snapshot, files, own)) {
      await cloneFile(runner, host.config.programs.cp, from, to ?? '', 0, signal);
    }
  });
}

interface DiskPaths {
  rootDisk: string;
  workDisk: string;
}

function disksOf({ hasWorkDisk }: SnapshotRecord, from: DiskPaths, to?: DiskPaths): [string, string | undefined][] {
  return [
    [from.rootDisk, to?.rootDisk],
    ...(hasWorkDisk ? [[from.workDisk, to?.workDisk] as [string, string | undefined]] : []),
  ];
}

interface Described {
  id: string;
  name: string;
  values: SnapshotValues;
  nat?: boolean;
}

/**
 * The record first, then its disks, which `fill` brings; a failure leaves nothing of it.
 * @throws BangerError `conflict` when the name is taken, `not_found` when its image is gone
 */
export async function makeVm(
  host: Host,
  { id, name, values, nat }: Described,
  signal: AbortSignal,
  fill: (vm: VmRecord) => Promise<void>,
): Promise<VmRecord> {
  requireFreeName(host, name);
  await findVmBootFiles(host, { id, name, image: values.image, imageId: values.imageId });
  const hostKey = await generateKeyPair(name);
  throwIfCancelled(signal);
  const { directory } = vmFiles(host.config.paths.store, id);
  // no await between choosing the address and taking it
  const vm = newVm({
    ...{ id, name, address: freeAddress(host), createdAt: host.now() },
    ...{ ...values, imageId: values.imageId ?? undefined, nat },
    hostKeyPrivate: hostKey.privateKey,
    hostKeyPublic: hostKey.publicKey,
    machineId: randomBytes(16).toString('hex'),
  });
  try {
    host.stores.atomically(() => {
      host.stores.vms.insert(vm);
      host.stores.ledger.record(id, { kind: 'directory', name: directory });
    });
    await mkdir(directory, { recursive: true, mode: 0o700 });
    await fill(vm);
    throwIfCancelled(signal);
    host.stores.vms.update(id, stopped());
  } catch (error) {
    await discardVm(host, { id });
    throw error;
  }
  return host.stores.vms.get(name);
}

export function requireFreeName({ stores }: Pick<Host, 'stores'>, name: string): void {
  if (!stores.vms.find(name)) return;
  throw new BangerError('conflict', `A VM named "${name}" exists already.`, {
    hint: 'Choose another name, or delete it first: banger rm NAME',
  });
}
