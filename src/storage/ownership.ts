/**
 * Files that the programs of one VM work with: theirs by their owner, in a directory that stays root's, so that nothing in
 * it can be moved away or replaced by a link under the hands of the daemon.
 */
import { chmod, chown, constants, lstat, open, readdir, realpath, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { BangerError, systemCode } from '../errors.ts';
import { createMutex } from '../system/mutex.ts';

/** The user may enter it and open what it knows by name. */
const SEALED = 0o710;
/** The user may also create files, as long as its programs have met nothing that a guest has written. */
const OPEN = 0o1730;

/**
 * Files are handed over while a VMM is launched beside that: what is decided by the rights of a directory is done before they
 * change again.
 */
const directoryRights = createMutex();

/** Rights of what a VM's programs only read or execute, and share with others by hard links. */
export const SHARED_MODE = { file: 0o444, program: 0o555 };

/** Makes a directory one that a user's programs may work in, and the files in it that are its own the user's. */
export async function handOverDirectory(directory: string, user: number): Promise<void> {
  await directoryRights.run(() => setDirectory(directory, user, SEALED));
  for (const name of await readdir(directory)) {
    const path = join(directory, name);
    const found = await lstat(path).catch(ignoreMissing);
    // what is in directories below it is the daemon's, as copies that are to stay what they are
    if (found?.isFile() && !isShared(found.mode)) await giveFile(path, user);
  }
}

/** Lets a user's programs work in a directory in which none does yet. */
export async function letEnter(directory: string, user: number): Promise<void> {
  await directoryRights.run(async () => {
    const { uid, gid, mode } = await stat(directory);
    // it may be open already, and stays so
    if (uid !== 0 || gid !== user || (mode & 0o010) === 0) await setDirectory(directory, user, SEALED);
  });
}

/**
 * Lets programs create files in a directory, as sockets, or ends that.
 * @param user whose programs may work in it
 */
export async function openDirectory(directory: string, user: number): Promise<void> {
  await directoryRights.run(() => setDirectory(directory, user, OPEN));
}

/** Ends what `openDirectory` began. */
export async function sealDirectory(directory: string): Promise<void> {
  await directoryRights.run(() => chmod(directory, SEALED));
}

async function setDirectory(directory: string, user: number, mode: number): Promise<void> {
  await chown(directory, 0, user);
  await chmod(directory, mode);
}

/**
 * Makes a file a user's alone; root's with 0.
 * @throws BangerError `corrupt` for what is no ordinary file
 */
export async function giveFile(path: string, user: number): Promise<void> {
  await setRights(path, user, 0o600);
}

/**
 * Makes a file one that programs of several users read and none of them writes: root's, by a name of its own in the directory of
 * each.
 * @throws BangerError `corrupt` for what is no ordinary file
 */
export async function makeReadOnly(path: string): Promise<void> {
  await setRights(path, 0, SHARED_MODE.file);
}

async function setRights(path: string, user: number, mode: number): Promise<void> {
  let file: Awaited<ReturnType<typeof open>>;
  try {
    file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return; // gone meanwhile
    if (systemCode(error) === 'ELOOP') throw notOrdinary(path);
    throw error;
  }
  try {
    const found = await file.stat();
    if (!found.isFile()) throw notOrdinary(path);
    if ((found.mode & 0o777) !== mode) await file.chmod(mode);
    if (found.uid !== user || found.gid !== user) await file.chown(user, user);
  } finally {
    await file.close();
  }
}

/** Makes an empty file that a user's programs may fill. */
export async function makeFileFor(path: string, user: number): Promise<void> {
  await (await open(path, 'wx', 0o600)).close();
  await giveFile(path, user);
}

/** Whether everybody may read a file, or execute it, by this path. */
export async function isOpenToAll(path: string, asProgram = false): Promise<boolean> {
  try {
    const { mode } = await stat(path);
    const needed = asProgram ? 0o5 : 0o4;
    if ((mode & needed) !== needed) return false;
    // the way to a link is one, and that to where it leads another
    return (await mayBeEntered(dirname(path))) && (await mayBeEntered(dirname(await realpath(path))));
  } catch {
    return false;
  }
}

async function mayBeEntered(directory: string): Promise<boolean> {
  if (((await stat(directory)).mode & 0o1) === 0) return false;
  return dirname(directory) === directory || (await mayBeEntered(dirname(directory)));
}

function isShared(mode: number): boolean {
  return Object.values(SHARED_MODE).includes(mode & 0o777);
}

function notOrdinary(path: string): BangerError {
  return new BangerError('corrupt', `${path} is no ordinary file.`, {
    hint: `See what it is: ls -l ${path}   A VM's directory holds files that banger made and nothing else.`,
  });
}

function ignoreMissing(error: unknown): undefined {
  if (systemCode(error) === 'ENOENT') return undefined;
  throw error;
}
