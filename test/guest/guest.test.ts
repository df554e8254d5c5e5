import assert from 'node:assert/strict';
import { rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import fc from 'fast-check';
import { shellCommand } from '../../src/guest/command.ts';
import { ensureClientKey, fingerprint, generateKeyPair, knownHosts } from '../../src/guest/keys.ts';
import { createRunner } from '../../src/system/runner.ts';
import { tempDir } from '../support/temp-dir.ts';

const runner = createRunner();

describe('shellCommand', () => {
  it('hands every argument to a shell unchanged', async () => {
    const word = fc.string({ unit: 'grapheme', maxLength: 20 }).filter((text) => !text.includes('\0'));
    await fc.assert(
      fc.asyncProperty(fc.array(word, { minLength: 1, maxLength: 5 }), async (words) => {
        const line = shellCommand({ argv: ['printf', '%s\\0', ...words] });
        const { stdout } = await runner.run(['sh', '-c', line]);
        assert.deepEqual(stdout.split('\0').slice(0, -1), words);
      }),
      { numRuns: 40 },
    );
  });

  it('sets environment and directory', async (t) => {
    const dir = await tempDir(t);
    const line = shellCommand({
      argv: ['sh', '-c', 'echo "$GREETING from $PWD"'],
      env: { GREETING: "it's me" },
      cwd: dir,
    });
    assert.equal((await runner.run(['sh', '-c', line])).stdout, `it's me from ${dir}\n`);
  });
});

describe('keys', () => {
  it('are read by OpenSSH, with the fingerprint we compute', async (t) => {
    const path = join(await tempDir(t), 'ssh', 'id_ed25519');
    const pair = await ensureClientKey(path);
    assert.equal((await stat(path)).mode & 0o777, 0o600);
    const derived = await runner.run(['ssh-keygen', '-y', '-f', path]);
    assert.deepEqual(derived.stdout.trim().split(' ').slice(0, 2), pair.publicKey.split(' ').slice(0, 2));
    assert.match(
      (await runner.run(['ssh-keygen', '-lf', `${path}.pub`])).stdout,
      new RegExp(fingerprint(pair.publicKey).replaceAll('+', '\\+')),
    );
  });

  it('are whole every time', async () => {
    // ssh2 makes one in 256 too short: among 1500 some are almost certain
    for (let made = 0; made < 1500; made++) {
      const { publicKey } = await generateKeyPair('web');
      assert.equal(Buffer.from(publicKey.split(' ')[1] ?? '', 'base64').length, 51, publicKey);
    }
  });

  it('are made once', async (t) => {
    const path = join(await tempDir(t), 'id_ed25519');
    assert.deepEqual(await ensureClientKey(path), await ensureClientKey(path));
  });

  it('keep the private half when the public one is lost, and say so when the private one is damaged', async (t) => {
    const path = join(await tempDir(t), 'id_ed25519');
    const pair = await ensureClientKey(path);
    await rm(`${path}.pub`);
    const again = await ensureClientKey(path);
    assert.equal(again.privateKey, pair.privateKey);
    assert.deepEqual(again.publicKey.split(' ').slice(0, 2), pair.publicKey.split(' ').slice(0, 2));
    assert.deepEqual(await ensureClientKey(path), again);
    await rm(`${path}.pub`);
    await writeFile(path, 'no key');
    await assert.rejects(ensureClientKey(path), { code: 'corrupt', message: /id_ed25519 is no OpenSSH private key/ });
  });

  it('make known_hosts lines that OpenSSH finds by alias', async (t) => {
    const file = join(await tempDir(t), 'known_hosts');
    const { publicKey } = await generateKeyPair('web');
    await (await import('node:fs/promises')).writeFile(
      file,
      knownHosts([{ alias: 'banger-1', hostKeyPublic: publicKey }]),
    );
    assert.match((await runner.run(['ssh-keygen', '-F', 'banger-1', '-f', file])).stdout, /ssh-ed25519/);
  });
});
