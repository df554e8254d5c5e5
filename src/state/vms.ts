/** VM records in SQLite; whoever wants to know is told of every change. */
import type { SQLInputValue, StatementSync } from 'node:sqlite';
import type { VmRecord } from '../core/vm.ts';
import type { VmChange } from '../core/vm-changes.ts';
import { BangerError, messageOf } from '../errors.ts';
import type { Database } from './database.ts';

/** A change of one record: `before` is missing for a new one, `after` for a removed one. */
export interface VmTransition {
  before?: VmRecord;
  after?: VmRecord;
}

export interface VmStore {
  list(): VmRecord[];
  find(name: string): VmRecord | undefined;
  findById(id: string): VmRecord | undefined;
  /** @throws BangerError `not_found` naming near names */
  get(name: string): VmRecord;
  /** @throws BangerError `conflict` when the name or address is taken */
  insert(vm: VmRecord): void;
  /** @throws BangerError `conflict` when the new name is taken */
  update(id: string, change: VmChange): void;
  remove(id: string): void;
  /** Calls `listener` after each change, before the caller of the change goes on; the result ends that. */
  onChange(listener: (transition: VmTransition) => void): () => void;
}

type Row = Record<string, unknown>;

interface Column<T> {
  name: string;
  write(value: T): SQLInputValue;
  read(value: unknown): T;
}

const text = <T extends string>(name: string): Column<T> => ({
  name,
  write: String,
  read: (value) => String(value) as T,
});
const number = (name: string): Column<number> => ({ name, write: Number, read: Number });
const flag = (name: string): Column<boolean> => ({
  name,
  write: (value) => (value ? 1 : 0),
  read: (value) => value === 1,
});
const json = <T>(name: string): Column<T> => ({
  name,
  write: (value) => JSON.stringify(value),
  read: (value) => JSON.parse(String(value)) as T,
});
const orNull = <T>(column: Column<T>): Column<T | null> => ({
  name: column.name,
  // a record that an older banger put into the trash lacks what came later
  write: (value) => (value === null || value === undefined ? null : column.write(value)),
  read: (value) => (value === null ? null : column.read(value)),
});

/** How each field is kept. */
const COLUMNS: { [K in keyof VmRecord]: Column<VmRecord[K]> } = {
  id: text('id'),
  name: text('name'),
  image: text('image'),
  imageId: orNull(text('image_id')),
  vcpus: number('vcpus'),
  memoryMib: number('memory_mib'),
  rootDiskBytes: number('root_disk_bytes'),
  workDiskBytes: number('work_disk_bytes'),
  workDiskMount: text('work_disk_mount'),
  address: text('address'),
  mac: text('mac'),
  nat: flag('nat'),
  autostart: flag('autostart'),
  restartPolicy: text('restart_policy'),
  idleSuspendMs: number('idle_suspend_ms'),
  awakeUntil: orNull(text<string>('awake_until')),
  user: orNull(number('user_id')),
  hostKeyPrivate: text('host_key_private'),
  hostKeyPublic: text('host_key_public'),
  createdAt: text('created_at'),
  phase: text('phase'),
  failure: orNull(text('failure')),
  startedAt: orNull(text('started_at')),
  vmm: orNull(text<NonNullable<VmRecord['vmm']>>('vmm')),
  bootTimeline: json('boot_timeline'),
  bootMs: orNull(number('boot_ms')),
  ready: orNull(json<NonNullable<VmRecord['ready']>>('ready')),
  run: orNull(json<NonNullable<VmRecord['run']>>('run')),
  restarts: orNull(json<NonNullable<VmRecord['restarts']>>('restarts')),
  lastEnd: orNull(json<NonNullable<VmRecord['lastEnd']>>('last_end')),
  temporary: orNull(json<NonNullable<VmRecord['temporary']>>('temporary')),
  forkedFrom: orNull(json<NonNullable<VmRecord['forkedFrom']>>('forked_from')),
  memory: orNull(json<NonNullable<VmRecord['memory']>>('memory')),
  paused: orNull(json<NonNullable<VmRecord['paused']>>('paused')),
  machineId: orNull(text<string>('machine_id')),
  process: orNull(json<NonNullable<VmRecord['process']>>('process')),
};

const FIELDS = Object.keys(COLUMNS) as (keyof VmRecord)[];

/** @param onListenerError hears what a listener threw: it disturbs neither the change nor other listeners */
export function createVmStore(database: Database, onListenerError: (message: string) => void = () => {}): VmStore {
  const all = database.prepare('SELECT * FROM vms ORDER BY name');
  const byName = database.prepare('SELECT * FROM vms WHERE name = ?');
  const byId = database.prepare('SELECT * FROM vms WHERE id = ?');
  const remove = database.prepare('DELETE FROM vms WHERE id = ?');
  const columnNames = FIELDS.map((field) => COLUMNS[field].name);
  const insert = database.prepare(
    `INSERT INTO vms (${columnNames.join(', ')}) VALUES (${columnNames.map(() => '?').join(', ')})`,
  );
  const updates = new Map<string, StatementSync>();
  const listeners = new Set<(transition: VmTransition) => void>();

  const find = (name: string) => optional(byName.get(name));
  const findById = (id: string) => optional(byId.get(id));

  const tell = (transition: VmTransition) => {
    for (const listener of listeners) {
      try {
        listener(transition);
      } catch (error) {
        onListenerError(messageOf(error));
      }
    }
  };

  /** That names are unique is the database's to keep; its refusal becomes a sentence. */
  const asNamed = (name: string, id: string, write: () => void) => {
    try {
      write();
    } catch (error) {
      const holder = find(name);
      if (!holder || holder.id === id) throw error;
      throw new BangerError('conflict', `A VM named "${name}" exists already.`, {
        cause: error,
        hint: `Start it with: banger start ${name}   or choose another name.`,
      });
    }
  };

  return {
    list: () => all.all().map(fromRow),
    find,
    findById,
    get(name) {
      const vm = find(name);
      if (vm) return vm;
      throw new BangerError('not_found', `There is no VM named "${name}".`, {
        hint: 'See what exists: banger ls',
        details: { name },
      });
    },
    insert(vm) {
      asNamed(vm.name, vm.id, () => void insert.run(...FIELDS.map((field) => toColumn(field, vm))));
      tell({ after: vm });
    },
    update(id, change) {
      const keys = FIELDS.filter((field) => field in change);
      const before = findById(id);
      if (keys.length === 0 || !before) return;
      const after: VmRecord = { ...before, ...change };
      const sql = `UPDATE vms SET ${keys.map((key) => `${COLUMNS[key].name} = ?`).join(', ')} WHERE id = ?`;
      const statement = updates.get(sql) ?? database.prepare(sql);
      updates.set(sql, statement);
      asNamed(after.name, id, () => void statement.run(...keys.map((key) => toColumn(key, after)), id));
      tell({ before, after });
    },
    remove(id) {
      const before = findById(id);
      remove.run(id);
      if (before) tell({ before });
    },
    onChange(listener) {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
  };
}

function optional(row: Row | undefined): VmRecord | undefined {
  return row ? fromRow(row) : undefined;
}

function fromRow(row: Row): VmRecord {
  const entries = FIELDS.map((field) => [field, COLUMNS[field].read(row[COLUMNS[field].name])]);
  // COLUMNS has an entry for each field of VmRecord, and each reads exactly that field's type
  return Object.fromEntries(entries) as VmRecord;
}

function toColumn<K extends keyof VmRecord>(field: K, vm: VmRecord): SQLInputValue {
  return COLUMNS[field].write(vm[field]);
}
