/**
 * Runs test files and judges them. A file that failed runs once more, alone: when it passes then, its tests are reported as
 * FLAKY with their first failure, which is a fault of theirs to be explained, not nothing. A test that was skipped must be in
 * the table below, or the run fails: a missing program must not hide what it was needed for.
 *
 * Usage: node scripts/run-tests.ts [--at-once N] [--limit SECONDS] [--report FILE] FILE...
 * Limits grow with the pace of the place (test/support/pace.ts), which is measured once and handed to every file.
 */
import { writeFileSync } from 'node:fs';
import { relative, resolve } from 'node:path';
import { run } from 'node:test';
import { spec } from 'node:test/reporters';
import { parseArgs } from 'node:util';
import { formatDuration } from '../src/units.ts';
import { pace, paced } from '../test/support/pace.ts';

/** Reasons a test may be skipped for on a machine that has everything `make test` installs. */
const EXPECTED_SKIPS: readonly RegExp[] = [
  /FIRECRACKER_BIN/, // no Firecracker is part of the project; whoever has one names it
  /KVM/, // most machines of CI have none that works
  /shared\/conformance|recorded answers/, // answers of Firecracker come beside a checkout, or not
  /reflink|clones? share/, // what the file system of the temporary directory can do
  /node:ffi/, // an experiment of Node's
  /^root may /, // what root is not refused
  /BANGER_TEST_BZIMAGE/, // a kernel that is still packed, for who has one
  /promtool/, // a package of 100 MB for one question
  /no cgroup v2/, // how this host mounts them
  /no memory for a rig/, // it takes more than all other tests together
];

/** These say most about the whole in the least time, so a broken change is seen early. */
const FIRST = ['vm-life', 'daemon-crash', 'life', 'disks', 'unprivileged', 'image-build', 'executable'];

/** The longest of the others: one that began last would run on alone. */
const LONG = [
  ...['rig', 'warm-image', 'bundle', 'forks', 'oci', 'ready', 'image-build-machines', 'hostile-neighbour'],
  ...['conformance', 'chaos', 'full-store', 'bundle-helpers', 'snapshots', 'suspend', 'package-bare', 'images'],
  ...['run-command', 'image-build-store', 'guest-ends', 'full-disk', 'hostile-guest', 'dns-life'],
  // without VMs
  ...['fcqemu/conformance', 'vm/crashes', 'fcqemu/snapshot', 'system/verity', 'preflight/doctor', 'snapshots/memory'],
  ...['warm/templates', 'network/reach', 'fcqemu/guest'],
];

/** Enough to know a failure again; the whole is above. */
const MESSAGE_LINES = 12;

interface Failure {
  file: string;
  /** names from the outermost suite to the test */
  name: string;
  message: string;
}

interface Round {
  /** what each file took in `ms` */
  took: Map<string, number>;
  /** the files in which something failed */
  failed: string[];
  failures: Failure[];
  skips: { file: string; name: string; reason: string }[];
  passed: number;
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { 'at-once': { type: 'string' }, limit: { type: 'string' }, report: { type: 'string' } },
});

if (positionals.length === 0) {
  console.error('usage: node scripts/run-tests.ts [--at-once N] [--limit SECONDS] [--report FILE] FILE...');
  process.exitCode = 2;
} else {
  process.exitCode = await judge(positionals.map((file) => resolve(file)));
}

/** @returns the exit status */
async function judge(files: string[]): Promise<number> {
  process.env.BANGER_TEST_PACE = String(pace());
  if (pace() > 1) console.log(`== limits are ${pace()} times the usual ones: this place is slow now`);
  const began = performance.now();
  const first = await runFiles(files.sort(byOrder), Number(values['at-once'] ?? 2));
  let last: Round = { took: new Map(), failed: [], failures: [], skips: [], passed: 0 };
  if (first.failed.length > 0) {
    console.log(`\n== once more, one after the other: ${first.failed.map(shown).join(' ')}\n`);
    last = await runFiles(first.failed, 1);
  }
  const broken = last.failures;
  const flaky = first.failures.filter(
    ({ file, name }) => !broken.some((each) => each.file === file && each.name === name),
  );
  const unexpected = first.skips.filter(({ reason }) => !EXPECTED_SKIPS.some((pattern) => pattern.test(reason)));
  const report = [
    ...first.skips.map(({ file, name, reason }) => `skipped  ${shown(file)}: ${name}\n    ${reason}`),
    ...unexpected.map(({ file, name }) => `SKIPPED WITHOUT NEED  ${shown(file)}: ${name}`),
    ...flaky.map((each) => `FLAKY  ${describe(each)}`),
    ...broken.map((each) => `FAILED  ${describe(each)}`),
  ];
  for (const line of report) console.log(line);
  const times = [...first.took]
    .sort(([, one], [, other]) => other - one)
    .map(([file, ms]) => `${(ms / 1000).toFixed(1).padStart(6)} s  ${shown(file)}`);
  if (values.report !== undefined) {
    writeFileSync(
      values.report,
      [...report, '', `in ${formatDuration(performance.now() - began)}:`, ...times].map((line) => `${line}\n`).join(''),
    );
  }
  const failed = broken.length + unexpected.length;
  if (flaky.length > 0) console.log(`${flaky.length} FLAKY: passed when repeated, see above`);
  // the line that is read by whoever judges the run, so it is the last
  console.log(`${first.passed + flaky.length} passed, ${failed} failed, ${first.skips.length} skipped`);
  return failed > 0 ? 1 : 0;
}

async function runFiles(paths: string[], concurrency: number): Promise<Round> {
  const round: Round = { took: new Map(), failed: [], failures: [], skips: [], passed: 0 };
  const failed = new Set<string>();
  const limitMs = paced(Number(values.limit ?? 900) * 1000);
  const stream = run({ files: paths, concurrency, timeout: limitMs });
  const suites = new Map<string, string[]>();
  stream.on('test:start', ({ file, name, nesting }) => {
    const names = suites.get(file ?? '') ?? [];
    suites.set(file ?? '', [...names.slice(0, nesting), name]);
  });
  stream.on('test:pass', ({ file, name, details, skip, nesting }) => {
    // a suite too: of one that is skipped no test is told
    if (skip !== undefined && skip !== false)
      round.skips.push({ file: file ?? '', name: fullName(suites, file, name, nesting), reason: String(skip) });
    else if (details.type !== 'suite') round.passed += 1;
  });
  stream.on('test:summary', ({ file, duration_ms: ms, success }) => {
    if (file === undefined) return;
    round.took.set(file, ms);
    console.log(`== ${shown(file)} took ${formatDuration(ms)}`);
    if (!success) failed.add(file);
  });
  stream.on('test:fail', ({ file, name, details, nesting }) => {
    // a file that cannot be loaded, or whose process dies, has no summary of its own
    failed.add(file ?? resolve(name));
    if (details.type === 'suite') return;
    const { cause } = details.error as { cause?: unknown };
    const message = cause instanceof Error ? cause.message : String(cause ?? details.error.message);
    round.failures.push({ file: file ?? resolve(name), name: fullName(suites, file, name, nesting), message });
  });
  for await (const text of stream.compose(spec)) process.stdout.write(text);
  round.failed = paths.filter((path) => failed.has(path));
  // a failure outside of tests, in a hook of a suite
  for (const file of round.failed) {
    if (!round.failures.some((each) => each.file === file))
      round.failures.push({ file, name: 'the file', message: 'failed outside of its tests, see above' });
  }
  return round;
}

function fullName(suites: Map<string, string[]>, file: string | undefined, name: string, nesting: number): string {
  return [...(suites.get(file ?? '') ?? []).slice(0, nesting), name].join(' > ');
}

function describe({ file, name, message }: Failure): string {
  const lines = message.split('\n').slice(0, MESSAGE_LINES);
  return `${shown(file)}: ${name}\n${lines.map((line) => `    ${line}`).join('\n')}`;
}

function byOrder(a: string, b: string): number {
  return rank(a) - rank(b) || a.localeCompare(b);
}

function rank(path: string): number {
  const named = (name: string) => path.endsWith(`/${name.includes('/') ? '' : 'host/'}${name}.test.ts`);
  const index = [...FIRST, ...LONG].findIndex(named);
  return index < 0 ? FIRST.length + LONG.length : index;
}

function shown(path: string): string {
  return relative(process.cwd(), path);
}
