/** What is kept beside an image that was an OCI image: where it came from, its layers, and what runs in it. */
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { z } from 'zod';
import { isVast } from '../../core/json-size.ts';
import { BangerError, systemCode } from '../../errors.ts';
import { fits, formatPlatform, type ImageConfig, type Platform, parsePlatform } from '../../oci/manifest.ts';
import { type ImageReference, parseReference } from '../../oci/reference.ts';
import type { ImageRecord } from '../../state/images.ts';
import { imageFiles } from '../../storage/layout.ts';
import { hostArch } from '../bundles/support.ts';
import type { Host } from '../host.ts';

/** Node's names of processors, in OCI's words. */
export const OCI_ARCH = { x86_64: 'amd64', aarch64: 'arm64' } as const;

/** A configuration is a few KiB; an archive may bring anything. */
const MAX_BYTES = 4 * 1024 * 1024;

const Words = z.array(z.string());

const OciRecord = z.object({
  version: z.literal(1),
  reference: z.string().describe('as it was asked for, with nothing left out'),
  digest: z.string().describe('of what the reference led to when it was pulled'),
  manifest: z.string().describe('digest of the manifest as it lay here'),
  // of what came from a file: as it was then
  file: z.object({ size: z.number(), mtimeMs: z.number() }).optional(),
  platform: z.string(),
  layers: z.array(z.object({ digest: z.string(), diffId: z.string(), size: z.int() })),
  process: z.object({
    entrypoint: Words,
    cmd: Words,
    env: Words,
    user: z.string(),
    workdir: z.string(),
    stopSignal: z.string(),
    ports: Words,
    volumes: Words,
    labels: z.record(z.string(), z.string()),
    healthcheck: Words.nullable(),
    // what the image does not say, and what was pulled before it was kept
    healthTimes: z
      .object({
        intervalMs: z.number(),
        timeoutMs: z.number(),
        startPeriodMs: z.number(),
        startIntervalMs: z.number(),
        retries: z.number(),
      })
      .partial()
      .optional(),
  }),
});

export type OciRecord = z.infer<typeof OciRecord>;
export type OciProcess = OciRecord['process'];
type HealthConfig = NonNullable<NonNullable<ImageConfig['config']>['Healthcheck']>;

/** What a configuration says of the process, nothing being left out. */
export function processOf({ config }: ImageConfig): OciProcess {
  return {
    entrypoint: config?.Entrypoint ?? [],
    cmd: config?.Cmd ?? [],
    env: config?.Env ?? [],
    user: config?.User ?? '',
    workdir: config?.WorkingDir || '/',
    stopSignal: config?.StopSignal || 'SIGTERM',
    ports: Object.keys(config?.ExposedPorts ?? {}),
    volumes: Object.keys(config?.Volumes ?? {}),
    labels: config?.Labels ?? {},
    healthcheck: config?.Healthcheck?.Test ?? null,
    ...(config?.Healthcheck ? { healthTimes: healthTimesOf(config.Healthcheck) } : {}),
  };
}

/** Images have it in nanoseconds, and nothing or 0 for what they leave to others. */
function healthTimesOf(said: HealthConfig): NonNullable<OciProcess['healthTimes']> {
  const times = Object.entries({
    intervalMs: said.Interval,
    timeoutMs: said.Timeout,
    startPeriodMs: said.StartPeriod,
    startIntervalMs: said.StartInterval,
  }).flatMap(([key, nanoseconds]) => (nanoseconds ? [[key, nanoseconds / 1e6] as const] : []));
  return { ...Object.fromEntries(times), ...(said.Retries ? { retries: said.Retries } : {}) };
}

export async function writeOciRecord(path: string, record: OciRecord): Promise<void> {
  await writeFile(path, `${JSON.stringify(record, null, 2)}\n`, { mode: 0o600 });
}

/**
 * @returns undefined for an image that was none
 * @throws BangerError `corrupt`
 */
export async function readOciRecord(path: string): Promise<OciRecord | undefined> {
  try {
    if ((await stat(path)).size > MAX_BYTES) throw new BangerError('corrupt', `${path} is longer than any.`);
    const text = await readFile(path, 'utf8');
    const result = isVast(text) ? undefined : OciRecord.safeParse(JSON.parse(text));
    if (result?.success) return result.data;
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    if (!(error instanceof SyntaxError)) throw error;
  }
  throw new BangerError('corrupt', `${path} does not say what runs in the image.`, {
    hint: 'Pull or import the image again.',
  });
}

/**
 * The image that was pulled by this reference for this platform; of several the newest, but none whose file is another one since
 * while there is one that is not.
 * @param reference with nothing left out
 * @param name the one that is called so, or none
 */
export async function findPulled(
  { config, stores }: Pick<Host, 'config' | 'stores'>,
  reference: string,
  platform: Platform,
  name?: string,
): Promise<{ image: ImageRecord; oci: OciRecord } | undefined> {
  let outdated: { image: ImageRecord; oci: OciRecord } | undefined;
  for (const image of stores.images.list().toSorted((a, b) => b.createdAt.localeCompare(a.createdAt))) {
    if (name !== undefined && image.name !== name) continue;
    const oci = await readOciRecord(imageFiles(config.paths.store, image.id).oci).catch(() => undefined);
    if (oci?.reference !== reference || !fits(parsePlatform(oci.platform), platform)) continue;
    if (!(await isOutdated(oci, parseReference(reference)))) return { image, oci };
    outdated ??= { image, oci };
  }
  return outdated;
}

/** What tells whether a file, or a layout by its index, is another one since. @returns undefined when it is not there */
export async function markOf(reference: ImageReference): Promise<OciRecord['file']> {
  if (reference.from === 'registry') return undefined;
  const path = reference.transport === 'oci' ? join(reference.path, 'index.json') : reference.path;
  const info = await stat(path).catch(() => undefined);
  return info && { size: info.size, mtimeMs: info.mtimeMs };
}

/** Whether the file that an image was pulled from has been written anew; one that is gone has not. */
export async function isOutdated(oci: OciRecord, reference: ImageReference): Promise<boolean> {
  const now = await markOf(reference);
  return now !== undefined && oci.file !== undefined && !isDeepStrictEqual(now, oci.file);
}

/**
 * The platform of this machine's guests.
 * @throws BangerError `invalid_input` when another one was asked for
 */
export function platformOf(given?: string): Platform {
  const own: Platform = { os: 'linux', architecture: OCI_ARCH[hostArch()] };
  if (given === undefined) return own;
  const asked = parsePlatform(given.includes('/') ? given : `linux/${given}`);
  if (fits(asked, own)) return asked;
  throw new BangerError('invalid_input', `Guests of this machine run ${formatPlatform(own)}, and not ${given}.`, {
    hint: 'Leave --platform out, or pull it on a machine of that kind.',
  });
}

/**
 * The record of an image that was built on an OCI image: the same runs in it, and it is no longer what a registry has.
 * @param base record of the base
 */
export function builtOn(base: OciRecord): OciRecord {
  const reference = base.reference.startsWith(BUILT_ON) ? base.reference : `${BUILT_ON}${base.reference}`;
  const { file: _, ...rest } = base;
  return { ...rest, reference, layers: [] };
}

/** No reference has a blank in it. */
const BUILT_ON = 'built on ';
