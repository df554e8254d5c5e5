/**
 * Runs a file of host tests inside the rig and writes what came of it, with the evidence if one of its tests met the known fault
 * of the emulated processor: then it is to be run again. Usage: node test/proof/inside.ts VMM OUTCOME FILE
 * What is found out about the place is kept beside OUTCOME, for the next call.
 */
import { execFile, execFileSync, spawnSync } from 'node:child_process';
import {
  accessSync,
  constants,
  copyFileSync,
  existsSync,
  globSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { run } from 'node:test';
import { spec } from 'node:test/reporters';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import type { DoctorReport } from '../../src/api/system.ts';
import { messageOf } from '../../src/errors.ts';
import { formatDuration } from '../../src/units.ts';
import { DEV } from '../support/host.ts';
import { makeWarmStart } from '../support/make-warm-start.ts';
import { pace, paced } from '../support/pace.ts';
import { hangSeen, watchForHangs } from './hang-trace.ts';
import { showsKnownFault } from './known-fault.ts';
import type { Outcome, ProofVmm, ProvenTest } from './outcome.ts';
import { type FileResult, judged } from './repeat.ts';

/** With two the guests of one file wait for a processor while the limits of the other run. */
const FILES_AT_ONCE = 1;
/** For a file as a whole; tests have shorter limits of their own. */
const FILE_LIMIT_MS = 900_000;
/** A VM's directory is deleted with it, so what its console says is looked at while it is there. */
const WATCH_MS = 2000;
/** The first guest under KVM may miss the time a self-test has; longer ones go on in the background then. */
const DOCTOR_MS = 30_000;

/** Characters of a console that are shown when something failed. */
const LAST_WORDS = 600;

/** What a banger remembers of KVM, in its cache. */
const VERDICT = 'kvm-self-test.json';

const ROOT = resolve(import.meta.dirname, '../..');
const BANGER = join(ROOT, 'dist/banger');
const FCQEMU = join(ROOT, 'dist/fcqemu');
/** Of bangers of tests, and of those that ordinary users run in them. */
const CONSOLES = ['*/state', '*/home/.local/state/banger'].map((state) => {
  return join(tmpdir(), state, 'store/vms/*/console.log');
});

const [vmm, outcomeFile, file] = process.argv.slice(2);
if ((vmm !== 'fcqemu' && vmm !== 'firecracker') || outcomeFile === undefined || file === undefined) {
  console.error('usage: node test/proof/inside.ts fcqemu|firecracker OUTCOME FILE');
  process.exitCode = 2;
} else {
  try {
    const outcome = await prove(vmm, file, await placeFor(vmm, dirname(outcomeFile)));
    writeFileSync(outcomeFile, JSON.stringify(outcome));
    process.exitCode = outcome.tests.some((test) => test.outcome === 'failed') ? 1 : 0;
  } catch (error) {
    console.error(`proof: ${messageOf(error)}`);
    process.exitCode = 3;
  }
}

/** What holds for all tests by one VMM. */
interface Place {
  acceleration: string;
  pace: number;
  /** file of what banger has found out about KVM */
  verdict: string;
}

/** As an earlier call found it, or as it is found now. */
async function placeFor(vmm: ProofVmm, directory: string): Promise<Place> {
  const file = join(directory, `place-${vmm}.json`);
  if (existsSync(file)) return JSON.parse(readFileSync(file, 'utf8')) as Place;
  const verdict = join(directory, `kvm-with-${vmm}.json`);
  const place = { acceleration: await accelerationOf(vmm, verdict), pace: pace(), verdict };
  console.log(`== ${place.acceleration}; pace ${place.pace}`);
  // of another VMM
  for (const old of globSync(join(DEV, 'warm-*'))) rmSync(old, { recursive: true });
  process.env.BANGER_TEST_VERDICT = place.verdict;
  process.env.BANGER_TEST_PACE = String(place.pace);
  await makeWarmStart(process.env.BANGER_TEST_BUNDLE ?? '');
  writeFileSync(file, JSON.stringify(place));
  return place;
}

async function prove(vmm: ProofVmm, file: string, place: Place): Promise<Outcome> {
  const began = performance.now();
  process.env.BANGER_TEST_VERDICT = place.verdict;
  process.env.BANGER_TEST_PACE = String(place.pace);
  watchForHangs();
  // tests of fcqemu by itself are of the one that is asked for
  if (vmm === 'fcqemu') process.env.FCQEMU_ACCEL = 'kvm';
  const { tests, evidence } = await runFile(file);
  return {
    vmm,
    acceleration: place.acceleration,
    version: versionOf(vmm),
    kernel: execFileSync('uname', ['-r'], { encoding: 'utf8' }).trim(),
    pace: place.pace,
    files: [file],
    tests,
    repeats: [],
    ...(evidence === undefined ? {} : { evidence }),
    ms: performance.now() - began,
  };
}

async function runFile(file: string): Promise<FileResult> {
  const began = performance.now();
  const tests: ProvenTest[] = [];
  const said: string[] = [];
  const ended = new AbortController();
  const seen = watchGuests(ended.signal);
  const stream = run({ files: [resolve(ROOT, file)], concurrency: FILES_AT_ONCE, timeout: paced(FILE_LIMIT_MS) });
  stream.on('test:pass', ({ name, skip, details }) => {
    if (details.type === 'suite' && skip === undefined) return;
    const skipped = skip === undefined ? {} : { why: String(skip) };
    tests.push({ file, name, outcome: skip === undefined ? 'passed' : 'skipped', ms: details.duration_ms, ...skipped });
  });
  stream.on('test:fail', ({ name, details }) => {
    const why = [details.error.message, messageOf(details.error.cause)].join('\n');
    said.push(why);
    // a suite fails because of its tests, or because of its hooks, which have no event of their own
    if (details.type === 'suite' && /subtests? failed/.test(why)) return;
    tests.push({ file, name, outcome: 'failed', ms: details.duration_ms, why });
    // the reporter says it at the end of the file, which may be an hour away
    console.log(`== failed: ${name}\n${why}\n`);
  });
  for (const event of ['test:stdout', 'test:stderr'] as const) stream.on(event, ({ message }) => said.push(message));
  for await (const text of stream.compose(spec)) process.stdout.write(text);
  ended.abort();
  const { consoles, lastWords, hang } = await seen;
  console.log(`== ${file} took ${formatDuration(performance.now() - began)}\n`);
  if (tests.every(({ outcome }) => outcome !== 'failed')) return { tests };
  for (const [path, text] of lastWords) console.log(`== ${path} ended with\n${text}\n`);
  const fault = [...consoles, ...said].find(showsKnownFault);
  return judged(tests, fault === undefined ? hang : faultLines(fault));
}

interface Seen {
  /** consoles of VMs that show the known fault */
  consoles: string[];
  /** ends of all consoles, by their files */
  lastWords: Map<string, string>;
  /** that a guest hung by it */
  hang: string | undefined;
}

/** What was seen of guests while the file ran. */
async function watchGuests(signal: AbortSignal): Promise<Seen> {
  const consoles = new Map<string, string>();
  const lastWords = new Map<string, string>();
  let hang: string | undefined;
  hangSeen(); // of the file before
  while (!signal.aborted) {
    for (const path of globSync(CONSOLES)) {
      try {
        const text = readFileSync(path, 'latin1');
        if (showsKnownFault(text)) consoles.set(path, text);
        lastWords.set(path, text.slice(-LAST_WORDS));
      } catch {
        // deleted since it was listed
      }
    }
    const now = hangSeen();
    if (now !== undefined) {
      hang = now.evidence;
      // whoever waits for it would wait until a limit
      killGuest(now.tid);
    }
    await sleep(paced(WATCH_MS), undefined, { signal }).catch(() => {});
  }
  return { consoles: [...consoles.values()], lastWords, hang: hangSeen()?.evidence ?? hang };
}

/** Ends the VMM whose guest's processor is this thread, unless it has ended already. */
function killGuest(tid: number): void {
  try {
    const pid = /^Tgid:\s+(\d+)/m.exec(readFileSync(`/proc/${tid}/status`, 'latin1'))?.[1];
    if (pid !== undefined) process.kill(Number(pid), 'SIGKILL');
  } catch {
    // it is gone
  }
}

function faultLines(console: string): string {
  const lines = console.split(/\r?\n/);
  const first = lines.findIndex((line) => /asm_sysvec_apic_timer_interrupt\+0x0\//.test(line));
  return lines.slice(Math.max(0, first - 2), first + 8).join('\n');
}

/**
 * What banger says it runs guests by; why it does is copied to the file `verdict`.
 * @throws Error unless that is `vmm` under KVM: everything else would prove nothing
 */
async function accelerationOf(vmm: ProofVmm, verdict: string): Promise<string> {
  accessSync('/dev/kvm', constants.R_OK | constants.W_OK);
  const home = mkdtempSync(join(tmpdir(), 'proof-'));
  const env = { ...process.env, BANGER_HOME: home, BANGER_BUNDLE_DEFAULT: process.env.BANGER_TEST_BUNDLE ?? '' };
  let found = '';
  try {
    for (const deadline = performance.now() + paced(DOCTOR_MS); performance.now() < deadline; await sleep(1000)) {
      const { stdout, stderr } = await doctor(env);
      found = stdout === '' ? stderr.trim() : ((JSON.parse(stdout) as DoctorReport).summary.vmm ?? 'nothing');
      if (!found.startsWith(`${vmm}, KVM`)) continue;
      copyFileSync(join(home, 'cache', VERDICT), verdict);
      return found;
    }
  } finally {
    spawnSync(BANGER, ['daemon', 'stop'], { env, stdio: 'ignore' });
    rmSync(home, { recursive: true, force: true });
  }
  throw new Error(`banger does not run guests by ${vmm} under KVM here, it says: ${found}`);
}

/** What it says counts, not its status: it may miss things that are not needed here. */
async function doctor(env: NodeJS.ProcessEnv): Promise<{ stdout: string; stderr: string }> {
  return await promisify(execFile)(BANGER, ['doctor', '--json', 'start'], { env, encoding: 'utf8' }).catch(
    ({ stdout, stderr }: { stdout: string; stderr: string }) => ({ stdout, stderr }),
  );
}

function versionOf(vmm: ProofVmm): string {
  const first = (program: string) => execFileSync(program, ['--version'], { encoding: 'utf8' }).split('\n')[0] ?? '';
  if (vmm === 'firecracker') return first('firecracker');
  return `${first(FCQEMU)}, ${first('qemu-system-x86_64')}`;
}
