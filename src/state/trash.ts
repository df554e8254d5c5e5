/** Deleted VMs that can still be had back: their records, while their disks lie where they lay. */
import type { VmRecord } from '../core/vm.ts';
import type { Database } from './database.ts';

export interface TrashedVm {
  vm: VmRecord;
  /** ISO 8601 */
  deletedAt: string;
}

export interface Trash {
  /** Newest first. */
  list(): TrashedVm[];
  has(id: string): boolean;
  put(vm: VmRecord, deletedAt: string): void;
  /** Replaces the record of one that is in it. */
  update(vm: VmRecord): void;
  remove(id: string): void;
}

export function createTrash(database: Database): Trash {
  const all = database.prepare('SELECT record, deleted_at FROM trash ORDER BY deleted_at DESC, rowid DESC');
  const byId = database.prepare('SELECT id FROM trash WHERE id = ?');
  const insert = database.prepare('INSERT INTO trash (id, name, address, record, deleted_at) VALUES (?, ?, ?, ?, ?)');
  const update = database.prepare('UPDATE trash SET record = ? WHERE id = ?');
  const remove = database.prepare('DELETE FROM trash WHERE id = ?');
  return {
    list: () =>
      all.all().map(({ record, deleted_at }) => ({
        // an earlier banger wrote neither
        vm: { ready: null, idleSuspendMs: 0, user: null, ...JSON.parse(String(record)) } as VmRecord,
        deletedAt: String(deleted_at),
      })),
    has: (id) => byId.get(id) !== undefined,
    put: (vm, deletedAt) => void insert.run(vm.id, vm.name, vm.address, JSON.stringify(vm), deletedAt),
    update: (vm) => void update.run(JSON.stringify(vm), vm.id),
    remove: (id) => void remove.run(id),
  };
}
