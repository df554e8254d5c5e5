/** Files written whole or not at all. */
import { randomBytes } from 'node:crypto';
import { mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { BangerError, messageOf, systemCode } from '../errors.ts';
import { requireOwnPlace } from './own-place.ts';

/** Writes a file so that a reader, or a crash, sees the old content or the new, never a part. */
export async function writeFileAtomic(path: string, content: string | Uint8Array, mode = 0o644): Promise<void> {
  const temporary = `${path}.${randomBytes(4).toString('hex')}.tmp`;
  const file = await open(temporary, 'wx', mode);
  try {
    await file.writeFile(content);
    await file.sync();
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  } finally {
    await file.close();
  }
  await rename(temporary, path);
}

/** Makes a file's content, or a directory's list of names, survive a power cut. */
export async function syncPath(path: string): Promise<void> {
  await using file = await open(path, 'r');
  await file.sync();
}

/** Files of a tree that are open at a time. */
const SYNCED_AT_ONCE = 32;

/**
 * Makes a directory and all below it survive a power cut; links are not followed. A file that this user may not read is passed
 * over: nothing is read from it either.
 */
export async function syncTree(directory: string): Promise<void> {
  const entries = await readdir(directory, { withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile()).map(({ name }) => join(directory, name));
  for (let at = 0; at < files.length; at += SYNCED_AT_ONCE) {
    await Promise.all(files.slice(at, at + SYNCED_AT_ONCE).map((path) => syncPath(path).catch(ignoreUnreadable)));
  }
  for (const entry of entries) if (entry.isDirectory()) await syncTree(join(directory, entry.name));
  await syncPath(directory);
}

function ignoreUnreadable(error: unknown): void {
  if (systemCode(error) !== 'EACCES') throw error;
}

export async function pathExists(path: string): Promise<boolean> {
  try {
    await stat(path);
    return true;
  } catch (error) {
    if (systemCode(error) === 'ENOENT' || systemCode(error) === 'ENOTDIR') return false;
    throw error;
  }
}

/**
 * Makes a directory for its owner alone, and those above it that are missing. Step by step: Node's recursive mkdir never
 * ends where the kernel says of a directory that it is there that nothing is in it and nothing can be made in it (/proc).
 * @throws BangerError `host_unprepared` with the directory that cannot be made and why
 */
export async function ensurePrivateDirectory(path: string): Promise<void> {
  const missing: string[] = [];
  for (let at = path; !(await isThere(at)) && dirname(at) !== at; at = dirname(at)) missing.unshift(at);
  for (const directory of missing) {
    try {
      await mkdir(directory, { mode: 0o700 });
    } catch (error) {
      if (systemCode(error) === 'EEXIST') continue; // there after all, or somebody else was first
      throw new BangerError('host_unprepared', `The directory ${directory} cannot be made: ${reasonOf(error)}.`, {
        cause: error,
        hint: 'Have it made for this user, or keep everything elsewhere: BANGER_HOME=DIRECTORY',
      });
    }
  }
  requireOwnPlace(path);
}

/** What cannot be looked at is tried: the attempt says why it fails. */
async function isThere(path: string): Promise<boolean> {
  return await pathExists(path).catch(() => false);
}

/** Why nothing can be made in a place, as a person is told. */
export function reasonOf(error: unknown): string {
  switch (systemCode(error)) {
    case 'EACCES':
    case 'EPERM':
      return 'this user may not write there';
    case 'EROFS':
      return 'the file system is read-only';
    case 'ENOSPC':
      return 'no space is left on the file system';
    case 'ENOTDIR':
      return 'what is above it is a file';
    case 'ENOENT':
      return 'nothing can be made there';
    default:
      return messageOf(error);
  }
}
