/**
 * Writes an image as an OCI image of one layer into a registry or file. The layer is read out of the root file system, which is never
 * mounted; the same files become the same layer, here and where the image was pulled to.
 */
import { createHash, randomBytes } from 'node:crypto';
import { createWriteStream } from 'node:fs';
import { mkdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { Readable, Transform } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGzip } from 'node:zlib';
import type { ImagePush, ImagePushed } from '../../api/image.ts';
import { BangerError, systemCode } from '../../errors.ts';
import { writeImage } from '../../oci/layout.ts';
import { blobPath } from '../../oci/manifest.ts';
import { parseReference } from '../../oci/reference.ts';
import { pushLayout } from '../../oci/skopeo.ts';
import type { ImageRecord } from '../../state/images.ts';
import { requireSpace } from '../../storage/clone.ts';
import { allocatedBytes } from '../../storage/disk.ts';
import { imageFiles, ociFiles } from '../../storage/layout.ts';
import { readRootVolume } from '../../storage/volume.ts';
import { pathExists } from '../../system/files.ts';
import { commandLine } from '../../system/runner.ts';
import { MIB } from '../../units.ts';
import { countBytes } from '../bundles/support.ts';
import type { Host } from '../host.ts';
import type { Progress } from '../operations.ts';
import { OCI_ARCH, type OciProcess, readOciRecord } from './oci-record.ts';
import { archiveOf } from './root-archive.ts';

/** Fast, and not much larger than the smallest. */
const GZIP_LEVEL = 5;
/** Stays free in the store, beside what `requireSpace` keeps; and how much is written until that is looked at again. */
const RESERVED_BYTES = 256 * MIB;
const LOOK_BYTES = 32 * MIB;

/**
 * @throws BangerError `conflict` when a file is in the way, `invalid_input` for a root file system that is not read here
 * @throws BangerError `host_unprepared` when the registry cannot be reached or wants a login, or there is no room
 */
export async function pushImage(
  host: Pick<Host, 'config' | 'stores' | 'system'>,
  name: string,
  request: ImagePush,
  progress: Progress,
  signal: AbortSignal,
): Promise<ImagePushed> {
  const image = host.stores.images.get(name);
  const reference = parseReference(request.reference);
  if (reference.from === 'registry' && reference.digest !== undefined) {
    throw new BangerError('invalid_input', 'What is written gets a digest of its own; it cannot be asked for.', {
      hint: 'Give it a tag: REGISTRY/NAME:TAG',
    });
  }
  if (reference.from === 'file') await requireFree(reference.path);
  const { store } = host.config.paths;
  const { rootfs, oci } = imageFiles(store, image.id);
  await requireExt4(image, rootfs);
  // now: while its files are read, another image may get its name, and what it says be gone
  const record = await readOciRecord(oci);
  // what is left of one that is killed goes with what is left of pulls
  const own = join(ociFiles(store).pulls, randomBytes(4).toString('hex'));
  const layout = join(own, 'layout');
  const scratch = join(own, 'scratch');
  try {
    for (const path of [layout, scratch]) await mkdir(path, { recursive: true, mode: 0o700 });
    progress.step('pack', `reading the files of ${name}`);
    const layer = await packLayer(rootfs, join(own, 'layer'), progress, signal);
    await mkdir(join(layout, 'blobs/sha256'), { recursive: true });
    await rename(join(own, 'layer'), blobPath(join(layout, 'blobs'), layer.digest));
    await writeImage(layout, {
      architecture: OCI_ARCH[image.arch === 'aarch64' ? 'aarch64' : 'x86_64'],
      created: image.createdAt,
      config: record ? configOf(record.process) : { Cmd: ['/sbin/init'] },
      layer,
    });
    progress.step('push', `writing ${reference.text}`);
    const deps = { runner: host.system.runner, program: host.config.programs.skopeo, env: host.system.env, signal };
    const access = { insecure: request.insecure ?? false, authFile: request.authFile };
    const push = { layout, scratch, leaveBytes: RESERVED_BYTES, reference, ...access };
    const digest =
      reference.from === 'file'
        ? await writeWhole(reference.path, (part) => pushLayout(deps, { ...push, part }))
        : await pushLayout(deps, push);
    return { name, reference: reference.text, digest, tree: layer.diffId, sizeBytes: layer.size };
  } catch (error) {
    if (systemCode(error) !== 'ENOSPC') throw error;
    throw new BangerError('host_unprepared', `There is no room for the layer of ${name} in ${store}.`, {
      cause: error,
      hint: 'Free some space, or set paths.store to a larger disk.',
    });
  } finally {
    await rm(own, { recursive: true, force: true });
  }
}

/** What is not there yet, in a directory that is: asked before an image is read for minutes. */
async function requireFree(path: string): Promise<void> {
  if (await pathExists(path)) {
    throw new BangerError('conflict', `${path} exists already.`, { hint: 'Choose another name, or remove it first.' });
  }
  if (await pathExists(dirname(path))) return;
  throw new BangerError('not_found', `${dirname(path)} is not there.`, {
    hint: `Make it: ${commandLine(['mkdir', '-p', dirname(path)])}`,
  });
}

/** A file or directory that appears whole or not at all. */
async function writeWhole<T>(path: string, write: (part: string) => Promise<T>): Promise<T> {
  const part = `${path}.${process.pid}.part`;
  try {
    const result = await write(part);
    await rename(part, path);
    return result;
  } finally {
    await rm(part, { recursive: true, force: true });
  }
}

interface PackedLayer {
  digest: string;
  diffId: string;
  size: number;
}

async function packLayer(rootfs: string, file: string, progress: Progress, signal: AbortSignal): Promise<PackedLayer> {
  const plain = createHash('sha256');
  const packed = createHash('sha256');
  const onBytes = countBytes(progress, 'reading the files', await allocatedBytes(rootfs));
  let unlooked = LOOK_BYTES;
  const keepRoom = async (bytes: number) => {
    unlooked += bytes;
    if (unlooked < LOOK_BYTES) return;
    unlooked = 0;
    await requireSpace(dirname(file), RESERVED_BYTES, 'the layer');
  };
  const summing = (hash: typeof plain, each: (bytes: number) => Promise<void> | void) =>
    new Transform({
      async transform(chunk: Buffer, _encoding, done) {
        hash.update(chunk);
        try {
          await each(chunk.length);
          done(null, chunk);
        } catch (error) {
          done(error as Error);
        }
      },
    });
  await pipeline(
    Readable.from(archiveOf(rootfs, signal), { objectMode: false }),
    summing(plain, onBytes),
    createGzip({ level: GZIP_LEVEL }),
    summing(packed, keepRoom),
    createWriteStream(file, { mode: 0o600, flags: 'wx' }),
    { signal },
  );
  const { size } = await stat(file);
  return { digest: `sha256:${packed.digest('hex')}`, diffId: `sha256:${plain.digest('hex')}`, size };
}

/** What images say of their process, in the words of OCI. */
function configOf(said: OciProcess): Record<string, unknown> {
  const keys = (names: readonly string[]) => Object.fromEntries([...names].sort().map((each) => [each, {}]));
  const times = said.healthTimes;
  const nanoseconds = (ms: number | undefined) => (ms === undefined ? undefined : Math.round(ms * 1e6));
  const health = said.healthcheck && {
    Test: said.healthcheck,
    Interval: nanoseconds(times?.intervalMs),
    Timeout: nanoseconds(times?.timeoutMs),
    StartPeriod: nanoseconds(times?.startPeriodMs),
    StartInterval: nanoseconds(times?.startIntervalMs),
    Retries: times?.retries,
  };
  return {
    ...(said.user === '' ? {} : { User: said.user }),
    ...(said.ports.length === 0 ? {} : { ExposedPorts: keys(said.ports) }),
    Env: said.env,
    ...(said.entrypoint.length === 0 ? {} : { Entrypoint: said.entrypoint }),
    ...(said.cmd.length === 0 ? {} : { Cmd: said.cmd }),
    ...(said.volumes.length === 0 ? {} : { Volumes: keys(said.volumes) }),
    WorkingDir: said.workdir,
    Labels: Object.fromEntries(Object.entries(said.labels).sort(([a], [b]) => (a < b ? -1 : 1))),
    StopSignal: said.stopSignal,
    ...(health ? { Healthcheck: health } : {}),
  };
}

async function requireExt4(image: ImageRecord, rootfs: string): Promise<void> {
  if ((await readRootVolume(rootfs)).kind === 'ext4') return;
  throw new BangerError(
    'invalid_input',
    `The root file system of ${image.name} is no ext4, which is all that is read here.`,
    {
      hint: `As one file it goes anywhere: banger image export ${image.name} FILE`,
    },
  );
}
