import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import type { Outcome } from './outcome.ts';
import { withRow } from './table.ts';

const DOCUMENT = readFileSync(join(import.meta.dirname, '../../docs/proof.md'), 'utf8');

function outcome(more: Partial<Outcome> = {}): Outcome {
  return {
    vmm: 'firecracker',
    acceleration: 'firecracker, KVM: because',
    version: 'Firecracker v9.8.7',
    kernel: '6.1.0-9-cloud-amd64',
    pace: 8,
    files: ['test/host/a.test.ts'],
    tests: [
      { file: 'test/host/a.test.ts', name: 'works', outcome: 'passed', ms: 1 },
      { file: 'test/host/a.test.ts', name: 'has none', outcome: 'skipped', ms: 1, why: 'no' },
    ],
    repeats: [],
    ms: 61_000,
    ...more,
  };
}

const rowsWith = (text: string, document: string) => document.split('\n').filter((line) => line.includes(text));

describe('the table of docs/proof.md', () => {
  const first = withRow(DOCUMENT, outcome(), '2030-01-02', 'abc1234');

  it('gets a line for a run, and is as it was around it', () => {
    assert.deepEqual(rowsWith('v9.8.7', first), [
      '| 2030-01-02 | Firecracker v9.8.7 | 6.1.0-9-cloud-amd64 | a | 1 passed, 1 skipped | 1 m 1 s | abc1234 |',
    ]);
    const [row = ''] = rowsWith('v9.8.7', first);
    assert.equal(first.replace(`${row}\n`, ''), DOCUMENT);
  });

  it('has the last run of a VMM and its tests, whatever came of it', () => {
    const failed = outcome().tests.map((test) => ({ ...test, outcome: 'failed' as const }));
    const repeats = [{ file: 'test/host/a.test.ts', evidence: 'x' }];
    const second = withRow(first, outcome({ tests: failed, repeats }), '2030-02-03', 'def5678');
    assert.deepEqual(
      rowsWith('v9.8.7', second).map((row) => row.split(' | ').slice(3, 5).join(': ')),
      ['a: 0 passed, 2 failed, 1 files repeated'],
    );
  });

  it('keeps other versions and other choices of tests', () => {
    const files = ['a', 'b', 'c', 'd'].map((name) => `test/host/${name}.test.ts`);
    const more = withRow(
      withRow(first, outcome({ files }), '', ''),
      outcome({ version: 'Firecracker v9.8.8' }),
      '',
      '',
    );
    assert.equal(rowsWith('v9.8.7', more).length, 2);
    assert.equal(rowsWith('| 4 files |', more).length, 1);
    assert.equal(rowsWith('v9.8.8', more).length, 1);
  });

  it('is missed when the document has lost it', () => {
    assert.throws(() => withRow('# Proven', outcome(), '', ''), /has no <!-- written by make proof -->/);
  });
});
