import assert from 'node:assert/strict';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { writeSeedDrive } from '../../src/storage/seed-drive.ts';
import { createRunner } from '../../src/system/runner.ts';
import { tempDir } from '../support/temp-dir.ts';

const seed = {
  hostname: 'web',
  address: '172.30.0.2',
  gateway: '172.30.0.1',
  mtu: 1500,
  nameservers: ['192.0.2.53'],
  searchDomain: 'vm',
  authorizedKeys: ['ssh-ed25519 AAAA banger'],
  hostKeyPrivate: '-----BEGIN OPENSSH PRIVATE KEY-----\n',
  hostKeyPublic: 'ssh-ed25519 BBBB web',
  workMount: '/srv/work',
};

describe('seed drive', () => {
  it('is an archive that tar reads, padded to whole sectors', async (t) => {
    const dir = await tempDir(t);
    const path = join(dir, 'seed.img');
    await writeSeedDrive(path, seed);
    assert.equal((await stat(path)).size % 512, 0);
    const runner = createRunner();
    const { stdout } = await runner.run(['tar', '-tf', path]);
    assert.deepEqual(stdout.trim().split('\n'), [
      'config',
      'authorized_keys',
      'rootfs/',
      'rootfs/etc/hostname',
      'rootfs/etc/resolv.conf',
      'rootfs/etc/ssh/ssh_host_ed25519_key',
      'rootfs/etc/ssh/ssh_host_ed25519_key.pub',
    ]);
    await runner.run(['tar', '-xf', path, '-C', dir]);
    assert.equal(await readFile(join(dir, 'rootfs/etc/resolv.conf'), 'utf8'), 'search vm\nnameserver 192.0.2.53\n');
    assert.match(await readFile(join(dir, 'config'), 'utf8'), /^HOSTNAME='web'\nADDRESS='172\.30\.0\.2'$/m);
    assert.equal((await stat(join(dir, 'rootfs/etc/ssh/ssh_host_ed25519_key'))).mode & 0o777, 0o600);
  });

  it('can be read by its owner only: it holds a private key', async (t) => {
    const path = join(await tempDir(t), 'seed.img');
    await writeSeedDrive(path, seed);
    assert.equal((await stat(path)).mode & 0o777, 0o600);
  });
});
