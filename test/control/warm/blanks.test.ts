/** Blank VMMs as the host sees them: made, taken by a new VM, freed, and every place where a daemon can die. */
import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import type { VmRunResult } from '../../../src/api/vm.ts';
import type { Blanks } from '../../../src/control/vm/blank.ts';
import { createLife, type Life } from '../../../src/control/vm/life.ts';
import { createBlanks } from '../../../src/control/warm/blanks.ts';
import { coolImage } from '../../../src/control/warm/view.ts';
import { AgentError } from '../../../src/guest/agent/errors.ts';
import { OLD } from '../../support/mortal-disks.ts';
import type { Daemon, MortalHost } from '../../support/mortal-host.ts';
import { look, noGuests, SIZE, UP, until, WARM, warm, warmHost, withAgents } from '../../support/warm-host.ts';

/** A daemon of which so many are asked. */
function pooled(daemon: Daemon, ready = 1): { blanks: Blanks; life: Life } {
  daemon.host.config = { ...daemon.host.config, pool: { ready } };
  return daemon.mortal.run(() => {
    const blanks = createBlanks(daemon.host, 1);
    return { blanks, life: createLife(daemon.host, blanks) };
  });
}

async function fill(daemon: Daemon, blanks: Blanks): Promise<void> {
  daemon.mortal.run(() => blanks.begin());
  await until(() => daemon.mortal.dead || blanks.count().ready === blanks.count().wanted);
}

async function run(daemon: Daemon, life: Life, name: string): Promise<VmRunResult | undefined> {
  const ran = await daemon.finish(() => life.run(name, { until: 'reachable', ...SIZE }));
  return ran?.state === 'succeeded' ? (ran.result as VmRunResult) : undefined;
}

/** Somebody asks for something. */
const OPERATION = { type: 'operation.begun', operation: 'o-1', kind: 'vm.stop', target: 'web' } as const;

/** What of one the ledger has, without a record. */
const BLANK = ['nobody’s directory', 'nobody’s tap', 'nobody’s vmm'];

const waits = (place: MortalHost, daemon: Daemon) =>
  look(place, daemon).vmms.filter((state) => state === 'Not started');

describe('a blank VMM', () => {
  it('waits with a device that no packet leaves, and is what a new VM begins in', async () => {
    const { place, daemon } = await warmHost();
    await using _place = place;
    const { blanks, life } = pooled(daemon);
    assert.deepEqual(blanks.count(), { ready: 0, wanted: 1 });
    await fill(daemon, blanks);
    assert.deepEqual(look(place, daemon), { ...WARM, vmms: ['Not started'], devices: 1, vms: 1, strays: BLANK });
    const [blank] = place.stores.buildVms.list().concat(daemon.host.stores.buildVms.list());
    assert.deepEqual(daemon.host.stores.buildVms.busy(), [], 'nobody waits for it');
    const result = await run(daemon, life, 'web');
    assert.equal(result?.warm, true);
    const web = place.stores.vms.get('web');
    assert.deepEqual([web.id, web.address, web.mac], [blank?.id, blank?.address, blank?.mac]);
    assert.ok(!web.bootTimeline.some(({ step }) => step === 'launch-vmm'), 'it was launched before');
    assert.deepEqual(look(place, daemon), UP);
    assert.equal(blanks.count().ready, 0);
    // another for the next, and none when the daemon ends
    await fill(daemon, blanks);
    assert.equal(waits(place, daemon).length, 1);
    await daemon.mortal.run(() => blanks.close());
    assert.deepEqual(look(place, daemon), UP);
    life.close();
  });

  it('fits the template that was used last, and is none without one', async () => {
    const { place, daemon } = await warmHost();
    await using _place = place;
    const { blanks, life } = pooled(daemon, 2);
    await fill(daemon, blanks);
    await warm(daemon, { memoryMib: 300 });
    daemon.mortal.run(() => blanks.begin());
    const sizes = () => daemon.host.stores.buildVms.list().map(({ memoryMib }) => memoryMib);
    await until(() => isDeepStrictEqual(sizes(), [300, 300]) && blanks.count().ready === 2);
    // no file of its VMM may be longer than its disks, so one with larger ones is another
    const disk = SIZE.rootDiskBytes * 2;
    await warm(daemon, { rootDiskBytes: disk });
    daemon.mortal.run(() => blanks.begin());
    const disks = () => daemon.host.stores.buildVms.list().map(({ rootDiskBytes }) => rootDiskBytes);
    await until(() => isDeepStrictEqual(disks(), [disk, disk]) && blanks.count().ready === 2);
    // one of another size starts as without them
    assert.equal((await run(daemon, life, 'web'))?.warm, true);
    assert.equal(blanks.count().ready, 2);
    await coolImage(daemon.host, OLD.name);
    daemon.mortal.run(() => blanks.begin());
    await until(() => sizes().length === 0);
    assert.deepEqual(look(place, daemon), { ...UP, templates: [0, 0] });
    await daemon.mortal.run(() => blanks.close());
    life.close();
  });

  it('is never one too many, whatever happens while it is made', async () => {
    const { place, daemon } = await warmHost();
    await using _place = place;
    const { blanks, life } = pooled(daemon);
    const launch = daemon.host.network.attach;
    const attached = Promise.withResolvers<void>();
    let attaching = 0;
    daemon.host.network.attach = async (...args) => {
      attaching += 1;
      await attached.promise;
      return await launch.call(daemon.host.network, ...args);
    };
    daemon.mortal.run(() => blanks.begin());
    await until(() => attaching === 1);
    for (let times = 0; times < 3; times++) {
      daemon.mortal.run(() => daemon.host.events.publish(OPERATION));
      await sleep(5);
    }
    assert.equal(attaching, 1);
    // who ends waits for it
    const closed = daemon.mortal.run(() => blanks.close());
    attached.resolve();
    await closed;
    assert.deepEqual(look(place, daemon), WARM);
    life.close();
  });

  it('that ends, or whose guest does not acknowledge, leaves nothing', async () => {
    const guests = noGuests();
    const { place, daemon } = await warmHost(guests);
    await using _place = place;
    const { blanks, life } = pooled(daemon);
    await fill(daemon, blanks);
    await place.vmms.at(-1)?.die();
    await until(() => blanks.count().ready === 0 && daemon.host.stores.buildVms.list().length === 0);
    assert.deepEqual(look(place, daemon), WARM);
    await daemon.mortal.run(() => blanks.close());
    life.close();

    const again = pooled(daemon);
    await fill(daemon, again.blanks);
    guests.onWake = () => {
      throw new AgentError('refused', 'the kernel takes no seed');
    };
    assert.equal((await run(daemon, again.life, 'web'))?.warm, false);
    assert.deepEqual(look(place, daemon), UP);
    await daemon.mortal.run(() => again.blanks.close());
    again.life.close();
  });

  for (const [what, begin, act, after] of [
    ['is made', async () => {}, fill, WARM],
    ['is taken', fill, (daemon: Daemon, _: Blanks, life: Life) => run(daemon, life, 'web'), UP],
  ] as const) {
    it(`that ${what} by a daemon that dies is freed by the next, or has become the VM`, async (t) => {
      const attempt = async (dieBefore: string | undefined) => {
        const { place, daemon: first } = await warmHost();
        await using _place = place;
        await first.drop();
        const daemon = withAgents(place.daemon(dieBefore));
        await daemon.recover();
        const { blanks, life } = pooled(daemon);
        await begin(daemon, blanks);
        const own = daemon.mortal.effects.length;
        if (!daemon.mortal.dead) await act(daemon, blanks, life);
        const effects = daemon.mortal.effects.slice(own).filter((each) => !each.startsWith('look '));
        const next = withAgents(place.daemon());
        await next.recover();
        life.close();
        return { effects, seen: look(place, next) };
      };
      const whole = await attempt(undefined);
      assert.deepEqual(whole.seen, after, 'when it dies after that');
      const wrong: object[] = [];
      for (const dieBefore of whole.effects) {
        const { seen } = await attempt(dieBefore);
        if (![WARM, after].some((each) => isDeepStrictEqual(each, seen))) wrong.push({ dieBefore, seen });
      }
      t.diagnostic(`${whole.effects.length} deaths`);
      assert.deepEqual(wrong, []);
    });
  }
});
