/** VM records in SQLite. */
import type { StatementSync } from 'node:sqlite';
import type { TimelineStep, VmPhase, VmRecord } from '../core/vm.ts';
import { BangerError } from '../errors.ts';
import type { Database } from './database.ts';

/** Fields that change after creation. */
export type VmChange = Partial<
  Pick<VmRecord, 'phase' | 'failure' | 'startedAt' | 'vmm' | 'bootTimeline' | 'bootMs' | 'nat' | 'rootDiskBytes'>
>;

export interface VmStore {
  list(): VmRecord[];
  find(name: string): VmRecord | undefined;
  findById(id: string): VmRecord | undefined;
  /** @throws BangerError `not_found` naming near names */
  get(name: string): VmRecord;
  /** @throws BangerError `conflict` when the name or address is taken */
  insert(vm: VmRecord): void;
  update(id: string, change: VmChange): void;
  remove(id: string): void;
}

const COLUMNS: Record<keyof VmChange, string> = {
  phase: 'phase',
  failure: 'failure',
  startedAt: 'started_at',
  vmm: 'vmm',
  bootTimeline: 'boot_timeline',
  bootMs: 'boot_ms',
  nat: 'nat',
  rootDiskBytes: 'root_disk_bytes',
};

export function createVmStore(database: Database): VmStore {
  const all = database.prepare('SELECT * FROM vms ORDER BY name');
  const byName = database.prepare('SELECT * FROM vms WHERE name = ?');
  const byId = database.prepare('SELECT * FROM vms WHERE id = ?');
  const remove = database.prepare('DELETE FROM vms WHERE id = ?');
  const insert = database.prepare(
    `INSERT INTO vms (id, name, image, vcpus, memory_mib, root_disk_bytes, work_disk_bytes, address, mac, nat,
       host_key_private, host_key_public, created_at, phase, failure, started_at, vmm, boot_timeline, boot_ms)
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
  );
  const updates = new Map<string, StatementSync>();

  return {
    list: () => all.all().map(fromRow),
    find: (name) => optional(byName.get(name)),
    findById: (id) => optional(byId.get(id)),
    get(name) {
      const vm = optional(byName.get(name));
      if (vm) return vm;
      throw new BangerError('not_found', `There is no VM named "${name}".`, {
        hint: 'See what exists: banger ls',
        details: { name },
      });
    },
    insert(vm) {
      try {
        insert.run(
          vm.id,
          vm.name,
          vm.image,
          vm.vcpus,
          vm.memoryMib,
          vm.rootDiskBytes,
          vm.workDiskBytes,
          vm.address,
          vm.mac,
          vm.nat ? 1 : 0,
          vm.hostKeyPrivate,
          vm.hostKeyPublic,
          vm.createdAt,
          vm.phase,
          vm.failure,
          vm.startedAt,
          vm.vmm,
          JSON.stringify(vm.bootTimeline),
          vm.bootMs,
        );
      } catch (error) {
        if (optional(byName.get(vm.name))) {
          throw new BangerError('conflict', `A VM named "${vm.name}" exists already.`, {
            cause: error,
            hint: `Start it with: banger start ${vm.name}   or choose another name.`,
          });
        }
        throw error;
      }
    },
    update(id, change) {
      const keys = Object.keys(change) as (keyof VmChange)[];
      if (keys.length === 0) return;
      const sql = `UPDATE vms SET ${keys.map((key) => `${COLUMNS[key]} = ?`).join(', ')} WHERE id = ?`;
      const statement = updates.get(sql) ?? database.prepare(sql);
      updates.set(sql, statement);
      statement.run(...keys.map((key) => toColumn(change[key])), id);
    },
    remove: (id) => void remove.run(id),
  };
}

type Row = Record<string, unknown>;

function optional(row: Row | undefined): VmRecord | undefined {
  return row ? fromRow(row) : undefined;
}

function fromRow(row: Row): VmRecord {
  return {
    id: String(row.id),
    name: String(row.name),
    image: String(row.image),
    vcpus: Number(row.vcpus),
    memoryMib: Number(row.memory_mib),
    rootDiskBytes: Number(row.root_disk_bytes),
    workDiskBytes: Number(row.work_disk_bytes),
    address: String(row.address),
    mac: String(row.mac),
    nat: row.nat === 1,
    hostKeyPrivate: String(row.host_key_private),
    hostKeyPublic: String(row.host_key_public),
    createdAt: String(row.created_at),
    phase: String(row.phase) as VmPhase,
    failure: row.failure === null ? null : String(row.failure),
    startedAt: row.started_at === null ? null : String(row.started_at),
    vmm: row.vmm === null ? null : (String(row.vmm) as VmRecord['vmm']),
    bootTimeline: JSON.parse(String(row.boot_timeline)) as TimelineStep[],
    bootMs: row.boot_ms === null ? null : Number(row.boot_ms),
  };
}

function toColumn(value: VmChange[keyof VmChange]): string | number | null {
  if (value === undefined || value === null) return null;
  if (typeof value === 'boolean') return value ? 1 : 0;
  if (typeof value === 'object') return JSON.stringify(value);
  return value;
}
