/**
 * The directory something is made in beside its final place, claimed by one maker at a time and renamed into place
 * when complete. A maker that died, however it died, leaves it to be removed by the next.
 */
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { BangerError, systemCode } from '../../errors.ts';
import { sleep } from '../../system/abort.ts';
import { syncPath, syncTree } from '../../system/files.ts';
import {
  endProcess,
  findProcessesByArgument,
  identifyProcess,
  isAlive,
  type ProcessIdentity,
} from '../../system/processes.ts';

export interface WorkDir {
  /** the claimed directory itself */
  path: string;
  /** what will be put in place */
  result: string;
  /** room for everything else */
  scratch: string;
  /** tree that programs running as root write to; the argument their leftovers are found by */
  root: string;
}

/** Removes trees whose files may belong to other ids; missing ones are fine. */
export type RemoveTree = (paths: string[]) => Promise<void>;

const OWNER_FILE = 'owner.json';

/** A killed program's descendants end within milliseconds, but not before the kill returns. */
const REMOVE_TRIES = 10;
const REMOVE_PAUSE_MS = 200;

/** Who looks for it puts it back once, and finds it then. */
const REPLACE_TRIES = 10;

/** Name of what is being replaced, see `replacedPath`. */
const REPLACED = /^\.(.+)\.replaced$/;

/**
 * Claims `path`, after removing what a dead maker left there.
 * @throws BangerError `conflict` when a living process has it
 */
export async function claimWorkDir(path: string, removeTree: RemoveTree): Promise<WorkDir> {
  await mkdir(dirname(path), { recursive: true });
  const fresh = await mkdtemp(`${path}-`);
  try {
    await writeFile(join(fresh, OWNER_FILE), JSON.stringify(await identifyProcess(process.pid)));
    await mkdir(join(fresh, 'result'), { mode: 0o755 });
    await mkdir(join(fresh, 'scratch'), { mode: 0o755 });
    for (let tries = 0; tries < 3; tries++) {
      if (await renameUnlessFull(fresh, path)) return layout(path);
      const owner = await readOwner(path);
      if (owner && (await isAlive(owner))) throw busy(path, owner.pid);
      await removeLeftovers(path, removeTree, fresh);
    }
    throw busy(path, undefined);
  } catch (error) {
    await rm(fresh, { recursive: true, force: true });
    throw error;
  }
}

/** Removes a claimed directory; programs that were just killed may still be writing to it. */
export async function releaseWorkDir(path: string, removeTree: RemoveTree): Promise<void> {
  for (let tries = 1; ; tries++) {
    try {
      await removeTree([path]);
      return;
    } catch (error) {
      if (tries === REMOVE_TRIES) throw error;
      await sleep(REMOVE_PAUSE_MS);
    }
  }
}

/**
 * Puts a finished directory at `target`, durably: what is there stays usable up to its rename, and is removed when a power cut
 * takes nothing of the new one. Should the machine stop between the two renames, `restoreReplaced` puts it back.
 */
export async function putInPlace(result: string, target: string, removeTree: RemoveTree): Promise<void> {
  const replaced = replacedPath(target);
  await syncTree(result);
  await removeTree([replaced]);
  // who misses it in that moment puts it back
  for (let tries = 1; ; tries++) {
    await renameUnlessGone(target, replaced);
    if (await renameUnlessFull(result, target)) break;
    if (tries === REPLACE_TRIES) throw busy(target, undefined);
  }
  await syncPath(dirname(target));
  await removeTree([replaced]);
}

/**
 * Undoes a replacement that was cut short; one that goes on at this moment begins again.
 * @returns whether something was put back
 */
export async function restoreReplaced(target: string): Promise<boolean> {
  const present = await readdir(dirname(target)).catch((): string[] => []);
  if (present.includes(basename(target)) || !present.includes(basename(replacedPath(target)))) return false;
  return await renameUnlessGone(replacedPath(target), target);
}

/**
 * Settles the replacements in a directory that were cut short: what was replaced is put back where nothing came in its place, and
 * is removed where something did.
 * @returns the names that were put back
 */
export async function settleReplaced(directory: string, removeTree: RemoveTree): Promise<string[]> {
  const restored: string[] = [];
  const names = await readdir(directory).catch((error: unknown): string[] => {
    if (systemCode(error) === 'ENOENT') return [];
    throw error;
  });
  for (const name of names) {
    const [, replaced] = REPLACED.exec(name) ?? [];
    if (replaced === undefined) continue;
    if (names.includes(replaced)) {
      // the new one may have its name since a moment ago
      await syncPath(directory);
      await removeTree([join(directory, name)]);
    } else if (await restoreReplaced(join(directory, replaced))) restored.push(replaced);
  }
  return restored;
}

function layout(path: string): WorkDir {
  const scratch = join(path, 'scratch');
  return { path, result: join(path, 'result'), scratch, root: join(scratch, 'root') };
}

/** Gives way to whoever was first: what is gone is not renamed, nor is anything to a name that is taken by then. */
async function renameUnlessGone(from: string, to: string): Promise<boolean> {
  try {
    return await renameUnlessFull(from, to);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return false;
    throw error;
  }
}

/** A rename over a directory that is not empty fails, which makes it a lock. */
async function renameUnlessFull(from: string, to: string): Promise<boolean> {
  try {
    await rename(from, to);
    return true;
  } catch (error) {
    if (systemCode(error) === 'ENOTEMPTY' || systemCode(error) === 'EEXIST') return false;
    throw error;
  }
}

/** Ends what a dead maker's programs still do, then removes what they wrote. */
async function removeLeftovers(path: string, removeTree: RemoveTree, keep: string): Promise<void> {
  for (const left of await findProcessesByArgument(layout(path).root)) await endProcess(left, { graceMs: 0 });
  await releaseWorkDir(path, removeTree);
  // those of makers that died before they could claim
  for (const name of await readdir(dirname(path))) {
    const other = join(dirname(path), name);
    if (!other.startsWith(`${path}-`) || other === keep) continue;
    const owner = await readOwner(other);
    if (!owner || !(await isAlive(owner))) await removeTree([other]);
  }
}

function replacedPath(target: string): string {
  return join(dirname(target), `.${basename(target)}.replaced`);
}

async function readOwner(dir: string): Promise<ProcessIdentity | undefined> {
  try {
    const value: unknown = JSON.parse(await readFile(join(dir, OWNER_FILE), 'utf8'));
    return isIdentity(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function isIdentity(value: unknown): value is ProcessIdentity {
  return typeof value === 'object' && value !== null && 'pid' in value && 'startTicks' in value && 'bootId' in value;
}

function busy(path: string, pid: number | undefined): BangerError {
  const who = pid === undefined ? '' : ` (process ${pid})`;
  return new BangerError('conflict', `Another command is working in ${dirname(path)} on the same bundle${who}.`, {
    hint: 'Wait for it to end.',
  });
}
