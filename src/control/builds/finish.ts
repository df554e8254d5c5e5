/** The end of an image build: the guest cleaned and shut down, its disk checked, summed and registered as an image. */
import { constants, copyFile, link, mkdir, rename, writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import type { ImageBuilt } from '../../api/image-build.ts';
import { formatPackageList } from '../../core/packages.ts';
import type { VmRecord } from '../../core/vm.ts';
import { BangerError, systemCode } from '../../errors.ts';
import { cleanScript } from '../../image/identity.ts';
import { packageManagerOf, packageManifest } from '../../image/package-managers.ts';
import { apparentBytes } from '../../storage/disk.ts';
import { imageFiles, vmFiles } from '../../storage/layout.ts';
import { syncPath } from '../../system/files.ts';
import { verityDigest } from '../../system/verity.ts';
import { diskRunner, takeBack } from '../handover.ts';
import type { Host } from '../host.ts';
import { requireSameHolder, retireImage } from '../images/catalogue.ts';
import { readDpkgPackages } from '../images/dpkg-status.ts';
import { builtOn, writeOciRecord } from '../images/oci-record.ts';
import { shutDownBuildVm } from './build-vm.ts';
import type { BuildPlan } from './plan.ts';
import { listPackages, requireAwake, type StepContext, stepError } from './steps.ts';

/** Cleaning removes some hundred files. */
const CLEAN_LIMIT_MS = 5 * 60_000;

const CHECK_LIMIT_MS = 30 * 60_000;

/** e2fsck: 0 nothing wrong, 1 corrected (the journal of a guest that was cut off). */
const CHECKED = [0, 1];

/** The image that a build ends in. */
export interface BuildTarget {
  /** another one than the VM's, which a later build may go on in */
  id: string;
  /** id of the image that had its name when the build began */
  replaces: string | undefined;
}

/**
 * @returns the image's record, registered
 * @throws BangerError `conflict` when another image has got its name meanwhile
 */
export async function finishImage(
  host: Host,
  vm: VmRecord,
  { id: imageId, replaces }: BuildTarget,
  plan: BuildPlan,
  context: StepContext,
): Promise<Omit<ImageBuilt, 'steps' | 'built' | 'reason'>> {
  const { request, progress, signal } = context;
  const { recipe, base } = request;
  progress.step('clean', 'listing packages, removing identity and caches');
  const manager = context.distribution.family === 'unknown' ? undefined : packageManagerOf(context.distribution);
  const byGuest = manager && manager.name !== 'apt' ? await listPackages(manager, context) : undefined;
  const script = cleanScript({
    manager,
    keepCaches: recipe.keep_caches,
    authorizedKeys: [host.guests.publicKey],
    hostname: vm.name,
  });
  const end = await shutDownBuildVm(host, vm, context.connection, {
    first: context.before.splice(0).join('') + script,
    firstLimitMs: CLEAN_LIMIT_MS,
    timeoutMs: host.config.limits.stopTimeoutMs,
    signal,
    onGoingDown: () => progress.step('shut-down', 'shutting the VM down'),
  });
  if ('failed' in end) requireAwake(request.name, end.failed);
  if ('failed' in end) throw stepError(request.name, 'clean', end.failed, CLEAN_LIMIT_MS);
  if (!end.byItself) progress.warn('The VM did not shut down by itself and was cut off; its file system is checked.');

  progress.step('check', 'checking the file system, freeing unused blocks');
  const { rootDisk } = vmFiles(host.config.paths.store, vm.id);
  await checkDisk(host, vm, signal);
  const manifest =
    manager && byGuest !== undefined
      ? packageManifest(manager, byGuest)
      : formatPackageList(await readDpkgPackages(host, rootDisk, signal));

  progress.step('checksum', 'computing the checksum');
  const sizeBytes = await apparentBytes(rootDisk);
  let read = 0;
  const onBytes = (bytes: number) => {
    const before = Math.floor((read * 20) / sizeBytes);
    read += bytes;
    if (Math.floor((read * 20) / sizeBytes) === before) return;
    progress.report({ label: 'computing the checksum', done: read, total: sizeBytes });
  };
  const [digest] = await Promise.all([
    verityDigest(rootDisk, { signal, onBytes }),
    syncPath(rootDisk), // nothing of it was synced while the guest wrote
  ]);

  progress.step('register', `registering the image ${request.name}`);
  signal.throwIfAborted();
  const files = imageFiles(host.config.paths.store, imageId);
  host.stores.ledger.record(vm.id, { kind: 'directory', name: files.directory });
  await mkdir(files.directory, { recursive: true, mode: 0o700 });
  await share(base.boot.kernel, files.kernel);
  if (base.boot.initrd !== undefined) await share(base.boot.initrd, files.initrd);
  await writeFile(files.packages, manifest, { mode: 0o644 });
  if (base.oci) await writeOciRecord(files.oci, builtOn(base.oci));
  await takeBack(host, rootDisk);
  await rename(rootDisk, files.rootfs);
  for (const path of [files.kernel, files.initrd, files.packages, files.oci]) await syncPath(path).catch(ignoreMissing);
  for (const path of [files.directory, dirname(files.directory)]) await syncPath(path);
  const replaced = host.stores.atomically(() => {
    requireSameHolder(
      host,
      request.name,
      replaces,
      'Build it again to replace that one, or under another name with --name; layers make it quick.',
    );
    const replaced = host.stores.images.insert(
      {
        id: imageId,
        name: request.name,
        arch: base.arch,
        base: base.name,
        digest,
        sizeBytes,
        recipe: JSON.stringify({ ...recipe, packages: request.packages, package_files: [] }),
        recipeKey: plan.recipeKey,
        createdAt: host.now().toISOString(),
      },
      { replace: replaces },
    );
    host.stores.ledger.strike('directory', files.directory);
    return replaced;
  });
  // what a crash leaves of it is swept by the next daemon
  if (replaced) await retireImage(host, replaced);
  return { id: imageId, name: request.name, base: base.name, digest, sizeBytes };
}

/** Repairs what a cut-off guest left, then gives unused blocks back: a file's discarded blocks are holes. */
async function checkDisk(host: Host, vm: VmRecord, signal: AbortSignal): Promise<void> {
  const { e2fsck } = host.config.programs;
  const { rootDisk } = vmFiles(host.config.paths.store, vm.id);
  const check = async (...options: string[]) =>
    await diskRunner(host, vm).run([e2fsck, '-f', '-p', ...options, rootDisk], {
      okExits: [0, 1, 2, 4, 8],
      timeoutMs: CHECK_LIMIT_MS,
      signal,
    });
  let result = await check('-E', 'discard');
  // blocks are given back only when nothing had to be repaired
  if (result.exitCode === 1) result = await check('-E', 'discard');
  if (CHECKED.includes(result.exitCode)) return;
  const said = (result.stdout + result.stderr).trim().split('\n').at(-1) ?? '';
  throw new BangerError('corrupt', `The file system of the image is damaged after the build: ${said}`, {
    hint: 'Build it again; if it stays so, the base is damaged: banger bundle verify',
  });
}

/** Sharing blocks costs nothing, a hard link neither; where the base is on another file system it is a copy. */
async function share(source: string, target: string): Promise<void> {
  try {
    await copyFile(source, target, constants.COPYFILE_FICLONE_FORCE);
    return;
  } catch {
    // the file system cannot; what is really wrong shows below
  }
  try {
    await link(source, target);
  } catch (error) {
    if (!['EXDEV', 'EPERM', 'EMLINK', 'EEXIST'].includes(systemCode(error) ?? '')) throw error;
    await copyFile(source, target);
  }
}

/** A guest may boot without an initrd. */
function ignoreMissing(error: unknown): void {
  if (systemCode(error) !== 'ENOENT') throw error;
}
