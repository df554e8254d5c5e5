/** A machine that an image build keeps under KVM, memory and all, and goes on with: part of the short form, see short.test.ts. */
import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { after, before, describe, it } from 'node:test';
import type { ImageBuilt } from '../../../src/api/image-build.ts';
import { TestHost } from '../../support/host.ts';
import { paced } from '../../support/pace.ts';
import { kvmSkip } from '../under-kvm.ts';

const BUILD_LIMIT_MS = 400_000;
const LIMIT = { timeout: paced(2 * BUILD_LIMIT_MS) };

describe('a machine under KVM', { skip: kvmSkip() }, () => {
  let host: TestHost;
  before(async () => {
    host = await TestHost.create();
    await host.daemon();
  });
  after(() => host[Symbol.asyncDispose]());

  it('that was kept by an image build goes on', LIMIT, async () => {
    const recipe = join(host.home, 'kept.toml');
    const build = async (last: string) => {
      await writeFile(recipe, `run = ["echo first > /opt/mark", "echo ${last} >> /opt/mark"]`);
      const ran = await host.run(['image', 'build', recipe, '--json'], { timeoutMs: BUILD_LIMIT_MS });
      assert.equal(ran.status, 0, ran.stderr);
      const { steps } = JSON.parse(ran.stdout) as ImageBuilt;
      return steps.filter(({ cached }) => !cached).map(({ step }) => step)[0];
    };
    assert.equal(await build('one'), 'boot');
    assert.equal(await build('two'), 'revive', 'a snapshot of its memory was loaded');
    await host.assertQuiet('of image builds');
  });
});
