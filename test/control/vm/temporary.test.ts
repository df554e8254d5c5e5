import assert from 'node:assert/strict';
import { copyFileSync, existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it, type TestContext } from 'node:test';
import { createTemporaryVms, type TemporaryVms } from '../../../src/control/vm/temporary.ts';
import { imageFiles, keptDirectory } from '../../../src/storage/layout.ts';
import { DISK_BYTES, OLD } from '../../support/mortal-disks.ts';
import { type Daemon, type MortalHost, mortalHost } from '../../support/mortal-host.ts';

const request = { image: OLD.name, rootDiskBytes: DISK_BYTES, workDiskBytes: 0, until: 'reachable' } as const;

interface Held {
  lease: string;
  /** the client goes away */
  leave(): Promise<void>;
  /** what the daemon says last */
  ended: Promise<string | undefined>;
}

async function setUp(t: TestContext): Promise<{ place: MortalHost; daemon: Daemon; temporary: TemporaryVms }> {
  const place = await mortalHost();
  t.after(() => place[Symbol.asyncDispose]());
  const daemon = place.daemon();
  await daemon.recover();
  return { place, daemon, temporary: createTemporaryVms(daemon.host, daemon.life) };
}

async function hold({ mortal }: Daemon, temporary: TemporaryVms): Promise<Held> {
  const client = new AbortController();
  const lines = temporary.hold(4711, client.signal);
  const next = () => mortal.run(() => lines.next());
  const { value: first } = await next();
  assert.ok(first?.type === 'granted');
  assert.match(first.name, /^run-[0-9a-f]{8}$/);
  const ended = (async () => (await next()).value?.type)();
  return {
    lease: first.lease,
    ended,
    async leave() {
      client.abort();
      await ended;
    },
  };
}

const names = ({ host }: Daemon) =>
  [...host.stores.vms.list(), ...host.stores.trash.list().map(({ vm }) => vm)].map((vm) => vm.name);

describe('a temporary VM', () => {
  it('is shown as one with who holds it, and is gone for good when its client leaves', async (t) => {
    const { daemon, temporary, place } = await setUp(t);
    const { lease, leave } = await hold(daemon, temporary);
    const ended = await daemon.finish(() => daemon.life.run('job', { ...request, lease }));
    assert.equal(ended?.state, 'succeeded', `${ended?.error?.message}`);
    assert.deepEqual((ended?.result as { temporary: unknown } | undefined)?.temporary, { holder: 4711 });
    assert.equal(daemon.host.stores.vms.get('job').temporary?.lease, lease);
    await leave();
    assert.deepEqual(names(daemon), []);
    assert.deepEqual(place.see(daemon), {
      ...place.see(daemon),
      vm: 'none',
      vmms: [],
      devices: [],
      ledger: [],
      odd: [],
    });
  });

  it('goes when its client leaves in the middle of its start', async (t) => {
    const { daemon, temporary } = await setUp(t);
    const { lease, leave } = await hold(daemon, temporary);
    const { id } = daemon.mortal.run(() => daemon.life.run('job', { ...request, lease }));
    while (daemon.host.stores.vms.find('job')?.phase !== 'starting') await new Promise(setImmediate);
    await leave();
    assert.deepEqual(names(daemon), []);
    assert.equal((await daemon.host.operations.finished(id)).state, 'cancelled');
  });

  it('is not made when its client has left already, nor under the name of another VM', async (t) => {
    const { daemon, temporary } = await setUp(t);
    const { lease, leave } = await hold(daemon, temporary);
    await daemon.finish(() => daemon.life.run('job', { ...request, lease }));
    const taken = await daemon.finish(() => daemon.life.run('job', { ...request, lease }));
    assert.deepEqual([taken?.state, taken?.error?.code], ['failed', 'conflict']);
    assert.equal(daemon.host.stores.vms.get('job').phase, 'running', 'the other one is left alone');
    await leave();
    const late = await daemon.finish(() => daemon.life.run('late', { ...request, lease }));
    assert.equal(late?.state, 'cancelled');
    assert.deepEqual(names(daemon), []);
  });

  it('gives back the kept disk it was run with, under its name', async (t) => {
    const { daemon, temporary, place } = await setUp(t);
    const kept = keptDirectory(place.config.paths.store);
    mkdirSync(kept, { recursive: true });
    copyFileSync(imageFiles(place.config.paths.store, OLD.id).rootfs, join(kept, 'cache.ext4'));
    const { lease, leave } = await hold(daemon, temporary);
    const ended = await daemon.finish(() =>
      daemon.life.run('job', {
        image: OLD.name,
        rootDiskBytes: DISK_BYTES,
        workDiskBytes: 64 * 2 ** 20,
        until: 'reachable',
        workDiskFrom: 'cache',
        lease,
      }),
    );
    assert.equal(ended?.state, 'succeeded', `${ended?.error?.message}`);
    assert.equal(existsSync(join(kept, 'cache.ext4')), false, 'it is in use');
    await leave();
    assert.deepEqual(names(daemon), []);
    assert.equal(existsSync(join(kept, 'cache.ext4')), true);
  });

  it('is gone before a daemon that stops has stopped, and its client is told', async (t) => {
    const { daemon, temporary } = await setUp(t);
    const { lease, ended } = await hold(daemon, temporary);
    await daemon.finish(() => daemon.life.run('job', { ...request, lease }));
    await temporary.close();
    assert.deepEqual(names(daemon), []);
    assert.equal(await ended, 'ended');
  });

  it('that a daemon before this one made is deleted, and others stay', async (t) => {
    const { daemon, temporary, place } = await setUp(t);
    const { lease } = await hold(daemon, temporary);
    await daemon.finish(() => daemon.life.run('job', { ...request, lease }));
    await daemon.finish(() => daemon.life.run('web', request));
    await daemon.drop();
    const next = place.daemon();
    await next.recover();
    assert.deepEqual(names(next), ['web']);
    await assert.rejects(createTemporaryVms(next.host, next.life).end(lease), { code: 'not_found' });
  });

  it('never goes to the trash, whoever deletes it', async (t) => {
    const { daemon, temporary } = await setUp(t);
    const { lease, leave } = await hold(daemon, temporary);
    await daemon.finish(() => daemon.life.run('job', { ...request, lease }));
    await daemon.finish(() => daemon.life.delete('job', { force: true, now: false, keepWorkDisk: false }));
    assert.deepEqual(names(daemon), []);
    await leave();
  });
});
