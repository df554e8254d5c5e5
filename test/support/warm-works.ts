/** All that is done with the memory of a VM, on hosts whose daemons may meet what they like: what each begins with, and what there is. */
import assert from 'node:assert/strict';
import { copyFileSync, existsSync, mkdirSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Operation } from '../../src/api/operation.ts';
import { createSnapshot } from '../../src/control/snapshots/create.ts';
import { copySnapshot } from '../../src/control/snapshots/new-vm.ts';
import { restoreSnapshot } from '../../src/control/snapshots/restore.ts';
import { warmImage } from '../../src/control/warm/background.ts';
import { becameReady } from '../../src/core/vm-changes.ts';
import { imageFiles, vmFiles } from '../../src/storage/layout.ts';
import { OLD } from './mortal-disks.ts';
import { type Daemon, type MortalHost, mortalHost } from './mortal-host.ts';
import { SIZE, warm, withAgents } from './warm-host.ts';

export interface WarmWork {
  name: string;
  /** a host in good order whose daemon is gone */
  prepare(): Promise<MortalHost>;
  begin(daemon: Daemon): Operation;
  /** shuts its VM down on the way, which cannot start again where nothing can be written */
  shutsDown?: true;
}

export const takeSnapshot = ({ host, life }: Daemon, name = 'first'): Operation =>
  life.change('snapshot.create', 'web', (_actions, progress, signal) =>
    createSnapshot(host, 'web', { name, pauseOk: true, diskOnly: false }, progress, signal),
  );

const restore = ({ host, life }: Daemon): Operation =>
  life.change('snapshot.restore', 'web', (actions, progress, signal) =>
    restoreSnapshot(host, actions, 'web', 'first', { force: true, start: true }, progress, signal),
  );

const copy = ({ host, life }: Daemon): Operation =>
  host.operations.start({
    ...{ kind: 'snapshot.copy', target: 'twin' },
    run: async (progress, signal) => {
      life.adopt(await copySnapshot(host, 'web', 'first', { name: 'twin', diskOnly: false }, progress, signal));
    },
  });

async function succeed(daemon: Daemon, begin: (daemon: Daemon) => Operation): Promise<void> {
  const ended = await daemon.finish(() => begin(daemon));
  assert.equal(ended?.state, 'succeeded', ended?.error?.message ?? 'it died');
}

/** A VM `web` that runs and is ready; `then` is done by a daemon that is gone afterwards. */
export async function runningVm(...then: readonly ((daemon: Daemon) => Operation)[]): Promise<MortalHost> {
  const place = await mortalHost();
  const { stores, config, vm } = place;
  const { directory, rootDisk, workDisk } = vmFiles(config.paths.store, vm.id);
  stores.ledger.record(vm.id, { kind: 'directory', name: directory });
  mkdirSync(directory, { recursive: true });
  for (const disk of [rootDisk, workDisk]) copyFileSync(imageFiles(config.paths.store, OLD.id).rootfs, disk);
  stores.vms.insert(vm);
  const daemon = withAgents(place.daemon());
  await succeed(daemon, ({ life }) => life.start('web', { until: 'reachable' }));
  stores.vms.update(vm.id, becameReady(stores.vms.get('web'), { at: new Date(), failedUnits: [] }));
  for (const begin of then) await succeed(daemon, begin);
  await daemon.drop();
  return place;
}

async function withTemplate(): Promise<MortalHost> {
  const place = await mortalHost();
  const daemon = withAgents(place.daemon());
  await daemon.recover();
  await warm(daemon);
  await daemon.drop();
  return place;
}

const suspend = ({ life }: Daemon) => life.suspend('web');
const fork = ({ life }: Daemon) => life.fork('web', ['twin']);

export const WARM_WORKS: readonly WarmWork[] = [
  { name: 'a suspend', prepare: () => runningVm(), begin: suspend },
  { name: 'a resume', prepare: () => runningVm(suspend), begin: ({ life }) => life.resume('web') },
  { name: 'a fork', prepare: () => runningVm(), begin: fork },
  { name: 'a fork of one that is suspended', prepare: () => runningVm(suspend), begin: fork },
  { name: 'a snapshot with memory', prepare: () => runningVm(), begin: takeSnapshot },
  { name: 'a snapshot of one that is suspended', prepare: () => runningVm(suspend), begin: takeSnapshot },
  { name: 'a snapshot that is put back', prepare: () => runningVm(takeSnapshot), begin: restore, shutsDown: true },
  { name: 'a VM from a snapshot', prepare: () => runningVm(takeSnapshot), begin: copy },
  {
    name: 'a template',
    prepare: () => mortalHost(),
    begin: ({ host }) => warmImage(host, SIZE, { background: false }),
  },
  {
    name: 'a VM from a template',
    prepare: withTemplate,
    begin: ({ life }) => life.run('twin', { until: 'reachable', ...SIZE }),
  },
];

/** What there is because of a banger, a line each, by names that are the same on each host. */
export function inventory(place: MortalHost, daemon: Daemon): string[] {
  const { stores, config } = place;
  const { devices, rules, routes, vmms } = place.see(daemon);
  const { store } = config.paths;
  const names = new Map([
    ...stores.vms.list().map(({ id, name }) => [id, name] as const),
    ...stores.snapshots.list().map(({ id, automatic, name }) => [id, automatic ? 'before' : name] as const),
    ...stores.templates.list().map(({ id }) => [id, 'template'] as const),
  ]);
  const named = (text: string) => text.replaceAll(/\b[0-9a-f]{8}\b/g, (id) => names.get(id) ?? 'nobody');
  const files = ['vms', 'templates'].flatMap((part) => {
    const directory = join(store, part);
    if (!existsSync(directory)) return [];
    return (readdirSync(directory, { recursive: true }) as string[]).map((path) => named(join(part, path)));
  });
  return [
    ...stores.vms.list().map(({ name, phase }) => `VM ${name}: ${phase}`),
    ...stores.snapshots.list().map(({ id }) => `snapshot ${names.get(id)}`),
    ...stores.templates.list().map(() => 'template'),
    ...vmms.map((state) => `VMM ${state}`),
    ...[`${devices.length} devices`, `${routes.length} routes`, `${rules.length} in the rules`],
    ...stores.ledger.all().map(({ owner, resource }) => `${names.get(owner) ?? owner}’s ${resource.kind}`),
    // without those of a run, which the next one begins anew, and a place for snapshots, which stays
    ...files.filter((path) => !/\.log(\.previous)?$|\/(v\.sock|snapshots)$/.test(path)),
  ]
    .map(named)
    .sort();
}

/** Lines that one has and the other has not. */
export function changes(before: readonly string[], after: readonly string[]): string[] {
  const count = (lines: readonly string[], wanted: string) => lines.filter((line) => line === wanted).length;
  return [...new Set([...before, ...after])].flatMap((line) => {
    const more = count(after, line) - count(before, line);
    return more === 0 ? [] : [`${more > 0 ? '+' : ''}${more} ${line}`];
  });
}
