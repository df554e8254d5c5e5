import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { environmentOfPrograms } from '../../bin/environment.ts';
import { hideEnvironment } from '../../scripts/hide-environment.ts';
import { lacking } from '../bundle/sample-bundle.ts';
import { tempDir } from '../support/temp-dir.ts';

const ENV = '/usr/bin/env';

const VISIBLE = {
  PATH: '/usr/bin:/bin',
  HOME: '/root',
  NODE: '/usr/bin/node',
  NODEX_OPTIONS: 'a',
  MY_NODE_OPTIONS: 'b',
  OPENSS: 'c',
  UV: 'd',
  SS: '',
  S: 'e',
  x: 'NODE_OPTIONS=no',
};
const HIDDEN = {
  NODE_OPTIONS: '--inspect',
  NODE_V8_COVERAGE: '/tmp',
  UV_THREADPOOL_SIZE: '1',
  OPENSSL_CONF: '/x',
  SSL_CERT_FILE: '',
  SSLKEYLOGFILE: '/y',
  ICU_DATA: '/z',
};

describe('hiding the environment', () => {
  it('a program sees the variables of Node and its libraries under other names, all others and its arguments as they are', {
    skip: lacking('env'),
  }, async (t) => {
    const program = join(await tempDir(t), 'env');
    const file = await readFile(ENV);
    hideEnvironment(file);
    await writeFile(program, file, { mode: 0o755 });
    for (const args of [[], ['ADDED=1', ENV]]) {
      const { status, stdout } = spawnSync(program, args, { env: { ...HIDDEN, ...VISIBLE }, encoding: 'utf8' });
      const added = args.length > 0 ? ['ADDED=1'] : [];
      const visible = Object.entries(VISIBLE).map(([name, value]) => `${name}=${value}`);
      const hidden = Object.entries(HIDDEN).map(
        ([name, value]) => `${name.charAt(0).toLowerCase()}${name.slice(1)}=${value}`,
      );
      assert.equal(status, 0);
      assert.deepEqual(stdout.trimEnd().split('\n').sort(), [...visible, ...hidden, ...added].sort());
    }
    const none = spawnSync(program, [], { env: {}, encoding: 'utf8' });
    assert.deepEqual([none.status, none.stdout], [0, '']);
  });

  it('programs that are started get them back', () => {
    const hidden = Object.fromEntries(
      Object.entries(HIDDEN).map(([name, value]) => [name.charAt(0).toLowerCase() + name.slice(1), value]),
    );
    assert.deepEqual(environmentOfPrograms({ ...VISIBLE, ...hidden }), { ...VISIBLE, ...HIDDEN });
    assert.deepEqual(environmentOfPrograms({ nodeEnv: 'a', node: 'b', uv: 'c' }), { nodeEnv: 'a', node: 'b', uv: 'c' });
  });

  it('a file that is no executable for this machine is refused', () => {
    assert.throws(() => hideEnvironment(Buffer.from('#!/bin/sh\n'.padEnd(4096))), /Only an executable for Linux/);
  });

  it('an executable without room is refused and stays as it was', async () => {
    const file = await readFile(ENV);
    let before = Buffer.alloc(0);
    let rounds = 0;
    assert.throws(() => {
      // each takes some of the room that is there
      for (; rounds < 100; rounds++) {
        before = Buffer.from(file);
        hideEnvironment(file);
      }
    }, /There is no room/);
    assert.ok(rounds > 0);
    assert.ok(file.equals(before));
  });
});
