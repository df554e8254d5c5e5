/** Forks as the host sees them: identity, what is published and when, and every place where a daemon can die. */
import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, it } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import type { VmForkResult } from '../../../src/api/vm.ts';
import { collectGarbage } from '../../../src/control/upkeep/collect-garbage.ts';
import { AgentError } from '../../../src/guest/agent/errors.ts';
import type { WakeRequest } from '../../../src/guest/agent/wake-request.ts';
import { vmFiles } from '../../../src/storage/layout.ts';
import type { Daemon, MortalHost } from '../../support/mortal-host.ts';
import { quietProgress } from '../../support/quiet-progress.ts';
import { afterHolding, type Guests, warningsOf, withAgents } from '../../support/waking-agents.ts';
import { inventory, runningVm, takeSnapshot } from '../../support/warm-works.ts';

const suspend = ({ life }: Daemon) => life.suspend('web');

/** What is left of everything, in a form that is the same on each host. */
function look(place: MortalHost, daemon: Daemon) {
  const { stores, config } = place;
  const { devices, rules, ledger, vmms } = place.see(daemon);
  const phase = (name: string) => stores.vms.find(name)?.phase ?? 'none';
  const vms = join(config.paths.store, 'vms');
  return {
    ...{ web: phase('web'), twin: phase('twin'), vmms: vmms.sort() },
    ...{ devices: devices.length, rules: rules.length, strays: ledger.filter((kind) => kind.startsWith('nobody')) },
    directories: readdirSync(vms).length,
    memory: readdirSync(vms).filter((id) => existsSync(join(vms, id, 'suspended'))).length,
    unfinished: readdirSync(vms).filter((id) => existsSync(join(vms, id, 'suspended.new'))).length,
  };
}

const NOTHING_LEFT = { strays: [], memory: 0, unfinished: 0 };
const ALONE = {
  web: 'running',
  twin: 'none',
  vmms: ['Running'],
  devices: 1,
  rules: 1,
  directories: 1,
  ...NOTHING_LEFT,
};
const BOTH = {
  ...{ web: 'running', twin: 'running', vmms: ['Running', 'Running'], devices: 2, rules: 2, directories: 2 },
  ...NOTHING_LEFT,
};
const ASLEEP = { ...ALONE, web: 'suspended', vmms: [], devices: 0, rules: 0, memory: 1 };
const BESIDE_ASLEEP = { ...BOTH, web: 'suspended', vmms: ['Running'], devices: 1, rules: 1, memory: 1 };

describe('a fork', () => {
  it('is a machine of its own before anything of it is seen, and its source goes on', async () => {
    await using place = await runningVm();
    const seenAtWake: number[] = [];
    const guests: Guests = {
      woken: [],
      onWake: ({ mode }) => void (mode === 'new' && seenAtWake.push(place.see(daemon).rules.length)),
    };
    const daemon = withAgents(place.daemon(), guests);
    await daemon.recover();
    const operation = await daemon.finish(() => daemon.life.fork('web', ['twin', 'third']));
    assert.equal(operation?.state, 'succeeded', operation?.error?.message ?? 'it died');
    const { forks, failed } = operation.result as VmForkResult;
    assert.deepEqual([forks.map(({ name }) => name), failed], [['twin', 'third'], []]);
    const records = ['web', 'twin', 'third'].map((name) => place.stores.vms.get(name));
    for (const field of ['id', 'name', 'address', 'mac', 'hostKeyPublic', 'hostKeyPrivate'] as const) {
      assert.equal(new Set(records.map((record) => record[field])).size, 3, field);
    }
    const [web, twin, third] = records;
    assert.deepEqual(twin?.forkedFrom, { id: web?.id, name: 'web' });
    assert.deepEqual([twin?.image, twin?.memoryMib, twin?.nat], [web?.image, web?.memoryMib, web?.nat]);
    assert.deepEqual(
      [twin, third].map((vm) => daemon.life.watches(vm?.id ?? '')),
      [true, true],
    );
    // the source, and each fork with what its record says
    const [same, ...others] = guests.woken;
    assert.equal(same?.mode, 'same');
    assert.deepEqual(
      others.map(({ mode, identity }) => [mode, identity?.hostname, identity?.address, identity?.mac]).sort(),
      [third, twin].map((vm) => ['new', vm?.name, vm?.address, vm?.mac]).sort(),
    );
    for (const field of ['machineId', 'bootId'] as const) {
      assert.equal(new Set(others.map(({ identity }) => identity?.[field])).size, 2, field);
    }
    assert.equal(new Set(guests.woken.map(({ seed }) => seed.toString('hex'))).size, 3);
    assert.equal(new Set(guests.woken.map(({ generation }) => generation)).size, 3);
    // what it boots with the next time is what it is now
    assert.equal((await daemon.finish(() => daemon.life.stop('twin')))?.state, 'succeeded');
    assert.equal((await daemon.finish(() => daemon.life.start('twin', { until: 'reachable' })))?.state, 'succeeded');
    const woken = others.find(({ identity }) => identity?.hostname === 'twin')?.identity;
    const drive = readFileSync(vmFiles(place.config.paths.store, twin?.id ?? '').seedDrive, 'latin1');
    for (const own of [woken?.machineId, woken?.address, woken?.hostKey.private, 'twin']) {
      assert.ok(own !== undefined && drive.includes(own), `${own}`);
    }
    assert.ok(!drive.includes(web?.address ?? '') && !drive.includes(web?.hostKeyPrivate ?? ''));
    // when a fork has not acknowledged yet, rules let only those speak that have
    assert.deepEqual(seenAtWake[0], 1);
    assert.equal(place.see(daemon).rules.length, 3);
  });

  it('is forked at once, all within one moment of the clock: each is woken anew, with the time', async () => {
    await using place = await runningVm();
    const guests: Guests = { woken: [] };
    const daemon = withAgents(place.daemon(), guests);
    await daemon.recover();
    const at = new Date(Date.now() + 3_600_000);
    daemon.host.now = () => at;
    for (const [from, to] of [
      ['web', 'twin'],
      ['twin', 'third'],
    ] as const) {
      const forked = await daemon.finish(() => daemon.life.fork(from, [to]));
      assert.equal(forked?.state, 'succeeded', forked?.error?.message ?? 'it died');
    }
    assert.deepEqual(
      guests.woken.map(({ mode, identity }) => `${mode} ${identity?.hostname ?? ''}`),
      ['same ', 'new twin', 'same ', 'new third'],
    );
    for (const each of ['generation', 'seed'] as const) {
      assert.equal(new Set(guests.woken.map((request) => String(request[each]))).size, 4, each);
    }
    for (const { wallClockNs } of guests.woken) assert.equal(wallClockNs, BigInt(at.getTime()) * 1_000_000n);
    assert.equal(place.stores.vms.get('third').forkedFrom?.name, 'twin');
  });

  it('has disks that are copied after its memory was saved where the VMM writes them meanwhile', async () => {
    const steps = async (kind: 'fcqemu' | 'firecracker') => {
      await using place = await runningVm();
      const daemon = withAgents(place.daemon(), { woken: [] });
      await daemon.recover();
      const { checks } = daemon.host;
      daemon.host.checks = { ...checks, chooseVmm: async (boot) => ({ ...(await checks.chooseVmm(boot)), kind }) };
      place.stores.vms.update(place.vm.id, { vmm: kind });
      const own = daemon.mortal.effects.length;
      const forked = await daemon.finish(() => daemon.life.fork('web', ['twin']));
      assert.equal(forked?.state, 'succeeded', forked?.error?.message ?? 'it died');
      const told = daemon.mortal.effects.slice(own).map((effect) => effect.replace(/ \(\d+\)$/, ''));
      const moment = told.slice(told.indexOf('VMM PATCH /vm'), told.lastIndexOf('rename memory → memory'));
      return moment.filter((effect) => /^(VMM|cp|copyFile) /.test(effect));
    };
    const [pause, ...rest] = await steps('firecracker');
    assert.deepEqual([pause, rest[0]], ['VMM PATCH /vm', 'VMM PUT /snapshot/create']);
    assert.equal(rest.filter((effect) => effect.startsWith('cp ')).length, 2);
    const [, ...both] = await steps('fcqemu');
    assert.ok(both.includes('VMM PUT /snapshot/create'));
    for (const each of [rest, both])
      assert.ok(each.lastIndexOf('VMM PATCH /vm') > each.findLastIndex((effect) => effect.startsWith('cp ')));
  });

  it('whose memory cannot be saved lets its source go on when no disk is copied any more', async () => {
    await using place = await runningVm();
    const daemon = withAgents(place.daemon(), { woken: [] });
    await daemon.recover();
    const { runner } = daemon.host.system;
    let copying = 0;
    const held = Promise.withResolvers<void>();
    const whileCopied: string[] = [];
    const [vmm] = place.vmms;
    const slow: typeof runner = {
      ...runner,
      async run(argv, options) {
        if (!argv.includes('--sparse=auto')) return await runner.run(argv, options);
        copying += 1;
        await held.promise;
        // long enough for whoever does not wait
        for (let turn = 0; turn < 100; turn++) await setImmediate();
        whileCopied.push(vmm?.state ?? 'none');
        return await runner.run(argv, options).finally(() => {
          copying -= 1;
        });
      },
    };
    daemon.host.system = { ...daemon.host.system, runner: slow };
    vmm?.refuse('PUT /snapshot/create', () => held.resolve());
    const forked = await daemon.finish(() => daemon.life.fork('web', ['twin']));
    assert.match(forked?.error?.message ?? '', /refused PUT \/snapshot\/create/);
    assert.deepEqual([copying, new Set(whileCopied)], [0, new Set(['Paused'])]);
    assert.deepEqual(look(place, daemon), ALONE);
  });

  it('goes on when its source and all that nobody needs are gone', async () => {
    await using place = await runningVm(takeSnapshot, suspend);
    const daemon = withAgents(place.daemon(), { woken: [] });
    await daemon.recover();
    assert.equal((await daemon.finish(() => daemon.life.fork('web', ['twin'])))?.state, 'succeeded');
    const own = () => inventory(place, daemon).filter((line) => line.includes('twin'));
    const before = own();
    const gone = await daemon.finish(() => daemon.life.delete('web', { force: true, now: true, keepWorkDisk: false }));
    assert.equal(gone?.state, 'succeeded', gone?.error?.message ?? 'it died');
    const all = { dryRun: false, disks: true };
    const found = await daemon.mortal.run(() => collectGarbage(daemon.host, all, quietProgress()));
    // another banger of this machine may run
    assert.deepEqual(
      found.filter(({ verdict }) => verdict !== 'leave'),
      [],
    );
    assert.deepEqual(own(), before);
    assert.deepEqual(look(place, daemon), { ...ALONE, web: 'none', twin: 'running' });
    assert.equal((await daemon.finish(() => daemon.life.suspend('twin')))?.state, 'succeeded');
    assert.equal((await daemon.finish(() => daemon.life.resume('twin')))?.state, 'succeeded');
  });

  it('is there under the next daemon as it was, beside those that are suspended', async () => {
    await using place = await runningVm(suspend);
    const daemon = withAgents(place.daemon(), { woken: [] });
    await daemon.recover();
    assert.equal((await daemon.finish(() => daemon.life.fork('web', ['twin', 'third'])))?.state, 'succeeded');
    assert.equal((await daemon.finish(() => daemon.life.suspend('third')))?.state, 'succeeded');
    const before = inventory(place, daemon);
    for (const line of ['VM web: suspended', 'VM twin: running', 'VM third: suspended', 'VMM Running']) {
      assert.ok(before.includes(line), line);
    }
    await daemon.drop();
    const next = withAgents(place.daemon(), { woken: [] });
    await next.recover();
    assert.deepEqual(inventory(place, next), before);
    assert.ok(next.life.watches(place.stores.vms.get('twin').id));
  });

  it('of twenty that the host has no memory for are those that it has some for', async () => {
    await using place = await runningVm();
    const names = Array.from({ length: 20 }, (_, index) => `fork-${index}`);
    const onWake = ({ identity }: WakeRequest) => {
      if (identity === undefined || Number(identity.hostname.split('-')[1]) % 3 === 0) return;
      const { id } = place.stores.vms.get(identity.hostname);
      const vmm = place.stores.ledger.of(id).find(({ kind }) => kind === 'vmm');
      const pid = vmm?.kind === 'vmm' ? vmm.identity?.pid : undefined;
      void place.runOutOfMemory(place.vmms.find((each) => each.pid === pid));
      throw new AgentError('gone', 'the connection ended');
    };
    const daemon = withAgents(place.daemon(), { woken: [], onWake });
    await daemon.recover();
    const forked = await daemon.finish(() => daemon.life.fork('web', names));
    assert.equal(forked?.state, 'succeeded', forked?.error?.message ?? 'it died');
    const { forks, failed } = forked.result as VmForkResult;
    const alive = names.filter((_, index) => index % 3 === 0);
    assert.deepEqual(forks.map(({ name }) => name).sort(), alive.toSorted());
    assert.equal(failed.length, names.length - alive.length);
    const lines = inventory(place, daemon);
    const count = (pattern: RegExp) => lines.filter((line) => pattern.test(line)).length;
    assert.equal(count(/^VM .*: running$/), alive.length + 1);
    assert.deepEqual([count(/^VM /), count(/^VMM Running$/), count(/^VMM /)], [8, 8, 8]);
    assert.ok(lines.includes('8 devices') && lines.includes('8 in the rules'), `${lines}`);
    assert.deepEqual([count(/nobody/), count(/suspended/)], [0, 0]);
  });

  it('that does not acknowledge is gone, and its source goes on', async () => {
    await using place = await runningVm();
    const onWake = ({ mode }: WakeRequest) => {
      if (mode === 'new') throw new AgentError('refused', 'the kernel takes no seed');
    };
    const daemon = withAgents(place.daemon(), { woken: [], onWake });
    await daemon.recover();
    const operation = await daemon.finish(() => daemon.life.fork('web', ['twin']));
    assert.match(operation?.error?.message ?? '', /twin was not woken: the kernel takes no seed/);
    assert.deepEqual(look(place, daemon), ALONE);
  });

  it('waits for an agent that is slow, as on a busy host', async () => {
    await using place = await runningVm();
    const daemon = withAgents(place.daemon(), { woken: [] });
    await daemon.recover();
    const { connect } = daemon.host.agents;
    const limits = new Map<string, number>();
    Object.assign(daemon.host.agents, {
      get: async () => undefined,
      standing: () => ({ kind: 'troubled', why: 'it did not answer within 2000 ms' }),
      connect: async (...given: Parameters<typeof connect>) => {
        limits.set(place.stores.vms.findById(given[0].id)?.name ?? '', given[1].timeoutMs);
        return await connect(...given);
      },
    });
    const operation = await daemon.finish(() => daemon.life.fork('web', ['twin']));
    assert.equal(operation?.state, 'succeeded', operation?.error?.message ?? 'it died');
    assert.equal(limits.get('web'), 15_000);
    assert.deepEqual(look(place, daemon), BOTH);
  });

  it('has a source that goes on at once, also when its agent is slow to be connected to then', async () => {
    await using place = await runningVm();
    const guests: Guests = { woken: [] };
    const daemon = withAgents(place.daemon(), guests);
    await daemon.recover();
    for (const standing of ['troubled', 'absent'] as const) {
      afterHolding(daemon, { get: async () => undefined, standing: () => ({ kind: standing, why: 'it was slow' }) });
      guests.woken.length = 0;
      const forked = await daemon.finish(() => daemon.life.fork('web', [standing]));
      assert.equal(forked?.state, 'succeeded', forked?.error?.message ?? 'it died');
      assert.deepEqual(
        guests.woken.map(({ mode }) => mode),
        ['same', 'new'],
        standing,
      );
      assert.deepEqual(await warningsOf(daemon, forked), []);
    }
  });

  it('says so when the agent of its source stays silent, which gets the time over SSH', async () => {
    for (const act of ['fork', 'snapshot'] as const) {
      await using place = await runningVm();
      const daemon = withAgents(place.daemon(), { woken: [] });
      await daemon.recover();
      const logged: string[] = [];
      Object.assign(daemon.host.log, { warn: (_facts: object, text: string) => logged.push(text) });
      const { connect } = daemon.host.agents;
      afterHolding(daemon, {
        get: async () => undefined,
        standing: () => ({ kind: 'troubled', why: 'it was slow' }),
        async connect(vm, options) {
          if (vm.id === place.vm.id) throw new AgentError('silent', 'its agent did not answer within 15 s');
          return await connect(vm, options);
        },
      });
      const begin = () => (act === 'fork' ? daemon.life.fork('web', ['twin']) : takeSnapshot(daemon));
      const ended = await daemon.finish(begin);
      assert.equal(ended?.state, 'succeeded', ended?.error?.message ?? 'it died');
      assert.deepEqual(logged, ['a guest that was held could not be woken']);
      const [warning, ...others] = await warningsOf(daemon, ended);
      assert.match(warning ?? '', /^The agent of web does not answer\. Programs that it has held go on by themselves/);
      assert.deepEqual(others, []);
      // it is asked for its time, and told it
      const told = () => daemon.mortal.effects.filter((effect) => effect.startsWith('tell the guest something'));
      while (told().length < 2) await setImmediate();
    }
  });

  it('has no warning of a source whose VMM has ended', async () => {
    await using place = await runningVm();
    const daemon = withAgents(place.daemon(), { woken: [] });
    await daemon.recover();
    const [vmm] = place.vmms;
    afterHolding(daemon, {
      async get() {
        await vmm?.ended;
        return undefined;
      },
      connect: async () => assert.fail('nobody is there'),
      standing: () => ({ kind: 'absent' }),
    });
    vmm?.refuse('PUT /snapshot/create', () => void vmm.die());
    const ended = await daemon.finish(() => takeSnapshot(daemon));
    assert.equal(ended?.state, 'failed');
    assert.deepEqual(await warningsOf(daemon, ended), []);
  });

  it('needs a guest that can be given another identity, and names that are free', async () => {
    await using place = await runningVm();
    const daemon = place.daemon();
    await daemon.recover();
    const fail = async (names: string[]) => (await daemon.finish(() => daemon.life.fork('web', names)))?.error;
    assert.match((await fail(['twin']))?.message ?? '', /web has no agent that answers/);
    withAgents(daemon, { woken: [] });
    assert.match((await fail(['web']))?.message ?? '', /"web" exists already/);
    assert.match((await fail(['a', 'a']))?.message ?? '', /"a" is there twice/);
    assert.deepEqual(look(place, daemon), ALONE);
  });

  for (const [what, suspended, before, after] of [
    ['a VM that runs', false, ALONE, BOTH],
    ['one that is suspended', true, ASLEEP, BESIDE_ASLEEP],
  ] as const) {
    it(`of ${what} whose daemon dies is there or is not, and its source is as it was`, async (t) => {
      const fork = (daemon: Daemon) => daemon.finish(() => daemon.life.fork('web', ['twin']));
      const effects = await (async () => {
        await using place = await runningVm(...(suspended ? [suspend] : []));
        const daemon = withAgents(place.daemon(), { woken: [] });
        await daemon.recover();
        const own = daemon.mortal.effects.length;
        await fork(daemon);
        assert.deepEqual(look(place, daemon), after, 'when nobody dies');
        return daemon.mortal.effects.slice(own).filter((each) => !each.startsWith('look '));
      })();
      const wrong: object[] = [];
      for (const dieBefore of effects) {
        await using place = await runningVm(...(suspended ? [suspend] : []));
        const daemon = withAgents(place.daemon(dieBefore), { woken: [] });
        await daemon.recover();
        await fork(daemon);
        const next = withAgents(place.daemon(), { woken: [] });
        await next.recover();
        const seen = look(place, next);
        if (![before, after].some((allowed) => isDeepStrictEqual(allowed, seen))) wrong.push({ dieBefore, seen });
      }
      t.diagnostic(`${effects.length} deaths`);
      assert.deepEqual(wrong, []);
    });
  }
});
