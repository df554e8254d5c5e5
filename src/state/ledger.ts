/**
 * The ledger: every host resource is written here before it is made and struck out after it is gone,
 * so that whatever is killed, whenever, nothing is left without an owner.
 */
import type { ProcessIdentity } from '../system/processes.ts';
import type { Database } from './database.ts';

/** A resource and what is needed to find and remove it again. */
export type Resource =
  /** host network device, with the address and route it carries; nothing that comes from a `closed` one goes further */
  | { kind: 'tap'; name: string; closed?: boolean }
  /**
   * VMM, found again by its API socket even when the daemon died before it learnt the pid; `directory` is where it works,
   * missing for those of earlier bangers, whose drives have absolute paths
   */
  | { kind: 'vmm'; name: string; identity?: ProcessIdentity; directory?: string }
  /** control group that a VM's VMM is in, with all that it starts */
  | { kind: 'cgroup'; name: string }
  /** directory with the VM's disks, seed and logs */
  | { kind: 'directory'; name: string }
  /**
   * root disk that is being replaced by one of another image; `swapping` is undone after a crash, `settled` is
   * finished, `undone` has only to start again what ran before
   */
  | {
      kind: 'rebase';
      name: string;
      step: 'swapping' | 'settled' | 'undone';
      before: { image: string; imageId: string | null; rootDiskBytes: number };
      /** image it gets, null for a bundle */
      imageId: string | null;
      /** whether the VM ran before */
      ran: boolean;
    }
  /** directory of a snapshot that is being made or deleted: there is no record of it, and it goes */
  | { kind: 'snapshot'; name: string }
  /**
   * disks that a snapshot's take the place of; `preparing` is undone after a crash, `swapping` is finished
   */
  | {
      kind: 'restore';
      /** the VM's root disk */
      name: string;
      step: 'preparing' | 'swapping';
      /** id of the snapshot whose disks come */
      snapshot: string;
      /** whether it is used up by that */
      consumes: boolean;
      /** whether it has a work disk */
      hasWorkDisk: boolean;
      values: { image: string; imageId: string | null; rootDiskBytes: number; workDiskBytes: number };
      /** whether the VM ran before */
      ran: boolean;
      /** name of the memory that comes with them, with which the VM is suspended then; missing without */
      memory?: string;
    }
  /** kernel setting of the host, with the value to put back as long as it is what it was set to (1 when that is not told) */
  | { kind: 'sysctl'; name: string; before: string; set?: string }
  /** route that keeps packets for stopped VMs inside the host */
  | { kind: 'pool-route'; name: string }
  /** rule that has packets to VMs go by the main table, where other rules come before it */
  | { kind: 'pool-rule'; name: string }
  /** disk that e2fsck or resize2fs works on, which outlive the daemon: nobody else may touch it meanwhile */
  | { kind: 'disk-work'; name: string }
  /** file with the file system of the store, mounted by a loop device */
  | { kind: 'store-image'; name: string; state: StoreImageState };

/** How far the store has come on its way into an image or out of it; see docs/decisions/0025. */
export type StoreImageState = 'filling' | 'switching' | 'mounted' | 'growing' | 'emptying' | 'switching-back';

export type ResourceKind = Resource['kind'];

export interface LedgerEntry {
  /** id of the VM it belongs to, or `host` for what all VMs share */
  owner: string;
  resource: Resource;
}

export interface Ledger {
  /** Writes the intent; an entry of the same kind and name is replaced. */
  record(owner: string, resource: Resource): void;
  /** Strikes a resource that is gone; one that is not there succeeds. */
  strike(kind: ResourceKind, name: string): void;
  of(owner: string): Resource[];
  all(): LedgerEntry[];
}

/** Owner of resources that belong to the host as a whole and not to one VM. */
export const HOST_OWNER = 'host';

/** Gone when the host loses its power: whoever frees them is the next daemon before that, or nobody. */
const OF_THIS_BOOT: ReadonlySet<ResourceKind> = new Set(['tap', 'vmm', 'cgroup']);

export function createLedger(database: Database, now: () => Date = () => new Date()): Ledger {
  const upsert = database.prepare(
    `INSERT INTO ledger (vm_id, kind, name, detail, created_at) VALUES (?, ?, ?, ?, ?)
     ON CONFLICT (kind, name) DO UPDATE SET vm_id = excluded.vm_id, detail = excluded.detail`,
  );
  const remove = database.prepare('DELETE FROM ledger WHERE kind = ? AND name = ?');
  const byOwner = database.prepare('SELECT * FROM ledger WHERE vm_id = ? ORDER BY id');
  const all = database.prepare('SELECT * FROM ledger ORDER BY id');
  const write = (kind: ResourceKind, how: () => void) => (OF_THIS_BOOT.has(kind) ? database.unsynced(how) : how());
  return {
    record(owner, { kind, name, ...detail }) {
      write(kind, () => upsert.run(owner, kind, name, JSON.stringify(detail), now().toISOString()));
    },
    strike(kind, name) {
      write(kind, () => remove.run(kind, name));
    },
    of: (owner) => byOwner.all(owner).map((row) => fromRow(row).resource),
    all: () => all.all().map(fromRow),
  };
}

function fromRow(row: Record<string, unknown>): LedgerEntry {
  const resource = { kind: row.kind, name: row.name, ...JSON.parse(String(row.detail)) } as Resource;
  return { owner: String(row.vm_id), resource };
}
