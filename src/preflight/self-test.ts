/**
 * Whether guests really run under KVM here. Opening /dev/kvm proves nothing: nested hosts exist where it opens
 * and no guest ever executes an instruction. So a kernel is booted for a moment, and its first line decides.
 */
import { createHash, randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { access, constants, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { BangerError, messageOf, systemCode } from '../errors.ts';
import { writeFileAtomic } from '../system/files.ts';
import type { Privileged } from '../system/privilege.ts';
import { endProcess, findProcessesByArgument, isAlive } from '../system/processes.ts';
import type { Argv, Runner } from '../system/runner.ts';

/** A working host prints the first line within 0.3 s; a loaded one gets ten times that. */
const LIMIT_MS = 3000;

/** Memory of the test guest: enough for a kernel's first lines. */
const MEMORY_MIB = 128;

/** Early console: the first line comes before any driver is up. No root: the guest ends in a panic and resets. */
const BOOT_ARGS = 'console=ttyS0 earlyprintk=serial,ttyS0,115200 reboot=k panic=-1';

/** What only a running kernel prints: the time since its boot, or its banner. */
const KERNEL_LINE = /^\[\s*\d+\.\d{6}\]|Linux version \d/;

export type TestVmm =
  | { kind: 'firecracker'; path: string }
  /** `path` is QEMU itself, which fcqemu would run */
  | { kind: 'qemu'; path: string };

export interface SelfTestOptions {
  runner: Runner;
  privileged: Privileged;
  vmm: TestVmm;
  /** an uncompressed ELF kernel */
  kernel: string;
  /** directory for the verdict and the test's files */
  cacheDirectory: string;
  bootId: string;
  /** `/dev/kvm` */
  kvmDevice: string;
  /** tests again where the remembered verdict is "no": what was wrong may have been put right */
  retest?: boolean;
}

export interface KvmVerdict {
  works: boolean;
  /** a sentence */
  detail: string;
  /** whether this user may open the device; where not, only root runs guests under KVM */
  userMayOpen: boolean;
  /** whether a guest was booted to find out, now or earlier */
  tested: boolean;
}

/** Tells files apart without reading them. */
interface Fingerprint {
  path: string;
  size: number;
  mtimeMs: number;
}

interface Remembered {
  bootId: string;
  vmm: Fingerprint;
  kernel: Fingerprint & { sha256: string };
  works: boolean;
  detail: string;
}

/** The verdict for this boot of the host, this kernel and this VMM; the test runs only when it is not known. */
export async function kvmVerdict(options: SelfTestOptions): Promise<KvmVerdict> {
  const opened = await deviceAccess(options.kvmDevice);
  if (opened === 'missing') {
    return { works: false, detail: `There is no ${options.kvmDevice}.`, userMayOpen: false, tested: false };
  }
  const userMayOpen = opened === 'yes';
  if (!userMayOpen && options.vmm.kind === 'qemu') {
    return { works: false, detail: `This user may not open ${options.kvmDevice}.`, userMayOpen, tested: false };
  }
  const remembered = await recall(options);
  if (remembered && (remembered.works || !options.retest)) {
    return { works: remembered.works, detail: remembered.detail, userMayOpen, tested: true };
  }
  const verdict = await bootOnce(options, userMayOpen);
  await remember(options, verdict);
  return { ...verdict, userMayOpen, tested: true };
}

/** Whether this user may open the device; says nothing about guests. */
export async function deviceAccess(path: string): Promise<'yes' | 'denied' | 'missing'> {
  try {
    await access(path, constants.R_OK | constants.W_OK);
    return 'yes';
  } catch (error) {
    return systemCode(error) === 'ENOENT' ? 'missing' : 'denied';
  }
}

type Outcome = Pick<KvmVerdict, 'works' | 'detail'>;

async function bootOnce(options: SelfTestOptions, userMayOpen: boolean): Promise<Outcome> {
  await mkdir(options.cacheDirectory, { recursive: true });
  const configFile = join(options.cacheDirectory, `self-test-${randomBytes(4).toString('hex')}.json`);
  const argv =
    options.vmm.kind === 'firecracker'
      ? firecrackerArgv(options.vmm.path, configFile)
      : qemuArgv(options, `${configFile}.pid`);
  const stop = new AbortController();
  let firstLine: string | undefined;
  let ended = false;
  const end = () => {
    ended = true;
    // a VMM run through sudo is not ours to kill: it is ended as root, found by the unique file in its arguments
    if (userMayOpen) stop.abort();
    else endAsRoot(options.privileged, configFile).catch(() => {}); // the time limit of the run comes next
  };
  const timer = setTimeout(end, LIMIT_MS);
  const began = performance.now();
  try {
    await writeFile(configFile, JSON.stringify(firecrackerConfig(options.kernel)));
    await options.runner.run(userMayOpen ? argv : options.privileged.argv(argv), {
      signal: stop.signal,
      timeoutMs: LIMIT_MS * 2,
      onLine: (line) => {
        if (firstLine !== undefined || !KERNEL_LINE.test(line)) return;
        firstLine = line;
        end();
      },
    });
  } catch (error) {
    if (!ended) return { works: false, detail: `The test guest could not be started: ${lastWords(error)}` };
  } finally {
    clearTimeout(timer);
    for (const file of [configFile, `${configFile}.pid`]) await rm(file, { force: true });
  }
  if (firstLine !== undefined) {
    const ms = Math.round(performance.now() - began);
    return { works: true, detail: `A test guest printed its first line within ${ms} ms.` };
  }
  const silence = ended ? `for ${LIMIT_MS / 1000} s` : 'before it ended';
  return {
    works: false,
    detail: `${options.kvmDevice} opens, but a test guest printed nothing ${silence}: guests do not run here.`,
  };
}

/** What the VMM itself said last, without the long command line it was started with. */
function lastWords(error: unknown): string {
  const stderr = error instanceof BangerError ? error.details?.stderr : undefined;
  const last = typeof stderr === 'string' ? stderr.trim().split('\n').at(-1) : undefined;
  return last || messageOf(error);
}

function firecrackerConfig(kernel: string): object {
  return {
    'boot-source': { kernel_image_path: kernel, boot_args: BOOT_ARGS },
    'machine-config': { vcpu_count: 1, mem_size_mib: MEMORY_MIB },
    drives: [],
  };
}

function firecrackerArgv(path: string, configFile: string): Argv {
  return [path, '--no-api', '--config-file', configFile];
}

/** It ends with this process, as under fcqemu; the file of its process id is how it is found when it did not. */
function qemuArgv({ vmm, kernel }: SelfTestOptions, pidFile: string): Argv {
  const machine = vmm.path.endsWith('aarch64') ? 'virt' : 'microvm';
  return [
    ...(['setpriv', '--pdeathsig', 'KILL', '--', vmm.path, '-pidfile', pidFile] as const),
    ...['-accel', 'kvm', '-cpu', 'host', '-M', machine, '-m', String(MEMORY_MIB), '-nodefaults', '-no-user-config'],
    ...['-no-reboot', '-display', 'none', '-serial', 'stdio', '-kernel', kernel, '-append', BOOT_ARGS],
  ];
}

/** For the start of a daemon, when no test runs: ends what tests of one that was killed have left. */
export async function endSelfTests({
  cacheDirectory,
  privileged,
}: Pick<SelfTestOptions, 'cacheDirectory' | 'privileged'>): Promise<void> {
  const names = await readdir(cacheDirectory).catch(() => []); // no test ever ran
  for (const name of names) {
    if (!/^self-test-[0-9a-f]{8}\.json(\.pid)?$/.test(name)) continue;
    const file = join(cacheDirectory, name);
    for (const identity of await findProcessesByArgument(file)) await endProcess(identity, { graceMs: 0 });
    await endAsRoot(privileged, file);
    await rm(file, { force: true });
  }
}

async function endAsRoot(privileged: Privileged, argument: string): Promise<void> {
  for (const identity of await findProcessesByArgument(argument)) {
    if (await isAlive(identity)) await privileged.run(['kill', '-KILL', String(identity.pid)], { okExits: [0, 1] });
  }
}

function verdictFile({ cacheDirectory }: SelfTestOptions): string {
  return join(cacheDirectory, 'kvm-self-test.json');
}

async function recall(options: SelfTestOptions): Promise<Remembered | undefined> {
  const entry = await readFile(verdictFile(options), 'utf8')
    .then((text) => JSON.parse(text) as Remembered)
    .catch(() => undefined); // none yet, or cut short: the test gives a new one
  if (!entry || entry.bootId !== options.bootId) return undefined;
  if (!same(entry.vmm, await fingerprint(options.vmm.path))) return undefined;
  const kernel = await fingerprint(options.kernel);
  if (same(entry.kernel, kernel)) return entry;
  // another file may still be the same kernel: every VM's bundle would otherwise ask for a test of its own
  return entry.kernel.size === kernel.size && entry.kernel.sha256 === (await sha256(options.kernel))
    ? entry
    : undefined;
}

async function remember(options: SelfTestOptions, verdict: { works: boolean; detail: string }): Promise<void> {
  const entry: Remembered = {
    bootId: options.bootId,
    vmm: await fingerprint(options.vmm.path),
    kernel: { ...(await fingerprint(options.kernel)), sha256: await sha256(options.kernel) },
    ...verdict,
  };
  await writeFileAtomic(verdictFile(options), `${JSON.stringify(entry)}\n`);
}

function same(a: Fingerprint, b: Fingerprint): boolean {
  return a.path === b.path && a.size === b.size && a.mtimeMs === b.mtimeMs;
}

async function fingerprint(path: string): Promise<Fingerprint> {
  const { size, mtimeMs } = await stat(path);
  return { path, size, mtimeMs };
}

async function sha256(path: string): Promise<string> {
  const hash = createHash('sha256');
  await pipeline(createReadStream(path), hash);
  return hash.digest('hex');
}
