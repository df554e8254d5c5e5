import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { writeKnownHosts } from '../../../src/control/vm/known-hosts.ts';
import { mortalHost } from '../../support/mortal-host.ts';

describe('the known hosts of ssh', () => {
  it('are all VMs, by id for banger and by name for people', async () => {
    await using place = await mortalHost();
    const { stores, vm } = place;
    stores.vms.insert(vm);
    stores.vms.insert({ ...vm, id: '0000000b', name: 'db', address: '172.30.0.3' });
    mkdirSync(join(place.config.paths.state, 'ssh'));
    const { file, alias } = await writeKnownHosts(place.daemon().host, vm);
    assert.equal(alias, 'banger-5f3a9c01');
    const lines = (await readFile(file, 'utf8')).trim().split('\n');
    assert.deepEqual(lines, [
      'banger-0000000b,db.vm,*.db.vm ssh-ed25519 AAAA',
      'banger-5f3a9c01,web.vm,*.web.vm ssh-ed25519 AAAA',
    ]);
  });
});
