/**
 * The directory something is made in beside its final place, claimed by one maker at a time and renamed into place
 * when complete. A maker that died, however it died, leaves it to be removed by the next.
 */
import { mkdir, mkdtemp, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { BangerError, systemCode } from '../../errors.ts';
import { sleep } from '../../system/abort.ts';
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
 * Puts a finished directory at `target`. What is there stays usable up to its rename; should the machine stop
 * between the two renames, `restoreReplaced` puts it back.
 */
export async function putInPlace(result: string, target: string, removeTree: RemoveTree): Promise<void> {
  const replaced = replacedPath(target);
  await removeTree([replaced]);
  try {
    await rename(target, replaced);
  } catch (error) {
    if (systemCode(error) !== 'ENOENT') throw error;
  }
  await rename(result, target);
  await removeTree([replaced]);
}

/** Undoes a replacement that was cut short. */
export async function restoreReplaced(target: string): Promise<void> {
  const present = await readdir(dirname(target)).catch((): string[] => []);
  if (present.includes(basename(target)) || !present.includes(basename(replacedPath(target)))) return;
  await rename(replacedPath(target), target);
}

function layout(path: string): WorkDir {
  const scratch = join(path, 'scratch');
  return { path, result: join(path, 'result'), scratch, root: join(scratch, 'root') };
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
