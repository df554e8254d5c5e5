/** Makes a VM of an exported snapshot: unpacked in the directory that becomes the VM's, and checked there. */
import { lstat, mkdir, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import type { SnapshotImport } from '../../api/snapshot.ts';
import { sumProblem } from '../../bundle/store/checksum.ts';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError, systemCode } from '../../errors.ts';
import { requireDiskSize } from '../../storage/disk.ts';
import { foreignKind } from '../../storage/file-kind.ts';
import { vmFiles } from '../../storage/layout.ts';
import { readRootVolume } from '../../storage/volume.ts';
import { unpackArchive } from '../../system/archive.ts';
import { syncPath } from '../../system/files.ts';
import { findBootFiles } from '../bundles/boot-files.ts';
import { countBytes, hostArch } from '../bundles/support.ts';
import type { Host } from '../host.ts';
import type { Progress } from '../operations.ts';
import { newVmId } from '../vm/identity.ts';
import { requireHostMemory } from '../vm/limits.ts';
import { discardVm } from '../vm/release.ts';
import {
  readManifest,
  SNAPSHOT_ARCHIVE,
  SNAPSHOT_MANIFEST,
  SNAPSHOT_MEMBERS,
  type SnapshotManifest,
} from './archive.ts';
import { makeVm, requireFreeName } from './new-vm.ts';

const COMPARING = { step: 'compare-checksums', label: 'comparing checksums' };

/**
 * @throws BangerError `corrupt` when a sum is wrong or the archive holds what no snapshot may, `conflict` when the name is taken,
 *   `not_found` when the image it boots with is not here, `host_unprepared` when it does not fit
 */
export async function importSnapshot(
  host: Host,
  request: SnapshotImport,
  progress: Progress,
  signal: AbortSignal,
): Promise<VmRecord> {
  requireFreeName(host, request.name);
  await requireArchive(request.file);
  const id = newVmId();
  const { directory, rootDisk, workDisk } = vmFiles(host.config.paths.store, id);
  const unpacked = join(directory, 'import');
  // an owner without a record: what a crash leaves of it is freed as that
  host.stores.ledger.record(id, { kind: 'directory', name: directory });
  try {
    await mkdir(unpacked, { recursive: true, mode: 0o700 });
    progress.step('unpack', 'unpacking');
    const deps = { runner: host.system.runner, programs: host.config.programs, signal };
    const from = await unpackArchive(deps, request.file, unpacked, SNAPSHOT_ARCHIVE);
    const manifest = await readManifest(join(from, SNAPSHOT_MANIFEST), request.file);
    await requireSums(from, manifest, request.file, progress, signal);
    if (manifest.arch !== hostArch()) throw refused(request.file, `it is for ${manifest.arch}`);
    const boot = await findImage(host, request, manifest);
    const root = manifest.files[SNAPSHOT_MEMBERS.root];
    const work = manifest.files[SNAPSHOT_MEMBERS.work];
    const { vcpus, memoryMib, workDiskMount, nat, process = null } = manifest.vm;
    requireHostMemory(request.name, memoryMib);
    const workDiskBytes = work?.size ?? manifest.vm.workDiskBytes;
    for (const bytes of [root.size, workDiskBytes]) requireDiskSize(bytes);
    const values = {
      ...{ image: boot.name, imageId: boot.imageId ?? null, vcpus, memoryMib, workDiskMount, workDiskBytes },
      ...{ rootDiskBytes: root.size, process },
    };
    // when it is to run is for this host to say
    return await makeVm(host, { id, name: request.name, values, settings: { nat } }, signal, async () => {
      progress.step('put', 'putting the disks in place');
      for (const [member, path] of [
        [SNAPSHOT_MEMBERS.root, rootDisk],
        ...(work ? [[SNAPSHOT_MEMBERS.work, workDisk] as const] : []),
      ] as const) {
        await syncPath(join(from, member));
        await rename(join(from, member), path);
      }
      await rm(unpacked, { recursive: true, force: true });
      await syncPath(directory);
    });
  } catch (error) {
    await discardVm(host, { id });
    if (systemCode(error) !== 'ENOSPC') throw error;
    throw new BangerError('host_unprepared', `There is no room for the snapshot in ${directory}.`, {
      cause: error,
      hint: 'Free some space, or set paths.store to a larger disk.',
    });
  }
}

async function requireArchive(file: string): Promise<void> {
  const found = await lstat(file).catch(() => undefined);
  if (!found)
    throw new BangerError('not_found', `There is no file ${file} to read.`, { hint: `ls -l ${dirname(file)}` });
  const kind = await foreignKind(file);
  if (kind === undefined) return;
  throw new BangerError(
    'invalid_input',
    `${file} is ${kind.name}; a snapshot comes as an archive of \`banger snapshot export\`.`,
    {
      hint: kind.remedy,
    },
  );
}

async function requireSums(
  from: string,
  manifest: SnapshotManifest,
  file: string,
  progress: Progress,
  signal: AbortSignal,
): Promise<void> {
  const sums = Object.entries(manifest.files).flatMap(([member, sum]) => (sum ? [{ member, sum }] : []));
  const total = sums.reduce((bytes, { sum }) => bytes + sum.size, 0);
  progress.step(COMPARING.step, COMPARING.label);
  const onBytes = countBytes(progress, COMPARING.label, total);
  for (const { member, sum } of sums) {
    const path = join(from, member);
    const found = await lstat(path).catch(() => undefined);
    if (!found?.isFile()) throw refused(file, `it lacks ${member}`);
    if (found.size !== sum.size)
      throw refused(file, `${member} has ${found.size} bytes, ${SNAPSHOT_MANIFEST} says ${sum.size}`);
    const problem = await sumProblem(path, sum, SNAPSHOT_MANIFEST, { signal, onBytes });
    if (problem !== undefined) throw refused(file, `${member}: ${problem}`);
    await readRootVolume(path);
  }
}

/** @throws BangerError `not_found` with how another one is taken */
async function findImage(host: Host, request: SnapshotImport, { vm }: SnapshotManifest) {
  // a path is of the machine that it comes from: what lies there on this one is another's, unless all VMs boot with it
  if (request.image === undefined && vm.image.includes('/') && vm.image !== host.config.bundle.default) {
    throw new BangerError('not_found', `It was made with a bundle that is in no catalogue: ${vm.image}.`, {
      hint: 'Say which one it is to boot with: --image NAME-OR-PATH',
    });
  }
  try {
    return await findBootFiles(host, request.image ?? vm.image);
  } catch (error) {
    if (request.image !== undefined || !(error instanceof BangerError) || error.code !== 'not_found') throw error;
    throw error.reworded(`It was made with ${vm.image}, which is not here.`, {
      hint: 'Import or build that, or boot it with another one: --image NAME (its kernel has to fit the modules in the disk)',
    });
  }
}

function refused(file: string, why: string): BangerError {
  return new BangerError('corrupt', `${file} was not imported: ${why}.`, {
    hint: 'Get it again from where it was made.',
  });
}
