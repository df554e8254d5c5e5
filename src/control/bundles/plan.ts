/** What a bundle build is asked for, and what that means in exact package versions. */
import { createHash } from 'node:crypto';
import { statfs } from 'node:fs/promises';
import { INIT_SCRIPT } from '../../bundle/boot/init-script.ts';
import { type Apt, resolveDependency, resolvePackages } from '../../bundle/debian/apt.ts';
import { BASE_PACKAGES } from '../../bundle/debian/rootfs.ts';
import type { BundlePrograms } from '../../bundle/programs.ts';
import { DEFAULT_LINK } from '../../bundle/store/catalogue.ts';
import { type BundleArch, STANDARD_DEFAULTS } from '../../bundle/store/manifest.ts';
import { BangerError } from '../../errors.ts';
import type { Runner } from '../../system/runner.ts';
import { formatSize, GIB, MIB } from '../../units.ts';

export interface BuildBundleDeps {
  runner: Runner;
  programs: Pick<BundlePrograms, 'mmdebstrap' | 'mke2fs' | 'xz' | 'lz4'>;
  /** directory for package lists, kept between builds */
  cacheDir: string;
  /** environment of the programs; proxies in it count */
  env: NodeJS.ProcessEnv;
  /** user who builds; 0 needs no user namespace */
  uid: number;
  /** scripts to put into the bundle's `helpers/`, text by file name */
  helpers: Readonly<Record<string, string>>;
  /** the agent's program, for the initrd */
  agent: Buffer;
  now: () => Date;
}

export interface BuildBundleRequest {
  /** Debian release, e.g. `bookworm` */
  suite: string;
  /** directory of the bundle; replaced when it holds one */
  output: string;
  /** name in bundle.json; default `debian-SUITE` */
  name?: string;
  /** size of the root file system; default 2 GiB, sparse */
  sizeBytes?: number | undefined;
  /** packages beside the base ones */
  packages?: readonly string[];
  /** default `x86_64` */
  arch?: BundleArch;
  /** apt sources used as written instead of the host's own */
  sourcesFile?: string;
  /** builds even when nothing changed */
  force?: boolean | undefined;
}

/** Raised whenever the same inputs would make another bundle. */
const BUILDER_VERSION = 5;

const DEFAULT_ROOT_BYTES = 2 * GIB;

/** Less than Debian's essential packages alone; what the rest needs is known once they are installed. */
const MIN_ROOT_BYTES = 128 * MIB;

/** A build's peak: packages, the tree they make, the image it is copied to, and the bundle that is replaced. */
const BUILD_BYTES = 1.5 * GIB;

export const DEBIAN_ARCH: Record<BundleArch, string> = { x86_64: 'amd64', aarch64: 'arm64' };

const PACKAGE = /^[a-z0-9][a-z0-9+.-]+$/;

/** What is built, resolved to exact versions. */
export interface BundlePlan {
  suite: string;
  name: string;
  arch: BundleArch;
  sizeBytes: number;
  packages: string[];
  kernelPackage: string;
  /** `name=version` of the packages the kernel and initrd come from */
  downloads: string[];
  inputs: { key: string; request: string };
}

/** @throws BangerError `invalid_input` for what could never become a bundle */
export async function checkRequest(request: BuildBundleRequest): Promise<void> {
  const { BundleName } = await import('../../bundle/store/manifest-schema.ts');
  const { name } = request;
  // the catalog's link to the default bundle has that name
  if (name !== undefined && (name === DEFAULT_LINK || !BundleName.safeParse(name).success)) {
    throw new BangerError('invalid_input', `"${name}" cannot be a bundle's name.`, {
      hint: 'Use lower-case letters, digits, dots and dashes.',
    });
  }
  const bad = request.packages?.find((each) => !PACKAGE.test(each));
  if (bad !== undefined) {
    throw new BangerError('invalid_input', `"${bad}" is not the name of a Debian package.`, {
      hint: 'Name packages as apt does, for example: git',
    });
  }
  const bytes = request.sizeBytes ?? DEFAULT_ROOT_BYTES;
  if (!Number.isSafeInteger(bytes) || bytes < MIN_ROOT_BYTES) {
    throw new BangerError('invalid_input', `A root disk of ${formatSize(bytes)} is too small for Debian.`, {
      hint: `Give it ${formatSize(MIN_ROOT_BYTES)} or more.`,
    });
  }
}

/** @throws BangerError `host_unprepared` when the build could not end for want of space */
export async function checkSpace(dir: string): Promise<void> {
  const { bavail, bsize } = await statfs(dir);
  if (bavail * bsize >= BUILD_BYTES) return;
  const free = formatSize(bavail * bsize);
  throw new BangerError('host_unprepared', `A build needs ${formatSize(BUILD_BYTES)}; ${dir} has ${free} free.`, {
    hint: 'Free some space, or build somewhere else with --output DIR.',
  });
}

/** Resolves a request to exact versions. */
export async function planBundle(
  deps: BuildBundleDeps,
  request: BuildBundleRequest,
  apt: Apt,
  arch: BundleArch,
  asked: string,
): Promise<BundlePlan> {
  const debianArch = DEBIAN_ARCH[arch];
  const metapackage = `linux-image-cloud-${debianArch}`;
  const kernel = await resolveDependency(deps.runner, apt, metapackage, /^linux-image-\d/);
  const packages = [...new Set([...BASE_PACKAGES, ...(request.packages ?? [])])];
  const resolved = await resolvePackages(deps.runner, apt, [...packages, 'busybox-static']);
  const busybox = resolved.find((entry) => entry.name === 'busybox-static');
  if (!busybox) throw new BangerError('command_failed', `The suite ${request.suite} has no package busybox-static.`);
  const versions = [...resolved, kernel].map((entry) => `${entry.name}=${entry.version}`);
  return {
    suite: request.suite,
    name: request.name ?? `debian-${request.suite}`,
    arch,
    sizeBytes: request.sizeBytes ?? DEFAULT_ROOT_BYTES,
    packages,
    kernelPackage: kernel.name,
    downloads: [`${kernel.name}=${kernel.version}`, `${busybox.name}=${busybox.version}`],
    inputs: { key: digest([asked, ...versions]), request: asked },
  };
}

/** Digest of what was asked for and of the code that would make it. */
export function requestDigest(deps: BuildBundleDeps, request: BuildBundleRequest, arch: BundleArch): string {
  return digest([
    `builder ${BUILDER_VERSION}`,
    request.suite,
    request.name ?? '',
    arch,
    String(request.sizeBytes ?? DEFAULT_ROOT_BYTES),
    JSON.stringify([...BASE_PACKAGES, ...(request.packages ?? [])]),
    JSON.stringify(STANDARD_DEFAULTS),
    INIT_SCRIPT,
    createHash('sha256').update(deps.agent).digest('hex'),
    JSON.stringify(Object.entries(deps.helpers).sort()),
  ]);
}

function digest(parts: readonly string[]): string {
  return createHash('sha256').update(JSON.stringify(parts)).digest('hex');
}
