/** Snapshots in SQLite; their files lie in their VM's directory, and they go with it. */
import type { SnapshotRecord } from '../core/snapshots.ts';
import { BangerError } from '../errors.ts';
import type { Database } from './database.ts';

export interface SnapshotStore {
  /** Those of one VM, or of all, oldest first. */
  list(vmId?: string): SnapshotRecord[];
  find(vmId: string, name: string): SnapshotRecord | undefined;
  findById(id: string): SnapshotRecord | undefined;
  /** How many one VM has. */
  count(vmId: string): number;
  /** @throws BangerError `conflict` when the VM has one of that name */
  insert(snapshot: SnapshotRecord): void;
  /** Writes one anew whose name, image and time are what they were. */
  update(snapshot: SnapshotRecord): void;
  /** Gives an image another name in the records of those that need it. */
  renameImage(imageId: string, name: string): void;
  remove(id: string): void;
  removeOf(vmId: string): void;
}

export function createSnapshotStore(database: Database): SnapshotStore {
  const all = database.prepare('SELECT record FROM snapshots ORDER BY created_at, rowid');
  const ofVm = database.prepare('SELECT record FROM snapshots WHERE vm_id = ? ORDER BY created_at, rowid');
  const byName = database.prepare('SELECT record FROM snapshots WHERE vm_id = ? AND name = ?');
  const byId = database.prepare('SELECT record FROM snapshots WHERE id = ?');
  const count = database.prepare('SELECT count(*) AS n FROM snapshots WHERE vm_id = ?');
  const insert = database.prepare(
    'INSERT INTO snapshots (id, vm_id, name, image_id, created_at, record) VALUES (?, ?, ?, ?, ?, ?)',
  );
  const update = database.prepare('UPDATE snapshots SET record = ? WHERE id = ?');
  const remove = database.prepare('DELETE FROM snapshots WHERE id = ?');
  const removeOf = database.prepare('DELETE FROM snapshots WHERE vm_id = ?');
  const change = (snapshot: SnapshotRecord) => void update.run(JSON.stringify(snapshot), snapshot.id);
  const find = (vmId: string, name: string) => optional(byName.get(vmId, name));
  return {
    list: (vmId) => (vmId === undefined ? all.all() : ofVm.all(vmId)).map(fromRow),
    find,
    findById: (id) => optional(byId.get(id)),
    count: (vmId) => Number(count.get(vmId)?.n ?? 0),
    insert(snapshot) {
      const { id, vmId, name, createdAt, values } = snapshot;
      try {
        insert.run(id, vmId, name, values.imageId, createdAt, JSON.stringify(snapshot));
      } catch (error) {
        if (!find(vmId, name)) throw error;
        throw new BangerError('conflict', `There is a snapshot "${name}" already.`, {
          cause: error,
          hint: 'Choose another name, or leave it out.',
        });
      }
    },
    update: change,
    renameImage(imageId, name) {
      for (const snapshot of all.all().map(fromRow)) {
        if (snapshot.values.imageId !== imageId) continue;
        change({ ...snapshot, values: { ...snapshot.values, image: name } });
      }
    },
    remove: (id) => void remove.run(id),
    removeOf: (vmId) => void removeOf.run(vmId),
  };
}

function optional(row: Record<string, unknown> | undefined): SnapshotRecord | undefined {
  return row ? fromRow(row) : undefined;
}

function fromRow(row: Record<string, unknown>): SnapshotRecord {
  return JSON.parse(String(row.record)) as SnapshotRecord;
}
