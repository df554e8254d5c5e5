/** Operations that were started, kept so that a client can ask what became of one after a daemon restart. */
import type { Operation, Problem } from '../api/operation.ts';
import type { Database } from './database.ts';

export interface OperationStore {
  insert(operation: Operation): void;
  finish(id: string, state: Operation['state'], finishedAt: string, error: Problem | null): void;
  find(id: string): Operation | undefined;
  /** Newest first. */
  recent(count: number): Operation[];
  /** Marks what a dead daemon left running; returns how many. */
  interruptRunning(at: string): number;
}

/** Rows kept; the table is a log for people, not an archive. */
const MAX_ROWS = 1000;

export function createOperationStore(database: Database): OperationStore {
  const insert = database.prepare(
    'INSERT INTO operations (id, kind, target, state, created_at) VALUES (?, ?, ?, ?, ?)',
  );
  const finish = database.prepare('UPDATE operations SET state = ?, finished_at = ?, error = ? WHERE id = ?');
  const find = database.prepare('SELECT * FROM operations WHERE id = ?');
  const recent = database.prepare('SELECT * FROM operations ORDER BY created_at DESC, rowid DESC LIMIT ?');
  const interrupt = database.prepare(
    `UPDATE operations SET state = 'interrupted', finished_at = ? WHERE state = 'running'`,
  );
  const prune = database.prepare('DELETE FROM operations WHERE rowid <= (SELECT max(rowid) FROM operations) - ?');
  return {
    insert(operation) {
      insert.run(operation.id, operation.kind, operation.target, operation.state, operation.createdAt);
      prune.run(MAX_ROWS);
    },
    finish(id, state, finishedAt, error) {
      finish.run(state, finishedAt, error ? JSON.stringify(error) : null, id);
    },
    find(id) {
      const row = find.get(id);
      return row ? fromRow(row) : undefined;
    },
    recent: (count) => recent.all(count).map(fromRow),
    interruptRunning: (at) => Number(interrupt.run(at).changes),
  };
}

function fromRow(row: Record<string, unknown>): Operation {
  return {
    id: String(row.id),
    kind: String(row.kind),
    target: String(row.target),
    state: String(row.state) as Operation['state'],
    step: null,
    createdAt: String(row.created_at),
    finishedAt: row.finished_at === null ? null : String(row.finished_at),
    error: row.error === null ? null : (JSON.parse(String(row.error)) as Problem),
  };
}
