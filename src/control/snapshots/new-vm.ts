/**
 * Makes a VM of a snapshot, with a name, an address, keys and a machine id of its own: of its disks, or, where it has memory, one
 * that goes on from there as a fork does.
 */
import { randomBytes } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { isDeepStrictEqual } from 'node:util';
import { type NewVm, newVm, settingsOf } from '../../core/new-vm.ts';
import type { SnapshotMemory, SnapshotRecord, SnapshotValues } from '../../core/snapshots.ts';
import type { VmRecord } from '../../core/vm.ts';
import { stopped } from '../../core/vm-changes.ts';
import { BangerError } from '../../errors.ts';
import { generateKeyPair } from '../../guest/keys.ts';
import { cloneFile } from '../../storage/clone.ts';
import { memoryFiles, snapshotFiles, vmFiles } from '../../storage/layout.ts';
import { throwIfCancelled } from '../../system/abort.ts';
import { syncPath } from '../../system/files.ts';
import { formatSize } from '../../units.ts';
import { findVmBootFiles } from '../bundles/boot-files.ts';
import { freeUser, handOverFile, settleUser } from '../handover.ts';
import type { Host } from '../host.ts';
import { leaveImage } from '../images/catalogue.ts';
import { contentsOf } from '../memory/manifest.ts';
import { needsOwnMemory, shareMemory } from '../memory/share.ts';
import type { Progress } from '../operations.ts';
import { costOfClone } from '../store/space.ts';
import { freeAddress, newVmId } from '../vm/identity.ts';
import { discardVm, releaseVm } from '../vm/release.ts';
import { createTimeline, goOnAsNew, loadAsNew } from '../vm/start-as-new.ts';
import { changedMeanwhile, hasSaved, isWholeSnapshot, requireUsableMemory } from './memory.ts';
import { getSnapshot, requireRoom } from './take.ts';

/** @throws BangerError `not_found`, `conflict` when the name is taken, `host_unprepared` without room */
export async function copySnapshot(
  host: Host,
  vmName: string,
  snapshotName: string,
  { name: newName, diskOnly }: { name: string; diskOnly: boolean },
  progress: Progress,
  signal: AbortSignal,
): Promise<VmRecord> {
  const source = host.stores.vms.get(vmName);
  const snapshot = getSnapshot(host, source, snapshotName);
  if (!diskOnly && hasSaved(snapshot)) return await goOnAs(host, source, snapshot, newName, progress, signal);
  const files = snapshotFiles(host.config.paths.store, source.id, snapshot.id);
  const paths = disksOf(snapshot, files).map(([path]) => path);
  const costs = await Promise.all(paths.map((path) => costOfClone(host, path)));
  const cost = costs.reduce((sum, each) => sum + each, 0);
  await requireRoom(host, cost, `the disks of ${newName}`);
  const id = newVmId();
  const { runner } = host.system;
  const described = { id, name: newName, values: snapshot.values, settings: settingsOf(source) };
  return await makeVm(host, described, signal, async (vm) => {
    progress.step('clone-disks', cost === 0 ? 'cloning the disks' : `copying the disks: ${formatSize(cost)}`);
    const own = vmFiles(host.config.paths.store, vm.id);
    const before = await contentsOf(paths);
    for (const [from, to] of disksOf(snapshot, files, own)) {
      await cloneFile(runner, host.config.programs.cp, from, to ?? '', 0, signal);
    }
    // what is written while it is copied is of no moment
    if (!isDeepStrictEqual(await contentsOf(paths).catch(() => []), before)) throw changedMeanwhile(snapshot);
  });
}

/** @throws BangerError as `copySnapshot`, and `guest_failed` when its guest does not take on its identity: nothing of it is there then */
async function goOnAs(
  host: Host,
  source: VmRecord,
  snapshot: SnapshotRecord & { saved: SnapshotMemory },
  name: string,
  progress: Progress,
  signal: AbortSignal,
): Promise<VmRecord> {
  const { saved, values } = snapshot;
  const { store } = host.config.paths;
  const settings = settingsOf(source);
  requireFreeName(host, name);
  progress.step('preflight', 'checking the host');
  const boot = await requireUsableMemory(host, source, snapshot);
  await host.checks.beforeStart(boot, { ...saved.run, nat: settings.nat }, progress.warn);
  const from = snapshotFiles(store, source.id, snapshot.id);
  const copied = [...disksOf(snapshot, from).map(([path]) => path), from.memory];
  const costs = await Promise.all(copied.map((path) => costOfClone(host, path)));
  await requireRoom(
    host,
    costs.reduce((sum, each) => sum + each, 0),
    `the disks and memory of ${name}`,
  );
  const hostKey = await generateKeyPair(name);
  throwIfCancelled(signal);
  const { vcpus, memoryMib } = saved.run;
  // no await between choosing the address and taking it
  const admitted = newVm({
    ...{ id: newVmId(), name, address: freeAddress(host), createdAt: host.now() },
    ...{ ...settings, ...values, imageId: values.imageId ?? undefined, vcpus, memoryMib },
    ...{ hostKeyPrivate: hostKey.privateKey, hostKeyPublic: hostKey.publicKey },
    machineId: randomBytes(16).toString('hex'),
    forkedFrom: { id: source.id, name: source.name },
  });
  admitted.user = freeUser(host, admitted.id);
  const [files, own] = [vmFiles(store, admitted.id), memoryFiles(store, admitted.id)];
  try {
    host.stores.atomically(() => {
      host.stores.vms.insert(admitted);
      host.stores.ledger.record(admitted.id, { kind: 'directory', name: files.directory });
    });
    for (const path of [files.directory, own.directory]) await mkdir(path, { recursive: true, mode: 0o700 });
    const vm = await settleUser(host, admitted);
    const ownMemory = needsOwnMemory(host, vm, saved.fit);
    progress.step('start', `starting ${name}`);
    const timeline = createTimeline();
    const loaded = await loadAsNew(
      host,
      vm,
      {
        ...{ boot, vmmVersion: saved.vmmVersion, ownMemory },
        first: {
          'clone-disks': async (either) => {
            for (const [path, to = ''] of disksOf(snapshot, from, files)) {
              await cloneFile(host.system.runner, host.config.programs.cp, path, to, 0, either);
              await handOverFile(host, vm, to);
              await syncPath(to);
            }
          },
          'take-memory': (either) => shareMemory(host, from, own, ownMemory, either),
        },
      },
      timeline,
      signal,
    );
    const check = async () => {
      // who wrote to a file did so before it was copied, or while it was
      if (!(await isWholeSnapshot(host, snapshot))) throw changedMeanwhile(snapshot);
    };
    const awakening = { failedUnits: saved.ready.failedUnits, check };
    const { vm: started } = await goOnAsNew(host, vm, loaded, awakening, timeline, signal);
    return started;
  } catch (error) {
    progress.step('undo', 'undoing it');
    await releaseVm(host, admitted);
    await discardVm(host, admitted);
    await leaveImage(host, values.imageId);
    throw error;
  }
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
  /** what most VMs have where it is left out */
  settings: Partial<Pick<NewVm, keyof ReturnType<typeof settingsOf>>>;
}

/**
 * The record first, then its disks, which `fill` brings; a failure leaves nothing of it.
 * @throws BangerError `conflict` when the name is taken, `not_found` when its image is gone
 */
export async function makeVm(
  host: Host,
  { id, name, values, settings }: Described,
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
    ...{ ...settings, ...values, imageId: values.imageId ?? undefined },
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
