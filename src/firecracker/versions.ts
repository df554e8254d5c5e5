/** Versions of Firecracker: how they are read, which ones banger knows, and what a request may hold for the one at hand. */
import { stat } from 'node:fs/promises';
import type { Runner } from '../system/runner.ts';
import { FIRECRACKER_RELEASE } from '../version.ts';

export interface VmmVersion {
  major: number;
  minor: number;
  patch: number;
  /** as it says itself, without a leading `v`, e.g. `1.16.1` */
  text: string;
}

/** `newer`: a release of a known major version that came after this banger; `old` and `new-major` may refuse what is sent. */
type VersionStanding = 'known' | 'newer' | 'old' | 'new-major';

/** Oldest and newest release whose answers to banger's requests are known. */
export const OLDEST_KNOWN = { major: 1, minor: 10, patch: 0 };
export const NEWEST_KNOWN = knownRelease(FIRECRACKER_RELEASE);

/** First release that takes what banger would like to send; others refuse the whole request because of it. */
const SINCE = {
  interfaceMtu: {
    first: { major: 1, minor: 16, patch: 0 },
    otherwise: 'it cannot be told the MTU of a network interface (1.16 can), so guests set it themselves',
  },
  // before: consoles that are dead after a load, clocks that jump, connections of vsock that hang
  memory: {
    first: { major: 1, minor: 16, patch: 1 },
    otherwise: 'VMs that it runs cannot be suspended or forked (from 1.16.1 on they can)',
  },
} as const;

type Ability = keyof typeof SINCE;

/** What banger limits itself to where a VMM does not say which version it is. */
export const UNKNOWN_VERSION: VmmVersion = { ...OLDEST_KNOWN, text: 'unknown' };

/** How long a program gets to say its version, in `ms`. */
const VERSION_LIMIT_MS = 10_000;

/**
 * Reads what `firecracker --version`, `GET /` and `GET /version` say.
 * @returns undefined where no version is in it
 */
export function parseVmmVersion(said: string): VmmVersion | undefined {
  const match = /\bv?((\d+)\.(\d+)\.(\d+)(?:[-+][\w.+-]*)?)/.exec(said);
  if (!match) return undefined;
  const [, text = '', major, minor, patch] = match;
  return { text, major: Number(major), minor: Number(minor), patch: Number(patch) };
}

function knownRelease(text: string): Numbers {
  const [major = 0, minor = 0, patch = 0] = text.split('.').map(Number);
  return { major, minor, patch };
}

type Numbers = Pick<VmmVersion, 'major' | 'minor' | 'patch'>;

/** Below 0 when `a` is older than `b`, 0 when they are one release. */
function compareVersions(a: Numbers, b: Numbers): number {
  return a.major - b.major || a.minor - b.minor || a.patch - b.patch;
}

export function can(version: Numbers, ability: Ability): boolean {
  return compareVersions(version, SINCE[ability].first) >= 0;
}

/** What this version cannot do and what is done instead, each a clause. */
export function limitsOf(version: Numbers): string[] {
  return (Object.keys(SINCE) as Ability[])
    .filter((ability) => !can(version, ability))
    .map((ability) => SINCE[ability].otherwise);
}

export function standingOf(version: Numbers): VersionStanding {
  if (compareVersions(version, OLDEST_KNOWN) < 0) return 'old';
  if (version.major > NEWEST_KNOWN.major) return 'new-major';
  return compareVersions(version, NEWEST_KNOWN) > 0 ? 'newer' : 'known';
}

const asked = new Map<string, VmmVersion | undefined>();

/**
 * The version of a program, which is asked once: a file that was replaced has another inode or time.
 * @returns undefined for a program that does not say one
 * @throws BangerError `command_failed` when it cannot be run
 */
export async function binaryVersion(
  runner: Runner,
  path: string,
  env: NodeJS.ProcessEnv,
): Promise<VmmVersion | undefined> {
  const { ino, mtimeMs } = await stat(path);
  const key = `${ino} ${mtimeMs} ${path}`;
  if (!asked.has(key)) {
    const { stdout } = await runner.run([path, '--version'], { env, timeoutMs: VERSION_LIMIT_MS });
    asked.set(key, parseVmmVersion(stdout));
  }
  return asked.get(key);
}
