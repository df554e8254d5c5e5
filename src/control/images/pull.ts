/** Makes an image of an OCI image: fetched by digest, checked, and written into a root file system without being unpacked here. */
import { randomBytes } from 'node:crypto';
import { mkdir, open, rm, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import type { ImagePull, ImagePulled } from '../../api/image.ts';
import { BangerError } from '../../errors.ts';
import { blobPath, fits, formatPlatform, type Platform, readLayout, readRaw } from '../../oci/manifest.ts';
import { type ImageReference, nameOfReference, parseReference } from '../../oci/reference.ts';
import { copyImage, inspectRaw, type SkopeoDeps, type SkopeoOptions } from '../../oci/skopeo.ts';
import { ociFiles } from '../../storage/layout.ts';
import { formatSize } from '../../units.ts';
import { hostArch } from '../bundles/support.ts';
import type { Progress } from '../operations.ts';
import { IMAGE_MEMBERS, OCI_MEMBER } from './archive.ts';
import { viewImage } from './catalogue.ts';
import { flattenInto } from './flatten.ts';
import { placeImage } from './import.ts';
import { findPulled, isOutdated, markOf, type OciRecord, platformOf, processOf, writeOciRecord } from './oci-record.ts';
import { type FoundImage, type ImportHost, placeBootFiles, resultDirectory, sumRootfs } from './sources.ts';
import { addTools } from './tools.ts';

/** What a reference leads to now, and how much that is. */
interface Pinned {
  /** undefined for what comes from a file */
  digest?: string;
  /** digest of the manifest for the platform */
  manifest?: string;
  /** of all layers, in `bytes` */
  sizeBytes?: number;
}

/**
 * @throws BangerError `not_found` when there is no such image, or none for the platform; `corrupt` when it is not what its digests say
 * @throws BangerError `host_unprepared` when the registry cannot be reached, wants a login, or there is no room
 */
export async function pullImage(
  host: ImportHost,
  request: ImagePull,
  progress: Progress,
  signal: AbortSignal,
): Promise<ImagePulled> {
  const reference = parseReference(request.reference);
  const platform = platformOf(request.platform);
  const policy = request.policy ?? 'missing';
  const name = request.name ?? nameOfReference(reference);
  const there = await findPulled(host, reference.text, platform, request.name);
  const fetchAgain = policy === 'always' || (policy === 'missing' && there && (await isOutdated(there.oci, reference)));
  if (there && !fetchAgain) return { ...(await viewImage(host, there.image)), pulled: false };
  if (policy === 'never') {
    throw new BangerError('not_found', `${reference.text} is not here, and it is not to be fetched.`, {
      hint: `Fetch it: banger image pull ${request.reference}`,
    });
  }
  const { runner, env } = host.system;
  const deps: SkopeoDeps = { runner, program: host.config.programs.skopeo, env, signal };
  const options: SkopeoOptions = {
    platform,
    insecure: request.insecure ?? false,
    ...(request.authFile === undefined ? {} : { authFile: request.authFile }),
  };
  progress.step('resolve', `looking up ${reference.text}`);
  const pinned = await pin(deps, reference, options);
  if (there && pinned.digest !== undefined && there.oci.digest === pinned.digest) {
    return { ...(await viewImage(host, there.image)), pulled: false };
  }
  // what had the name because it was pulled by this reference makes way for what the reference means now
  const replaces = (await findPulled(host, reference.text, platform, name))?.image.id;
  const place = { name, force: request.force ?? false, replaces };
  const view = await placeImage(host, place, progress, signal, async ({ directory }) => {
    const work = { host, progress, signal, directory, request: { ...request, source: reference.text } };
    return await fetched(work, deps, { reference, options, pinned });
  });
  return { ...view, pulled: true };
}

interface PullWork {
  host: ImportHost;
  progress: Progress;
  signal: AbortSignal;
  directory: string;
  request: ImagePull & { source: string };
}

async function fetched(
  work: PullWork,
  deps: SkopeoDeps,
  { reference, options, pinned }: { reference: ImageReference; options: SkopeoOptions; pinned: Pinned },
): Promise<FoundImage> {
  const { host, progress, signal } = work;
  const { blobs, pulls } = ociFiles(host.config.paths.store);
  const own = join(pulls, randomBytes(4).toString('hex'));
  const target = { layout: join(own, 'layout'), scratch: join(own, 'scratch'), blobs, leaveBytes: RESERVED_BYTES };
  const result = await resultDirectory(work);
  const boot = await placeBootFiles(work, result);
  await addTools(work, work.request.bundle, boot.initrd);
  await mkdir(join(blobs, 'sha256'), { recursive: true, mode: 0o700 });
  for (const path of [target.layout, target.scratch]) await mkdir(path, { recursive: true, mode: 0o700 });
  try {
    progress.step('fetch', `fetching ${reference.text}`);
    // before it is read: what is written meanwhile is another one
    const file = await markOf(reference);
    await copyImage(deps, reference, pinned.manifest, target, options, fetchProgress(progress, pinned));
    const local = await readLayout(target.layout, blobs);
    requirePlatform(reference, local.config, options.platform);
    const rootfs = join(result, IMAGE_MEMBERS.rootfs);
    const limitBytes = await room(result);
    const packages = await flattenInto({ host, progress, signal }, local.layers, rootfs, {
      limitBytes,
      ...(work.request.diskBytes === undefined ? {} : { diskBytes: work.request.diskBytes }),
    });
    const oci: OciRecord = {
      ...{ version: 1, reference: reference.text, digest: pinned.digest ?? local.digest, manifest: local.digest },
      ...(file === undefined ? {} : { file }),
      platform: formatPlatform(local.config),
      layers: local.layers.map(({ digest, diffId, size }) => ({ digest, diffId, size })),
      process: processOf(local.config),
    };
    await writeOciRecord(join(result, OCI_MEMBER), oci);
    const { digest, sizeBytes } = await sumRootfs(work, rootfs);
    const files = [rootfs, ...boot.files, join(result, OCI_MEMBER), ...(packages === undefined ? [] : [packages])];
    return {
      ...{ result, files },
      record: { arch: hostArch(), base: boot.base, digest, sizeBytes, recipe: null, recipeKey: null },
    };
  } catch (error) {
    await dropDamaged(blobs, error);
    throw error;
  } finally {
    await rm(own, { recursive: true, force: true });
  }
}

/** The index or manifest of a registry, and of an index the manifest for the platform. */
async function pin(deps: SkopeoDeps, reference: ImageReference, options: SkopeoOptions): Promise<Pinned> {
  if (reference.from === 'file') {
    await requireReadable(reference.path);
    return {};
  }
  const raw = readRaw(await inspectRaw(deps, reference, options), `The manifest of ${reference.text}`);
  if (reference.digest !== undefined && reference.digest !== raw.digest) {
    throw new BangerError('corrupt', `The registry answers with another manifest than ${reference.text}.`);
  }
  const sum = (layers: readonly { size: number }[]) => layers.reduce((bytes, { size }) => bytes + size, 0);
  if (raw.kind === 'manifest') return { digest: raw.digest, manifest: raw.digest, sizeBytes: sum(raw.layers) };
  const found = raw.manifests.find(({ platform }) => platform && fits(platform, options.platform));
  if (!found)
    throw noPlatform(
      reference,
      options.platform,
      raw.manifests.flatMap(({ platform }) => platform ?? []),
    );
  const exact = { ...reference, digest: found.digest };
  const manifest = readRaw(await inspectRaw(deps, exact, options), `The manifest of ${reference.text}`);
  if (manifest.kind !== 'manifest' || manifest.digest !== found.digest) {
    throw new BangerError(
      'corrupt',
      `The registry answers with another manifest than the index of ${reference.text} names.`,
    );
  }
  return { digest: raw.digest, manifest: found.digest, sizeBytes: sum(manifest.layers) };
}

function requirePlatform(reference: ImageReference, found: Platform, wanted: Platform): void {
  if (fits(found, wanted)) return;
  throw noPlatform(reference, wanted, [found]);
}

function noPlatform({ text }: ImageReference, wanted: Platform, offered: readonly Platform[]): BangerError {
  const names = [...new Set(offered.map(formatPlatform))].filter((name) => !name.includes('unknown'));
  return new BangerError(
    'not_found',
    `${text} is not there for ${formatPlatform(wanted)}: only for ${names.join(', ') || 'others'}.`,
    {
      hint: 'Choose another tag or image; guests run the processor of this machine.',
    },
  );
}

function fetchProgress(progress: Progress, { sizeBytes }: Pinned): (bytes: number) => void {
  let first: number | undefined;
  return (bytes) => {
    // blobs of other images lie there too
    first ??= bytes;
    const done = bytes - first;
    const label = 'fetching';
    if (sizeBytes === undefined) progress.report({ label, detail: formatSize(done) });
    else {
      const of = Math.min(done, sizeBytes);
      progress.report({ label, detail: `${formatSize(of)} of ${formatSize(sizeBytes)}`, done: of, total: sizeBytes });
    }
  };
}

/** Left free, so that a pull cannot stop everything else. */
const RESERVED_BYTES = 256 * 1024 * 1024;

async function room(directory: string): Promise<number> {
  const { bavail, bsize } = await statfs(directory);
  return Math.max(0, bavail * bsize - RESERVED_BYTES);
}

async function requireReadable(path: string): Promise<void> {
  try {
    await (await open(path, 'r')).close();
  } catch (error) {
    throw new BangerError('not_found', `There is nothing to read at ${path}.`, { cause: error, hint: `ls -l ${path}` });
  }
}

/** A blob that is not what its digest says would be taken for what is there already. */
async function dropDamaged(blobs: string, error: unknown): Promise<void> {
  const digest = error instanceof BangerError && error.code === 'corrupt' ? error.details?.digest : undefined;
  if (typeof digest === 'string' && /^sha256:[0-9a-f]{64}$/.test(digest))
    await rm(blobPath(blobs, digest), { force: true });
}
