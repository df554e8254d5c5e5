/**
 * Daemons that die, and daemons whose disk fills up. Whatever one of them does to its host is an effect: a program, a file that
 * changes, a signal, a write to the database, a request to a VMM. It may be told to die before one of them, and does nothing from
 * then on, as a killed process does: what it waits for never comes. Or there is no room for one of them, nor for any after it.
 */
import { AsyncLocalStorage } from 'node:async_hooks';
import { existsSync } from 'node:fs';
import fs, { type FileHandle } from 'node:fs/promises';
import { syncBuiltinESMExports } from 'node:module';
import type { Database } from '../../src/state/database.ts';
import type { Medium } from './medium.ts';

/** What becomes of one: nothing unless told otherwise. */
export interface Fate {
  /** effect before which it dies */
  dieBefore?: string | undefined;
  /** effect from which on its disk has no room; only for what takes some */
  fullFrom?: string | undefined;
  /** called before each effect that comes about */
  onEffect?: ((what: string) => void) | undefined;
}

export interface Mortal {
  readonly dead: boolean;
  /** effects so far, each told apart from the others, e.g. `rename root.ext4` and `rename root.ext4 (2)` */
  readonly effects: readonly string[];
  /** resolves when it dies */
  readonly death: Promise<void>;
  /** Does something as this one: all that follows from it is its doing. */
  run<T>(work: () => T): T;
  /** Ends it, wherever it is, and closes what it held open. */
  end(): Promise<void>;
}

interface Life extends Mortal {
  die(): void;
  fate: Fate;
  full: boolean;
  effects: string[];
  counts: Map<string, number>;
  files: FileHandle[];
}

const acting = new AsyncLocalStorage<Life>();

/** The words of what one does after its death. */
class Dead extends Error {
  constructor() {
    super('this daemon is dead');
  }
}

/** As the system says it. */
function noRoom(what: string): Error {
  return Object.assign(new Error(`ENOSPC: no space left on device, ${what}`), { code: 'ENOSPC' });
}

/** Effects that need room on a disk; the database has some set aside. */
const TAKES_ROOM =
  /^(mkdir|writeFile|create|copyFile|link|symlink|cp|mke2fs|resize2fs|VMM PUT \/snapshot\/create)( |$)/;

export const takesRoom = (what: string): boolean => TAKES_ROOM.test(what);

export function mortal(fate: Fate, onDeath: () => void): Mortal {
  const { promise: death, resolve } = Promise.withResolvers<void>();
  const life: Life = {
    dead: false,
    effects: [],
    counts: new Map(),
    files: [],
    fate,
    full: false,
    death,
    run: (work) => acting.run(life, work),
    die() {
      if (life.dead) return;
      Object.assign(life, { dead: true });
      onDeath();
      resolve();
    },
    async end() {
      life.die();
      for (const file of life.files) if (file.fd >= 0) await file.close();
    },
  };
  return life;
}

/** Says what happens next; throws where the one who does it is dead, or dies of it, or there is no room for it. */
export function effect(what: string): void {
  const life = acting.getStore();
  if (!life) return;
  if (!life.dead) {
    const count = (life.counts.get(what) ?? 0) + 1;
    life.counts.set(what, count);
    const key = count === 1 ? what : `${what} (${count})`;
    if (key === life.fate.dieBefore) life.die();
    else {
      life.effects.push(key);
      if (key === life.fate.fullFrom) life.full = true;
      if (life.full && takesRoom(what)) throw noRoom(what);
      life.fate.onEffect?.(key);
    }
  }
  if (life.dead) throw new Dead();
}

/** As `effect`; the dead one waits for ever. */
export async function effectOrNever(what: string): Promise<void> {
  try {
    effect(what);
  } catch (error) {
    if (error instanceof Dead) await new Promise<never>(() => {});
    throw error;
  }
}

/** Does something that is nobody's doing. */
export function asNobody<T>(work: () => T): T {
  return acting.exit(work);
}

/** Waits for ever where the one who looks is dead. */
async function lookOrNever(): Promise<void> {
  if (acting.getStore()?.dead) await new Promise<never>(() => {});
}

/** The database as a mortal one sees it: its writes are effects. */
export function mortalDatabase(database: Database): Database {
  const look = () => {
    if (acting.getStore()?.dead) throw new Dead();
  };
  return new Proxy(database, {
    get(target, property) {
      if (property === 'prepare') {
        return (sql: string) => {
          const statement = target.prepare(sql);
          const [verb, , table] = sql.replace(/^(UPDATE) /, '$1 TABLE ').split(/\s+/);
          const after = <A extends unknown[], R>(first: () => void, call: (...values: A) => R) => {
            return (...values: A) => {
              first();
              return call.apply(statement, values);
            };
          };
          return {
            all: after(look, statement.all),
            get: after(look, statement.get),
            run: after(() => effect(`${verb} ${table}`), statement.run),
          };
        };
      }
      if (property === 'exec') {
        return (sql: string) => {
          look();
          target.exec(sql);
        };
      }
      const value: unknown = Reflect.get(target, property, target);
      return typeof value === 'function' ? value.bind(target) : value;
    },
  });
}

/** What the kernel shows and takes in files, in place of this machine's. */
export interface KernelFiles {
  /** text of a file, undefined when there is none; only asked for those below `prefixes` */
  read(path: string): string | undefined;
  write(path: string, text: string): void;
  /** numbers of the processes there are */
  processes(): number[];
}

/** Files that belong to the kernel. */
const KERNEL_FILES = /^\/(proc\/vmstat$|(proc\/sys\/net|proc\/net|sys\/class\/net)\/)/;

/** Functions that change files, and those that look. */
const CHANGES = ['rename', 'rm', 'rmdir', 'unlink', 'mkdir', 'writeFile', 'copyFile', 'truncate', 'link', 'symlink'];
const LOOKS = ['access', 'lstat', 'opendir', 'readFile', 'readdir', 'readlink', 'realpath', 'stat', 'statfs'];

/**
 * Makes the functions of `node:fs/promises` and `process.kill` those of mortals, for the rest of this process. Whoever is
 * none of them is served as ever.
 * @param medium hears of what they write and sync
 * @param nameOf how a path is called in the name of an effect
 */
export function installEffects(
  kernel: () => KernelFiles | undefined,
  medium: () => Medium | undefined,
  nameOf: (path: string) => string,
): void {
  type Any = (...args: unknown[]) => Promise<unknown>;
  // its functions are looked up by the names above
  const functions = fs as unknown as Record<string, Any>;
  const real = { ...functions };
  const call = (name: string, args: unknown[]) => (real[name] as Any).apply(fs, args);
  const missing = (path: string) => Object.assign(new Error(`ENOENT: ${path}`), { code: 'ENOENT' });

  for (const name of CHANGES) {
    functions[name] = async (...args) => {
      if (!acting.getStore()) return await call(name, args);
      const path = String(args[0]);
      // what comes to be, where a name is given to something
      const subject = ['rename', 'link', 'copyFile'].includes(name) ? `${path} ${String(args[1])}` : path;
      await effectOrNever(`${name} ${subject.split(' ').map(nameOf).join(' → ')}`);
      if (name === 'writeFile' && KERNEL_FILES.test(path)) return kernel()?.write(path, String(args[1]));
      const result = await call(name, args);
      if (name === 'writeFile' || name === 'copyFile' || name === 'truncate')
        medium()?.wrote(String(args[name === 'copyFile' ? 1 : 0]));
      if (['rename', 'link', 'symlink'].includes(name)) medium()?.named(String(args[1]));
      if (name === 'mkdir') medium()?.named(path);
      return result;
    };
  }
  for (const name of LOOKS) {
    functions[name] = async (...args) => {
      if (!acting.getStore()) return await call(name, args);
      await lookOrNever();
      const path = String(args[0]);
      if (name === 'readdir' && path === '/proc') return kernel()?.processes().map(String);
      if (!KERNEL_FILES.test(path)) return await call(name, args);
      const text = kernel()?.read(path);
      if (text === undefined) throw missing(path);
      return text;
    };
  }
  functions.open = async (...args) => {
    const [path, flags = 'r'] = args;
    const life = acting.getStore();
    const reads = typeof flags === 'number' ? (flags & 3) === 0 : flags === 'r';
    if (reads) await lookOrNever();
    else {
      const creates = String(flags).startsWith('w') || !existsSync(String(path));
      await effectOrNever(`${creates ? 'create' : 'open'} ${nameOf(String(path))}`);
    }
    const file = (await call('open', args)) as FileHandle;
    if (!life) return file;
    life.files.push(file);
    if (!reads) medium()?.wrote(String(path));
    const sync = file.sync.bind(file);
    file.sync = async () => {
      await sync();
      medium()?.synced(file.fd);
    };
    return file;
  };
  syncBuiltinESMExports();

  const kill = process.kill.bind(process);
  process.kill = (pid, signal) => {
    if (signal !== 0) effect(`signal ${signal}`);
    return kill(pid, signal);
  };
}
