/** Templates in SQLite, from which new VMs begin; their files lie in the store. */
import type { TemplateRecord } from '../core/template.ts';
import type { Database } from './database.ts';

export interface TemplateStore {
  /** Oldest first. */
  list(): TemplateRecord[];
  find(id: string): TemplateRecord | undefined;
  insert(template: TemplateRecord): void;
  /** Notes that a VM began as it. */
  touch(id: string, usedAt: string): void;
  /** Gives an image another name in the records of its templates. */
  renameImage(imageId: string, name: string): void;
  /** Forgets one; one that is not there succeeds. Its files are the caller's. */
  remove(id: string): void;
}

export function createTemplateStore(database: Database): TemplateStore {
  const all = database.prepare('SELECT record FROM templates ORDER BY created_at, rowid');
  const byId = database.prepare('SELECT record FROM templates WHERE id = ?');
  const insert = database.prepare('INSERT INTO templates (id, created_at, record) VALUES (?, ?, ?)');
  const update = database.prepare('UPDATE templates SET record = ? WHERE id = ?');
  const remove = database.prepare('DELETE FROM templates WHERE id = ?');
  const list = () => all.all().map(fromRow);
  const change = (template: TemplateRecord) => void update.run(JSON.stringify(template), template.id);
  const find = (id: string) => {
    const row = byId.get(id);
    return row ? fromRow(row) : undefined;
  };
  return {
    list,
    find,
    insert: (template) => void insert.run(template.id, template.createdAt, JSON.stringify(template)),
    touch(id, usedAt) {
      const template = find(id);
      if (template) change({ ...template, usedAt });
    },
    renameImage(imageId, name) {
      for (const template of list()) if (template.shape.imageId === imageId) change({ ...template, image: name });
    },
    remove: (id) => void remove.run(id),
  };
}

function fromRow(row: Record<string, unknown>): TemplateRecord {
  return JSON.parse(String(row.record)) as TemplateRecord;
}
