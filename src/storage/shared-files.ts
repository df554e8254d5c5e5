/**
 * Kernels, initrds and programs within reach of VMs' own users, who may not enter the directories where those lie: one copy
 * of each in the store, of which VMs that use it have a hard link in their directory. A copy with one name is nobody's.
 */
import { createHash } from 'node:crypto';
import { chmod, link, mkdir, readdir, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { systemCode } from '../errors.ts';
import { createMutex } from '../system/mutex.ts';
import type { Runner } from '../system/runner.ts';
import { cloneFile } from './clone.ts';
import { SHARED_MODE } from './ownership.ts';

/** One at a time: who comes second wants the same copy. */
const oneAtATime = createMutex();

export interface SharedFile {
  store: string;
  /** file that is wanted */
  source: string;
  /** path in a VM's directory where it is to be; what is there is replaced */
  target: string;
  /** whether it is to be executed */
  isProgram: boolean;
}

/** Puts a file within reach, at no cost when another VM has it already. */
export async function shareFile(
  runner: Runner,
  cp: string,
  { store, source, target, isProgram }: SharedFile,
): Promise<void> {
  await oneAtATime.run(async () => {
    const copy = await ensureCopy(runner, cp, store, source, isProgram);
    await rm(target, { force: true });
    await link(copy, target).catch(async (error) => {
      // where it is wanted is on another file system, as the cache may be
      if (systemCode(error) !== 'EXDEV') throw error;
      await copyTo(runner, cp, copy, target, isProgram);
    });
  });
}

/** Removes the copies that no VM uses. */
export async function removeUnshared(store: string): Promise<void> {
  await oneAtATime.run(async () => await removeUnused(directoryOf(store)));
}

async function removeUnused(directory: string): Promise<void> {
  for (const name of await namesIn(directory)) {
    const path = join(directory, name);
    if ((await stat(path)).nlink === 1) await rm(path, { force: true });
  }
}

async function ensureCopy(
  runner: Runner,
  cp: string,
  store: string,
  source: string,
  isProgram: boolean,
): Promise<string> {
  const { dev, ino, size, mtimeMs } = await stat(source);
  const facts = JSON.stringify([source, dev, ino, size, mtimeMs, isProgram]);
  const path = join(directoryOf(store), createHash('sha256').update(facts).digest('hex').slice(0, 32));
  const known = await stat(path).catch(() => undefined);
  if (known) return path;
  await mkdir(directoryOf(store), { recursive: true, mode: 0o700 });
  await removeUnused(directoryOf(store));
  await copyTo(runner, cp, source, `${path}.new`, isProgram);
  await rename(`${path}.new`, path);
  return path;
}

/** cloneFile makes it whole or not at all, but without its rights. */
async function copyTo(runner: Runner, cp: string, source: string, target: string, isProgram: boolean): Promise<void> {
  await cloneFile(runner, cp, source, target);
  await chmod(target, isProgram ? SHARED_MODE.program : SHARED_MODE.file);
}

function directoryOf(store: string): string {
  return join(store, 'shared');
}

async function namesIn(directory: string): Promise<string[]> {
  try {
    return await readdir(directory);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return []; // nothing was ever shared
    throw error;
  }
}
