import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { hostNameservers } from '../../src/network/resolvers.ts';
import { tempDir } from '../support/temp-dir.ts';

describe('hostNameservers', () => {
  it('skips a loopback stub and takes the servers behind it', async (t) => {
    const dir = await tempDir(t);
    await writeFile(join(dir, 'stub'), 'nameserver 127.0.0.53\noptions edns0\n');
    await writeFile(
      join(dir, 'real'),
      '# comment\nnameserver 192.0.2.53\nnameserver 2001:db8::1\nnameserver 192.0.2.54\n',
    );
    assert.deepEqual(await hostNameservers([join(dir, 'stub'), join(dir, 'real')]), ['192.0.2.53', '192.0.2.54']);
  });

  it('is empty when nothing is usable', async (t) => {
    assert.deepEqual(await hostNameservers([join(await tempDir(t), 'absent')]), []);
  });
});
