/**
 * `make proof`: host tests in the rig, unchanged, with fcqemu under KVM and with the Firecracker that FIRECRACKER_BIN
 * names. PROOF_VMM picks one of the two, RIGS says how many rigs run side by side. With `--boots` guests are booted in place
 * of tests, and counted by how they ended.
 * Usage: node test/proof/main.ts DIRECTORY FILE... | DIRECTORY --boots NUMBER
 */
import { availableParallelism, freemem } from 'node:os';
import { join, relative, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { messageOf } from '../../src/errors.ts';
import { formatDuration, GIB } from '../../src/units.ts';
import { count, type Outcome, type ProofVmm } from './outcome.ts';
import { proveAll } from './queue.ts';
import { Rig } from './rig.ts';
import { currentCommit, writeRow } from './table.ts';

const ROOT = resolve(import.meta.dirname, '../..');
/** Per file and VMM: some boot twenty guests, and one may be run three times. */
const FILE_LIMIT_MS = 3 * 60 * 60_000;
const BOOT_LIMIT_MS = 10 * 60_000;
/** Of a rig with its VMM, its daemon and its commands. */
const RIG_BYTES = 7 * GIB;

const { values, positionals } = parseArgs({ allowPositionals: true, options: { boots: { type: 'string' } } });
const [directory, ...files] = positionals;
const boots = values.boots === undefined ? undefined : Number(values.boots);
if (directory === undefined || (boots === undefined ? files.length === 0 : !(boots > 0))) {
  console.error('usage: node test/proof/main.ts DIRECTORY FILE... | DIRECTORY --boots NUMBER');
  process.exitCode = 2;
} else {
  const stop = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => stop.abort(new Error('Interrupted; the rig is taken down.')));
  }
  try {
    const outcomes = await prove(directory, stop.signal);
    for (const outcome of outcomes) console.log(summary(outcome));
    stop.signal.throwIfAborted();
    process.exitCode = outcomes.some((outcome) => count(outcome, 'failed') > 0) ? 1 : 0;
  } catch (error) {
    process.exitCode = stop.signal.aborted ? 130 : 1;
    console.error(`proof: ${messageOf(error)}`);
  }
}

/** Writes a row for each VMM, unless it was interrupted; returns what has been proven. */
async function prove(directory: string, signal: AbortSignal): Promise<Outcome[]> {
  const firecracker = process.env.FIRECRACKER_BIN || undefined;
  const vmms = chosen(process.env.PROOF_VMM, firecracker);
  const rigs = boots === undefined ? rigsFor(process.env.RIGS) : 1;
  const commit = currentCommit();
  const bundle = process.env.BANGER_TEST_BUNDLE ?? join(resolve(directory), 'bundle');
  const start = async (number: number) => {
    return await Rig.start({
      directory,
      number,
      host: bundle,
      guests: bundle,
      compilers: true,
      firecracker,
      jailer: process.env.JAILER_BIN || undefined,
      tell: (text) => console.log(`== ${text}`),
      ...(rigs > 1 ? { print: printer(number) } : {}),
      signal,
    });
  };
  if (boots !== undefined) {
    await using rig = await start(1);
    for (const vmm of vmms) await rig.node(vmm, `test/proof/boots.ts ${boots}`, boots * BOOT_LIMIT_MS);
    return [];
  }
  const outcomes = await proveAll({
    vmms,
    files: files.map((file) => relative(ROOT, resolve(file))),
    rigs,
    start: async (number) => {
      const rig = await start(number);
      return {
        prove: (vmm, file) => rig.prove(vmm, file, FILE_LIMIT_MS),
        [Symbol.asyncDispose]: () => rig[Symbol.asyncDispose](),
      };
    },
    tell: (text) => console.log(`== ${text}`),
    signal,
  });
  if (!signal.aborted) for (const outcome of outcomes) writeRow(outcome, commit);
  return outcomes;
}

/** A rig keeps little more than one processor busy. */
function rigsFor(wanted: string | undefined): number {
  if (wanted === undefined || wanted === '') {
    return Math.max(1, Math.min(availableParallelism(), Math.floor(freemem() / RIG_BYTES)));
  }
  const number = Number(wanted);
  if (!Number.isInteger(number) || number < 1) throw new Error(`RIGS is "${wanted}"; it must be a number from 1 on.`);
  return number;
}

/** Shows whole lines, with the number of the rig that they are from. */
function printer(number: number): (text: string) => void {
  let begun = '';
  return (text) => {
    const lines = (begun + text).split('\n');
    begun = lines.pop() ?? '';
    for (const line of lines) console.log(`${number} | ${line}`);
  };
}

function chosen(wanted: string | undefined, firecracker: string | undefined): ProofVmm[] {
  const possible: ProofVmm[] = firecracker === undefined ? ['fcqemu'] : ['fcqemu', 'firecracker'];
  if (wanted === undefined || wanted === '') return possible;
  const vmms = possible.filter((vmm) => vmm === wanted);
  if (vmms.length === 0) throw new Error(`PROOF_VMM is "${wanted}"; here it can be ${possible.join(' or ')}.`);
  return vmms;
}

function summary(outcome: Outcome): string {
  const failed = outcome.tests
    .filter((test) => test.outcome === 'failed')
    .map(({ file, name }) => `  failed: ${file}: ${name}`);
  const skipped = outcome.tests
    .filter((test) => test.outcome === 'skipped')
    .map(({ file, name, why }) => `  skipped: ${file}: ${name}: ${why}`);
  const repeated = outcome.repeats.map(({ file }) => `  run again because of the known fault: ${file}`);
  return [
    `\n== ${outcome.version}, ${outcome.files.length} files in ${formatDuration(outcome.ms)}: ${count(outcome, 'passed')} passed, ` +
      `${count(outcome, 'failed')} failed, ${count(outcome, 'skipped')} skipped, ${outcome.repeats.length} repeated`,
    ...failed,
    ...skipped,
    ...repeated,
  ].join('\n');
}
