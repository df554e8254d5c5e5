/**
 * Registries and archives through skopeo: tokens, redirects, proxies, certificates, mirrors and policies are its. Who may log in where
 * it reads from files of its own; nothing of that is ever an argument.
 */
import { access, readdir, readFile, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { BangerError } from '../errors.ts';
import type { Argv, Runner, RunOptions } from '../system/runner.ts';
import type { Platform } from './manifest.ts';
import { fileText, type ImageReference, isLoopback } from './reference.ts';

export interface SkopeoDeps {
  runner: Runner;
  program: string;
  env: NodeJS.ProcessEnv;
  signal: AbortSignal;
  /** after how many `ms` without a byte a transfer is given up */
  stallMs?: number;
}

export interface SkopeoOptions {
  platform: Platform;
  /** whether a registry elsewhere may be spoken to without TLS, or with a certificate nobody vouches for */
  insecure: boolean;
  /** file with credentials, instead of those that are looked for by themselves */
  authFile?: string;
}

export interface CopyTarget {
  /** OCI layout to write */
  layout: string;
  /** directory with the blobs of all layouts */
  blobs: string;
  /** directory for what is unpacked on the way */
  scratch: string;
  /** what stays free in `bytes`, however much comes */
  leaveBytes?: number;
}

const ASK_TIMEOUT_MS = 120_000;
const COPY_TIMEOUT_MS = 6 * 60 * 60_000;
/** A transfer that brings nothing for so long is given up. */
const STALL_MS = 180_000;
const LOOK_EVERY_MS = 500;

/** The index or manifest that a reference leads to, as the registry has it: a character for each byte. */
export async function inspectRaw(deps: SkopeoDeps, reference: ImageReference, options: SkopeoOptions): Promise<string> {
  const source = sourceOf(reference);
  const argv: Argv = [
    deps.program,
    ...(await globalOptions(deps.env)),
    'inspect',
    '--raw',
    ...accessOptions(reference, options, ''),
    source,
  ];
  const { stdout } = await skopeo(deps, argv, reference, { timeoutMs: ASK_TIMEOUT_MS });
  return Buffer.from(stdout, 'utf8').toString('latin1');
}

/**
 * Copies one image into a layout. Blobs that are there are not fetched again, and those that were fetched whole stay when it fails.
 * @param digest what exactly is fetched from a registry, whatever its tag says meanwhile
 * @param onBytes called with the `bytes` of blobs that have come so far, of this copy or before
 */
export async function copyImage(
  deps: SkopeoDeps,
  reference: ImageReference,
  digest: string | undefined,
  target: CopyTarget,
  options: SkopeoOptions,
  onBytes: (bytes: number) => void,
): Promise<void> {
  const { os, architecture, variant } = options.platform;
  const argv: Argv = [
    deps.program,
    ...(await globalOptions(deps.env)),
    ...[`--override-os=${os}`, `--override-arch=${architecture}`],
    ...(variant === undefined ? [] : [`--override-variant=${variant}`]),
    // the variable TMPDIR is not heeded for what is large
    `--tmpdir=${target.scratch}`,
    ...['copy', '--retry-times=2', `--dest-shared-blob-dir=${target.blobs}`],
    ...accessOptions(reference, options, 'src-'),
    sourceOf(reference, digest),
    `oci:${target.layout}:image`,
  ];
  const stallMs = deps.stallMs ?? STALL_MS;
  const stalled = new AbortController();
  let before = -1;
  let since = performance.now();
  const look = async () => {
    const bytes = await bytesIn([target.layout, join(target.blobs, 'sha256'), target.scratch]);
    if (bytes !== before) {
      before = bytes;
      since = performance.now();
    } else if (performance.now() - since > stallMs) stalled.abort();
    onBytes(bytes);
  };
  const timer = setInterval(() => void look().catch(() => {}), LOOK_EVERY_MS);
  try {
    const signal = AbortSignal.any([deps.signal, stalled.signal]);
    await leavingRoom({ ...deps, signal }, argv, reference, target.layout, target.leaveBytes ?? 0);
  } catch (error) {
    if (deps.signal.aborted || !stalled.signal.aborted) throw error;
    throw new BangerError('timeout', `Nothing of ${reference.text} has come for ${Math.round(stallMs / 1000)} s.`, {
      cause: error,
      hint: 'Try again: layers that have come whole are not fetched again.',
    });
  } finally {
    clearInterval(timer);
  }
}

/** Copies, and stops when no more than `leaveBytes` are free where `place` is. */
async function leavingRoom(
  deps: SkopeoDeps,
  argv: Argv,
  reference: ImageReference,
  place: string,
  leaveBytes: number,
): Promise<void> {
  const crowded = new AbortController();
  const look = async () => {
    const { bavail, bsize } = await statfs(place);
    if (bavail * bsize < leaveBytes) crowded.abort();
  };
  const timer = setInterval(() => void look().catch(() => {}), LOOK_EVERY_MS);
  try {
    const signal = AbortSignal.any([deps.signal, crowded.signal]);
    await skopeo({ ...deps, signal }, argv, reference, { timeoutMs: COPY_TIMEOUT_MS });
  } catch (error) {
    if (crowded.signal.aborted && !deps.signal.aborted) throw noRoom(reference, error);
    throw error;
  } finally {
    clearInterval(timer);
  }
}

export interface LayoutPush {
  /** OCI layout with one image */
  layout: string;
  /** directory for what is made on the way */
  scratch: string;
  /** what stays free there in `bytes`, however much is made */
  leaveBytes: number;
  /** where to; of a registry, with a tag */
  reference: ImageReference;
  /** what of a file is written instead, until it is whole */
  part?: string;
  insecure: boolean;
  authFile?: string | undefined;
}

/**
 * Copies the image of a layout to a registry or into a file; nothing of it is packed anew.
 * @returns the digest of the manifest as it is there: one in other words, where only those are taken
 */
export async function pushLayout(deps: SkopeoDeps, push: LayoutPush): Promise<string> {
  const { layout, scratch, leaveBytes, reference, part, insecure, authFile } = push;
  const digestFile = join(scratch, 'digest');
  const argv: Argv = [
    deps.program,
    ...(await globalOptions(deps.env)),
    `--tmpdir=${scratch}`,
    ...['copy', '--retry-times=2', `--digestfile=${digestFile}`],
    ...accessOptions(reference, { insecure, ...(authFile === undefined ? {} : { authFile }) }, 'dest-'),
    `oci:${layout}`,
    reference.from === 'file' && part !== undefined ? fileText({ ...reference, path: part }) : sourceOf(reference),
  ];
  await leavingRoom(deps, argv, reference, scratch, leaveBytes);
  return (await readFile(digestFile, 'utf8')).trim();
}

function sourceOf(reference: ImageReference, digest?: string): string {
  if (reference.from === 'file') return reference.text;
  const { registry, repository, tag } = reference;
  const exact = digest ?? reference.digest;
  return `docker://${registry}/${repository}${exact === undefined ? `:${tag}` : `@${exact}`}`;
}

/** Without a policy on this host skopeo refuses everything; digests are checked here in any case. */
async function globalOptions(env: NodeJS.ProcessEnv): Promise<string[]> {
  const places = [
    ...(env.HOME ? [join(env.HOME, '.config/containers/policy.json')] : []),
    '/etc/containers/policy.json',
  ];
  for (const path of places) {
    const there = await access(path).then(
      () => true,
      () => false,
    );
    if (there) return [];
  }
  return ['--insecure-policy'];
}

function accessOptions(
  reference: ImageReference,
  { insecure, authFile }: Pick<SkopeoOptions, 'insecure' | 'authFile'>,
  prefix: '' | 'src-' | 'dest-',
): string[] {
  if (reference.from === 'file') return [];
  return [
    ...(insecure || isLoopback(reference.registry) ? [`--${prefix}tls-verify=false`] : []),
    ...(authFile === undefined ? [] : [`--authfile=${authFile}`]),
  ];
}

async function skopeo(deps: SkopeoDeps, argv: Argv, reference: ImageReference, options: RunOptions) {
  try {
    return await deps.runner.run(argv, { env: deps.env, signal: deps.signal, ...options });
  } catch (error) {
    throw explained(error, reference);
  }
}

const MAKE_ROOM = 'Make room with: banger image prune   or set paths.store to a larger disk';

function noRoom({ text }: ImageReference, cause: unknown): BangerError {
  return new BangerError('host_unprepared', `${text} does not fit on the disk.`, { cause, hint: MAKE_ROOM });
}

/** What skopeo complains about, in words of ours; by what its own errors and those of registries say. */
const COMPLAINTS: readonly {
  sign: RegExp;
  code: 'not_found' | 'host_unprepared' | 'corrupt' | 'invalid_input';
  what: string;
  hint: string;
}[] = [
  {
    sign: /unauthorized|authentication required|access to the resource is denied|denied: |status 403|StatusCode: 403/i,
    ...{ code: 'host_unprepared', what: 'is for others: the registry wants another login' },
    hint: 'Log in there: skopeo login REGISTRY   or name a file with credentials: --auth-file FILE',
  },
  {
    sign: /manifest unknown|name unknown|repository name not known|not found: manifest|reading manifest .{0,200} not found/i,
    ...{ code: 'not_found', what: 'is not in the registry' },
    hint: 'See which tags there are: skopeo list-tags docker://REPOSITORY',
  },
  {
    sign: /toomanyrequests|too many requests|status 429/i,
    ...{ code: 'host_unprepared', what: 'is not given out now: the registry has had too many requests' },
    hint: 'Try again later, or log in: skopeo login REGISTRY',
  },
  {
    sign: /http: server gave HTTP response to HTTPS client/i,
    ...{ code: 'host_unprepared', what: 'is in a registry without TLS' },
    hint: 'If that is meant so: --insecure',
  },
  {
    sign: /x509:|certificate/i,
    ...{ code: 'host_unprepared', what: 'is in a registry whose certificate is not trusted here' },
    hint: 'Put its authority into /etc/containers/certs.d/REGISTRY/ca.crt, or, if that is meant so: --insecure',
  },
  {
    sign: /connection refused|no such host|network is unreachable|i\/o timeout|no route to host|deadline exceeded|connection reset/i,
    ...{ code: 'host_unprepared', what: 'cannot be fetched: the registry cannot be reached' },
    hint: 'Is its name right, and does this host reach it?',
  },
  {
    sign: /no image found in (?:manifest list|image index) for architecture|no matching manifest/i,
    ...{ code: 'not_found', what: 'is not there for this platform' },
    hint: 'Choose another with --platform',
  },
  {
    sign: /exceeded maximum allowed size/i,
    ...{ code: 'corrupt', what: 'is described by a document that is longer than any' },
    hint: 'It cannot be used as it is: build it again.',
  },
  {
    sign: /more than one image in oci|choose an image|expected 1 item, got \d/i,
    ...{ code: 'invalid_input', what: 'holds several images' },
    hint: 'Say which: oci:DIRECTORY:TAG   oci-archive:FILE:TAG   docker-archive:FILE:NAME:TAG',
  },
  {
    sign: /no descriptor found for reference|Tag \\*"[^"]{1,600}" not found/i,
    ...{ code: 'not_found', what: 'is not in there' },
    hint: 'Its own index names what is: index.json of an OCI layout, manifest.json of `docker save`.',
  },
  {
    sign: /manifest\.json: file does not exist|index\.json: no such file or directory|invalid tar header/i,
    ...{ code: 'invalid_input', what: 'is no archive or layout of that kind' },
    hint: 'oci-archive: and oci: are for OCI layouts, docker-archive: for what `docker save` writes.',
  },
  {
    sign: /(?:untarring file|loading tar component) .{0,300}unexpected EOF/i,
    ...{ code: 'corrupt', what: 'is cut short' },
    hint: 'Get it again.',
  },
  {
    sign: /no such file or directory/i,
    ...{ code: 'not_found', what: 'is not there' },
    hint: 'Is the path right?',
  },
  {
    sign: /no space left on device/i,
    ...{ code: 'host_unprepared', what: 'does not fit on the disk' },
    hint: MAKE_ROOM,
  },
];

function explained(error: unknown, reference: ImageReference): unknown {
  if (!(error instanceof BangerError) || error.code !== 'command_failed') return error;
  const said = typeof error.details?.stderr === 'string' ? error.details.stderr : '';
  const found = COMPLAINTS.find(({ sign }) => sign.test(said));
  if (found) return new BangerError(found.code, `${reference.text} ${found.what}.`, { cause: error, hint: found.hint });
  // its log lines end with the error itself: level=fatal msg="…"
  const words =
    /msg="((?:[^"\\]|\\.){1,1000})"/.exec(said.trim().split('\n').at(-1) ?? '')?.[1] ?? said.trim().slice(-500);
  return new BangerError('command_failed', `skopeo fails at ${reference.text}: ${words}`, { cause: error });
}

/** Bytes of all files in these directories, not below. */
async function bytesIn(directories: readonly string[]): Promise<number> {
  let bytes = 0;
  for (const directory of directories) {
    for (const name of await readdir(directory).catch((): string[] => [])) {
      const info = await stat(join(directory, name)).catch(() => undefined);
      if (info?.isFile()) bytes += info.size;
    }
  }
  return bytes;
}
