/** What kind of machine this is: read once where a decision depends on it, nothing is changed. */
import { access, constants, readFile, stat } from 'node:fs/promises';
import { delimiter, isAbsolute, join } from 'node:path';
import { messageOf } from '../errors.ts';
import { type Distribution, readDistribution } from './os-release.ts';
import { readBootId } from './processes.ts';

export interface HostFacts {
  distribution: Distribution;
  /** as the kernel spells it, e.g. `x86_64`, `aarch64` */
  arch: string;
  /** changes with every boot of this host */
  bootId: string;
  /** physical memory in `bytes` */
  memoryTotalBytes: number;
  /** memory a new program could get without swapping, in `bytes` */
  memoryAvailableBytes: number;
  cpus: number;
}

export async function readHostFacts(): Promise<HostFacts> {
  const [distribution, bootId, meminfo, cpuinfo] = await Promise.all([
    readDistribution(),
    readBootId(),
    readFile('/proc/meminfo', 'utf8'),
    readFile('/proc/cpuinfo', 'utf8'),
  ]);
  const kib = (field: string) => Number(new RegExp(`^${field}:\\s+(\\d+) kB`, 'm').exec(meminfo)?.[1] ?? 0);
  return {
    distribution,
    arch: kernelArch(process.arch),
    bootId,
    memoryTotalBytes: kib('MemTotal') * 1024,
    memoryAvailableBytes: kib('MemAvailable') * 1024,
    cpus: cpuinfo.match(/^processor\s*:/gm)?.length ?? 1,
  };
}

/** Node's name of an architecture as the kernel spells it. */
export function kernelArch(nodeArch: string): string {
  return { x64: 'x86_64', arm64: 'aarch64', ia32: 'i686' }[nodeArch] ?? nodeArch;
}

export const KVM_DEVICE = '/dev/kvm';

/** The group that may read and write a device; undefined where that is root's, or nobody's, or there is no such device. */
export async function groupOfDevice(path: string): Promise<number | undefined> {
  const found = await stat(path).catch(() => undefined);
  return found && found.gid !== 0 && (found.mode & 0o060) === 0o060 ? found.gid : undefined;
}

/** Where programs for administrators are; missing from the PATH of ordinary users on Debian and others. */
const ADMINISTRATOR_DIRECTORIES = ['/usr/local/sbin', '/usr/sbin', '/sbin'];

/**
 * An environment in which `ip`, `nft` and `mke2fs` are found by ordinary users too. Root's PATH is left as it
 * is: it has these directories unless somebody took them out on purpose.
 */
export function withAdministratorPath(env: NodeJS.ProcessEnv, uid: number): NodeJS.ProcessEnv {
  if (uid === 0) return env;
  const directories = (env.PATH ?? '').split(delimiter).filter((directory) => directory !== '');
  const missing = ADMINISTRATOR_DIRECTORIES.filter((directory) => !directories.includes(directory));
  return { ...env, PATH: [...directories, ...missing].join(delimiter) };
}

/** A program that was looked for. */
export type FoundProgram =
  | { found: true; path: string }
  /** `why` completes "looked for ssh …", e.g. `in PATH (/usr/bin:/bin)` */
  | { found: false; why: string };

/** Looks a program up as starting it would: by PATH for a plain name, else exactly that file. */
export async function findProgram(program: string, env: NodeJS.ProcessEnv): Promise<FoundProgram> {
  if (isAbsolute(program)) {
    const problem = await whyNotExecutable(program);
    return problem === undefined ? { found: true, path: program } : { found: false, why: `at that path: ${problem}` };
  }
  const searched = env.PATH ?? '';
  for (const directory of searched.split(delimiter)) {
    const candidate = join(directory || '.', program);
    if ((await whyNotExecutable(candidate)) === undefined) return { found: true, path: candidate };
  }
  return { found: false, why: searched === '' ? 'in PATH, which is empty' : `in PATH (${searched})` };
}

async function whyNotExecutable(path: string): Promise<string | undefined> {
  try {
    if (!(await stat(path)).isFile()) return 'it is no regular file';
    await access(path, constants.X_OK);
    return undefined;
  } catch (error) {
    return messageOf(error)
      .replace(/^[A-Z]+: /, '')
      .split(',', 1)[0];
  }
}
