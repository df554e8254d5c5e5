/**
 * A daemon that a command started has lost its socket once systemd listens at the same path: no client reaches it any more,
 * and it holds the lock. The daemon that systemd starts ends it and adopts its VMs.
 */
import { link, readFile, rename, rm, stat } from 'node:fs/promises';
import { BangerError } from '../errors.ts';
import { sleep } from '../system/abort.ts';
import { identifyProcess, isAlive } from '../system/processes.ts';
import { takeDaemonLock } from './lock.ts';

/** The other one finishes or undoes what it is at, as after `banger daemon stop`. */
const LIMIT_MS = 30_000;
const POLL_MS = 20;

/**
 * Takes the lock, from another daemon if there is one.
 * @param socket where systemd listens now
 * @throws BangerError `conflict` when that does not end in time
 */
export async function takeLockOver(
  path: string,
  socket: string,
  log: { info(facts: object, text: string): void },
): Promise<Disposable> {
  try {
    return takeDaemonLock(path);
  } catch (error) {
    const holder = await lockHolder(path);
    if (!(error instanceof BangerError) || error.code !== 'conflict' || holder === undefined) throw error;
    log.info({ pid: holder }, 'another daemon lost its socket to this one; ending it');
    // it removes what it thinks is its own socket, by the name
    const kept = `${socket}.kept`;
    await rm(kept, { force: true });
    await link(socket, kept);
    await endDaemon(holder);
    await rename(kept, socket);
    await rm(kept, { force: true });
    return takeDaemonLock(path);
  }
}

/** The process that holds the lock; undefined when it is none of this user's daemons. */
export async function lockHolder(path: string): Promise<number | undefined> {
  const { ino } = await stat(path);
  const locks = await readFile('/proc/locks', 'utf8');
  for (const line of locks.split('\n')) {
    // 1: POSIX  ADVISORY  WRITE 4711 08:01:1234 1073741824 1073742335
    const [, , , mode, pid = '', place = ''] = line.trim().split(/\s+/);
    if (mode !== 'WRITE' || place.split(':')[2] !== String(ino)) continue;
    const name = await readFile(`/proc/${pid}/comm`, 'utf8').catch(() => '');
    if (name.trim() === 'bangerd') return Number(pid);
  }
  return undefined;
}

async function endDaemon(pid: number): Promise<void> {
  const other = await identifyProcess(pid);
  if (!other) return;
  process.kill(pid, 'SIGTERM');
  const deadline = performance.now() + LIMIT_MS;
  while (await isAlive(other)) {
    if (performance.now() > deadline) {
      throw new BangerError('conflict', `Another bangerd, process ${pid}, does not end.`, {
        hint: `kill -KILL ${pid}`,
      });
    }
    await sleep(POLL_MS);
  }
}
