/**
 * Root disks of bundles within the store. A store that shares blocks cannot share those of another file system, where
 * bundles usually lie, so the first clone of a bundle leaves a copy of it here, and every later one costs nothing.
 */
import { createHash } from 'node:crypto';
import { mkdir, readdir, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { createMutex } from '../system/mutex.ts';
import type { Runner } from '../system/runner.ts';
import { type CloneMethod, cloneFile } from './clone.ts';
import { sharesBlocks } from './file-system.ts';

/** One at a time: a base takes seconds once, and whoever comes second wants the same one. */
const oneAtATime = createMutex();

/** As `cloneFile`, through a base in the store where that is what makes clones cheap. */
export async function cloneThroughBase(
  runner: Runner,
  cp: string,
  store: string,
  source: string,
  target: string,
  minBytes: number,
  signal?: AbortSignal,
): Promise<CloneMethod> {
  const { dev } = await stat(source);
  const elsewhere = dev !== (await stat(store)).dev;
  if (!elsewhere || !(await sharesBlocks(store))) return await cloneFile(runner, cp, source, target, minBytes, signal);
  return await oneAtATime.run(async () => {
    const base = await ensureBase(runner, cp, store, source, signal);
    return await cloneFile(runner, cp, base, target, minBytes, signal);
  });
}

async function ensureBase(runner: Runner, cp: string, store: string, source: string, signal?: AbortSignal) {
  const directory = join(store, 'bases');
  const { dev, ino, size, mtimeMs } = await stat(source);
  const origin = digest(source);
  const name = `${origin}-${digest(`${dev} ${ino} ${size} ${mtimeMs}`)}.ext4`;
  await mkdir(directory, { recursive: true, mode: 0o700 });
  for (const found of await readdir(directory)) {
    // of a bundle that was built again since; clones keep the blocks they share
    if (found.startsWith(origin) && found !== name) await rm(join(directory, found), { force: true });
    else if (found === name) return join(directory, name);
  }
  await cloneFile(runner, cp, source, join(directory, name), 0, signal);
  return join(directory, name);
}

function digest(text: string): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 16);
}
