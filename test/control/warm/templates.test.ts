/** Templates as the host sees them: made, begun from, given up for a boot, forgotten, and every place where a daemon can die. */
import assert from 'node:assert/strict';
import { appendFileSync, readdirSync, readFileSync, statSync, utimesSync } from 'node:fs';
import { describe, it } from 'node:test';
import { isDeepStrictEqual } from 'node:util';
import type { Event } from '../../../src/api/event.ts';
import type { VmRun, VmRunResult } from '../../../src/api/vm.ts';
import { deleteImage } from '../../../src/control/images/catalogue.ts';
import { createWarmer, warmImage } from '../../../src/control/warm/background.ts';
import { coolImage, viewTemplates } from '../../../src/control/warm/view.ts';
import { BangerError } from '../../../src/errors.ts';
import { AgentError } from '../../../src/guest/agent/errors.ts';
import { imageFiles, templateFiles, vmFiles } from '../../../src/storage/layout.ts';
import { DISK_BYTES, OLD } from '../../support/mortal-disks.ts';
import { type Daemon, mortalHost } from '../../support/mortal-host.ts';
import { EMPTY, look, noGuests, SIZE, UP, until, WARM, warm, warmHost, withAgents } from '../../support/warm-host.ts';

async function run(daemon: Daemon, name: string, request: VmRun = {}): Promise<VmRunResult> {
  const ran = await daemon.finish(() => daemon.life.run(name, { until: 'reachable', ...SIZE, ...request }));
  assert.equal(ran?.state, 'succeeded', ran?.error?.message ?? 'it died');
  return ran.result as VmRunResult;
}

function told(daemon: Daemon): Event[] {
  const seen: Event[] = [];
  daemon.host.events.onEvent((event) => seen.push(event));
  return seen;
}

const whyNot = (events: Event[]) => events.flatMap((event) => (event.type === 'vm.not-warm' ? [event.reason] : []));

describe('a template', () => {
  it('is a VM that nobody sees, booted, held and kept', async () => {
    const guests = noGuests();
    const { place, daemon, template } = await warmHost(guests);
    await using _place = place;
    assert.deepEqual(look(place, daemon), WARM);
    assert.deepEqual([template.made, template.image, template.memoryMib, template.misfits], [true, OLD.name, 256, []]);
    const { directory } = templateFiles(place.config.paths.store, template.id);
    assert.deepEqual(readdirSync(directory).sort(), ['memory', 'root.ext4', 'state']);
    assert.equal(statSync(directory).mode & 0o777, 0o700);
    // what its init leaves for after the boot is done
    assert.match(guests.scripts[0] ?? '', /banger-rest\.target/);
    assert.equal((await warm(daemon)).made, false);
    assert.equal(place.stores.templates.list().length, 1);
  });

  it('is what a new VM begins as, under an identity of its own, before anything of it is seen', async () => {
    const seen: number[] = [];
    const guests = noGuests();
    const { place, daemon, template } = await warmHost(guests);
    await using _place = place;
    guests.onWake = () => void seen.push(place.see(daemon).rules.length);
    const files = templateFiles(place.config.paths.store, template.id);
    const before = [files.memory, files.state, files.rootDisk].map((path) => readFileSync(path, 'base64'));
    const results = [await run(daemon, 'web'), await run(daemon, 'other', { nat: true })];
    assert.deepEqual(
      results.map(({ created, started, warm: isWarm, ready }) => [created, started, isWarm, ready]),
      [
        [true, true, true, true],
        [true, true, true, true],
      ],
    );
    const records = ['web', 'other'].map((name) => place.stores.vms.get(name));
    for (const field of ['id', 'address', 'mac', 'hostKeyPrivate', 'machineId'] as const) {
      assert.equal(new Set(records.map((record) => record[field])).size, 2, field);
    }
    assert.deepEqual(
      guests.woken.map(({ mode, identity }) => [mode, identity?.hostname, identity?.address, identity?.machineId]),
      records.map((vm) => ['new', vm.name, vm.address, vm.machineId]),
    );
    assert.equal(new Set(guests.woken.map(({ seed }) => seed.toString('hex'))).size, 2);
    // closed until it has acknowledged: only the first was open when the second woke
    assert.deepEqual(seen, [0, 1]);
    const [web] = records;
    assert.deepEqual([web?.forkedFrom, web?.memory, web?.ready?.failedUnits], [null, null, ['sad.service']]);
    assert.ok(web?.bootTimeline.some(({ step }) => step === 'load-memory'));
    assert.ok(daemon.life.watches(web?.id ?? ''));
    // nothing of the template was used up
    assert.deepEqual(
      [files.memory, files.state, files.rootDisk].map((path) => readFileSync(path, 'base64')),
      before,
    );
    assert.deepEqual(
      readdirSync(vmFiles(place.config.paths.store, web?.id ?? '').directory).includes('suspended'),
      false,
    );
  });

  it('is passed over where it does not fit, which is told; where it is asked not to be used, nothing is', async () => {
    const { place, daemon, template } = await warmHost();
    await using _place = place;
    const events = told(daemon);
    assert.equal((await run(daemon, 'asked', { cold: true })).warm, false);
    assert.deepEqual(whyNot(events), []);
    assert.equal((await run(daemon, 'larger', { memoryMib: 512 })).warm, false);
    assert.equal((await run(daemon, 'wider', { vcpus: 2 })).warm, false);
    assert.equal((await run(daemon, 'inside', { nat: false })).warm, false);
    const { kernel } = imageFiles(place.config.paths.store, OLD.id);
    utimesSync(kernel, 1, 1);
    assert.equal((await run(daemon, 'newer')).warm, false);
    assert.match((await viewTemplates(daemon.host))[0]?.misfits.join() ?? '', /its kernel .* was replaced/);
    assert.deepEqual(
      whyNot(events).map((reason) => reason.replace(/ \/\S+/, '')),
      [
        'it had 256 MiB of memory, and would have 512 MiB',
        'it had 1 processors, and would have 2',
        'it booted with a way to the outside',
        'its kernel was replaced',
      ],
    );
    assert.equal(template.made, true);
  });

  it('is begun from by VMs with larger disks, whose guests grow their file systems', async () => {
    const guests = noGuests();
    const { place, daemon } = await warmHost(guests);
    await using _place = place;
    const before = guests.scripts.length;
    const events = told(daemon);
    const { warm: isWarm } = await run(daemon, 'web', { rootDiskBytes: 2 * DISK_BYTES });
    assert.deepEqual([isWarm, whyNot(events)], [true, []]);
    const { rootDisk } = vmFiles(place.config.paths.store, place.stores.vms.get('web').id);
    assert.equal(statSync(rootDisk).size, 2 * DISK_BYTES);
    const [grow, ...others] = guests.scripts.slice(before);
    assert.match(grow ?? '', /-lt 256 \][\s\S]*resize2fs \/dev\/vda/);
    assert.deepEqual(others, []);
  });

  it('whose files were written since is not begun from', async () => {
    for (const file of ['memory', 'state', 'rootDisk'] as const) {
      const { place, daemon, template } = await warmHost();
      await using _place = place;
      const events = told(daemon);
      appendFileSync(templateFiles(place.config.paths.store, template.id)[file], 'x');
      assert.equal((await run(daemon, 'web')).warm, false);
      assert.deepEqual(whyNot(events), ['its files were changed since'], file);
      // the next daemon lets it go
      const next = withAgents(place.daemon());
      await next.recover();
      assert.deepEqual(look(place, next).templates, [0, 0]);
    }
  });

  it('whose guest does not acknowledge costs a boot, and leaves nothing', async () => {
    const guests = noGuests();
    const { place, daemon } = await warmHost(guests);
    await using _place = place;
    guests.onWake = () => {
      throw new AgentError('refused', 'the kernel takes no seed');
    };
    const events = told(daemon);
    assert.equal((await run(daemon, 'web')).warm, false);
    assert.match(whyNot(events)[0] ?? '', /web was not woken: the kernel takes no seed/);
    assert.deepEqual(look(place, daemon), UP);
  });

  it('whose VM fails a check of the host, which goes on beside the load, has no guest that went on', async () => {
    const guests = noGuests();
    const { place, daemon } = await warmHost(guests);
    await using _place = place;
    const events = told(daemon);
    const { checks } = daemon.host;
    let asked = 0;
    daemon.host.checks = {
      ...checks,
      async beforeStart(...given) {
        // the boot that follows finds the host as it is to be
        if (asked++ > 0) return await checks.beforeStart(...given);
        await until(() => place.vmms.some(({ state }) => state === 'Paused'));
        throw new BangerError('host_unprepared', 'Something is not as it has to be.');
      },
    };
    assert.equal((await run(daemon, 'web')).warm, false);
    assert.deepEqual([whyNot(events), guests.woken], [['Something is not as it has to be.'], []]);
    assert.deepEqual(look(place, daemon), UP);
  });

  it('goes with its image, when it is told to, and when there are too many', async () => {
    const { place, daemon } = await warmHost();
    await using _place = place;
    await warm(daemon, { memoryMib: 300 });
    assert.equal(place.stores.templates.list().length, 2);
    daemon.host.config = { ...place.config, warm: { ...place.config.warm, templates: 2 } };
    await run(daemon, 'web');
    await warm(daemon, { memoryMib: 400 });
    assert.deepEqual(
      place.stores.templates.list().map(({ shape }) => shape.memoryMib),
      [256, 400],
    );
    await daemon.finish(() => daemon.life.delete('web', { force: true, now: true, keepWorkDisk: false }));
    assert.equal((await coolImage(daemon.host, OLD.name)).length, 2);
    assert.deepEqual(look(place, daemon).templates, [0, 0]);
    daemon.host.config = { ...place.config, warm: { ...place.config.warm, roomBytes: 1 } };
    const refused = await daemon.finish(() => warmImage(daemon.host, SIZE, { background: false }));
    assert.match(
      refused?.error?.message ?? '',
      /takes \S+ \S+, more than all of them may together \(warm\.room, 1 B\)/,
    );
    assert.deepEqual(look(place, daemon).templates, [0, 0]);
    daemon.host.config = place.config;
    await warm(daemon);
    await deleteImage(daemon.host, OLD.name);
    assert.deepEqual(look(place, daemon).templates, [0, 0]);
  });

  it('is none of a guest that never becomes ready, which is said', async () => {
    await using place = await mortalHost();
    const guests = noGuests();
    guests.ready = (signal) =>
      new Promise((_, reject) => {
        signal?.addEventListener('abort', () => reject(new AgentError('gone', 'cancelled', signal.reason)));
      });
    const daemon = withAgents(place.daemon(), guests);
    await daemon.recover();
    daemon.host.config = { ...place.config, limits: { ...place.config.limits, readyTimeoutMs: 50 } };
    const late = await daemon.finish(() => warmImage(daemon.host, SIZE, { background: false }));
    assert.deepEqual(
      [late?.error?.code, late?.error?.message],
      ['timeout', 'The guest of the template is not ready after 50 ms.'],
    );
    assert.match(late?.error?.hint ?? '', /banger run --cold NAME --image \S+ .*limits\.ready_timeout/);
    assert.deepEqual(look(place, daemon), EMPTY);
  });

  it('is made by itself after the first boot of an image, once, and where that is wanted', async () => {
    await using place = await mortalHost();
    const daemon = withAgents(place.daemon());
    await daemon.recover();
    const boots = async (name: string, request: VmRun = {}) =>
      assert.equal((await run(daemon, name, { until: 'ready', ...request })).warm, false);
    const ended = () =>
      daemon.host.operations.list().filter(({ kind, state }) => kind === 'image.warm' && state !== 'running').length;
    const before = ended();
    const warmer = daemon.mortal.run(() => createWarmer(daemon.host, 5));
    await boots('web');
    await until(() => ended() === before + 1);
    const [made] = place.stores.templates.list();
    assert.deepEqual([made?.image, made?.shape.memoryMib, made?.rootDiskBytes], [OLD.name, 256, DISK_BYTES]);
    assert.equal((await run(daemon, 'other')).warm, true);
    // the next boot of the same asks for nothing, and one of another size does
    await boots('third', { cold: true });
    await boots('fourth', { memoryMib: 300 });
    await until(() => ended() === before + 2);
    assert.equal(place.stores.templates.list().length, 2);
    daemon.host.config = { ...place.config, warm: { ...place.config.warm, automatic: false } };
    await boots('fifth', { memoryMib: 400 });
    assert.equal(ended(), before + 2);
    warmer.close();
  });

  for (const [what, prepare, act, allowed] of [
    [
      'is made',
      async () => await mortalHost(),
      (daemon: Daemon) => warmImage(daemon.host, SIZE, { background: false }),
      [EMPTY, WARM],
    ],
    [
      'is begun from',
      async () => {
        const { place, daemon } = await warmHost();
        await daemon.drop();
        return place;
      },
      (daemon: Daemon) => daemon.life.run('web', { until: 'reachable', ...SIZE }),
      [WARM, UP],
    ],
  ] as const) {
    it(`that ${what} by a daemon that dies is as before or as after`, async (t) => {
      const effects = await (async () => {
        await using place = await prepare();
        const daemon = withAgents(place.daemon());
        await daemon.recover();
        const own = daemon.mortal.effects.length;
        await daemon.finish(() => act(daemon));
        assert.deepEqual(look(place, daemon), allowed[1], 'when nobody dies');
        return daemon.mortal.effects.slice(own).filter((each) => !each.startsWith('look '));
      })();
      const wrong: object[] = [];
      for (const dieBefore of effects) {
        await using place = await prepare();
        const daemon = withAgents(place.daemon(dieBefore));
        await daemon.recover();
        await daemon.finish(() => act(daemon));
        const next = withAgents(place.daemon());
        await next.recover();
        const seen = look(place, next);
        if (!allowed.some((each) => isDeepStrictEqual(each, seen))) wrong.push({ dieBefore, seen });
      }
      t.diagnostic(`${effects.length} deaths`);
      assert.deepEqual(wrong, []);
    });
  }
});
