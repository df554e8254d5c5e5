/** Documents of OCI images, and of Docker's of the same shape: indexes, manifests, configurations. Image specification 1.1. */
import { createHash } from 'node:crypto';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { isVast } from '../core/json-size.ts';
import { BangerError, messageOf, systemCode } from '../errors.ts';
import { type LayerBlob, short } from './layer-stream.ts';

/** Registries take no longer ones. */
const MAX_DOCUMENT_BYTES = 4 * 1024 * 1024;
/** Docker itself stops at 127. */
const MAX_LAYERS = 1000;

const Digest = z.string().regex(/^sha256:[0-9a-f]{64}$/, 'must be sha256: and 64 hexadecimal digits');
const Descriptor = z.object({
  mediaType: z.string().optional(),
  digest: Digest,
  size: z.int().nonnegative(),
  platform: z.object({ os: z.string(), architecture: z.string(), variant: z.string().optional() }).partial().optional(),
});

const Manifest = z.object({
  schemaVersion: z.literal(2),
  config: Descriptor,
  layers: z.array(Descriptor).max(MAX_LAYERS, `must have at most ${MAX_LAYERS} layers`),
});
const Index = z.object({ schemaVersion: z.literal(2), manifests: z.array(Descriptor).min(1).max(10_000) });

const Words = z.array(z.string()).nullish();
const Keys = z.record(z.string(), z.unknown()).nullish();

/** What runs in a container of the image. Only what is used here. */
const RunConfig = z.object({
  User: z.string().nullish(),
  ExposedPorts: Keys,
  Env: Words,
  Entrypoint: Words,
  Cmd: Words,
  Volumes: Keys,
  WorkingDir: z.string().nullish(),
  Labels: z.record(z.string(), z.string()).nullish(),
  StopSignal: z.string().nullish(),
  Healthcheck: z
    .object({
      Test: Words,
      Interval: z.number().nullish(),
      Timeout: z.number().nullish(),
      StartPeriod: z.number().nullish(),
      StartInterval: z.number().nullish(),
      Retries: z.number().nullish(),
    })
    .nullish(),
});

const ImageConfig = z.object({
  architecture: z.string(),
  os: z.string(),
  variant: z.string().optional(),
  created: z.string().nullish(),
  config: RunConfig.nullish(),
  rootfs: z.object({ type: z.literal('layers'), diff_ids: z.array(Digest).max(MAX_LAYERS) }),
});

export type ImageConfig = z.infer<typeof ImageConfig>;

export interface Platform {
  os: string;
  architecture: string;
  variant?: string | undefined;
}

/** A document of a registry, and the digest it has there. */
export type RawDocument =
  | { kind: 'manifest'; digest: string; config: string; layers: { digest: string; size: number }[] }
  | { kind: 'index'; digest: string; manifests: { digest: string; size: number; platform: Platform | undefined }[] };

/** @throws BangerError `corrupt` when it is neither an index nor a manifest that can be read */
export function readRaw(text: string, what: string): RawDocument {
  const digest = digestOf(text);
  const value = parseJson(text, what);
  if (typeof value === 'object' && value !== null && 'manifests' in value) {
    const manifests = parsed(Index, value, what).manifests.map(({ digest: of, size, platform }) => ({
      ...{ digest: of, size },
      platform:
        platform?.os === undefined || platform.architecture === undefined
          ? undefined
          : {
              ...{ os: platform.os, architecture: platform.architecture },
              ...(platform.variant === undefined ? {} : { variant: platform.variant }),
            },
    }));
    return { kind: 'index', digest, manifests };
  }
  if (typeof value === 'object' && value !== null && 'fsLayers' in value) {
    throw new BangerError('corrupt', `${what} is of the first version of Docker's format, which has no digests.`, {
      hint: 'Push it again with a current program.',
    });
  }
  const { config, layers } = parsed(Manifest, value, what);
  return {
    ...{ kind: 'manifest', digest, config: config.digest },
    layers: layers.map(({ digest: of, size }) => ({ digest: of, size })),
  };
}

/** `linux/amd64`, `linux/arm64/v8`. @throws BangerError `invalid_input` */
export function parsePlatform(text: string): Platform {
  const [os, architecture, variant, ...rest] = text.split('/');
  if (!os || !architecture || rest.length > 0 || !/^[a-z0-9/]{3,60}$/.test(text)) {
    throw new BangerError('invalid_input', `"${text}" is no platform.`, { hint: 'For example: linux/amd64' });
  }
  return { os, architecture, ...(variant === undefined ? {} : { variant }) };
}

export function formatPlatform({ os, architecture, variant }: Platform): string {
  return [os, architecture, ...(variant === undefined ? [] : [variant])].join('/');
}

/** Of several for one platform the first; a variant counts where it was asked for. */
export function fits(offered: Platform, wanted: Platform): boolean {
  return (
    offered.os === wanted.os &&
    offered.architecture === wanted.architecture &&
    (wanted.variant === undefined || offered.variant === undefined || offered.variant === wanted.variant)
  );
}

export interface LocalImage {
  /** of the manifest as it lies here */
  digest: string;
  configDigest: string;
  config: ImageConfig;
  layers: LayerBlob[];
}

/**
 * Reads the image of an OCI layout with one image in it, its blobs in a directory of their own; layers are not looked at.
 * @throws BangerError `corrupt` when a document is damaged, or contradicts another
 */
export async function readLayout(layout: string, blobs: string): Promise<LocalImage> {
  const index = parsed(Index, parseJson(await readDocument(join(layout, 'index.json')), 'The index'), 'The index');
  const [descriptor] = index.manifests;
  const digest = descriptor?.digest ?? '';
  const text = await readBlob(blobs, digest, 'manifest');
  const manifest = parsed(Manifest, parseJson(text, 'The manifest'), 'The manifest');
  const configText = await readBlob(blobs, manifest.config.digest, 'configuration');
  const config = parsed(ImageConfig, parseJson(configText, 'The configuration'), 'The configuration of the image');
  const { diff_ids: diffIds } = config.rootfs;
  if (diffIds.length !== manifest.layers.length) {
    throw new BangerError(
      'corrupt',
      `The image has ${manifest.layers.length} layers, and its configuration names ${diffIds.length}.`,
      { hint: 'It cannot be used as it is: build it again.' },
    );
  }
  const layers = manifest.layers.map(({ digest: of, size }, at) => ({
    ...{ path: blobPath(blobs, of), digest: of, size },
    diffId: diffIds[at] ?? '',
  }));
  return { digest, configDigest: manifest.config.digest, config, layers };
}

export function blobPath(blobs: string, digest: string): string {
  return join(blobs, 'sha256', digest.replace('sha256:', ''));
}

async function readBlob(blobs: string, digest: string, what: string): Promise<string> {
  const text = await readDocument(blobPath(blobs, digest));
  if (digestOf(text) === digest) return text;
  throw new BangerError(
    'corrupt',
    `The ${what} ${short(digest)} of the image is damaged: it is not what its digest says.`,
    {
      hint: 'Get the image again; what is wrong with it here is not kept.',
      details: { digest },
    },
  );
}

async function readDocument(path: string): Promise<string> {
  const file = await open(path, 'r').catch((error: unknown) => {
    if (systemCode(error) !== 'ENOENT') throw error;
    throw new BangerError('corrupt', 'A document of the image is missing.', { cause: error });
  });
  try {
    const { size } = await file.stat();
    if (size > MAX_DOCUMENT_BYTES) throw new BangerError('corrupt', 'A document of the image is longer than any.');
    // every byte counts for its digest
    return await file.readFile('latin1');
  } finally {
    await file.close();
  }
}

function digestOf(text: string): string {
  return `sha256:${createHash('sha256').update(text, 'latin1').digest('hex')}`;
}

/** @param text a character for each byte */
function parseJson(text: string, what: string): unknown {
  if (text.length > MAX_DOCUMENT_BYTES) throw new BangerError('corrupt', `${what} is longer than any.`);
  if (isVast(text)) throw new BangerError('corrupt', `${what} has more values in it than any.`);
  try {
    return JSON.parse(Buffer.from(text, 'latin1').toString('utf8'));
  } catch (error) {
    throw new BangerError('corrupt', `${what} is no JSON: ${messageOf(error)}`, { cause: error });
  }
}

function parsed<T extends z.ZodType>(schema: T, value: unknown, what: string): z.infer<T> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [first] = result.error.issues;
  const where = first?.path.join('.') ?? '';
  throw new BangerError(
    'corrupt',
    `${what} is none that can be read: ${where === '' ? '' : `${where}: `}${first?.message}.`,
  );
}
