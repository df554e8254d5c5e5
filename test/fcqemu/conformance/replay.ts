/** Has sequences run by a process of their own, in a network namespace that has the taps they name. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import { fileURLToPath } from 'node:url';
import { tempDir } from '../../support/temp-dir.ts';
import { namespaceWith } from '../support/tap.ts';
import type { RunInput, RunOutput } from './run.ts';
import type { Sequence } from './sequences.ts';

const RUN = fileURLToPath(new URL('run.ts', import.meta.url));

/** What was there when the answers were recorded. */
const TAPS = {
  ...Object.fromEntries([0, 1, 2, 3, 4].map((index) => [`fc-t${index}`, 'mode tap vnet_hdr'])),
  'fc-mq': 'mode tap multi_queue',
  'fc-novh': 'mode tap',
  'fc-tun': 'mode tun',
};

/** @returns the command in front of programs that shall run where these taps are */
export function namespaceWithTaps(t: TestContext): string[] {
  return namespaceWith(t, TAPS);
}

/** Whether a sequence, or a file that it begins with, names taps. */
export function needsTaps({ steps, prelude = [], options }: Sequence, texts: Record<string, string>): boolean {
  const files = options.map((option) => texts[option] ?? '');
  return JSON.stringify([steps, prelude, files]).includes('network-interfaces');
}

/** @returns answers and log of each sequence, in their order */
export async function replay(
  t: TestContext,
  sequences: Sequence[],
  texts: Record<string, string>,
): Promise<RunOutput[]> {
  const directory = await tempDir(t);
  const [input, output] = [join(directory, 'input'), join(directory, 'output')];
  writeFileSync(input, JSON.stringify({ sequences, texts } satisfies RunInput));
  const prefix = sequences.some((sequence) => needsTaps(sequence, texts)) ? namespaceWithTaps(t) : [];
  const [program = '', ...args] = [...prefix, process.execPath, RUN, input, output];
  const { status, stderr } = spawnSync(program, args, { encoding: 'utf8' });
  assert.equal(status, 0, stderr);
  return JSON.parse(readFileSync(output, 'utf8')) as RunOutput[];
}
