import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { ProvenTest, Repeat } from './outcome.ts';
import { type FileResult, judged, runWithRepeats } from './repeat.ts';

const FILE = 'test/host/life.test.ts';
const test = (outcome: ProvenTest['outcome']): ProvenTest => ({ file: FILE, name: 'a VM', outcome, ms: 1 });
const FAULT = judged([test('failed')], 'error_entry at asm_sysvec_apic_timer_interrupt+0x0');
const FAILED = judged([test('failed')], undefined);
const PASSED = judged([test('passed')], undefined);

/** Runs a file whose runs end like this, one after the other. */
async function prove(...results: FileResult[]) {
  const reported: Repeat[] = [];
  let runs = 0;
  const { tests, repeats } = await runWithRepeats(
    FILE,
    async () => results[runs++] ?? assert.fail('run too often'),
    (repeat) => reported.push(repeat),
  );
  assert.deepEqual(reported, repeats);
  return { runs, repeats: repeats.length, outcome: tests[0]?.outcome };
}

describe('a file of tests in the rig', () => {
  it('is run again when it failed with the known fault, and its last run counts', async () => {
    assert.deepEqual(await prove(FAULT, PASSED), { runs: 2, repeats: 1, outcome: 'passed' });
    assert.deepEqual(await prove(FAULT, FAULT, PASSED), { runs: 3, repeats: 2, outcome: 'passed' });
    assert.deepEqual(await prove(FAULT, FAILED), { runs: 2, repeats: 1, outcome: 'failed' });
  });

  it('is run three times at most', async () => {
    assert.deepEqual(await prove(FAULT, FAULT, FAULT, PASSED), { runs: 3, repeats: 2, outcome: 'failed' });
  });

  it('is not run again when it failed in another way, or when it passed beside the fault', async () => {
    assert.deepEqual(await prove(FAILED), { runs: 1, repeats: 0, outcome: 'failed' });
    assert.deepEqual(await prove(PASSED), { runs: 1, repeats: 0, outcome: 'passed' });
    assert.deepEqual(judged([test('passed')], 'a guest panicked, and its test went on'), PASSED);
  });
});
