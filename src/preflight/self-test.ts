/**
 * Whether guests really run under KVM here. Opening /dev/kvm proves nothing: nested hosts exist where it opens
 * and no guest ever executes an instruction. So a kernel is booted for a moment, and its first line decides.
 */
import { createHash, randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { access, constants, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { BangerError, messageOf, systemCode } from '../errors.ts';
import { writeFileAtomic } from '../system/files.ts';
import { groupOfDevice } from '../system/host-facts.ts';
import type { Privileged } from '../system/privilege.ts';
import { endProcess, findProcessesByArgument } from '../system/processes.ts';
import type { Argv, Runner } from '../system/runner.ts';

/** A working host prints the first line within 0.3 s of the kernel being loaded; a loaded one gets ten times that. */
const FIRST_LIMIT_MS = 3000;

/** Silence proves nothing on a busy host: each further test gives so many times more, up to the last one. */
const MORE_TIME = 3;
const LAST_LIMIT_MS = 27_000;

/** When a host whose guests were silent to the last is tested again. */
const TEST_AGAIN_MS = 10 * 60_000;

/** Time to load the VMM and the kernel, from a disk that may be cold and slow; none of it counts as silence. */
const LOADING_MS = 60_000;

/** How often it is looked whether the VMM still reads. */
const LOOK_MS = 250;

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
  /** what gives Firecracker the device's group where this user does not have it */
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
  /** what the first and the last test give a silent guest, in `ms` */
  limits?: { firstMs: number; lastMs: number };
}

export interface KvmVerdict {
  works: boolean;
  /** a sentence */
  detail: string;
  /** whether this user may open the device; where not, Firecracker gets its group by sudo */
  userMayOpen: boolean;
  /** whether a guest was booted to find out, now or earlier */
  tested: boolean;
  /** whether a longer test goes on behind it, which may find that it works after all */
  undecided?: true;
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
  /** of a guest that was silent: for how long in `ms`, and when (ISO 8601); absent when there is a reason */
  silent?: { forMs: number; at: string };
}

/** Tests that go on in the background, by the file that takes their verdict. */
const running = new Map<string, Promise<unknown>>();

/**
 * The verdict for this boot of the host, this kernel and this VMM; the test runs only when it is not known. A guest that was
 * merely silent is tested again in the background, with more time, while the answer is no.
 */
export async function kvmVerdict(options: SelfTestOptions): Promise<KvmVerdict> {
  const opened = await deviceAccess(options.kvmDevice);
  if (opened === 'missing') {
    return { works: false, detail: `There is no ${options.kvmDevice}.`, userMayOpen: false, tested: false };
  }
  const userMayOpen = opened === 'yes';
  if (!userMayOpen && (options.vmm.kind === 'qemu' || (await groupOfDevice(options.kvmDevice)) === undefined)) {
    return { works: false, detail: `This user may not open ${options.kvmDevice}.`, userMayOpen, tested: false };
  }
  const limits = options.limits ?? { firstMs: FIRST_LIMIT_MS, lastMs: LAST_LIMIT_MS };
  const remembered = await recall(options);
  if (remembered && (remembered.works || !options.retest)) {
    const nextMs = nextTestMs(remembered, limits.lastMs);
    if (nextMs === undefined) return { works: remembered.works, detail: remembered.detail, userMayOpen, tested: true };
    return undecided(remembered.detail, nextMs);
  }
  const verdict = await test(
    options,
    userMayOpen,
    remembered?.silent ? Math.min(limits.firstMs * MORE_TIME, limits.lastMs) : limits.firstMs,
  );
  const nextMs = nextTestMs(verdict, limits.lastMs);
  return nextMs === undefined
    ? { works: verdict.works, detail: verdict.detail, userMayOpen, tested: true }
    : undecided(verdict.detail, nextMs);

  function undecided(detail: string, limitMs: number): KvmVerdict {
    testInBackground(options, userMayOpen, limitMs);
    const more = `A test of ${limitMs / 1000} s goes on in the background.`;
    return { works: false, detail: `${detail} ${more}`, userMayOpen, tested: true, undecided: true };
  }
}

/** How long the next test of a silent guest is to be in `ms`; undefined when there is none to be made now. */
function nextTestMs({ silent }: Pick<Remembered, 'silent'>, lastMs: number): number | undefined {
  if (!silent) return undefined;
  if (silent.forMs < lastMs) return Math.min(silent.forMs * MORE_TIME, lastMs);
  return Date.now() - Date.parse(silent.at) < TEST_AGAIN_MS ? undefined : lastMs;
}

function testInBackground(options: SelfTestOptions, userMayOpen: boolean, limitMs: number): void {
  const file = verdictFile(options);
  if (running.has(file)) return;
  const end = () => void running.delete(file);
  // what goes wrong is found out again by whoever asks next
  running.set(file, test(options, userMayOpen, limitMs).then(end, end));
}

async function test(options: SelfTestOptions, userMayOpen: boolean, limitMs: number): Promise<Outcome> {
  const verdict = await bootOnce(options, userMayOpen, limitMs);
  await remember(options, verdict);
  return verdict;
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

type Outcome = Pick<Remembered, 'works' | 'detail' | 'silent'>;

async function bootOnce(options: SelfTestOptions, userMayOpen: boolean, limitMs: number): Promise<Outcome> {
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
    stop.abort();
  };
  // a kernel from a cold disk takes the VMM seconds; read before, it takes none
  await pipeline(createReadStream(options.kernel), new Writable({ write: (_chunk, _encoding, done) => done() }));
  const argument = options.vmm.kind === 'firecracker' ? configFile : `${configFile}.pid`;
  using _silence = watchSilence(argument, limitMs, end);
  const began = performance.now();
  try {
    await writeFile(configFile, JSON.stringify(firecrackerConfig(options.kernel)));
    const runner = userMayOpen ? options.runner : options.privileged;
    await runner.run(argv, {
      signal: stop.signal,
      timeoutMs: LOADING_MS + limitMs,
      onLine: (line) => {
        if (firstLine !== undefined || !KERNEL_LINE.test(line)) return;
        firstLine = line;
        end();
      },
    });
  } catch (error) {
    if (!ended) return { works: false, detail: `The test guest could not be started: ${lastWords(error)}` };
  } finally {
    for (const file of [configFile, `${configFile}.pid`]) await rm(file, { force: true });
  }
  if (firstLine !== undefined) {
    const ms = Math.round(performance.now() - began);
    return { works: true, detail: `A test guest printed its first line within ${ms} ms.` };
  }
  const opens = `${options.kvmDevice} opens, but a test guest printed nothing`;
  if (!ended) return { works: false, detail: `${opens} before it ended: guests do not run here.` };
  const silent = { forMs: limitMs, at: new Date().toISOString() };
  return { works: false, detail: `${opens} for ${limitMs / 1000} s: guests do not run here.`, silent };
}

/**
 * Calls `onSilent` when the VMM has done nothing but run its guest for so long: what it still reads, of itself or of the kernel,
 * begins the time anew.
 * @param argument by which its process is known
 */
function watchSilence(argument: string, limitMs: number, onSilent: () => void): Disposable {
  const began = performance.now();
  let quietSince = began;
  let seen = '';
  const look = async () => {
    const read = await readSoFar(argument);
    const now = performance.now();
    if (read !== seen && now - began < LOADING_MS) quietSince = now;
    seen = read;
    if (now - quietSince >= limitMs) return onSilent();
    timer = setTimeout(look, Math.min(LOOK_MS, limitMs));
  };
  let timer = setTimeout(look, Math.min(LOOK_MS, limitMs));
  return {
    [Symbol.dispose]: () => clearTimeout(timer),
  };
}

/** What the VMM has read by now, in a form to compare; of root's, which nobody else may ask, only which processes there are. */
async function readSoFar(argument: string): Promise<string> {
  const processes = await findProcessesByArgument(argument).catch(() => []);
  const each = processes.map(async ({ pid }) => {
    const io = await readFile(`/proc/${pid}/io`, 'utf8').catch(() => '');
    return `${pid}: ${/^rchar: \d+$/m.exec(io)?.[0]} ${/^read_bytes: \d+$/m.exec(io)?.[0]}`;
  });
  return (await Promise.all(each)).join('\n');
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
export async function endSelfTests({ cacheDirectory }: Pick<SelfTestOptions, 'cacheDirectory'>): Promise<void> {
  const names = await readdir(cacheDirectory).catch(() => []); // no test ever ran
  for (const name of names) {
    if (!/^self-test-[0-9a-f]{8}\.json(\.pid)?$/.test(name)) continue;
    const file = join(cacheDirectory, name);
    for (const identity of await findProcessesByArgument(file)) await endProcess(identity, { graceMs: 0 });
    await rm(file, { force: true });
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

async function remember(options: SelfTestOptions, verdict: Outcome): Promise<void> {
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
