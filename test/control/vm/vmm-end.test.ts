import assert from 'node:assert/strict';
import { appendFileSync, statSync } from 'node:fs';
import { describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { awaitLogin } from '../../../src/control/vm/boot.ts';
import { viewVmDetail } from '../../../src/control/vm/view.ts';
import { BangerError } from '../../../src/errors.ts';
import type { ReadinessOptions } from '../../../src/guest/readiness.ts';
import { vmFiles } from '../../../src/storage/layout.ts';
import { DISK_BYTES, OLD } from '../../support/mortal-disks.ts';
import { type Daemon, type MortalHost, mortalHost } from '../../support/mortal-host.ts';
import { paced } from '../../support/pace.ts';

const MEMORY = 'The host had no memory left, and its kernel ended the VMM (killed by SIGKILL).';
const SHAPE = { image: OLD.name, rootDiskBytes: DISK_BYTES, workDiskBytes: 0 };

/** Runs a VM, and gives its VMM's log a last line. */
async function running(place: MortalHost, daemon: Daemon, name: string): Promise<void> {
  const operation = await daemon.finish(() => daemon.life.run(name, SHAPE));
  assert.equal(operation?.state, 'succeeded');
  appendFileSync(vmFiles(place.config.paths.store, place.stores.vms.get(name).id).vmmLog, `words of ${name}\n`);
}

/** Resolves when the end of a VM has been judged. */
async function judged({ host }: Daemon, name: string): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const look = () => host.stores.vms.find(name)?.phase === 'failed' && resolve();
  const unsubscribe = host.stores.vms.onChange(look);
  look();
  await promise;
  unsubscribe();
}

it('keeps the log of a VMM that does not append at its size, with little room', async () => {
  await using place = await mortalHost();
  const daemon = place.daemon();
  await running(place, daemon, 'web');
  const { vmmLog } = vmFiles(place.config.paths.store, place.stores.vms.get('web').id);
  appendFileSync(vmmLog, 'x'.repeat(17 * 1024 * 1024));
  appendFileSync(vmmLog, 'the last words\n');
  const { size } = statSync(vmmLog);
  await daemon.mortal.run(() => daemon.life.limitLogs());
  const after = statSync(vmmLog);
  assert.equal(after.size, size);
  assert.ok(after.blocks * 512 <= 300 * 1024, `${after.blocks} blocks`);
});

describe('a VMM that ends unasked', { timeout: paced(30_000) }, () => {
  it('was ended by the kernel of a host without memory, which is told with the time and the last lines', async () => {
    await using place = await mortalHost();
    const daemon = place.daemon();
    daemon.host.stores.vms.onChange(daemon.host.events.vmChanged);
    await running(place, daemon, 'web');
    const began = new Date().toISOString();
    await place.runOutOfMemory(place.vmms.at(-1));
    await judged(daemon, 'web');
    const { lastEnd, failure } = place.stores.vms.get('web');
    assert.deepEqual([lastEnd?.kind, lastEnd?.lines.at(-1)], ['memory', 'words of web']);
    assert.ok(lastEnd && lastEnd.at >= began && lastEnd.at <= new Date().toISOString(), `${lastEnd?.at}`);
    assert.ok(failure?.startsWith(`${MEMORY} Its log ends with: `) && failure.endsWith('words of web'), `${failure}`);
    const shown = await viewVmDetail(daemon.host, place.stores.vms.get('web'));
    assert.deepEqual([shown.state, shown.failure, shown.lastEnd], ['failed', failure, lastEnd]);
    const events = await Array.fromAsync(
      daemon.host.events.read({ follow: false, signal: new AbortController().signal }),
    );
    const [told] = events.filter((event) => event.type === 'vm.state' && event.to === 'failed');
    assert.deepEqual(told?.type === 'vm.state' && [told.from, told.reason], ['running', failure]);
  });

  it('is no victim of an earlier lack of memory, nor of another VM’s', async () => {
    await using place = await mortalHost();
    const daemon = place.daemon();
    for (const name of ['web', 'db', 'cache']) await running(place, daemon, name);
    const [web, db, cache] = place.vmms;
    await place.runOutOfMemory(web);
    await judged(daemon, 'web');
    await db?.die();
    await judged(daemon, 'db');
    // a look at all of them, as every 30 s
    await place.runOutOfMemory(undefined);
    await daemon.mortal.run(() => daemon.life.limitLogs());
    await cache?.die();
    await judged(daemon, 'cache');
    const kinds = ['web', 'db', 'cache'].map((name) => place.stores.vms.get(name).lastEnd?.kind);
    assert.deepEqual(kinds, ['memory', 'vmm', 'vmm']);
  });

  it('is not held against the run that somebody has started while it was freed', async () => {
    await using place = await mortalHost();
    const daemon = place.daemon();
    await running(place, daemon, 'web');
    const { network } = daemon.host;
    const { detach } = network;
    const [freeing, freed] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    network.detach = async () => {
      network.detach = detach;
      freeing.resolve();
      await freed.promise;
    };
    await place.vmms.at(-1)?.die();
    await freeing.promise;
    const restarted = await daemon.finish(() => daemon.life.restart('web'));
    assert.equal(restarted?.state, 'succeeded');
    freed.resolve();
    for (let turn = 0; turn < 100; turn++) await setImmediate();
    const { id, phase, lastEnd } = place.stores.vms.get('web');
    assert.deepEqual([phase, lastEnd, daemon.life.watches(id)], ['running', null, true]);
  });

  it('during a start is told with the same reason', async () => {
    await using place = await mortalHost();
    const daemon = place.daemon();
    place.stores.vms.insert(place.vm);
    const why = async (happens: () => Promise<void>) => {
      const firstLogin = async (_: unknown, { givenUp }: ReadinessOptions): Promise<never> => {
        await happens();
        throw new BangerError('guest_failed', `${await givenUp?.(false)}`);
      };
      const host = { ...daemon.host, guests: { ...daemon.host.guests, firstLogin } };
      const never = new AbortController().signal;
      return await daemon.mortal
        .run(() => awaitLogin(host, place.vm, 1000, never))
        .then(
          () => assert.fail('somebody has logged in'),
          ({ message }: Error) => message,
        );
    };
    assert.match(await why(async () => {}), /^the VMM ended\./);
    assert.match(await why(() => place.runOutOfMemory(undefined)), /^the host had no memory left, and its kernel/);
  });
});
