/** One daemon per state directory: a lock the kernel frees when its holder dies, however it dies. */
import { mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { BangerError, messageOf } from '../errors.ts';

/**
 * Takes the lock for as long as the process lives. Node has no flock; SQLite's exclusive lock is one.
 * @throws BangerError `conflict` when another daemon holds it
 */
export function takeDaemonLock(path: string): Disposable {
  mkdirSync(dirname(path), { recursive: true, mode: 0o700 });
  const database = new DatabaseSync(path, { timeout: 0 });
  try {
    // a journal in a file would need room, and a daemon must start on a full disk
    database.exec('PRAGMA journal_mode = MEMORY; PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE');
  } catch (error) {
    database.close();
    if (!/locked|busy/i.test(messageOf(error))) throw error;
    throw new BangerError('conflict', `Another bangerd serves ${dirname(path)} already.`, {
      cause: error,
      hint: 'See it with: banger daemon status',
      details: { otherDaemon: true },
    });
  }
  return { [Symbol.dispose]: () => database.close() };
}
