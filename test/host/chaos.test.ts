/** A short piece of what `make chaos` does for hours: random work and accidents, and everything must agree after each. */
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { chaos } from '../chaos/run.ts';
import { hostSkip } from '../support/host.ts';
import { paced } from '../support/pace.ts';

/**
 * Chosen so that it holds writes, builds, changes of image, suspends, a fork, snapshots with memory that are put back,
 * accidents of the daemon, and work that is cut off.
 */
const SEED = 2005;
const COMMANDS = 96;
/** Fewer are possible than are drawn; when the commands change, another seed may be needed. */
const AT_LEAST = 25;

describe('chaos', { skip: hostSkip('mkfs.xfs', 'debugfs', 'mount') }, () => {
  it('leaves model, banger ls, database and host in agreement, and no synced byte lost', {
    timeout: paced(540_000),
  }, async (t) => {
    const said: string[] = [];
    const count = await chaos({
      ...{ seed: SEED, runs: 1, commands: COMMANDS, shrinkMs: 0, bundles: join(import.meta.dirname, '../../.dev') },
      tell: (text) => said.push(text),
    });
    assert.ok(count >= AT_LEAST, `only ${count} of ${COMMANDS} commands were possible`);
    t.diagnostic(`${count} commands:\n${said.join('\n')}`);
  });
});
