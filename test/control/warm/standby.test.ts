/** Guests that stand ready as the host sees them: made, taken over by a new VM, freed, and every place where a daemon can die. */
import assert from 'node:assert/strict';
import { appendFileSync, existsSync } from 'node:fs';
import { describe, it } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import type { VmRunResult } from '../../../src/api/vm.ts';
import { createLife, type Life } from '../../../src/control/vm/life.ts';
import type { StandbyPool } from '../../../src/control/vm/standby.ts';
import { createStandbyPool } from '../../../src/control/warm/standby.ts';
import { coolImage } from '../../../src/control/warm/view.ts';
import { AgentError } from '../../../src/guest/agent/errors.ts';
import { templateFiles } from '../../../src/storage/layout.ts';
import { OLD } from '../../support/mortal-disks.ts';
import { type Daemon, type MortalHost, mortalHost } from '../../support/mortal-host.ts';
import { look, noGuests, SIZE, UP, until, WARM, warm, warmHost, withAgents } from '../../support/warm-host.ts';

/** A daemon of which so many are asked. */
function pooled(daemon: Daemon, ready = 1): { pool: StandbyPool; life: Life } {
  daemon.host.config = { ...daemon.host.config, pool: { ready } };
  return daemon.mortal.run(() => {
    const pool = createStandbyPool(daemon.host, { quietMs: 1, settleMs: 1 });
    return { pool, life: createLife(daemon.host, pool) };
  });
}

async function fill(daemon: Daemon, pool: StandbyPool): Promise<void> {
  daemon.mortal.run(() => pool.begin());
  await until(() => daemon.mortal.dead || pool.count().ready === pool.count().wanted);
}

async function run(daemon: Daemon, life: Life, name: string): Promise<VmRunResult | undefined> {
  const ran = await daemon.finish(() => life.run(name, { until: 'reachable', ...SIZE }));
  return ran?.state === 'succeeded' ? (ran.result as VmRunResult) : undefined;
}

const TCG = { kind: 'fcqemu', acceleration: 'tcg', program: ['vmm'], env: {}, reason: '' } as const;
const KVM = { ...TCG, acceleration: 'kvm' } as const;
const hooksAreThere = (script: string) => (script.includes('/etc/banger/wake.d') ? 1 : 0);

/** Somebody asks for something. */
const OPERATION = { type: 'operation.begun', operation: 'o-1', kind: 'vm.stop', target: 'web' } as const;

/** What of one the ledger has, without a record. */
const STRAYS = ['nobody’s directory', 'nobody’s tap', 'nobody’s vmm'];

const waits = (place: MortalHost, daemon: Daemon) => look(place, daemon).vmms.filter((state) => state === 'Paused');

describe('a guest that stands ready', () => {
  it('is nobody, with a device that no packet leaves, until a new VM takes it over', async () => {
    const guests = noGuests();
    const { place, daemon } = await warmHost(guests);
    await using _place = place;
    const { pool, life } = pooled(daemon);
    assert.deepEqual(pool.count(), { ready: 0, wanted: 1 });
    await fill(daemon, pool);
    assert.deepEqual(look(place, daemon), { ...WARM, vmms: ['Paused'], devices: 1, vms: 1, strays: STRAYS });
    const [nobody] = place.stores.buildVms.list().concat(daemon.host.stores.buildVms.list());
    assert.deepEqual(daemon.host.stores.buildVms.busy(), [], 'nobody waits for it');
    const result = await run(daemon, life, 'web');
    assert.equal(result?.warm, true);
    const web = place.stores.vms.get('web');
    assert.deepEqual([web.id, web.address, web.mac], [nobody?.id, nobody?.address, nobody?.mac]);
    assert.ok(!web.bootTimeline.some(({ step }) => step === 'load-memory'), 'it was loaded before');
    // it has run once as nobody
    const modes = guests.woken.map(({ mode, identity }) => [mode, identity?.hostname]);
    assert.deepEqual(modes, [
      ['again', undefined],
      ['new', 'web'],
    ]);
    assert.equal(guests.woken[1]?.identity?.hostKey.private, web.hostKeyPrivate);
    assert.deepEqual(look(place, daemon), UP);
    assert.equal(pool.count().ready, 0);
    // another for the next, and none when the daemon ends
    await fill(daemon, pool);
    assert.equal(waits(place, daemon).length, 1);
    await daemon.mortal.run(() => pool.close());
    assert.deepEqual(look(place, daemon), UP);
    life.close();
  });

  it('is one of the template that was used last at least, and none is without a template', async () => {
    const { place, daemon } = await warmHost();
    await using _place = place;
    const { pool, life } = pooled(daemon, 2);
    const sizes = () =>
      daemon.host.stores.buildVms.list().map((vm) => `${vm.memoryMib} ${vm.rootDiskBytes / SIZE.rootDiskBytes}`);
    const has = (...wanted: string[]) =>
      isDeepStrictEqual(sizes().sort(), wanted) && pool.count().ready === wanted.length;
    await fill(daemon, pool);
    await until(() => has('256 1', '256 1'));
    await warm(daemon, { memoryMib: 300 });
    daemon.mortal.run(() => pool.begin());
    await until(() => has('256 1', '300 1'));
    // the place of the one that was not used for the longest time
    await warm(daemon, { rootDiskBytes: SIZE.rootDiskBytes * 2 });
    daemon.mortal.run(() => pool.begin());
    await until(() => has('256 2', '300 1'));
    // one that begins as another template starts as without them
    assert.equal((await run(daemon, life, 'web'))?.warm, true);
    daemon.mortal.run(() => pool.begin());
    await until(() => has('256 1', '256 2') || has('256 1', '300 1'));
    await coolImage(daemon.host, OLD.name);
    daemon.mortal.run(() => pool.begin());
    await until(() => sizes().length === 0);
    assert.deepEqual(look(place, daemon), { ...UP, templates: [0, 0] });
    await daemon.mortal.run(() => pool.close());
    life.close();
  });

  it('is not taken over when the template it began as was changed since', async () => {
    const { place, daemon, template } = await warmHost();
    await using _place = place;
    const { pool, life } = pooled(daemon);
    await fill(daemon, pool);
    const { checks } = daemon.host;
    daemon.host.checks = {
      ...checks,
      async beforeStart(...args) {
        // its guest maps what it has not written itself
        const { memory } = templateFiles(daemon.host.config.paths.store, template.id);
        if (existsSync(memory)) appendFileSync(memory, 'x');
        await checks.beforeStart(...args);
      },
    };
    assert.equal((await run(daemon, life, 'web'))?.warm, false);
    assert.deepEqual(look(place, daemon), { ...UP, templates: [0, 0] });
    await daemon.mortal.run(() => pool.close());
    life.close();
  });

  for (const [why, vmm, exitOf] of [
    ['whose clock would go on', KVM, () => 0],
    ['whose image has programs for a wake', TCG, hooksAreThere],
  ] as const) {
    it(`${why} is loaded when it is taken over`, async () => {
      const guests = noGuests();
      await using place = await mortalHost();
      const daemon = withAgents(place.daemon(), guests);
      await daemon.recover();
      guests.exitOf = exitOf;
      daemon.host.checks = { ...daemon.host.checks, chooseVmm: async () => vmm };
      await warm(daemon);
      const { pool, life } = pooled(daemon);
      await fill(daemon, pool);
      assert.deepEqual(waits(place, daemon), []);
      assert.deepEqual(look(place, daemon), {
        ...WARM,
        vmms: ['Not started'],
        devices: 1,
        vms: 1,
        memory: 1,
        strays: STRAYS,
      });
      const woken = guests.woken.length;
      assert.equal((await run(daemon, life, 'web'))?.warm, true);
      const steps = place.stores.vms.get('web').bootTimeline.map(({ step }) => step);
      assert.deepEqual([steps.includes('load-memory'), steps.includes('launch-vmm')], [true, false]);
      assert.deepEqual(
        guests.woken.slice(woken).map(({ mode }) => mode),
        ['new'],
      );
      assert.deepEqual(look(place, daemon), UP);
      await daemon.mortal.run(() => pool.close());
      life.close();
    });
  }

  it('is never one too many, whatever happens while it is made', async () => {
    const { place, daemon } = await warmHost();
    await using _place = place;
    const { pool, life } = pooled(daemon);
    const launch = daemon.host.network.attach;
    const attached = Promise.withResolvers<void>();
    let attaching = 0;
    daemon.host.network.attach = async (...args) => {
      attaching += 1;
      await attached.promise;
      return await launch.call(daemon.host.network, ...args);
    };
    daemon.mortal.run(() => pool.begin());
    await until(() => attaching === 1);
    for (let times = 0; times < 3; times++) {
      daemon.mortal.run(() => daemon.host.events.publish(OPERATION));
      await sleep(5);
    }
    assert.equal(attaching, 1);
    // who ends waits for it
    const closed = daemon.mortal.run(() => pool.close());
    attached.resolve();
    await closed;
    assert.deepEqual(look(place, daemon), WARM);
    life.close();
  });

  it('that ends leaves nothing; one whose guest does not acknowledge costs a start from the template', async () => {
    const guests = noGuests();
    const { place, daemon } = await warmHost(guests);
    await using _place = place;
    const { pool, life } = pooled(daemon);
    await fill(daemon, pool);
    await place.vmms.at(-1)?.die();
    await until(() => pool.count().ready === 0 && daemon.host.stores.buildVms.list().length === 0);
    assert.deepEqual(look(place, daemon), WARM);
    await daemon.mortal.run(() => pool.close());
    life.close();

    const again = pooled(daemon);
    await fill(daemon, again.pool);
    // its template is as good as it was
    let refusals = 1;
    guests.onWake = () => {
      if (refusals-- > 0) throw new AgentError('refused', 'the kernel takes no seed');
    };
    assert.equal((await run(daemon, again.life, 'web'))?.warm, true);
    assert.ok(
      place.stores.vms.get('web').bootTimeline.some(({ step }) => step === 'launch-vmm'),
      'another was loaded',
    );
    assert.deepEqual(look(place, daemon), UP);
    await daemon.mortal.run(() => again.pool.close());
    again.life.close();
  });

  for (const [what, begin, act, after] of [
    ['is made', async () => {}, fill, WARM],
    ['is taken', fill, (daemon: Daemon, _: StandbyPool, life: Life) => run(daemon, life, 'web'), UP],
  ] as const) {
    it(`that ${what} by a daemon that dies is freed by the next, or has become the VM`, async (t) => {
      const attempt = async (dieBefore: string | undefined) => {
        const { place, daemon: first } = await warmHost();
        await using _place = place;
        await first.drop();
        const daemon = withAgents(place.daemon(dieBefore));
        await daemon.recover();
        const { pool, life } = pooled(daemon);
        await begin(daemon, pool);
        const own = daemon.mortal.effects.length;
        if (!daemon.mortal.dead) await act(daemon, pool, life);
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
