/**
 * Files that others may have mapped: a new one takes the name of the old one, which those who have it keep as it is.
 */
import { access, chmod, chown, constants, open, realpath, rename, rm, stat } from 'node:fs/promises';

/** As Firecracker creates files: what the umask leaves. */
const MODE = 0o666;

/**
 * Has a file written, in place of the one of that name. Where a second file cannot be created beside it, and for what
 * is no ordinary file, it is written where it is.
 * @param write writes all of the file at a path, which exists
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

/** An empty file with the owner and mode of the one that exists, in the same directory. */
async function besideExisting(path: string): Promise<{ path: string; replaces: string } | undefined> {
  try {
    const replaces = await realpath(path);
    const { mode, uid, gid } = await ordinaryFile(replaces);
    await access(replaces, constants.W_OK);
    const beside = `${replaces}.${process.pid}.new`;
    await (await open(beside, 'wx', MODE)).close();
    await chown(beside, uid, gid).catch(() => {});
    await chmod(beside, mode & 0o777);
    return { path: beside, replaces };
  } catch {
    // there is none, or it stays where it is
    return undefined;
  }
}

async function ordinaryFile(path: string): Promise<{ mode: number; uid: number; gid: number }> {
  const found = await stat(path);
  if (!found.isFile()) throw new Error('no ordinary file');
  return found;
}
