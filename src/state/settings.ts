/** Choices the daemon made once and keeps, such as its address pool. */
import type { Database } from './database.ts';

export interface Settings {
  get(key: string): string | undefined;
  set(key: string, value: string): void;
}

export function createSettings(database: Database): Settings {
  const get = database.prepare('SELECT value FROM settings WHERE key = ?');
  const set = database.prepare(
    'INSERT INTO settings (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value',
  );
  return {
    get(key) {
      const row = get.get(key);
      return row ? String(row.value) : undefined;
    },
    set: (key, value) => void set.run(key, value),
  };
}
