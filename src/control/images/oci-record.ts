/** What is kept beside an image that was an OCI image: where it came from, its layers, and what runs in it. */
import { readFile, stat, writeFile } from 'node:fs/promises';
import { z } from 'zod';
import { BangerError, systemCode } from '../../errors.ts';
import type { ImageConfig } from '../../oci/manifest.ts';

/** A configuration is a few KiB; an archive may bring anything. */
const MAX_BYTES = 4 * 1024 * 1024;

const Words = z.array(z.string());

const OciRecord = z.object({
  version: z.literal(1),
  reference: z.string().describe('as it was asked for, with nothing left out'),
  digest: z.string().describe('of what the reference led to when it was pulled'),
  manifest: z.string().describe('digest of the manifest as it lay here'),
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
    const result = OciRecord.safeParse(JSON.parse(await readFile(path, 'utf8')));
    if (result.success) return result.data;
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return undefined;
    if (!(error instanceof SyntaxError)) throw error;
  }
  throw new BangerError('corrupt', `${path} does not say what runs in the image.`, {
    hint: 'Pull or import the image again.',
  });
}
