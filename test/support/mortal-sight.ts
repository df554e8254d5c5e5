/** What there is on a host whose daemons die, in a form that two daemons' outcomes can be compared in. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Config } from '../../src/config/schema.ts';
import type { Host } from '../../src/control/host.ts';
import { shownState, tapName, type VmRecord } from '../../src/core/vm.ts';
import { vmFiles } from '../../src/storage/layout.ts';
import { marker, NEW, OLD } from './mortal-disks.ts';
import type { Place } from './mortal-place.ts';

/** What there is, in a form that can be compared; paths and ids of this host left out. */
export interface Seen {
  /** state of the record; `trash` or `none` without one */
  vm: string;
  /** image of the record, and of the disk that is in its place */
  images: string;
  /** states of VMM processes */
  vmms: string[];
  /** whether the daemon watches the VM */
  watched: boolean;
  devices: string[];
  routes: string[];
  /** devices that packet rules are for */
  rules: string[];
  /** kinds of what the ledger knows, with those that have no owner marked */
  ledger: string[];
  /** files that a VM at rest has not */
  odd: string[];
}

/** What a VM at rest has in its directory. */
const USUAL = new Set([
  'root.ext4',
  'work.ext4',
  'seed.img',
  'v.sock',
  'console.log',
  'console.log.previous',
  'vmm.log',
  'vmm.log.previous',
]);

export interface Sights {
  config: Config;
  stores: Host['stores'];
  place: Place;
  /** the VM as it was made */
  vm: VmRecord;
  /** whether the daemon watches a VM */
  watches(vmId: string): boolean;
}

export function see({ config, stores, place, vm, watches }: Sights): Seen {
  const { store, run } = config.paths;
  const record = stores.vms.find(vm.name);
  const owned = record ?? stores.trash.list().find(({ vm: each }) => each.name === vm.name)?.vm;
  const files = vmFiles(store, owned?.id ?? vm.id);
  const owners = new Set([
    'host',
    ...stores.vms.list().map(({ id }) => id),
    ...stores.trash.list().map((each) => each.vm.id),
  ]);
  const directories = existsSync(join(store, 'vms')) ? readdirSync(join(store, 'vms')) : [];
  const alive = place.vmms.filter(
    ({ pid }) => existsSync(`/proc/${pid}/cmdline`) && readFileSync(`/proc/${pid}/cmdline`).length > 0,
  );
  const vmms = alive.map(({ state }) => state);
  const inDirectory = (id: string) => readdirSync(join(store, 'vms', id)).filter((name) => !USUAL.has(name));
  const sockets = readdirSync(join(run, 'vmm')).filter(
    (name) => !(record?.phase === 'running' && name === `${record.id}.sock`),
  );
  const named = (id: string) => (id === OLD.id ? OLD.name : id === NEW.id ? NEW.name : id);
  return {
    vm: (record && shownState(record)) ?? (owned ? 'trash' : 'none'),
    images: owned
      ? `${named(owned.imageId ?? '')} on ${existsSync(files.rootDisk) ? marker(files.rootDisk) : 'nothing'}`
      : '',
    vmms,
    watched: record !== undefined && watches(record.id),
    devices: [...place.devices].map((name) => (owned && name === tapName(owned.id) ? 'tap' : name)),
    routes: [...place.routes.values()].map((by) => (owned && by === tapName(owned.id) ? 'tap' : by)).sort(),
    // each once: a device is in more than one set
    rules: [...new Set(Array.from(place.rules.matchAll(/"(bgr-[^"]+)" \. /g), ([, tap]) => String(tap)))].map((tap) =>
      owned && tap === tapName(owned.id) ? 'tap' : tap,
    ),
    ledger: stores.ledger
      .all()
      .map(({ owner, resource }) => `${owners.has(owner) ? '' : 'nobody’s '}${resource.kind}`)
      .sort(),
    odd: [
      ...directories.filter((id) => !owners.has(id)).map((id) => `directory ${id === vm.id ? 'of web' : 'of another'}`),
      ...directories.filter((id) => owners.has(id)).flatMap(inDirectory),
      ...sockets.map(() => 'socket'),
      ...readdirSync(store).filter((name) => !['vms', 'images', 'kept'].includes(name)),
    ].sort(),
  };
}
