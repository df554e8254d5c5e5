import assert from 'node:assert/strict';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { HELPER_SCRIPTS, readHelperScripts } from '../../../src/bundle/store/helper-scripts.ts';
import { lacking, runner } from '../sample-bundle.ts';

const ROOT = join(import.meta.dirname, '../../..');
const HELPERS = join(ROOT, 'helpers');

describe('the helper scripts', () => {
  it('are all the files in helpers/, and go into each bundle as they are', async () => {
    const names = (await readdir(HELPERS)).sort();
    assert.deepEqual(names, [...HELPER_SCRIPTS]);
    const scripts = await readHelperScripts();
    for (const name of names) assert.equal(scripts[name], await readFile(join(HELPERS, name), 'utf8'));
  });

  for (const name of HELPER_SCRIPTS) {
    it(`${name} is a script bash can read, which explains itself`, { skip: lacking('bash') }, async () => {
      await runner.run(['bash', '-n', join(HELPERS, name)]);
      const { stdout } = await runner.run(['bash', join(HELPERS, name), '--help']);
      assert.match(stdout, /^usage: /);
    });

    it(`${name} passes shellcheck`, { skip: lacking('shellcheck') }, async () => {
      const { stdout } = await runner.run(['shellcheck', join(HELPERS, name)], { okExits: [0, 1] });
      assert.equal(stdout, '');
    });
  }

  it('refuse what they do not understand with status 1 or 2, and touch nothing', {
    skip: lacking('bash'),
  }, async () => {
    for (const name of HELPER_SCRIPTS) {
      const { exitCode } = await runner.run(['bash', join(HELPERS, name), '--no-such-option'], { okExits: [1, 2] });
      assert.ok(exitCode > 0, name);
    }
  });

  it('are started by no code of banger', async () => {
    const naming: string[] = [];
    for (const entry of await readdir(join(ROOT, 'src'), { recursive: true })) {
      if (!entry.endsWith('.ts')) continue;
      const text = await readFile(join(ROOT, 'src', entry), 'utf8');
      if (HELPER_SCRIPTS.some((name) => text.includes(name))) naming.push(entry);
    }
    assert.deepEqual(naming, ['bundle/store/helper-scripts.ts']);
  });
});
