/** Every sequence that was recorded from Firecracker 1.16.1, where the recordings lie beside the checkout. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { setTimeout as delay } from 'node:timers/promises';
import { VERSION } from '../../../fcqemu/argv.ts';
import { tempDir } from '../../support/temp-dir.ts';
import { makeFixtures } from '../conformance/fixtures.ts';
import { isReplayable, type RecordedCase, readRecorded, recordedSkipReason } from '../conformance/recorded.ts';
import { comparableFile, differences, isRefused } from '../conformance/refusals.ts';
import { namespaceWithTaps, replay } from '../conformance/replay.ts';
import { tapSkipReason } from '../support/tap.ts';
import { guestSkipReason, runVmm, startVmm } from '../support/vmm-process.ts';

const skip = recordedSkipReason() || tapSkipReason() || guestSkipReason();
const { cases, texts } = skip ? { cases: [], texts: {} } : readRecorded();
const GROUPS = ['mutate', 'paths', 'raw', 'seq', 'post', 'snap', 'tap', 'fuzz', 'fuzzpost'];
/** Enough to know which family of answers is broken. */
const SHOWN = 5;
const DEFAULT_SOCKET = '/run/firecracker.socket';
const SUPPRESSED = /messages were suppressed due to rate limiting$/;
/** Who lives that long after a signal goes on living. */
const SURVIVED_MS = 2000;

describe('every recorded sequence', { skip, timeout: 900_000 }, () => {
  for (const group of GROUPS) {
    it(`of the group ${group} is answered and logged as it was`, async (t) => {
      const sequences = cases.filter((each) => each.group === group && isReplayable(each));
      assert.ok(sequences.length > 0);
      const results = await replay(t, sequences, texts);
      const found = sequences.flatMap((sequence, at) => {
        const { answers = [], log = '' } = results[at] ?? {};
        const wrong: object[] = differences(sequence, answers);
        if (!isRefused(sequence, answers)) wrong.push(...logDifferences(sequence.stdout, log));
        return wrong.map((each) => ({ sequence: sequence.name, ...each }));
      });
      assert.deepEqual(found.slice(0, SHOWN), []);
    });
  }

  it('with a command line that ends the process ends it with the same words and status', async (t) => {
    const prefix = namespaceWithTaps(t);
    leaveSocket(t);
    const found: object[] = [];
    for (const { argv, status, stdout, stderr } of cases.filter(
      ({ group, status: s }) => group === 'cli' && s !== undefined,
    )) {
      // a format of fcqemu's own
      if (argv.includes('--snapshot-version')) continue;
      const end = await runVmm(argv, {}, { cwd: await fixtures(t), prefix });
      const code = end.signal ? -constants.signals[end.signal] : end.code;
      const said = [code, processLog(end.stdout), end.stderr];
      const wanted = [status, processLog(stdout), stderr];
      if (JSON.stringify(said) !== JSON.stringify(wanted)) found.push({ argv, said, wanted });
    }
    assert.deepEqual(found.slice(0, SHOWN), []);
  });

  it('that ends with a signal ends with the same status', async (t) => {
    const found: object[] = [];
    for (const sequence of cases.filter(({ group }) => group === 'signals')) {
      const wanted = sequence.expected.find((each) => each.startsWith('rc='));
      const signal = sequence.steps.map((step) => ('signal' in step ? step.signal : undefined)).find(Boolean);
      // these were ignored by whoever recorded them, see the list of refusals
      if (signal === undefined || signal === 'SIGINT' || signal === 'SIGQUIT') continue;
      const got = await signalled(t, sequence, signal);
      if (got !== wanted) found.push({ name: sequence.name, wanted, got });
    }
    assert.deepEqual(found.slice(0, SHOWN), []);
  });
});

/** Whoever names no socket finds the one that an earlier process left, as when this was recorded. */
function leaveSocket(t: TestContext): void {
  if (existsSync(DEFAULT_SOCKET)) return;
  writeFileSync(DEFAULT_SOCKET, '');
  t.after(() => rmSync(DEFAULT_SOCKET, { force: true }));
}

/** A working directory with the files that recorded requests name. */
async function fixtures(t: TestContext): Promise<string> {
  const directory = join(await tempDir(t), 'f');
  mkdirSync(directory);
  makeFixtures(directory, texts, true);
  return directory;
}

/** What a process wrote to standard output, without what may differ. */
function processLog(text: string): string {
  return comparableFile(
    text
      .replaceAll(VERSION, '$V')
      .replace(/^\d{4}-\S+ /gm, '$T ')
      .replace(/panicked at \S+:\d+:\d+:/, 'panicked at PLACE'),
  );
}

/** Lines of one log that are not in the other. When which thread starts is a matter of chance. */
function logDifferences(recorded: string, log: string): object[] {
  const ofMain =
    /^Firecracker|Running Firecracker|Listening on API socket|API server started|RunWithApiError|exiting with|from one single json$|^v\d/;
  const lines = (text: string) =>
    comparableFile(text.replace(/took \d+ us/g, 'took N us'))
      .split('\n')
      .filter((line) => !ofMain.test(line.replace(/^\$T \[.*?\] /, '')));
  const wanted = lines(Buffer.from(recorded, 'latin1').toString('utf8'));
  // what one log keeps back in a moment, one that takes longer writes later
  const slower = wanted.some((line) => SUPPRESSED.test(line)) ? [] : lines(log).filter((line) => SUPPRESSED.test(line));
  const got = lines(log).filter((line) => !slower.includes(line));
  const at = wanted.findIndex((line, index) => line !== got[index]);
  if (at === -1 && wanted.length === got.length) return [];
  const index = at === -1 ? wanted.length : at;
  return [{ logged: got[index], expected: wanted[index] }];
}

async function signalled(t: TestContext, { steps }: RecordedCase, signal: NodeJS.Signals): Promise<string> {
  const vmm = await startVmm(t);
  makeFixtures(vmm.dir, texts, false);
  for (const step of steps) {
    if (!Array.isArray(step)) continue;
    const [method, path, body] = step;
    assert.equal((await vmm.call(method, path, body)).status, 204);
  }
  vmm.process.kill(signal);
  const ended = await Promise.race([vmm.ended, delay(SURVIVED_MS, undefined, { ref: false })]);
  if (!ended) return 'rc=None';
  return `rc=${ended.signal ? -constants.signals[ended.signal] : ended.code}`;
}
