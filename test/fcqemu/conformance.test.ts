/** Requests that Firecracker 1.16.1 was sent, with its answers: fcqemu gives the same ones, or a listed refusal. */
import assert from 'node:assert/strict';
import { mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { VERSION } from '../../fcqemu/argv.ts';
import { tempDir } from '../support/temp-dir.ts';
import { makeFixtures } from './conformance/fixtures.ts';
import { recordedSkipReason } from './conformance/recorded.ts';
import { differences, REFUSALS } from './conformance/refusals.ts';
import { needsTaps, replay } from './conformance/replay.ts';
import { readSequences, type Sequence } from './conformance/sequences.ts';
import { tapSkipReason } from './support/tap.ts';
import { firecrackerBin, guestSkipReason, runVmm } from './support/vmm-process.ts';

const data = (name: string) => readFileSync(new URL(`conformance/data/${name}.json`, import.meta.url), 'utf8');
const texts = JSON.parse(data('texts')) as Record<string, string>;
const skip = firecrackerBin ? 'the answers are its own' : guestSkipReason();
/** Where all recordings are, these are some of them. */
const skipRepeated =
  skip || (!recordedSkipReason() && 'all recorded answers are compared by test/fcqemu/host/conformance.test.ts');

const FILES: [file: string, what: string, why: string | false | undefined][] = [
  ['fields', 'fields of every kind in every body', skip],
  ['paths', 'methods and paths', skipRepeated],
  ['transport', 'bytes that are HTTP, and some that are not', skipRepeated],
  ['before-start', 'configurations and starts that fail', skip],
  ['after-start', 'a machine that runs', skipRepeated],
  ['snapshots', 'machines from snapshots', skipRepeated],
  ['random-before-start', 'requests in any order before the start', skipRepeated],
  ['random-after-start', 'requests in any order after the start', skipRepeated],
];

/** Enough of them to know which family of answers is broken. */
const SHOWN = 5;

describe('recorded answers', () => {
  for (const [file, what, why] of FILES) {
    const all = readSequences(file);
    const check = (sequences: Sequence[]) => async (t: Parameters<typeof replay>[0]) => {
      const results = await replay(t, sequences, texts);
      const found = sequences.flatMap((sequence, at) =>
        differences(sequence, results[at]?.answers ?? []).map((each) => ({ sequence: sequence.name, ...each })),
      );
      assert.deepEqual(found.slice(0, SHOWN), []);
    };
    const withTaps = all.filter((sequence) => needsTaps(sequence, texts));
    const withoutTaps = all.filter((sequence) => !withTaps.includes(sequence));
    if (withoutTaps.length > 0) it(`are those to ${what}`, { skip: why }, check(withoutTaps));
    if (withTaps.length > 0) it(`are those to ${what}, with taps`, { skip: why || tapSkipReason() }, check(withTaps));
  }
});

interface RecordedProcess {
  args: string[];
  status: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

describe('recorded processes', { skip: skipRepeated }, () => {
  for (const { args, status, signal, stdout, stderr } of JSON.parse(data('processes')) as RecordedProcess[]) {
    it(`end as \`${args.join(' ')}\` does`, async (t) => {
      const directory = join(await tempDir(t), 'f');
      mkdirSync(directory);
      makeFixtures(directory, texts, false);
      const end = await runVmm(args, {}, { cwd: directory });
      const said = end.stdout
        .replaceAll(VERSION, '$V')
        .replace(/^\d{4}-\S+ /gm, '$T ')
        // a panic names a place in the source
        .replace(/panicked at \S+:\d+:\d+:/, 'panicked at PLACE');
      assert.deepEqual([end.code, end.signal, said, end.stderr], [status, signal, stdout, stderr]);
    });
  }
});

describe('refusals', () => {
  it('are all on the page about fcqemu, with their reasons', () => {
    const page = readFileSync(new URL('../../docs/fcqemu.md', import.meta.url), 'utf8');
    const rows = REFUSALS.map(({ what, reason }) => `| ${what} | ${reason} |`);
    assert.deepEqual(
      rows.filter((row) => !page.includes(`\n${row}\n`)),
      [],
    );
  });
});
