/**
 * The short form of `make proof`: VMs under a working KVM, which any machine has inside a banger VM. With FIRECRACKER_BIN also by
 * Firecracker. A part that met the known fault of the emulated processor is run again, at most twice, in a rig that goes on.
 */
import assert from 'node:assert/strict';
import { freemem } from 'node:os';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { messageOf } from '../../../src/errors.ts';
import { GIB } from '../../../src/units.ts';
import { hostSkip } from '../../support/host.ts';
import { leanBundle } from '../../support/lean-bundle.ts';
import { paced } from '../../support/pace.ts';
import { HangWatch } from '../hang-watch.ts';
import { showsKnownFault } from '../known-fault.ts';
import type { ProofVmm, ProvenTest } from '../outcome.ts';
import { type FileResult, judged, runWithRepeats } from '../repeat.ts';
import { Rig } from '../rig.ts';
import { openPart, type Part, prepareRig, shortParts } from '../short.ts';

const DIRECTORY = join(import.meta.dirname, '../../../.dev');
/** The first time with the packages of the rig, which are kept. */
const START_LIMIT = { timeout: paced(600_000) };
const PART_LIMIT = { timeout: paced(900_000) };
/** The rig's, and what is left for everything beside it. */
const LEAST_FREE_BYTES = 7 * GIB;
const firecracker = process.env.FIRECRACKER_BIN || undefined;

const skip =
  hostSkip('debugfs') ||
  (process.env.BANGER_PROOF !== undefined && 'this is the rig') ||
  (freemem() < LEAST_FREE_BYTES && 'there is no memory for a rig, which has 5 GiB');

describe('banger under KVM', { skip }, () => {
  let rig: Rig;
  let hangs: HangWatch;
  before(async () => {
    const bundle = process.env.BANGER_TEST_BUNDLE ?? '';
    rig = await Rig.start({
      directory: DIRECTORY,
      host: bundle,
      // its guests come up in half the time
      guests: await leanBundle(bundle, DIRECTORY),
      compilers: false,
      firecracker,
      jailer: process.env.JAILER_BIN || undefined,
      tell: (text) => console.log(text),
    });
    await prepareRig(rig);
    hangs = await HangWatch.begin(rig);
  }, START_LIMIT);
  after(async () => {
    hangs?.[Symbol.dispose]();
    await rig?.[Symbol.asyncDispose]();
  });

  const vmms: ProofVmm[] = firecracker === undefined ? ['fcqemu'] : ['fcqemu', 'firecracker'];
  for (const vmm of vmms) {
    for (const part of shortParts(vmm)) {
      it(`${part.name}, by ${vmm}`, PART_LIMIT, async (t) => {
        const { tests } = await runWithRepeats(
          part.name,
          () => runPart(vmm, part),
          ({ evidence }) => t.diagnostic(`run again because of the known fault:\n${evidence}`),
        );
        for (const { name, outcome, why, ms } of tests) {
          await t.test(`${name} (${Math.round(ms / 1000)} s)`, () => assert.equal(outcome, 'passed', why ?? outcome));
        }
      });
    }
  }

  /** Its steps, up to the first that fails. */
  async function runPart(vmm: ProofVmm, part: Part): Promise<FileResult> {
    const tests: ProvenTest[] = [];
    hangs.seen(); // of the part before
    const banger = await openPart(rig, vmm, part);
    try {
      for (const { name, act } of part.steps) {
        const began = performance.now();
        const done = (outcome: Omit<ProvenTest, 'file' | 'name' | 'ms'>) =>
          tests.push({ file: part.name, name, ms: performance.now() - began, ...outcome });
        try {
          await act(banger);
          done({ outcome: 'passed' });
        } catch (error) {
          const said = `${messageOf(error)}\n${await banger.consoles()}`;
          done({ outcome: 'failed', why: said });
          return judged(tests, hangs.seen() ?? (showsKnownFault(said) ? said : undefined));
        }
      }
      return judged(tests, undefined);
    } finally {
      await banger[Symbol.asyncDispose]();
    }
  }
});
