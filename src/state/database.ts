/** The daemon's SQLite database: opened, migrated forward, backed up before a migration. */
import { existsSync, rmSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync, type SQLInputValue, type StatementResultingChanges, type StatementSync } from 'node:sqlite';
import { BangerError, messageOf } from '../errors.ts';
import type { Ballast } from './ballast.ts';

/** Schema changes in order; entry N brings `user_version` from N to N + 1. Never edit one that was released. */
const MIGRATIONS: readonly string[] = [
  `CREATE TABLE vms (
     id TEXT PRIMARY KEY,
     name TEXT NOT NULL UNIQUE,
     image TEXT NOT NULL,
     vcpus INTEGER NOT NULL,
     memory_mib INTEGER NOT NULL,
     root_disk_bytes INTEGER NOT NULL,
     work_disk_bytes INTEGER NOT NULL,
     address TEXT NOT NULL UNIQUE,
     mac TEXT NOT NULL,
     nat INTEGER NOT NULL,
     host_key_private TEXT NOT NULL,
     host_key_public TEXT NOT NULL,
     created_at TEXT NOT NULL,
     phase TEXT NOT NULL,
     failure TEXT,
     started_at TEXT,
     vmm TEXT,
     boot_timeline TEXT NOT NULL DEFAULT '[]',
     boot_ms REAL
   ) STRICT;
   CREATE TABLE ledger (
     id INTEGER PRIMARY KEY,
     vm_id TEXT NOT NULL,
     kind TEXT NOT NULL,
     name TEXT NOT NULL,
     detail TEXT NOT NULL DEFAULT '{}',
     created_at TEXT NOT NULL,
     UNIQUE (kind, name)
   ) STRICT;
   CREATE INDEX ledger_by_vm ON ledger (vm_id);
   CREATE TABLE operations (
     id TEXT PRIMARY KEY,
     kind TEXT NOT NULL,
     target TEXT NOT NULL,
     state TEXT NOT NULL,
     created_at TEXT NOT NULL,
     finished_at TEXT,
     error TEXT
   ) STRICT;
   CREATE TABLE settings (
     key TEXT PRIMARY KEY,
     value TEXT NOT NULL
   ) STRICT;`,
  `ALTER TABLE vms ADD COLUMN image_id TEXT;
   ALTER TABLE vms ADD COLUMN autostart INTEGER NOT NULL DEFAULT 0;
   ALTER TABLE vms ADD COLUMN restart_policy TEXT NOT NULL DEFAULT 'never';
   ALTER TABLE vms ADD COLUMN work_disk_mount TEXT NOT NULL DEFAULT '/root';
   ALTER TABLE vms ADD COLUMN run TEXT;
   ALTER TABLE vms ADD COLUMN restarts TEXT;
   CREATE INDEX vms_by_image ON vms (image_id);
   CREATE TABLE trash (
     id TEXT PRIMARY KEY,
     name TEXT NOT NULL,
     address TEXT NOT NULL,
     record TEXT NOT NULL,
     deleted_at TEXT NOT NULL
   ) STRICT;
   CREATE TABLE images (
     id TEXT PRIMARY KEY,
     name TEXT NOT NULL UNIQUE,
     arch TEXT NOT NULL,
     base TEXT NOT NULL,
     sha256 TEXT NOT NULL,
     size_bytes INTEGER NOT NULL,
     recipe TEXT,
     recipe_key TEXT,
     created_at TEXT NOT NULL
   ) STRICT;
   CREATE TABLE layers (
     key TEXT PRIMARY KEY,
     parent TEXT,
     base TEXT NOT NULL,
     step TEXT NOT NULL,
     size_bytes INTEGER NOT NULL,
     created_at TEXT NOT NULL,
     used_at TEXT NOT NULL
   ) STRICT;`,
  `ALTER TABLE images RENAME COLUMN sha256 TO digest;
   UPDATE images SET digest = 'sha256:' || digest;
   ALTER TABLE layers ADD COLUMN machine TEXT;
   ALTER TABLE layers ADD COLUMN unsynced_boot TEXT;`,
  `ALTER TABLE vms ADD COLUMN ready TEXT;
   UPDATE vms SET ready = json_object('ms', coalesce(boot_ms, 0), 'failedUnits', json('[]')) WHERE phase = 'running';`,
  `ALTER TABLE vms ADD COLUMN last_end TEXT;`,
  `ALTER TABLE vms ADD COLUMN temporary TEXT;`,
  `ALTER TABLE vms ADD COLUMN memory TEXT;`,
  `ALTER TABLE vms ADD COLUMN paused TEXT;`,
  `ALTER TABLE vms ADD COLUMN machine_id TEXT;
   CREATE TABLE snapshots (
     id TEXT PRIMARY KEY,
     vm_id TEXT NOT NULL,
     name TEXT NOT NULL,
     image_id TEXT,
     created_at TEXT NOT NULL,
     record TEXT NOT NULL,
     UNIQUE (vm_id, name)
   ) STRICT;`,
  `ALTER TABLE vms ADD COLUMN forked_from TEXT;`,
  `ALTER TABLE vms ADD COLUMN idle_suspend_ms INTEGER NOT NULL DEFAULT 0;
   ALTER TABLE vms ADD COLUMN awake_until TEXT;`,
  `ALTER TABLE vms ADD COLUMN user_id INTEGER;`,
  `CREATE TABLE templates (
     id TEXT PRIMARY KEY,
     created_at TEXT NOT NULL,
     record TEXT NOT NULL
   ) STRICT;`,
  `ALTER TABLE vms ADD COLUMN process TEXT;`,
];

/** Result codes of SQLite (sqlite.org/rescode.html) for writes there is no room for; the rest of 10 are of the same kind. */
const SQLITE_FULL = 13;
const NO_ROOM_IOERRS = [778 /* write: also over quota */, 1034 /* fsync */, 4874 /* size of the shared memory */];

/** A database that says where there is no room, after it has given up what was set aside for this. */
export class Database extends DatabaseSync {
  readonly #path: string;
  readonly #ballast: Pick<Ballast, 'giveUp'> | undefined;

  constructor(path: string, ballast?: Pick<Ballast, 'giveUp'>) {
    // whoever reads it at the same time, with sqlite3 for example, is waited for
    super(path, { timeout: 5000 });
    this.#path = path;
    this.#ballast = ballast;
  }

  override prepare(sql: string): StatementSync {
    const statement = super.prepare(sql);
    const run = statement.run.bind(statement) as Run;
    // part of a transaction is tried again with all of it
    const withRoom: Run = (...values) => (this.isTransaction ? run(...values) : this.withRoom(() => run(...values)));
    statement.run = withRoom as StatementSync['run'];
    return statement;
  }

  /**
   * Does a write that leaves nothing when it fails, again with the ballast's room where there is none.
   * @throws BangerError `host_unprepared` when there is still none
   */
  withRoom<T>(write: () => T): T {
    for (;;) {
      try {
        return write();
      } catch (error) {
        if (!isNoRoom(error)) throw error;
        if (!this.#ballast?.giveUp()) throw noRoom(this.#path, error);
      }
    }
  }

  /**
   * Does a write that a power cut may take. The end of this process does not, and the next synced one brings it to the disk. Part of
   * a transaction, it is synced with that.
   */
  unsynced<T>(write: () => T): T {
    if (this.isTransaction) return write();
    this.exec('PRAGMA synchronous = NORMAL');
    try {
      return write();
    } finally {
      this.exec('PRAGMA synchronous = FULL');
    }
  }
}

type Run = (...values: SQLInputValue[]) => StatementResultingChanges;

function isNoRoom(error: unknown): boolean {
  const code = error instanceof Error && 'errcode' in error ? Number(error.errcode) : 0;
  return (code & 0xff) === SQLITE_FULL || NO_ROOM_IOERRS.includes(code);
}

function noRoom(path: string, cause: unknown): BangerError {
  return new BangerError('host_unprepared', `There is no room on the disk to write to ${path}.`, {
    cause,
    hint: `See what is full: df -h ${dirname(path)}   Make room with: banger gc   banger trash empty   banger image prune`,
    details: { path },
  });
}

/** `durable`: a commit survives a power cut; `relaxed`: it survives a crash of the daemon. */
export type Durability = 'durable' | 'relaxed';

/**
 * Opens the database at `path` (`:memory:` in tests) and brings it to this version's schema.
 * @throws BangerError `conflict` when a newer banger wrote it, naming the schema versions
 * @throws BangerError `corrupt` when the file is no database
 * @throws BangerError `host_unprepared` when there is no room for what it writes
 * @param ballast room that is made free when there is none
 */
export function openDatabase(
  path: string,
  durability: Durability = 'durable',
  ballast?: Pick<Ballast, 'giveUp'>,
): Database {
  const database = connect(path, durability, ballast);
  const version = schemaVersion(database);
  if (version > MIGRATIONS.length) {
    database.close();
    throw new BangerError(
      'conflict',
      `The database ${path} was written by a newer banger (schema ${version}; this banger reads up to ${MIGRATIONS.length}).`,
      { hint: `Install a banger that reads schema ${version}${wayBack(path)}.` },
    );
  }
  try {
    migrate(database, path, version);
  } catch (error) {
    database.close();
    throw new BangerError(
      'host_unprepared',
      `The database ${path} could not be brought from schema ${version} to ${MIGRATIONS.length}: ${messageOf(error)}. Nothing is lost.`,
      { cause: error, hint: `Is there room? See: df -h ${dirname(path)}   Then try again: banger daemon start` },
    );
  }
  return database;
}

/** Each step in one transaction, so that a crash leaves one schema or the next. */
function migrate(database: Database, path: string, version: number): void {
  if (version > 0 && version < MIGRATIONS.length && path !== ':memory:') backUp(database, `${path}.schema-${version}`);
  for (const [index, sql] of MIGRATIONS.entries()) {
    if (index < version) continue;
    inTransaction(database, () => {
      database.exec(sql);
      database.exec(`PRAGMA user_version = ${index + 1}`);
    });
  }
}

/** How to go back to what this banger reads; empty when no backup of that is left. */
function wayBack(path: string): string {
  for (let version = MIGRATIONS.length; version > 0; version--) {
    const backup = `${path}.schema-${version}`;
    if (!existsSync(backup)) continue;
    return `, or go back to before the upgrade, without what came since: rm -f ${path}-wal ${path}-shm && cp ${backup} ${path}`;
  }
  return '';
}

/**
 * Runs `work` in one transaction: all of its writes or none. Inside of another one it is part of that. It is run once more
 * when room had to be made for it.
 */
export function inTransaction<T>(database: Database, work: () => T): T {
  if (database.isTransaction) return work();
  return database.withRoom(() => {
    database.exec('BEGIN IMMEDIATE');
    try {
      const result = work();
      database.exec('COMMIT');
      return result;
    } catch (error) {
      // a full disk makes SQLite roll back by itself
      if (database.isTransaction) database.exec('ROLLBACK');
      throw error;
    }
  });
}

function connect(path: string, durability: Durability, ballast: Pick<Ballast, 'giveUp'> | undefined): Database {
  try {
    const database = new Database(path, ballast);
    // what a client was told must survive a power cut; writes are few, so every commit is synced
    const synchronous = durability === 'durable' ? 'FULL' : 'NORMAL';
    database.withRoom(() =>
      database.exec(`PRAGMA journal_mode = WAL; PRAGMA synchronous = ${synchronous}; PRAGMA foreign_keys = ON;`),
    );
    return database;
  } catch (error) {
    if (error instanceof BangerError) throw error;
    throw new BangerError('corrupt', `The database ${path} cannot be opened: ${messageOf(error)}.`, {
      cause: error,
      hint: `Look at the file; a backup from before the last migration lies beside it: ls ${path}.schema-*`,
    });
  }
}

function schemaVersion(database: Database): number {
  return Number(database.prepare('PRAGMA user_version').get()?.user_version ?? 0);
}

function backUp(database: Database, target: string): void {
  rmSync(target, { force: true }); // a leftover of an earlier try; VACUUM INTO refuses an existing file
  database.prepare('VACUUM INTO ?').run(target);
}
