/** Everything that is kept, in one database: the records of VMs, images and their layers, the ledger, settings. */
import { type BuildVms, createBuildVms } from './build-vms.ts';
import { type Database, inTransaction } from './database.ts';
import { createHolds, type Holds } from './holds.ts';
import { createImageStore, type ImageStore } from './images.ts';
import { createLayerStore, type LayerStore } from './layers.ts';
import { createLeases, type Leases } from './leases.ts';
import { createLedger, type Ledger } from './ledger.ts';
import { createSessions, type Sessions } from './sessions.ts';
import { createSettings, type Settings } from './settings.ts';
import { createSnapshotStore, type SnapshotStore } from './snapshots.ts';
import { createTemplateStore, type TemplateStore } from './templates.ts';
import { createTrash, type Trash } from './trash.ts';
import { createVmStore, type VmStore } from './vms.ts';

export interface Stores {
  vms: VmStore;
  /** deleted VMs that can still be had back */
  trash: Trash;
  /** VMs of image builds, kept in memory alone */
  buildVms: BuildVms;
  /** who holds temporary VMs, kept in memory alone */
  leases: Leases;
  /** kept work disks, by name, that somebody is about to take or to delete; kept in memory alone */
  keptHolds: Holds;
  /** images, by id, that somebody reads who is in no record yet; kept in memory alone */
  imageHolds: Holds;
  images: ImageStore;
  layers: LayerStore;
  snapshots: SnapshotStore;
  /** guests that new VMs begin as */
  templates: TemplateStore;
  /** commands and logins through the daemon, kept in memory alone */
  sessions: Sessions;
  /** what VMs and the daemon hold on the host */
  ledger: Ledger;
  settings: Settings;
  /** Runs `work` in one transaction. */
  atomically<T>(work: () => T): T;
}

export interface StoresOptions {
  now?: () => Date;
  /** hears of a listener to changes of VMs that threw */
  onListenerError?: (message: string) => void;
}

export function createStores(database: Database, { now, onListenerError }: StoresOptions = {}): Stores {
  const vms = createVmStore(database, onListenerError);
  const trash = createTrash(database);
  return {
    vms,
    trash,
    buildVms: createBuildVms(vms, trash),
    leases: createLeases(),
    keptHolds: createHolds(),
    imageHolds: createHolds(),
    images: createImageStore(database),
    layers: createLayerStore(database),
    snapshots: createSnapshotStore(database),
    templates: createTemplateStore(database),
    sessions: createSessions(),
    ledger: createLedger(database, now),
    settings: createSettings(database),
    atomically: (work) => inTransaction(database, work),
  };
}
