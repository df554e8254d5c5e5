/** Layers in SQLite: disks kept after steps of image builds, by the digest of all they depend on; files lie in the store. */
import type { Database } from './database.ts';

export interface LayerRecord {
  /** SHA-256 of everything the disk depends on, in hexadecimal; names its file */
  key: string;
  /** key of the step before it, which need not have been kept; null for the first */
  parent: string | null;
  /** image or bundle the build began with */
  base: string;
  /** the step in words, e.g. `packages jq, htop` */
  step: string;
  /** what its file took when it was made, in `bytes` */
  sizeBytes: number;
  /** ISO 8601 */
  createdAt: string;
  /** when a build last began from it, ISO 8601 */
  usedAt: string;
  /** how the VM whose disk it is goes on from its kept memory, as JSON; null when only the disk was kept */
  machine: string | null;
  /** boot of the host on which its disk was written, until it is known to survive a power cut; then null */
  unsyncedBoot: string | null;
}

export interface LayerStore {
  /** The longest unused first. */
  list(): LayerRecord[];
  find(key: string): LayerRecord | undefined;
  /** Registers a layer; one of the same key is the same disk and is replaced. */
  insert(layer: LayerRecord): void;
  /** Notes that a build began from it. */
  touch(key: string, usedAt: string): void;
  /** Notes that its disk survives a power cut. */
  synced(key: string): void;
  /** Forgets the machine of a layer, whose disk stays. Its files are the caller's. */
  forgetKeptVm(key: string): void;
  /** Forgets a layer; one that is not there succeeds. Its files are the caller's. */
  remove(key: string): void;
}

export function createLayerStore(database: Database): LayerStore {
  const all = database.prepare('SELECT * FROM layers ORDER BY used_at, key');
  const byKey = database.prepare('SELECT * FROM layers WHERE key = ?');
  const insert = database.prepare(
    `INSERT OR REPLACE INTO layers (key, parent, base, step, size_bytes, created_at, used_at, machine, unsynced_boot)
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)`,
  );
  const touch = database.prepare('UPDATE layers SET used_at = ? WHERE key = ?');
  const synced = database.prepare('UPDATE layers SET unsynced_boot = NULL WHERE key = ?');
  const forgetKeptVm = database.prepare('UPDATE layers SET machine = NULL WHERE key = ?');
  const remove = database.prepare('DELETE FROM layers WHERE key = ?');
  return {
    list: () => all.all().map(fromRow),
    find(key) {
      const row = byKey.get(key);
      return row ? fromRow(row) : undefined;
    },
    insert: ({ key, parent, base, step, sizeBytes, createdAt, usedAt, machine, unsyncedBoot }) =>
      void insert.run(key, parent, base, step, sizeBytes, createdAt, usedAt, machine, unsyncedBoot),
    touch: (key, usedAt) => void touch.run(usedAt, key),
    synced: (key) => void synced.run(key),
    forgetKeptVm: (key) => void forgetKeptVm.run(key),
    remove: (key) => void remove.run(key),
  };
}

function fromRow(row: Record<string, unknown>): LayerRecord {
  return {
    key: String(row.key),
    parent: row.parent === null ? null : String(row.parent),
    base: String(row.base),
    step: String(row.step),
    sizeBytes: Number(row.size_bytes),
    createdAt: String(row.created_at),
    usedAt: String(row.used_at),
    machine: row.machine === null ? null : String(row.machine),
    unsyncedBoot: row.unsynced_boot === null ? null : String(row.unsynced_boot),
  };
}
