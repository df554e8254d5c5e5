/**
 * The short form of `make proof`: a VM under a working KVM, which any machine has inside a banger VM. With FIRECRACKER_BIN
 * also by Firecracker. Each test that ran in the rig is one here.
 */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import { hostSkip } from '../../support/host.ts';
import { leanBundle } from '../../support/lean-bundle.ts';
import { paced } from '../../support/pace.ts';
import type { Outcome, ProofVmm } from '../outcome.ts';
import { Rig } from '../rig.ts';

const DIRECTORY = join(import.meta.dirname, '../../../.dev');
const FILES = ['short', 'short-user', 'short-kept'].map((name) => `test/proof/host/${name}.test.ts`);
/** The first time with the build of the rig's bundle, which is kept. */
const START_LIMIT = { timeout: paced(1_200_000) };
const RUN_LIMIT_MS = paced(1_200_000);
const firecracker = process.env.FIRECRACKER_BIN || undefined;

const skip = hostSkip() || (process.env.BANGER_PROOF !== undefined && 'this is the rig');

describe('banger under KVM', { skip }, () => {
  let rig: Rig;
  before(async () => {
    const bundle = process.env.BANGER_TEST_BUNDLE ?? '';
    rig = await Rig.start({
      directory: DIRECTORY,
      host: bundle,
      // its guests come up in half the time
      guests: await leanBundle(bundle, DIRECTORY),
      firecracker,
      jailer: process.env.JAILER_BIN || undefined,
      tell: (text) => console.log(text),
    });
  }, START_LIMIT);
  after(() => rig?.[Symbol.asyncDispose]());

  const vmms: ProofVmm[] = firecracker === undefined ? ['fcqemu'] : ['fcqemu', 'firecracker'];
  for (const vmm of vmms) {
    it(`works with ${vmm}`, { timeout: RUN_LIMIT_MS }, async (t) => {
      const outcome: Outcome = await rig.prove(vmm, FILES, RUN_LIMIT_MS);
      t.diagnostic(`${outcome.version}, pace ${outcome.pace}`);
      for (const { file } of outcome.repeats) t.diagnostic(`run again because of the known fault: ${file}`);
      assert.ok(
        outcome.tests.some((test) => test.outcome === 'passed'),
        'nothing was run',
      );
      for (const { name, outcome: came, why, ms } of outcome.tests) {
        await t.test(`${name} (${Math.round(ms / 1000)} s there)`, () => assert.equal(came, 'passed', why ?? came));
      }
    });
  }
});
