/**
 * Whether guests really run under KVM here. Opening /dev/kvm proves nothing: nested hosts exist where it opens
 * and no guest ever executes an instruction. So a kernel is booted for a moment, and its first line decides.
 */
import { createHash, randomBytes } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { access, chmod, constants, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { Writable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { VmUsers } from '../core/vm-users.ts';
import { BangerError, messageOf, systemCode } from '../errors.ts';
import { isOpenToAll, letEnter } from '../storage/ownership.ts';
import { shareFile } from '../storage/shared-files.ts';
import { cleanEnvironment, confinedArgv, type Limits } from '../system/confinement.ts';
import { writeFileAtomic } from '../system/files.ts';
import { groupOfDevice } from '../system/host-facts.ts';
import type { Privileged } from '../system/privilege.ts';
import { endProcess, findProcesses } from '../system/processes.ts';
import type { Argv, Runner } from '../system/runner.ts';
import { MIB } from '../units.ts';

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

/** Threads of QEMU; a test has no disk to write to. */
const LIMITS: Limits = { openFiles: 256, tasks: 64, fileBytes: MIB };

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
  /** whom programs run as that work for VMs, with what they have to reach in a copy in `store` */
  confined: { users: VmUsers; store: string; cp: string; env: NodeJS.ProcessEnv };
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

/** Where a test works, and by what its VMM is known. */
interface Bench {
  directory: string;
  /** a name that is an argument of the VMM */
  mark: string;
  /** the program and the kernel as the VMM names them */
  program: string;
  kernel: string;
}

/** As the VMM of a VM is started: as an unprivileged user, in a directory where it finds what it needs and writes nothing. */
async function prepareBench({ vmm, kernel, cacheDirectory, runner, confined }: SelfTestOptions): Promise<Bench> {
  const mark = `self-test-${randomBytes(4).toString('hex')}`;
  const directory = join(cacheDirectory, mark);
  await mkdir(directory, { recursive: true, mode: 0o700 });
  const { store, cp, users } = confined;
  const { range } = users;
  if (!range) return { directory, mark, program: vmm.path, kernel };
  const reach = async (path: string, isProgram: boolean) => {
    if (await isOpenToAll(path, isProgram)) return path;
    const name = `use-${basename(path)}`;
    await shareFile(runner, cp, { store, source: path, target: join(directory, name), isProgram });
    return isProgram ? `./${name}` : name;
  };
  const bench = { directory, mark, program: await reach(vmm.path, true), kernel: await reach(kernel, false) };
  await letEnter(directory, range.first);
  return bench;
}

function confinedTest({ vmm, confined: { users } }: SelfTestOptions, bench: Bench): Argv {
  const { range, kvmGroup } = users;
  const argv = vmm.kind === 'firecracker' ? firecrackerArgv(bench) : qemuArgv(vmm.path, bench);
  return confinedArgv(argv, {
    user: range?.first,
    groups: range && kvmGroup !== undefined ? [kvmGroup] : [],
    limits: LIMITS,
  });
}

async function bootOnce(options: SelfTestOptions, userMayOpen: boolean, limitMs: number): Promise<Outcome> {
  await mkdir(options.cacheDirectory, { recursive: true });
  const bench = await prepareBench(options);
  const stop = new AbortController();
  let firstLine: string | undefined;
  let ended = false;
  const end = () => {
    ended = true;
    stop.abort();
  };
  // a kernel from a cold disk takes the VMM seconds; read before, it takes none
  await pipeline(createReadStream(options.kernel), new Writable({ write: (_chunk, _encoding, done) => done() }));
  using _silence = watchSilence(bench.directory, usersOfTests(options.confined.users), limitMs, end);
  const began = performance.now();
  try {
    const configFile = userMayOpen ? join(bench.directory, CONFIG_FILE) : `${bench.directory}.json`;
    await writeFile(configFile, JSON.stringify(firecrackerConfig(bench.kernel)));
    await chmod(configFile, 0o644); // its user is another one, whatever our umask is
    const how = {
      signal: stop.signal,
      timeoutMs: LOADING_MS + limitMs,
      onLine: (line: string) => {
        if (firstLine !== undefined || !KERNEL_LINE.test(line)) return;
        firstLine = line;
        end();
      },
    };
    if (userMayOpen) {
      const env = cleanEnvironment(options.confined.env);
      await options.runner.run(confinedTest(options, bench), { ...how, env, cwd: bench.directory });
    } else {
      // as the rules for sudo have it, which take the rights away themselves
      await options.privileged.run([bench.program, '--no-api', '--config-file', configFile], how);
    }
  } catch (error) {
    if (!ended) return { works: false, detail: `The test guest could not be started: ${lastWords(error)}` };
  } finally {
    for (const path of [bench.directory, `${bench.directory}.json`]) await rm(path, { recursive: true, force: true });
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

/** Others than this process's own. */
function usersOfTests({ range }: VmUsers): number[] {
  return range ? [range.first] : [];
}

/**
 * Calls `onSilent` when the VMM has done nothing but run its guest for so long: what it still reads, of itself or of the kernel,
 * begins the time anew.
 * @param directory of the test
 * @param users as which it may run besides this process's own
 */
function watchSilence(directory: string, users: readonly number[], limitMs: number, onSilent: () => void): Disposable {
  const began = performance.now();
  let quietSince = began;
  let seen = '';
  const look = async () => {
    const read = await readSoFar(directory, users);
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
async function readSoFar(directory: string, users: readonly number[]): Promise<string> {
  const processes = await findProcesses(isTestIn(directory), users).catch(() => []);
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

/** What Firecracker boots from, in the directory of a test. */
const CONFIG_FILE = 'machine.json';

function firecrackerArgv({ program, mark }: Bench): Argv {
  return [program, '--id', mark, '--no-api', '--config-file', CONFIG_FILE];
}

/** It ends with this process, as under fcqemu. */
function qemuArgv(path: string, { program, mark, kernel }: Bench): Argv {
  const machine = path.endsWith('aarch64') ? 'virt' : 'microvm';
  return [
    ...(['setpriv', '--pdeathsig', 'KILL', '--', program, '-name', mark] as const),
    ...['-accel', 'kvm', '-cpu', 'host', '-M', machine, '-m', String(MEMORY_MIB), '-nodefaults', '-no-user-config'],
    ...['-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny'],
    ...['-no-reboot', '-display', 'none', '-serial', 'stdio', '-kernel', kernel, '-append', BOOT_ARGS],
  ];
}

/** For the start of a daemon, when no test runs: ends what tests of one that was killed have left. */
export async function endSelfTests(cacheDirectory: string, users: VmUsers): Promise<void> {
  const names = await readdir(cacheDirectory).catch(() => []); // no test ever ran
  for (const name of names) {
    const [, mark] = /^(self-test-[0-9a-f]{8})(?:\.json)?$/.exec(name) ?? [];
    if (mark === undefined) continue;
    const left = await findProcesses(isTestIn(join(cacheDirectory, mark)), usersOfTests(users));
    for (const identity of left) await endProcess(identity, { graceMs: 0 });
    await rm(join(cacheDirectory, name), { recursive: true, force: true });
  }
}

/** Whether a command line is that of a test: by its name, or where sudo started it by its configuration. */
function isTestIn(directory: string): (argv: readonly string[]) => boolean {
  return (argv) => argv.includes(basename(directory)) || argv.includes(`${directory}.json`);
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
