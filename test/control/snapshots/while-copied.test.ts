/** What may happen to a snapshot while a VM is made of it: nothing, for a copy of a disk that is written meanwhile is of no moment. */
import assert from 'node:assert/strict';
import { mkdirSync, writeFileSync } from 'node:fs';
import { describe, it } from 'node:test';
import type { Operation } from '../../../src/api/operation.ts';
import { createSnapshot } from '../../../src/control/snapshots/create.ts';
import { snapshotHandlers } from '../../../src/daemon/routes/snapshots.ts';
import { snapshotFiles, vmFiles } from '../../../src/storage/layout.ts';
import { DISK_BYTES, ext4, marker } from '../../support/mortal-disks.ts';
import { type Daemon, type MortalHost, mortalHost } from '../../support/mortal-host.ts';

type Handlers = ReturnType<typeof snapshotHandlers>;

/** A stopped VM with disks of mark `one`, and what was there before they were put back, of mark `two`. */
async function restored(): Promise<{ place: MortalHost; daemon: Daemon; routes: Handlers; before: string }> {
  const place = await mortalHost();
  const { stores, vm } = place;
  const { directory } = vmFiles(place.config.paths.store, vm.id);
  stores.ledger.record(vm.id, { kind: 'directory', name: directory });
  mkdirSync(directory, { recursive: true });
  stores.vms.insert(vm);
  const daemon = place.daemon();
  const routes = snapshotHandlers(daemon.host, daemon.life);
  write(place, 'one');
  await succeed(daemon, () =>
    daemon.life.change('snapshot.create', 'web', async (_actions, progress, signal) => {
      await createSnapshot(daemon.host, 'web', { name: 'first', pauseOk: false, diskOnly: true }, progress, signal);
    }),
  );
  write(place, 'two');
  await succeed(daemon, () => routes.restoreSnapshot(of('first', {})));
  const before = stores.snapshots.list(vm.id).find(({ automatic }) => automatic)?.name ?? '';
  return { place, daemon, routes, before };
}

function write({ config, vm }: MortalHost, mark: string): void {
  const { rootDisk, workDisk } = vmFiles(config.paths.store, vm.id);
  for (const disk of [rootDisk, workDisk]) writeFileSync(disk, ext4(DISK_BYTES, mark));
}

/** A request for one of web's snapshots. */
function of<Body>(snapshot: string, body: Body) {
  return { params: { name: 'web', snapshot }, body, query: {}, signal: new AbortController().signal } as never;
}

const copy = (routes: Handlers, snapshot: string) => routes.copySnapshot(of(snapshot, { name: 'old' }));

async function succeed(daemon: Daemon, begin: () => Operation | Promise<Operation>): Promise<void> {
  const ended = await daemon.finish(begin);
  assert.equal(ended?.state, 'succeeded', ended?.error?.message ?? 'it died');
}

/** Has something happen once the first disk was copied. */
function afterFirstCopy({ host }: Daemon, happens: () => Promise<void> | void): void {
  const { runner } = host.system;
  let over = false;
  const run: typeof runner.run = async (argv, options) => {
    const result = await runner.run(argv, options);
    if (argv[0] === host.config.programs.cp && !over) {
      over = true;
      await happens();
    }
    return result;
  };
  host.system = { ...host.system, runner: { ...runner, run } };
}

describe('a snapshot that a VM is made of', () => {
  it('is neither used up nor deleted meanwhile, and its VM does not run on it', async () => {
    const { place, daemon, routes, before } = await restored();
    await using _place = place;
    const refused: string[] = [];
    afterFirstCopy(daemon, async () => {
      for (const act of [
        () => routes.undoRestore(of('', {})),
        () => routes.deleteSnapshot(of(before, undefined)),
        () => routes.restoreSnapshot(of('first', {})),
        () => routes.exportSnapshot(of(before, { file: '/nowhere' })),
        async () => daemon.life.delete('web', { force: true, now: true, keepWorkDisk: false }),
      ]) {
        await act().then(
          ({ id }) => daemon.host.operations.finished(id),
          ({ code, message, hint }) => refused.push(`${code} ${message} ${hint}`),
        );
      }
      if (refused.length < 5) write(place, 'three');
    });
    await succeed(daemon, () => copy(routes, before));
    assert.equal(refused.length, 5, 'each has to wait');
    for (const each of refused)
      assert.match(each, /^conflict The .* has to wait: a copy of old is going on .* operation wait/);
    const old = vmFiles(place.config.paths.store, place.stores.vms.get('old').id);
    assert.deepEqual([marker(old.rootDisk), marker(old.workDisk)], ['two', 'two']);
    // and afterwards it is
    await succeed(daemon, () => routes.undoRestore(of('', {})));
    assert.equal(marker(vmFiles(place.config.paths.store, place.vm.id).rootDisk), 'two');
  });

  it('is made one of only when nothing is done with its VM', async () => {
    const { place, daemon, routes, before } = await restored();
    await using _place = place;
    const undone = await routes.undoRestore(of('', {}));
    await assert.rejects(copy(routes, before), { code: 'conflict', message: /a undo of web is going on/ });
    await daemon.host.operations.finished(undone.id);
    assert.equal(place.stores.vms.find('old'), undefined);
  });

  it('leaves nothing of a VM when somebody writes to it by hand', async () => {
    const { place, daemon, routes } = await restored();
    await using _place = place;
    const [first] = place.stores.snapshots.list(place.vm.id);
    const { rootDisk } = snapshotFiles(place.config.paths.store, place.vm.id, first?.id ?? '');
    afterFirstCopy(daemon, () => writeFileSync(rootDisk, ext4(DISK_BYTES, 'three')));
    const ended = await daemon.finish(() => copy(routes, 'first'));
    assert.deepEqual([ended?.error?.code, place.stores.vms.find('old')], ['corrupt', undefined]);
    assert.match(`${ended?.error?.message}`, /The files of the snapshot first were changed meanwhile/);
  });

  it('is given up by who has its VM killed', async () => {
    const { place, daemon, routes, before } = await restored();
    await using _place = place;
    let killed: Promise<Operation> | undefined;
    afterFirstCopy(daemon, () => {
      killed = daemon.life.kill('web');
    });
    const ended = await daemon.finish(() => copy(routes, before));
    assert.deepEqual([ended?.state, place.stores.vms.find('old')], ['cancelled', undefined]);
    const { id } = (await killed) ?? assert.fail('it was not killed');
    assert.equal((await daemon.host.operations.finished(id)).state, 'succeeded');
    assert.equal(place.stores.snapshots.find(place.vm.id, before)?.automatic, true);
  });
});
