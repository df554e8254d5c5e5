/** A disk that fills up while the memory of a VM is saved, copied or loaded: at whichever write, all is as it was before. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import type { Operation } from '../../../src/api/operation.ts';
import { resizeDisks } from '../../../src/control/disks/resize.ts';
import { BangerError } from '../../../src/errors.ts';
import { takesRoom } from '../../support/effects.ts';
import { DISK_BYTES, NEW } from '../../support/mortal-disks.ts';
import type { MortalHost } from '../../support/mortal-host.ts';
import { noGuests, withAgents } from '../../support/warm-host.ts';
import { changes, inventory, takeSnapshot, WARM_WORKS, type WarmWork } from '../../support/warm-works.ts';

/** What a daemon whose disk is full from then on makes of a work, and what there is before and after. */
async function attempt(place: MortalHost, { begin }: WarmWork, fullFrom?: string) {
  const daemon = withAgents(place.daemon({ fullFrom }));
  await daemon.recover();
  const before = inventory(place, daemon);
  const own = daemon.mortal.effects.length;
  const ended: Operation | undefined = await daemon.finish(() => begin(daemon));
  const after = inventory(place, daemon);
  await daemon.drop();
  return { before, after, said: ended?.error?.message ?? '', effects: daemon.mortal.effects.slice(own) };
}

/** What is not there of a VM that is down, and is to be finished or gone on from. */
const DOWN =
  /^[+-]1 (\d+ (devices|routes|in the rules)|VM web: \w+|VMM Running|(host|web)’s (pool-route|tap|vmm|restore)|vms\/web\/suspended.*)$/;

describe('a disk that is full', () => {
  for (const work of WARM_WORKS) {
    it(`at any write of ${work.name} leaves all as it was, and says so; with room it is done`, async (t) => {
      const whole = await (async () => {
        await using place = await work.prepare();
        return await attempt(place, work);
      })();
      assert.equal(whole.said, '');
      const writes = whole.effects.filter(takesRoom);
      assert.ok(writes.length > 0);
      const wrong: object[] = [];
      let place = await work.prepare();
      try {
        for (const write of writes) {
          const { before, after, said } = await attempt(place, work, write);
          // what it had come to by then is for the next daemon
          const done = said === '' || (work.shutsDown && after.includes('snapshot before'));
          const changed = changes(done ? whole.after : before, after);
          const left = work.shutsDown ? changed.filter((line) => !DOWN.test(line)) : changed;
          if (left.length > 0 || !(said === '' || /no room|no space/i.test(said))) wrong.push({ write, said, changed });
          if (changed.length === 0 && !done) continue;
          await place[Symbol.asyncDispose]();
          place = await work.prepare();
        }
        const { said, after } = await attempt(place, work);
        assert.equal(said, '');
        assert.deepEqual(changes(whole.after, after), []);
      } finally {
        await place[Symbol.asyncDispose]();
      }
      t.diagnostic(`${writes.length} writes`);
      assert.deepEqual(wrong, []);
    });
  }

  for (const name of ['a suspend', 'a fork', 'a snapshot with memory']) {
    it(`so that ${name} fails and that cannot even be written down leaves a guest whose programs go on`, async () => {
      const work = WARM_WORKS.find((each) => each.name === name);
      assert.ok(work);
      await using place = await work.prepare();
      const guests = noGuests();
      const daemon = withAgents(place.daemon(), guests);
      await daemon.recover();
      const before = inventory(place, daemon);
      const { vms } = daemon.host.stores;
      const update = vms.update;
      place.vmms[0]?.refuse('PUT /snapshot/create', () => {
        vms.update = () => {
          throw new BangerError('host_unprepared', 'There is no room on the disk to write to banger.db.');
        };
      });
      const ended = await daemon.finish(() => work.begin(daemon));
      assert.match(ended?.error?.message ?? '', /no room on the disk/);
      assert.deepEqual([place.vmms[0]?.state, guests.woken.map(({ mode }) => mode)], ['Running', ['same']]);
      vms.update = update;
      await daemon.drop();
      const next = withAgents(place.daemon());
      await next.recover();
      assert.deepEqual(changes(before, inventory(place, next)), []);
    });
  }

  it('in the middle of putting a snapshot back leaves disks that nobody touches until the next daemon has finished it', async () => {
    const work = WARM_WORKS.find(({ shutsDown }) => shutsDown);
    assert.ok(work);
    await using place = await work.prepare();
    // of what says which disks the memory belongs to, which are in their place by then
    const { said } = await attempt(place, work, 'create manifest.json.tmp');
    assert.match(said, /no room on the disk\. The next daemon finishes the restore of web\./);
    const daemon = withAgents(place.daemon());
    const larger = { workBytes: 2 * DISK_BYTES, online: false };
    for (const begin of [
      () => daemon.life.start('web'),
      () => takeSnapshot(daemon, 'second'),
      () =>
        daemon.life.change('disk.resize', 'web', (_actions, progress, signal) =>
          resizeDisks(daemon.host, 'web', larger, progress, signal),
        ),
      () => daemon.life.rebase('web', { image: NEW.name, force: true }),
    ]) {
      const refused = await daemon.finish(begin);
      assert.match(refused?.error?.message ?? '', /A restore of the disks of web was not finished/);
    }
    await daemon.drop();
    const next = withAgents(place.daemon());
    await next.recover();
    assert.equal(place.stores.vms.get('web').phase, 'suspended');
    assert.equal((await next.finish(() => next.life.resume('web')))?.state, 'succeeded');
    assert.deepEqual(
      inventory(place, next).filter((line) => /restore/.test(line)),
      [],
    );
  });
});
