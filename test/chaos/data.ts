/** What the guests of a chaos run hold, how it is written, and how it is read back. */
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import type { TestHost } from '../support/host.ts';
import type { Real } from './action.ts';
import { expect, type Model, NO_DATA, surelyRuns, vmOf } from './model.ts';
import { verify } from './observe.ts';

const DATA = '/root/data';
const DATA_BYTES = 256 * 1024;

/** Where a build leaves its mark on the root disk. */
export const MARK = '/opt/mark';

/**
 * Reads back what was synced: the file of a write that was cut off is the old one or the new one, never a mixture, and
 * the root disk is that of the image the VM has.
 */
export async function checkData(model: Model, host: TestHost, name: string): Promise<void> {
  const sumOfData = `if [ -e ${DATA} ]; then sha256sum < ${DATA} | head -c 64; else echo ${NO_DATA}; fi`;
  const said = await host.guest(name, `${sumOfData}; echo; cat ${MARK} 2> /dev/null || echo ${NO_DATA}`);
  const [sum = '', mark = ''] = said.split(/\n+/);
  const { sums, marks } = vmOf(model, name);
  assert.ok(sums.has(sum), `the data of ${name} has the sum ${sum}, not ${[...sums].join(' or ')}`);
  assert.ok(marks.has(mark), `the root disk of ${name} has the mark ${mark}, not ${[...marks].join(' or ')}`);
  model.vms.set(name, { ...vmOf(model, name), sums: new Set([sum]), marks: new Set([mark]) });
}

/** Starts every VM once more and reads its data: nothing that was synced may be lost. */
export async function checkAllData(model: Model, { host, tell }: Real): Promise<void> {
  for (const name of model.vms.keys()) {
    tell(`read back ${name}`);
    if (!surelyRuns(model, name)) await host.ok('start', name);
    expect(model, name, 'running');
    await checkData(model, host, name);
    await host.ok('kill', name);
    expect(model, name, 'stopped');
  }
  await verify(host, model);
}

interface PlannedWrite {
  script: string;
  /** SHA-256 the data file has afterwards */
  sum: string;
}

/** Writes new bytes beside the old file, syncs, and puts them in its place. */
export function planWrite(): PlannedWrite {
  const line = randomBytes(12).toString('hex');
  const bytes = `${line}\n`.repeat(Math.ceil(DATA_BYTES / (line.length + 1))).slice(0, DATA_BYTES);
  return {
    sum: createHash('sha256').update(bytes).digest('hex'),
    script: `yes ${line} | head -c ${DATA_BYTES} > ${DATA}.new && sync && mv ${DATA}.new ${DATA} && sync`,
  };
}
