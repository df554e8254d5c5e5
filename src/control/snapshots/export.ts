/** Writes a snapshot of disks as one file, which any banger with the same image makes a VM of. */
import { stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { SnapshotFile } from '../../api/snapshot.ts';
import { sumDisk } from '../../bundle/store/checksum.ts';
import { BangerError } from '../../errors.ts';
import { snapshotFiles } from '../../storage/layout.ts';
import { packArchive } from '../../system/archive.ts';
import { pathExists } from '../../system/files.ts';
import { countBytes, hostArch } from '../bundles/support.ts';
import type { Host } from '../host.ts';
import type { Progress } from '../operations.ts';
import { formatManifest, SNAPSHOT_MANIFEST, SNAPSHOT_MEMBERS } from './archive.ts';
import { getSnapshot, newSnapshotId, provisionally, removeDirectory } from './take.ts';

const SUMMING = { step: 'compute-checksums', label: 'computing checksums' };

/** @throws BangerError `not_found`, `conflict` when the file exists or the snapshot has memory in it */
export async function exportSnapshot(
  host: Host,
  vmName: string,
  name: string,
  file: string,
  progress: Progress,
  signal: AbortSignal,
): Promise<SnapshotFile> {
  const vm = host.stores.vms.get(vmName);
  const snapshot = getSnapshot(host, vm, name);
  if (snapshot.memory) {
    throw new BangerError(
      'conflict',
      `The snapshot ${name} has the memory of its guest in it, which fits this host alone.`,
      {
        hint: `Take one of the disks: banger snapshot create ${vmName} --disk-only`,
      },
    );
  }
  if (await pathExists(file)) {
    throw new BangerError('conflict', `${file} exists already.`, { hint: 'Choose another name, or remove it first.' });
  }
  const { store } = host.config.paths;
  const source = snapshotFiles(store, vm.id, snapshot.id);
  progress.step(SUMMING.step, SUMMING.label);
  const options = { signal, onBytes: countBytes(progress, SUMMING.label, undefined) };
  const files = {
    [SNAPSHOT_MEMBERS.root]: await sumDisk(source.rootDisk, options),
    ...(snapshot.hasWorkDisk ? { [SNAPSHOT_MEMBERS.work]: await sumDisk(source.workDisk, options) } : {}),
  };
  const { image, vcpus, memoryMib, workDiskBytes, workDiskMount, process = vm.process } = snapshot.values;
  const manifest = formatManifest({
    ...{ name, arch: hostArch(), createdAt: snapshot.createdAt, files },
    vm: { name: vmName, image, vcpus, memoryMib, workDiskBytes, workDiskMount, nat: vm.nat, process },
  });
  // the archive's description lies in no snapshot, so it is packed from beside links to what does
  const id = newSnapshotId();
  await provisionally(host, vm, id, async () => {
    const { directory } = snapshotFiles(store, vm.id, id);
    await writeFile(join(directory, SNAPSHOT_MANIFEST), manifest);
    for (const member of Object.keys(files)) await symlink(join(source.directory, member), join(directory, member));
    progress.step('pack', 'packing');
    const deps = { runner: host.system.runner, programs: host.config.programs, signal };
    const members = [SNAPSHOT_MANIFEST, ...Object.keys(files)];
    await packArchive(deps, { file, directory, members, top: `${vmName}-${name}`, followLinks: true });
    await removeDirectory(host, directory);
  });
  return { vm: vmName, name, file, sizeBytes: (await stat(file)).size };
}
