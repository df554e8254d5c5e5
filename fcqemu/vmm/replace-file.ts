/**
 * Files that others may have mapped: a new one takes the name of the old one, which those who have it keep as it is.
 */
import { access, chmod, chown, constants, lstat, open, realpath, rename, rm, stat } from 'node:fs/promises';
import { errorCode } from '../fault.ts';
import { randomBytes } from '../random.ts';

/** As Firecracker creates files: what the umask leaves. */
const MODE = 0o666;

/** Until it has the mode of the one that it replaces. */
const PRIVATE_MODE = 0o600;

/** Names that are tried: what another process has left there is not written over. */
const ATTEMPTS = 10;

const RANDOM_BYTES = 4;

/**
 * Has a file written, in place of the one of that name. One that nobody can have anything of is written where it is if
 * no second file can be created beside it: an empty one, and what is no ordinary file.
 * @param write writes all of the file at a path, which exists and is empty
 * @throws the system error of open(2), and what `write` throws
 */
export async function replaceFile(path: string, write: (path: string) => Promise<void>): Promise<void> {
  const next = await besideExisting(path);
  if (!next) {
    await (await open(path, constants.O_RDWR | constants.O_CREAT, MODE)).close();
    await write(path);
    return;
  }
  try {
    await write(next.path);
    await rename(next.path, next.replaces);
  } catch (error) {
    await rm(next.path, { force: true });
    throw error;
  }
}

/**
 * An empty file with the owner and mode of the one that exists, in the same directory.
 * @returns undefined when that one is to be written where it is, or there is none
 */
async function besideExisting(path: string): Promise<{ path: string; replaces: string } | undefined> {
  const existing = await ordinaryFile(path);
  if (!existing) return undefined;
  const { mode, uid, gid, size } = existing;
  try {
    // a process may work in a directory whose own path it cannot follow, so only a link is resolved
    const replaces = (await lstat(path)).isSymbolicLink() ? await realpath(path) : path;
    await access(replaces, constants.W_OK);
    const beside = await createBeside(replaces);
    await chown(beside, uid, gid).catch(() => {});
    // not all file systems have modes
    await chmod(beside, mode & 0o777).catch(() => {});
    return { path: beside, replaces };
  } catch (error) {
    // never one with content: it may be the memory of machines that run
    if (size > 0) throw error;
    return undefined;
  }
}

/** @throws the system error of open(2) */
async function createBeside(path: string): Promise<string> {
  for (let attempt = 1; ; attempt++) {
    // a name of its own, not the process's number, which is the same in many containers and after each start
    const beside = `${path}.${randomBytes(RANDOM_BYTES).toString('hex')}.new`;
    try {
      await (await open(beside, 'wx', PRIVATE_MODE)).close();
      return beside;
    } catch (error) {
      if (errorCode(error) !== 'EEXIST' || attempt === ATTEMPTS) throw error;
    }
  }
}

async function ordinaryFile(path: string) {
  try {
    const found = await stat(path);
    return found.isFile() ? found : undefined;
  } catch (error) {
    if (errorCode(error) === 'ENOENT') return undefined;
    throw error;
  }
}
